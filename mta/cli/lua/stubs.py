"""Write what an editor needs to know the words of the rule language: annotations for LuaLS and its settings."""

from __future__ import annotations

import argparse
from pathlib import Path

from mta.cli import telling
from mta.rules.pages import stubs


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", nargs="?", help="the folder of the rules; without it the configuration's")


def run(given: argparse.Namespace) -> int:
    folder = Path(given.dir or telling.configuration(given).settings.rules.path)
    if not folder.is_dir():
        raise telling.Failed(f"{folder}: there is no such folder", telling.NOT_FOUND)
    try:
        for path in stubs.write(folder):
            print(path)
    except OSError as error:
        raise telling.Failed(f"{error.filename}: {error.strerror}", telling.FINDING) from None
    return telling.FINE
