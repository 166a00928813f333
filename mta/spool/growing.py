"""A mail too large for memory, while it arrives: written to its body file in pieces, off the loop."""

from __future__ import annotations

from collections.abc import Callable

from mta.message.message import Message
from mta.message.reply import Refused
from mta.net import offload
from mta.spool.bodies import Bodies, File
from mta.spool.spool import FULL, refused

PIECE = 256 << 10  # written at once


class Growing:
    """A Body of the journal."""

    def __init__(self, bodies: Bodies, low: Callable[[], bool]) -> None:
        if low():
            raise Refused(FULL, "the spool: less than spool.min_free is left")
        self._bodies, self._low = bodies, low
        self._name = bodies.new_name()
        self._fd = -1
        self._waiting: list[bytes] = []
        self._held = 0
        self._size = 0

    def write(self, piece: bytes) -> None:
        self._waiting.append(piece)
        self._held += len(piece)
        if self._held >= PIECE:
            self._flush()

    def finish(self) -> Message:
        self._flush()
        self._close()
        try:
            raw = offload.run(self._bodies.view, self._name)
        except OSError as error:
            raise refused(error) from error
        return Message(raw, File(self._name, self._size))

    def discard(self) -> None:
        self._waiting.clear()
        self._close()
        if self._bodies.knows(self._name) and not self._bodies.used(self._name):
            offload.background(offload.run, self._bodies.remove, self._name)

    def _flush(self) -> None:
        pieces, self._waiting, self._held = self._waiting, [], 0
        try:
            if self._low():
                raise Refused(FULL, "the spool: less than spool.min_free is left")
            offload.run(self._append, pieces)
        except OSError as error:
            raise refused(error) from error

    def _append(self, pieces: list[bytes]) -> None:
        disk = self._bodies.disk
        if self._fd < 0:
            self._bodies.begun(self._name)
            self._fd = disk.make(self._bodies.path(self._name))
        disk.write(self._fd, pieces, self._size)
        self._size += sum(map(len, pieces))

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._bodies.disk.close(fd)
