"""The files under the store: logs of changes and snapshots, in one folder. Plain blocking calls, for an OS thread.

    NNNNNNNN.log         what changed, in order, since snapshot NNNNNNNN was begun
    NNNNNNNN.snapshot    all there was, each key at some moment while it was written; renamed only when synced
    lock                 held (flock) by the one process that writes here

What a record says is absolute: this key is now so, and never "one more". So replaying a change twice does no harm, and
a snapshot may be taken piece by piece while the log of the same number goes on. Recovery is: the newest snapshot, then
every log with its number or a higher one, in order. A record is

    magic (4) · length (4) · number of its file (4) · CRC-32 of that number and the text (4) · JSON list of changes

with changes `["s", key, value, expires]`, `["d", key]`, `["r", key, rate, full]`. The number in the CRC keeps a block
that a file system has dug out of an older file from being taken for ours. Where no record is, the next good one is
searched.

A log that saw an error takes nothing more: nobody knows what of it is on the disk. What was in doubt is written again
into the next one (daemon/store.py).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

_MAGIC = b"mtaK"
_HEAD = struct.Struct(">4sIII")
_MAX = 16 << 20

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[list[Any]]).decode

Change = tuple[Any, ...]


class Damage(NamedTuple):
    """Bytes of a file that were stepped over. `tail`: they end the file, as after a death in the middle of a write."""

    file: str
    offset: int
    size: int
    tail: bool


def record(number: int, changes: list[Change]) -> bytes:
    text = _encode(changes)
    return _HEAD.pack(_MAGIC, len(text), number, zlib.crc32(text, number)) + text


def read(blob: bytes, number: int, name: str, damaged: Callable[[Damage], None]) -> Iterator[list[Any]]:
    """Every change in a file, in order; what is no record is told to `damaged` and stepped over."""
    at, bad = 0, -1
    while at < len(blob):
        changes = _record(blob, at, number)
        if changes is None:
            if bad < 0:
                bad = at
            at = blob.find(_MAGIC, at + 1)
            if at < 0:
                break
            continue
        if bad >= 0:
            damaged(Damage(name, bad, at - bad, False))
            bad = -1
        at += _HEAD.size + _HEAD.unpack_from(blob, at)[1]
        yield from changes
    if bad >= 0:
        damaged(Damage(name, bad, len(blob) - bad, True))


def _record(blob: bytes, at: int, number: int) -> list[list[Any]] | None:
    if len(blob) - at < _HEAD.size:
        return None
    magic, size, its, crc = _HEAD.unpack_from(blob, at)
    text = blob[at + _HEAD.size : at + _HEAD.size + size]
    if magic != _MAGIC or its != number or size > _MAX or len(text) < size or zlib.crc32(text, number) != crc:
        return None
    try:
        return _decode(text)
    except msgspec.DecodeError:
        return None


class StoreLog:
    """The folder's one writer. Opening it takes the lock. Raises OSError; TimeoutError when another holds the lock."""

    def __init__(self, folder: str | os.PathLike[str], patience: float = 5.0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.written = 0  # bytes of changes since the last snapshot was begun
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._take_lock(patience)
        self._log: int | None = None  # the open log
        self._snapshot: int | None = None
        self.number = max([0, *self._numbers(".log"), *self._numbers(".snapshot")])

    def _take_lock(self, patience: float) -> None:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= end:
                    os.close(self._lock)
                    raise TimeoutError(f"another process holds the store in {self.folder}") from None
                time.sleep(0.02)

    def _numbers(self, ending: str) -> list[int]:
        return sorted(int(p.stem) for p in self.folder.glob("*" + ending) if p.stem.isascii() and p.stem.isdigit())

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:08d}{ending}"

    def _sync_folder(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- in the order of a life --------------------------------------------------------------------------------------

    def recover(self, damaged: Callable[[Damage], None]) -> Iterator[list[Any]]:
        """All changes that lead to what was last known. Before the first write."""
        base = max([0, *self._numbers(".snapshot")])
        files = [(base, ".snapshot")] if base else []
        files += [(number, ".log") for number in self._numbers(".log") if number >= base]
        for number, ending in files:
            path = self._path(number, ending)
            blob = path.read_bytes()
            self.written += len(blob) if ending == ".log" else 0
            yield from read(blob, number, path.name, damaged)

    def begin(self) -> None:
        """Open the next log; the one before takes nothing more."""
        self._end_log()
        number = self.number + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self._path(number, ".log"), flags, 0o600)
        self.number = number  # from here the name is used up
        try:
            self._sync_folder()
        except OSError:
            os.close(log)
            raise
        self._log = log

    def write(self, items: list[list[Change]]) -> None:
        """Append a record for each item, together and durably. Raises OSError: then none of them counts as kept."""
        if self._log is None:
            self.begin()
        assert self._log is not None
        blob = b"".join([record(self.number, changes) for changes in items])
        try:
            rest = memoryview(blob)
            while rest:
                rest = rest[os.write(self._log, rest) :]
            os.fdatasync(self._log)
        except OSError:
            self._end_log()
            raise
        self.written += len(blob)

    def _end_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            os.close(log)

    # A snapshot: begin(), begin_snapshot(), add_snapshot(changes) ..., then end_snapshot().

    def begin_snapshot(self) -> int:
        """Begin the snapshot that makes all logs before the open one superfluous; its number, for the other two."""
        self._drop_snapshot()
        number = self.number  # may count on meanwhile
        path = self._path(number, ".new")
        self._snapshot = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.written = 0
        return number

    def add_snapshot(self, number: int, changes: list[Change]) -> None:
        assert self._snapshot is not None
        rest = memoryview(record(number, changes))
        while rest:
            rest = rest[os.write(self._snapshot, rest) :]

    def end_snapshot(self, number: int) -> None:
        """Make it count, and remove what it replaces."""
        assert self._snapshot is not None
        os.fsync(self._snapshot)
        self._drop_snapshot()
        os.rename(self._path(number, ".new"), self._path(number, ".snapshot"))
        self._sync_folder()
        for ending in (".log", ".snapshot"):
            for old in self._numbers(ending):
                if old < number:
                    self._path(old, ending).unlink(missing_ok=True)
        for left in self.folder.glob("*.new"):
            left.unlink(missing_ok=True)

    def _drop_snapshot(self) -> None:
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            os.close(snapshot)

    def close(self) -> None:
        self._end_log()
        self._drop_snapshot()
        os.close(self._lock)
