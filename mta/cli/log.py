"""Read the log: the last lines, or with -f what comes; pretty on a terminal, plain in a pipe."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any

from mta.cli import telling
from mta.events import EVENTS
from mta.log import LEVELS

FIRST = ("session", "mail", "client", "sender", "recipient", "recipients", "reply", "rule", "where")
HIDDEN = {"time", "level", "event"}
COLOURS = {
    "accepted": "green",
    "delivered": "green",
    "refused": "yellow",
    "deferred": "yellow",
    "failed": "red",
    "bounced": "yellow",
    "error": "red",
    "warning": "yellow",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="WORD", help="only lines with every word (an id, an address)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes, also over a rotation")
    parser.add_argument("-n", "--lines", type=int, default=20, help="how many of the last lines (default 20; 0: all)")
    parser.add_argument("--event", action="append", metavar="NAME", help="only these events; may be repeated")
    parser.add_argument("--level", choices=list(LEVELS), default="debug", help="only this level and above")
    parser.add_argument("--file", help='this file instead; "-" reads the standard input')
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    for event in given.event or []:
        if event not in EVENTS:
            near = difflib.get_close_matches(event, EVENTS, 1)
            known = textwrap.fill(", ".join(EVENTS), 100)
            hint = f"did you mean {near[0]}?" if near else f"there are\n{known}"
            raise telling.Failed(f"there is no event {event}; {hint}", telling.USAGE)
    name = given.file or _file(given)
    try:
        lines, at = _last(name, given)
        for line in lines:
            print(line)
        if given.follow and name != "-":
            sys.stdout.flush()
            for line in follow(name, at):
                _told(line, given)
    except FileNotFoundError:
        raise telling.Failed(f"{name}: there is no such file yet", telling.NOT_FOUND) from None
    except KeyboardInterrupt:
        pass
    return telling.FINE


def _file(given: argparse.Namespace) -> str:
    to = telling.configuration(given, quiet=given.json).settings.log.to
    for name in to:
        if not name.endswith(":"):
            return name
    raise telling.Failed("the log goes to no file (log.to); pipe it into mta log --file -", telling.NOT_FOUND)


def _last(name: str, given: argparse.Namespace) -> tuple[deque[str], int]:
    """The last lines, and where in the file they end: of a line that is being written one may see a half."""
    kept: deque[str] = deque(maxlen=given.lines or None)
    at = 0
    with sys.stdin.buffer if name == "-" else open(name, "rb") as file:
        for line in file:
            if name != "-" and not line.endswith(b"\n"):
                break
            at += len(line)
            text = line_of(line.decode("utf-8", "replace"), given)
            if text is not None:
                kept.append(text)
    return kept, at


def _told(line: str, given: argparse.Namespace) -> None:
    text = line_of(line, given)
    if text is not None:
        print(text, flush=True)


def line_of(line: str, given: argparse.Namespace) -> str | None:
    """A line of the log as it is shown, or None if it is not asked for."""
    try:
        fields: dict[str, Any] = json.loads(line)
    except ValueError:
        asked = not given.event and given.level == "debug" and all(word in line for word in given.words)
        return telling.harmless(line.rstrip("\n")) if asked else None
    if given.event and fields.get("event") not in given.event:
        return None
    if LEVELS.get(fields.get("level", "info"), 20) < LEVELS[given.level]:
        return None
    if not all(word in line for word in given.words):
        return None
    return line.rstrip("\n") if given.json else pretty(fields)


def pretty(fields: dict[str, Any]) -> str:
    """One line for people: time here, event, then what matters most first."""
    event, level = str(fields.get("event", "")), str(fields.get("level", ""))
    try:
        when = datetime.fromisoformat(str(fields["time"])).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (KeyError, ValueError):
        when = str(fields.get("time", ""))
    names = [name for name in FIRST if name in fields]
    names += [name for name in fields if name not in FIRST and name not in HIDDEN and name != "traceback"]
    if "mail" in names and "session" in names:  # the mail's id begins with the session's
        names.remove("session")
    told = " ".join(f"{telling.paint(name, 'dim')}={_value(fields[name])}" for name in names)
    shown = telling.paint(f"{event:<15}", COLOURS.get(event) or COLOURS.get(level, ""))
    lines = str(fields.get("traceback", "")).rstrip().split("\n")
    trace = "".join(f"\n    {telling.harmless(line)}" for line in lines if line)
    return f"{telling.paint(when, 'dim')} {shown} {told}{trace}".rstrip()


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(telling.harmless(str(one)) for one in value) or '""'
    if isinstance(value, str) and value and not any(c in value for c in ' "') and value.isprintable():
        return value
    said = json.dumps(value, ensure_ascii=False)
    return said if said.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in said)


def follow(name: str, at: int, pause: float = 0.2) -> Iterator[str]:
    """Lines as they are written, from byte `at` on; when the file is replaced or cut, from the new one's beginning."""
    file: IO[bytes] = open(name, "rb")  # noqa: SIM115
    file.seek(at)
    held, new = b"", None
    while True:
        text = file.readline()
        if text:
            held += text
            if held.endswith(b"\n"):
                yield held.decode("utf-8", "replace")
                held = b""
            continue
        if new is not None:  # and the old one has been read to its end
            file.close()
            file, held, new = new, b"", None
            continue
        time.sleep(pause)
        try:
            there, here = os.stat(name), os.fstat(file.fileno())
            if there.st_ino != here.st_ino or there.st_size < file.tell():
                new = open(name, "rb")  # noqa: SIM115
        except FileNotFoundError:
            continue
