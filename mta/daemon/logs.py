"""How each process writes its log: the master at once, a child in a thread, libraries through python-json-logger.

A child never waits for a log disk: lines collect for a moment, because handing them to a thread costs as much as
encoding ten of them, then wait in memory until the thread has written them. A disk that is full is tried again every
second; when `ROOM` is used up, lines are lost and counted.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from gevent import get_hub

from mta import settings
from mta.log import LEVELS, Files, Log, log
from mta.net import offload

ROOM = 8 << 20  # bytes of lines that may wait
SOON = 0.01  # seconds lines collect
RETRY = 1.0  # seconds after a failed write
PAUSES = 1000  # of 2 ms, in which a process that ends waits for the thread; clocks go on while both are stopped


class Threaded:
    """A sink for a process with a loop: takes lines at once, writes them in a thread."""

    def __init__(self, to: list[str]) -> None:
        self.files = Files(to)
        self._waiting = b""
        self._writing = b""  # in the thread's hands
        self._busy = False

    def __call__(self, lines: bytes) -> None:
        if len(self._waiting) + len(self._writing) + len(lines) > ROOM:
            raise OSError("too many lines wait for the disk")
        self._waiting += lines
        if not self._busy:
            self._busy = True
            offload.background(self._write)

    def _write(self) -> None:
        while self._waiting:
            self._writing, self._waiting = self._waiting, b""
            try:
                offload.run(self.files, self._writing)
            except OSError:
                self._waiting = self._writing + self._waiting
                self._writing = b""
                offload.pause(RETRY)
        self._writing = b""
        self._busy = False

    @property
    def writing(self) -> bool:
        return bool(self._writing)

    def close(self) -> None:
        """Write what waits, here and now, once the thread is done with what it has in hand. Raises OSError."""
        for _ in range(PAUSES):
            if not self._writing:
                break
            offload.pause(0.002)
        lines, self._waiting = self._waiting, b""
        if lines:
            self.files(lines)


def in_master(wanted: settings.Log) -> None:
    """Lines are written at once: the master has no loop, and few lines. Raises OSError."""
    make(wanted)
    before = log.sink
    log.sink, log.schedule, log.level = Files(wanted.to), None, LEVELS[wanted.level]
    _close(before)
    capture()


def make(wanted: settings.Log) -> None:
    """The files, where they are missing: what cannot be written is told before a worker needs it. Raises OSError."""
    for folder in folders(wanted):
        os.makedirs(folder, exist_ok=True)
    for name in paths(wanted):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640))


def in_child(wanted: settings.Log) -> None:
    """Lines are written by a thread, once a loop turn. Call after the fork; again when the settings change."""
    finish()
    before = [one.sink for one in (log, log.rules) if one is not None]  # just after the fork: the master's
    log.sink, log.level = Threaded(wanted.to), LEVELS[wanted.level]
    log.schedule = soon
    log.rules = None
    if wanted.rules:
        log.rules = Log()
        log.rules.sink, log.rules.schedule = Threaded(wanted.rules), soon
    for sink in before:
        _close(sink)
    capture()


def _close(sink: Any) -> None:
    """Another has taken the place of this sink. One that a thread is still writing with keeps its files."""
    if isinstance(sink, Threaded):
        sink = None if sink.writing else sink.files
    if isinstance(sink, Files):
        sink.close()


def soon(function: Callable[[], None]) -> None:
    """Call it once, in a moment."""
    timer = get_hub().loop.timer(SOON)
    timer.start(_ring, timer, function, update=True)


def _ring(timer: Any, function: Callable[[], None]) -> None:
    timer.close()
    function()


def finish() -> None:
    """Before a child ends: nothing that was said is lost."""
    for one in (log, log.rules):
        if one is not None:
            one.schedule = None
            one.flush()
            if isinstance(one.sink, Threaded):
                try:
                    one.sink.close()
                except OSError:
                    pass


def paths(wanted: settings.Log) -> list[str]:
    return [name for name in [*wanted.to, *wanted.rules] if name not in Files.STANDARD]


def folders(wanted: settings.Log) -> list[str]:
    return sorted({os.path.dirname(name) for name in paths(wanted)})


def capture() -> None:
    """What libraries say through the standard library's logging goes to the same place, with the same fields."""
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Handler)]
    root.addHandler(_Handler())
    root.setLevel(max(log.level, logging.INFO))


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        from pythonjsonlogger.json import JsonFormatter

        class Formatter(JsonFormatter):
            def add_fields(self, log_record: dict[str, Any], record: logging.LogRecord, message_dict: Any) -> None:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
                log_record["time"] = f"{stamp}.{int(record.created % 1 * 1e6):06d}Z"
                level = record.levelname.lower()
                log_record["level"] = level if level in LEVELS else "error"
                log_record["event"] = "library"
                log_record["logger"] = record.name
                super().add_fields(log_record, record, message_dict)

        self.setFormatter(Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log.line(self.format(record).encode("utf-8", "replace") + b"\n")
        except Exception:
            self.handleError(record)
