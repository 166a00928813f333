"""What the commands have in common: which configuration, how to reach the server, tables, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mta import config, resources
from mta.daemon.control import Line
from mta.net.frames import CallFailed, Unavailable

FINE, FINDING, USAGE, NOT_FOUND, NOT_REACHABLE = range(5)


class Failed(Exception):
    """A command ends with this message and exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def configuration(given: argparse.Namespace, *, quiet: bool = False) -> config.Config:
    """Find and read the configuration; on a terminal say which one it is."""
    path = _find(given, quiet)
    try:
        return config.read(path)
    except config.ConfigError as error:
        raise _wrong(path, error) from None


def run_folder(given: argparse.Namespace, *, quiet: bool = False) -> str:
    """Where the server that runs on this configuration can be asked."""
    path = _find(given, quiet)
    try:
        return config.run_folder(path)
    except config.ConfigError as error:
        raise _wrong(path, error) from None


def _find(given: argparse.Namespace, quiet: bool) -> Path:
    try:
        path, why = config.find(given.config)
    except config.ConfigError as error:
        raise Failed(str(error), NOT_FOUND) from None
    if not quiet and sys.stderr.isatty():
        print(paint(f"configuration: {path} ({why})", "dim", sys.stderr), file=sys.stderr)
    return path


def _wrong(path: Path, error: config.ConfigError) -> Failed:
    return Failed("\n".join(error.complaints), FINDING if path.exists() else NOT_FOUND)


def ask(settings_run: str, word: str, *arguments: Any, timeout: float = 60.0) -> Any:
    """One question to the running server."""
    try:
        with Line(settings_run, timeout) as line:
            return line.ask(word, *arguments)
    except Unavailable as error:
        raise Failed(str(error), NOT_REACHABLE) from None
    except CallFailed as error:
        raise Failed(error.text, FINDING) from None


def json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON, one object a line")


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Aligned on a terminal, tab-separated without a head in a pipe."""
    made = [[harmless(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in made:
            print("\t".join(row))
        return
    widths = [max(map(len, column)) for column in zip(head, *made, strict=True)]
    print(paint("  ".join(name.ljust(width) for name, width in zip(head, widths, strict=True)).rstrip(), "dim"))
    for row in made:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def harmless(text: str, kept: str = "") -> str:
    """What a stranger said must not steer a terminal, nor begin a line of ours: "?" for all but `kept` that is not
    printable."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in kept else "?" for c in text)


_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}


def paint(text: str, colour: str, out: Any = None) -> str:
    """Colour on a terminal only, and not with NO_COLOR (no-color.org)."""
    if not (out or sys.stdout).isatty() or os.environ.get("NO_COLOR") or not colour:
        return text
    return f"\033[{_COLOURS[colour]}m{text}\033[0m"


def ago(seconds: float) -> str:
    """A span as people say it: 12s, 5m, 3h, 2d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def bytes_of(size: int) -> str:
    """A size as people say it: 512 bytes, 3.4K, 12M."""
    if size < 1000:
        return f"{size} bytes"
    number = float(size)
    for unit in "KMGT":
        number /= 1024
        if number < 1000 or unit == "T":
            break
    return f"{number:.1f}{unit}" if number < 10 else f"{number:.0f}{unit}"


def myself() -> str:
    """How this command was called, to paste it back into a shell."""
    first = sys.argv[0]
    if os.path.basename(first) == "__main__.py":
        return f"{os.path.basename(sys.executable)} -m mta"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and os.path.realpath(os.path.join(folder, "mta")) == os.path.realpath(first):
            return "mta"
    return os.path.relpath(first) if len(os.path.relpath(first)) < len(first) else first


def shipped(name: str) -> Path:
    """A file of conf/, installed (mta/_conf) or in a checkout (../conf)."""
    return resources.folder("conf") / name
