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
    return f"{_second[1]}.{str(int((now - whole) * 1e6) + 1_000_000)[1:]}Z"


def tell(text: str) -> None:
    """Say it to whoever started us. Nobody may be there any more, which must not end a server."""
    try:
        print(f"mta: {text}", file=sys.stderr, flush=True)
    except OSError:
        pass


class Files:
    """A sink that appends to files ("stdout:" and "stderr:" are themselves), one write each. Raises OSError.

    A file that was renamed or removed (logrotate) is opened again within a second. A full disk may take half a line:
    what comes next begins a new one, and of lines that come again nothing is written twice.
    """

    STANDARD = {"stdout:": 1, "stderr:": 2}  # noqa: RUF012

    def __init__(self, to: list[str]) -> None:
        self._fds = {name: self._open(name) for name in to}
        self._looked = time.monotonic()
        self._failed = b""  # lines not all of which could be written
        self._written: dict[str, int] = {}  # how many bytes of them were, where
        self._torn: set[str] = set()  # where half a line is the last thing we wrote

    def __call__(self, lines: bytes) -> None:
        if time.monotonic() - self._looked >= 1.0:
            self._looked = time.monotonic()
            self._follow()
        before = self._written if self._failed and lines.startswith(self._failed) else {}
        self._failed, self._written = b"", {}
        failed: OSError | None = None
        for name, fd in self._fds.items():
            at = before.get(name, 0)
            try:
                if name in self._torn:
                    os.write(fd, b"\n")
                    self._torn.discard(name)
                while at < len(lines):
                    at += os.write(fd, lines[at:] if at else lines)
            except OSError as error:
                failed = error
                whole = lines.rfind(b"\n", 0, at + 1) + 1  # a line that lacks but its end will have it
                if at != whole:
                    self._torn.add(name)
                at = whole
            self._written[name] = at
        if failed is not None:
            self._failed = lines
            raise failed

    def close(self) -> None:
        """Nothing more is written."""
        for name, fd in self._fds.items():
            if name not in self.STANDARD:
                os.close(fd)
        self._fds = {}

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
                self._torn.discard(name)


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
        """Write one event of `events.EVENTS`. Fields that are None or empty text are left out."""
        level = EVENTS[event].level
        if LEVELS[level] >= self.level:
            to = self.rules if self.rules is not None and event in OF_RULES else self
            to.line(self._encoded(event, level, fields))

    def _encoded(self, event: str, level: str, fields: dict[str, Any]) -> bytes:
        said = {name: value for name, value in fields.items() if value or (value is not None and value != "")}
        line = {"time": _now(), "level": level, "event": event, **said}
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
                tell(f"the log cannot be written: {error}")
            self.lost += len(lines)
            return
        self.lost = 0


log = Log()
event = log.event
bug = log.bug
