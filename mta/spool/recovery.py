"""What a folder of the journal holds: read every segment, oldest first, and keep what stands in the end.

It changes nothing, so it may be cut off anywhere and begun again, and may look at the folder of a living process.

A folder that was adopted lies inside its adopter's and is read first: its own records are older than whatever the
adopter wrote about its mails. A record that drops a mail is not the last word: one that puts it again later was
written after a commit that was in doubt, and wins.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from mta.spool import hand, records
from mta.spool.bodies import FOLDER
from mta.spool.disk import Disk
from mta.spool.index import Entry
from mta.spool.records import Damage
from mta.spool.segments import NAME, Segment, Segments

CHUNK = 1 << 20


class Harm(NamedTuple):
    """For the log: bytes that should be a record and are none, or a mail that lacks something."""

    writer: str
    segment: str
    offset: int
    reason: str


class Recovered:
    def __init__(self) -> None:
        self.segments = Segments()
        self.entries: dict[str, Entry] = {}
        self.files: dict[str, str] = {}  # name of a body file -> its folder
        self.file_of: dict[str, str] = {}  # id -> name
        self.in_hand: list[str] = []
        self.harm: list[Harm] = []
        self.bytes = 0


def recover(disk: Disk, folder: str) -> Recovered:
    """Read a folder, and the adopted ones in it. Raises OSError if it cannot be listed or a file in it not opened."""
    return _Recovery(disk).run(folder)


class _Recovery:
    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.out = Recovered()
        self.gone: dict[str, Entry] = {}  # dropped, but it may come back
        self.headless: dict[str, tuple[Segment, int]] = {}  # settled, but where is its content?
        self.torn: tuple[Segment, int, str] | None = None  # a commit cut off by a crash, if nothing follows

    def run(self, folder: str) -> Recovered:
        self.folder(folder)
        out = self.out
        for id, (segment, at) in self.headless.items():
            self.harm(segment, at, f"the content of {id} is missing")
        for id, name in list(out.file_of.items()):
            entry = out.entries.get(id)
            if entry is None:
                del out.file_of[id]
            elif name not in out.files:
                segment, at = out.segments.at(entry.content)
                self.harm(segment, at, f"the body file {name} of {id} is missing")
                del out.entries[id], out.file_of[id]
        for entry in out.entries.values():
            out.segments.lean(entry)
        return out

    def harm(self, segment: Segment, at: int, reason: str) -> None:
        segment.damaged = True
        self.out.harm.append(Harm(os.path.basename(segment.folder), segment.name, at, reason))

    def folder(self, path: str) -> None:
        files, folders = self.disk.listed(path)
        for name in folders:
            inner = os.path.join(path, name)
            if name == FOLDER:
                for body in self.disk.listed(inner)[0]:
                    self.out.files[body] = inner
            else:
                self.folder(inner)
        self.torn = None
        for _, name in sorted((int(known[1]), name) for name in files if (known := NAME.fullmatch(name))):
            self.segment(path, name)
        if hand.FILE in files:
            self.out.in_hand += hand.read(self.data(os.path.join(path, hand.FILE)))

    def data(self, path: str) -> bytes:
        """A whole file; zeros stand for what cannot be read. Raises OSError: that it cannot be opened says nothing of
        what is in it, there may just be too many files open."""
        try:
            fd = self.disk.open(path)
        except FileNotFoundError:  # reclaimed meanwhile
            return b""
        try:
            size = self.disk.size(fd)
            chunks = []
            for at in range(0, size, CHUNK):
                try:
                    chunks.append(self.disk.read(fd, min(CHUNK, size - at), at))
                except OSError:
                    chunks.append(b"".join(self.block(fd, b, size) for b in range(at, min(at + CHUNK, size), 4096)))
            return b"".join(chunks)
        finally:
            self.disk.close(fd)

    def block(self, fd: int, at: int, size: int) -> bytes:
        wanted = min(4096, size - at)
        try:
            return self.disk.read(fd, wanted, at).ljust(wanted, b"\0")
        except OSError:
            return bytes(wanted)

    def segment(self, folder: str, name: str) -> None:
        data = self.data(os.path.join(folder, name))
        segment = Segment.named(folder, name, len(data))
        assert segment is not None
        segment.closed = True
        self.out.segments.add(segment)
        for found in records.scan(data, segment.mark):
            if isinstance(found, Damage):
                if found.last:
                    self.torn = segment, found.at, found.reason
                else:
                    self.harm(segment, found.at, found.reason)
                continue
            if self.torn:  # not the end of the journal after all
                self.harm(*self.torn)
                self.torn = None
            try:
                meta = records.decode_known(memoryview(data)[found.line : found.body])
            except ValueError as error:
                self.harm(segment, found.at, f"no sense in a record: {error}")
                continue
            self.out.bytes += found.stop - found.at
            self.record(segment, found.at, meta)

    def record(self, segment: Segment, at: int, meta: records.KnownMeta) -> None:
        entries, place = self.out.entries, segment.place(at)
        for put in meta.put:
            segment.puts += 1 if put.content is None else 2
            known = put.envelope
            id = known.id
            old = entries.get(id) or self.gone.pop(id, None)
            content, carried = place, put.carried
            if put.content is None:
                if old is None:
                    self.headless[id] = (segment, at)
                    continue
                content, carried = old.content, old.carried
            else:
                self.headless.pop(id, None)
                if put.content.file:
                    self.out.file_of[id] = put.content.file
                else:
                    self.out.file_of.pop(id, None)
            entries[id] = Entry(known.next_try, id, place, content, bool(known.held), known.deaths, carried)
        for id in meta.drop:
            self.headless.pop(id, None)
            entry = entries.pop(id, None)
            if entry is not None:
                self.gone[id] = entry
