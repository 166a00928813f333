"""Keeping the journal small: old segments are reclaimed, and the few mails that pin one are carried on to the newest.

Strictly the oldest first, one at a time, by one greenlet that runs only while there is something to do:

1. nothing leans on the oldest segment: the thread reclaims it, and the folder is synced before the next one is touched;
   one that was found damaged is set aside instead;
2. something does, but more than half of all closed segments is garbage: its mails are committed again, envelope and
   content. Only when that is durable does the old place count as free. A mail carried for the second time gets a file
   of its own, so that from then on carrying it costs a few hundred bytes;
3. a mail there that cannot be read any more: the segment is set aside, for a person, under the spool's folder.

Carrying must not undo what a greenlet commits meanwhile. A mail with a commit under way is left alone, and from the
look at that until the record is handed to the thread nothing waits, so that later commits are later records.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from mta import log
from mta.message.reply import Refused
from mta.net import offload
from mta.spool import adoption, hand, reading, records
from mta.spool.bodies import FOLDER, Bodies
from mta.spool.disk import Disk
from mta.spool.index import Entry, Index
from mta.spool.reading import Job, Stored
from mta.spool.records import Buffer, Content, Damage, Put
from mta.spool.segments import Segment, Segments
from mta.spool.writer import Writer

RATE = 8 << 20  # bytes carried in a second
TOGETHER = 64  # mails carried in one commit
BIG = 1 << 20  # or fewer, when they have this many bytes
PATIENCE = 1.0  # seconds between two tries to make a segment
LOOK = 500  # commits between two looks for waste

Write = Callable[[list[Put], list[Buffer]], None]  # commit these as they are, and count them


class Keeper:
    def __init__(
        self,
        disk: Disk,
        index: Index,
        segments: Segments,
        bodies: Bodies,
        writer: Writer,
        write: Write,
        do: Callable[[Callable[[], None]], None],
        busy: Callable[[str], bool],
    ) -> None:
        """`do` runs something in the journal's thread; `busy` tells whether an id has a commit under way."""
        self.disk, self.index, self.segments, self.bodies, self.writer = disk, index, segments, bodies, writer
        self._write, self._do, self._busy = write, do, busy
        self._running = False
        self._preparing = False
        self._ended = False
        self._commits = 0
        self.rate = RATE

    def look(self) -> None:
        """Called after every commit: is there something to do?"""
        self._commits += 1
        if self.writer.wanting and not self._preparing and not self._ended:
            self._preparing = True
            offload.background(self._prepare)
        if self._running or self._ended or not self.segments.order or not self.segments.order[0].closed:
            return
        oldest = self.segments.order[0]
        if oldest.unused or (self._commits % LOOK == 0 and self.segments.wasteful):
            self._running = True
            offload.background(self._run)

    def end(self) -> None:
        """No more of it; what is being done is awaited."""
        self._ended = True
        while self._preparing or self._running:
            offload.pause(0.001)

    def _prepare(self) -> None:
        try:
            offload.run(self.writer.prepare)
        except OSError as error:
            log.event("spool_failed", reason=f"no segment in reserve: {error}")
            offload.pause(PATIENCE)
        finally:
            self._preparing = False

    def _run(self) -> None:
        try:
            while not self._ended and self.segments.order:
                oldest = self.segments.order[0]
                if not oldest.closed:
                    return
                if oldest.unused:
                    self._reclaim(oldest)
                elif not self.segments.wasteful or not self._carry(oldest):
                    return
        except Refused as refused:
            log.event("spool_failed", reason=f"old mail cannot be carried on: {refused.reason}")
        except OSError as error:
            self._ended = True  # what is durable of it is not known: nothing newer may go in this process
            log.event("spool_failed", reason=f"old segments stay: {error}")
        finally:
            self._running = False

    def _reclaim(self, segment: Segment) -> None:
        if segment.damaged:
            self._do(partial(self._rename, segment.path, self._aside(segment)))
        else:
            self._do(partial(self.writer.reclaim, segment))
        self.segments.remove(segment)
        folder = segment.folder
        while folder != self.writer.folder and not any(
            f"{s.folder}{os.sep}".startswith(f"{folder}{os.sep}") for s in self.segments.order
        ):
            offload.run(self.clear, folder)
            folder = os.path.dirname(folder)

    def clear(self, folder: str) -> None:
        """Remove an adopted folder that holds no segment any more. Off the loop."""
        ours = self.bodies.folder
        try:
            files, folders = self.disk.listed(folder)
            if FOLDER in folders:
                inner = os.path.join(folder, FOLDER)
                names = self.disk.listed(inner)[0]
                for name in names:
                    self.bodies.take(name, inner)
                if names:  # durable in both before the old folder may go
                    self.disk.sync_folder(ours)
                    self.disk.sync_folder(inner)
                self.disk.remove_folder(inner)
            if hand.FILE in files:
                self.disk.unlink(os.path.join(folder, hand.FILE))
            self.disk.remove_folder(folder)
        except OSError:  # it stays, empty of mail, until it is adopted again
            pass

    # -- carrying ----------------------------------------------------------------------------------------------------

    def _carry(self, segment: Segment) -> bool:
        """Move all mails that lean on `segment` on; False if some could not be moved now."""
        sizes: dict[str, int] = offload.run(self._sizes, segment)
        ids = list(reversed(sizes))
        unreadable: dict[str, str] = {}
        anything = False
        while ids and not self._ended:
            some: list[tuple[Entry, Job]] = []
            size = 0
            while ids and len(some) < TOGETHER and size < BIG:
                entry = self.index.entries.get(ids.pop())
                job = self._job(entry, segment) if entry is not None else None
                if entry is not None and job is not None:
                    some.append((entry, job))
                    size += sizes[entry.id]
            if some:
                moved = self._move(some, unreadable)
                anything = anything or moved > 0
                offload.pause(moved / self.rate)
        leaning = self._leaning(segment) if segment.live and (unreadable or not anything) else set()
        unreadable.update((id, "its record is damaged") for id in leaning.difference(sizes))
        if leaning and leaning <= set(unreadable):
            self._set_aside(segment, unreadable)
            return True
        return segment.live == 0 and not segment.readers

    def _sizes(self, segment: Segment) -> dict[str, int]:
        """The mails a segment speaks of, and the bytes it has of their content, the oldest first."""
        fd = self.disk.open(segment.path)
        try:
            data = self.disk.read(fd, self.disk.size(fd), 0)
        finally:
            self.disk.close(fd)
        sizes: dict[str, int] = {}
        for found in records.scan(data, segment.mark):
            if not isinstance(found, Damage):
                meta = records.decode_known(memoryview(data)[found.line : found.body])
                for put in meta.put:
                    id = put.envelope.id
                    sizes[id] = max(sizes.get(id, 0), put.content.size if put.content else 0)
        return sizes

    def _job(self, entry: Entry, segment: Segment) -> Job | None:
        """How to read a mail, if it leans on `segment`."""
        envelope, content = self.segments.at(entry.at), self.segments.at(entry.content)
        if segment is not envelope[0] and segment is not content[0]:
            return None
        return Job(entry.id, envelope, content)

    def _leaning(self, segment: Segment) -> set[str]:
        at = self.segments.at
        return {e.id for e in self.index.entries.values() if segment in (at(e.at)[0], at(e.content)[0])}

    def _move(self, some: list[tuple[Entry, Job]], unreadable: dict[str, str]) -> int:
        pinned = {s for _, job in some for s in (job.envelope[0], job.content[0])}
        for segment in pinned:
            segment.readers += 1
        try:
            stored = offload.run(self._read, [job for _, job in some])
            own: dict[str, str] = {}  # id -> the file of its own
            for (entry, job), found in zip(some, stored, strict=True):
                if isinstance(found, OSError):
                    unreadable[job.id] = str(found)
                elif entry.carried and not found.content.file:
                    name = own[job.id] = self.bodies.new_name()
                    try:
                        offload.run(self.bodies.store, name, [found.own])
                    except OSError as error:
                        for made in own.values():
                            offload.run(self.bodies.remove, made)
                        raise Refused("451 4.3.0 No file for an old mail", str(error)) from error
        finally:
            for segment in pinned:
                segment.readers -= 1
        put, buffers = list[Put](), list[Buffer]()
        for (entry, job), found in zip(some, stored, strict=True):  # nothing waits from here on
            places = self.segments.at(entry.at), self.segments.at(entry.content)
            same = self.index.entries.get(job.id) is entry and places == (job.envelope, job.content)
            if isinstance(found, OSError) or not same or self._busy(job.id):
                continue
            found.envelope.next_try = entry.next_try
            content = found.content
            if job.id in own:
                content = Content(file=own.pop(job.id), layout=[(0, len(found.own))])
            else:
                buffers.append(found.own)
            put.append(Put(found.envelope, content, entry.carried + 1))
        if put:
            self._write(put, buffers)
        for name in own.values():
            offload.run(self.bodies.remove, name)
        return sum(map(len, buffers)) + len(put) * 1000

    def _read(self, jobs: list[Job]) -> list[Stored | OSError]:
        found: list[Stored | OSError] = []
        with reading.Reader(self.disk) as reader:
            for job in jobs:
                try:
                    found.append(reader.stored(job))
                except OSError as error:
                    found.append(error)
        return found

    def _set_aside(self, segment: Segment, unreadable: dict[str, str]) -> None:
        writer, aside = os.path.basename(segment.folder), self._aside(segment)
        for id, reason in unreadable.items():
            log.event("spool_damaged", writer=writer, segment=aside, reason=f"{id} is set aside: {reason}")
            entry = self.index.remove(id)
            if entry is not None:
                self.segments.leave(entry)
        self._do(partial(self._rename, segment.path, aside))
        self.segments.remove(segment)

    def _aside(self, segment: Segment) -> str:
        return adoption.aside(os.path.dirname(self.writer.folder), segment.folder, segment.name)

    def _rename(self, old: str, new: str) -> None:
        self.disk.rename(old, new)
        self.disk.sync_folder(os.path.dirname(new))
        self.disk.sync_folder(os.path.dirname(old))
