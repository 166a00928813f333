"""Read rules and say what is wrong with them, and what to do about it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mta import config, settings
from mta.cli import telling
from mta.rules.check import ERROR, Finding
from mta.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rules", nargs="?", help="a folder with main.lua, or one file; without it the configuration's")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings too")
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    from mta.rules.outside import facts
    from mta.rules.trying import files

    made = _settings(given)
    path = Path(given.rules or (made or Settings()).rules.path)
    if not path.exists():
        raise telling.Failed(f"{path}: there is no such file or folder", telling.NOT_FOUND)
    beside = path.resolve().parent
    rules = made.rules if made else settings.Rules(lists=str(beside / "lists"), domains=str(beside / "domains"))
    services, known = (made.service, facts.of(made)) if made else (None, None)
    if path.is_dir():
        rules = dataclasses.replace(rules, path=str(path))
        found = files.findings(rules, services, domains=made.domain if made else None, known=known)
    else:
        found = files.in_file(path, rules, services, known=known)
    for one in found:
        if given.json:
            telling.print_json(one._asdict())
        else:
            colour = "red" if one.level == ERROR else "yellow"
            place = telling.paint(f"{one.file}:{one.line}:{one.column}:", "bold")
            print(f"{place} {telling.paint(one.level, colour)}: {one.what} ({one.advice})")
    errors = sum(one.level == ERROR for one in found)
    if not given.json:
        print(_summary(path, errors, found))
    return telling.FINDING if errors or (given.strict and found) else telling.FINE


def _summary(path: Path, errors: int, found: list[Finding]) -> str:
    warnings = len(found) - errors
    counts = [f"{n} {what}{'s' * (n != 1)}" for n, what in ((errors, "error"), (warnings, "warning")) if n]
    return f"{path}: {' and '.join(counts) or 'fine'}"


def _settings(given: argparse.Namespace) -> Settings | None:
    """Of the configuration. It must be there unless rules are named."""
    if given.rules and not given.config:
        try:
            config.find(None)
        except config.ConfigError:
            return None
    return telling.configuration(given, quiet=True).settings
