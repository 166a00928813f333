"""Read rules and say what is wrong with them, and what to do about it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mta import config, settings
from mta.cli import telling
from mta.rules.check import ERROR, Finding


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rules", nargs="?", help="a folder with main.lua, or one file; without it the configuration's")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings too")
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    from mta.rules.check import files

    rules, services = _settings(given)
    path = Path(given.rules or rules.path)
    if not path.exists():
        raise telling.Failed(f"{path}: there is no such file or folder", telling.NOT_FOUND)
    if path.is_dir():
        found = files.findings(dataclasses.replace(rules, path=str(path)), services)
    else:
        found = files.in_file(path, rules, services)
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


def _settings(given: argparse.Namespace) -> tuple[settings.Rules, dict[str, settings.Service] | None]:
    """Of the configuration, which must be there unless rules are named; then the services are not known."""
    if given.rules and not given.config:
        try:
            config.find(None)
        except config.ConfigError:
            return settings.Rules(lists=str(Path(given.rules).resolve().parent / "lists")), None
    made = telling.configuration(given, quiet=True).settings
    return made.rules, made.service
