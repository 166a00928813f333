"""Events as JSON lines: `log.event("accepted", session=..., mail=..., reply=...)`.

The mail path must not wait for a log disk, and the standard library's logging costs as much per mail as all network
I/O. So lines are encoded at once (2 us), collected, and handed to `sink` together, once a loop turn: who owns a loop
sets `schedule` (the daemon), everyone else writes at once. A sink that fails loses lines and counts them.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from mta.events import EVENTS

OF_RULES = ("rule_log", "rule_debug", "rule_warning", "rule_error")

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Sink = Callable[[bytes], None]

_encode = msgspec.json.Encoder().encode
_second = (0, "")


def _now() -> str:
    global _second
    now = time.time()
    whole = int(now)
    if whole != _second[0]:
        _second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return f"{_second[1]}.{int((now - whole) * 1e6):06d}Z"


class Files:
    """A sink that appends to files ("stdout:" and "stderr:" are themselves), one write each. Raises OSError.

    A file that was renamed or removed (logrotate) is opened again within a second.
    """

    STANDARD = {"stdout:": 1, "stderr:": 2}  # noqa: RUF012

    def __init__(self, to: list[str]) -> None:
        self._fds = {name: self._open(name) for name in to}
        self._looked = time.monotonic()

    def __call__(self, lines: bytes) -> None:
        if time.monotonic() - self._looked >= 1.0:
            self._looked = time.monotonic()
            self._follow()
        for fd in self._fds.values():
            rest = lines
            while rest:
                rest = rest[os.write(fd, rest) :]

    def _open(self, name: str) -> int:
        if name in self.STANDARD:
            return self.STANDARD[name]
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _follow(self) -> None:
        for name, fd in self._fds.items():
            if name in self.STANDARD:
                continue
            try:
                there, here = os.stat(name), os.fstat(fd)
                same = (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)
            except FileNotFoundError:
                same = False
            if not same:
                self._fds[name] = self._open(name)
                os.close(fd)


class Log:
    """One process's log."""

    def __init__(self) -> None:
        self.sink: Sink = Files(["stderr:"])
        self.schedule: Callable[[Callable[[], None]], Any] | None = None  # run this once, soon
        self.level = LEVELS["info"]
        self.lost = 0
        self.rules: Log | None = None  # where what rules say goes instead
        self._lines: list[bytes] = []

    def event(self, event: str, **fields: Any) -> None:
        """Write one event of `events.EVENTS`. Fields that are None or empty are left out."""
        level = EVENTS[event].level
        if LEVELS[level] >= self.level:
            to = self.rules if self.rules is not None and event in OF_RULES else self
            to.line(self._encoded(event, level, fields))

    def _encoded(self, event: str, level: str, fields: dict[str, Any]) -> bytes:
        line = {"time": _now(), "level": level, "event": event}
        for name, value in fields.items():
            if value is not None and value != "":
                line[name] = value
        try:
            return _encode(line) + b"\n"
        except (TypeError, ValueError, UnicodeEncodeError):  # lone surrogates and the like: never lose the line
            line = {k: repr(v) if isinstance(v, str) and not v.isascii() else v for k, v in line.items()}
            return _encode(line) + b"\n"

    def line(self, text: bytes) -> None:
        """Write one line that is JSON already."""
        self._lines.append(text)
        if self.schedule is None:
            self.flush()
        elif len(self._lines) == 1:
            self.schedule(self.flush)

    def bug(self, error: BaseException, **fields: Any) -> None:
        """Our own mistake, with its trace."""
        trace = "".join(traceback.format_exception(error))
        self.event("bug", error=f"{type(error).__name__}: {error}", traceback=trace, **fields)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        first = b""
        if self.lost:
            fields = {"lines": self.lost, "reason": "the log could not be written for a while"}
            first = self._encoded("log_lost", "error", fields)
        try:
            self.sink(first + b"".join(lines))
        except Exception as error:  # a full log disk must not block mail
            if not self.lost:
                print(f"mta: the log cannot be written: {error}", file=sys.stderr)
            self.lost += len(lines)
            return
        self.lost = 0


log = Log()
event = log.event
bug = log.bug
