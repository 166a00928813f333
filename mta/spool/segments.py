"""The files a journal is made of, oldest first, and how many mails still lean on each.

A segment's name is its number and its mark: `00000017-9f3ac2d4e5f60718.seg`. It is *ready* (made, durable, unused),
then *current* (one at a time, written by the journal's thread), then *closed*, and when no mail leans on it any more it
is reclaimed: strictly the oldest first, for a newer one may hold the record that a mail in an older one was dropped.
Its file then becomes a ready segment under a new number and mark: writing into blocks that were written before is
half as dear as extending a file.

What the loop counts and what the thread counts are different fields: no lock is needed.
"""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

NAME = re.compile(r"([0-9]{8,})-([0-9a-f]{16})\.seg")

_OFFSET = 36  # bits of a place that are the offset: 64 GB; what is above is the segment's serial
_MASK = (1 << _OFFSET) - 1

_serials = itertools.count(1)


class Segment:
    __slots__ = (
        "applied",
        "broken",
        "closed",
        "damaged",
        "end",
        "fd",
        "folder",
        "live",
        "mark",
        "name",
        "number",
        "puts",
        "readers",
        "records",
        "serial",
        "size",
        "written",
    )

    def __init__(self, folder: str, number: int, mark: bytes, size: int) -> None:
        self.folder, self.number, self.mark, self.size = folder, number, mark, size
        self.name = f"{number:08d}-{mark.hex()}.seg"
        self.serial = next(_serials)
        self.fd = -1
        self.closed = False  # nothing is written to it any more
        self.broken = False  # a write or sync failed: its file is never used again
        self.damaged = False  # there may be mails in it nobody could read: it is never removed, but set aside
        # counted by the thread
        self.end = 0
        self.records = 0
        self.written = 0  # puts
        # counted by the loop
        self.applied = 0  # puts
        self.live = 0  # a mail counts for the place of its envelope and for that of its content
        self.puts = 0  # how high `live` would be if nothing had gone
        self.readers = 0

    @classmethod
    def named(cls, folder: str, name: str, size: int) -> Segment | None:
        known = NAME.fullmatch(name)
        return cls(folder, int(known[1]), bytes.fromhex(known[2]), size) if known else None

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)

    def place(self, at: int) -> int:
        return self.serial << _OFFSET | at

    @property
    def unused(self) -> bool:
        """No mail leans on it, nobody reads it, and nothing in it is still to be counted."""
        return self.closed and not self.live and not self.readers and self.written == self.applied


class Segments:
    """All segments with records, oldest first: what was adopted, then our own."""

    def __init__(self) -> None:
        self.order: list[Segment] = []
        self._serials: dict[int, Segment] = {}

    def add(self, segment: Segment) -> None:
        """A new current one: the youngest. Called by the thread."""
        self._serials[segment.serial] = segment
        self.order.append(segment)

    def adopt(self, segments: list[Segment]) -> None:
        """Older than all others: what we write about their mails must outlive them."""
        for segment in segments:
            self._serials[segment.serial] = segment
        self.order[:0] = segments

    def remove(self, segment: Segment) -> None:
        self.order.remove(segment)
        del self._serials[segment.serial]

    def at(self, place: int) -> tuple[Segment, int]:
        return self._serials[place >> _OFFSET], place & _MASK

    def lean(self, entry: Any) -> None:
        """Count an entry (its `at` and `content` are places)."""
        for place in (entry.at, entry.content):
            self._serials[place >> _OFFSET].live += 1

    def leave(self, entry: Any) -> None:
        for place in (entry.at, entry.content):
            self._serials[place >> _OFFSET].live -= 1

    @property
    def wasteful(self) -> bool:
        """Is it worth moving the mails of the oldest one on? More than half of what is closed is garbage."""
        if len(self.order) <= 4:
            return False
        live = sum(segment.live for segment in self.order)
        puts = sum(segment.puts for segment in self.order)
        return live * 2 < puts
