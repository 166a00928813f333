"""What the journal's thread does: commits of many greenlets to the current segment with one write and one sync.

What may go wrong, and what follows:

======================  ============================================================================================
short write, any error  the segment is closed for ever (a second sync would not tell the truth); all that was in this
                        write goes into a new segment, once; if that fails too, everybody is told
no room for a segment   a commit that only adds mail is refused (452); one that settles or drops uses the reserve, a
                        ready segment that adding never takes
a folder's sync fails   the new segment is not used; reclaiming ends for this process
======================  ============================================================================================
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from typing import Any

from mta.spool.disk import Disk
from mta.spool.records import BLOCK, Buffer, Record, aligned
from mta.spool.segments import Segment, Segments
from mta.spool.spool import refused

READY = 4  # segments kept to be used again
LOOK = 1 << 20  # bytes written between two looks at how full the disk is

_ZEROS = memoryview(bytes(BLOCK))

Order = Callable[[], Any]  # other work for the thread, done in turn with the records


class Writer:
    def __init__(self, disk: Disk, folder: str, segments: Segments, size: int, min_free: int) -> None:
        self.disk, self.folder, self.segments = disk, folder, segments
        self.size, self.min_free = aligned(size), min_free
        self.low = False  # as of the last look: less than min_free is left
        self._unseen = 0  # bytes written since
        self.errors: list[str] = []  # for the log, which the thread must not touch
        self.ready: list[Segment] = []
        self.current: Segment | None = None
        self._numbers = itertools.count(1)
        self._newest = 0  # the number of the youngest segment with records
        self._full: OSError | None = None  # why there is no reserve

    def start(self) -> None:
        """Make the first segment and the reserve. Raises OSError."""
        self.ready.append(self._make(self.size))
        self.ready.append(self._make(self.size))
        self._next(BLOCK)

    def work(self, items: list[Record | Order]) -> list[Any]:
        records: list[Record] = []
        results: list[Any] = []
        for item in items:
            if isinstance(item, Record):
                if not item.line:
                    item.seal()
                records.append(item)
                results.append(item)
                continue
            self._keep(records)
            records = []
            try:
                results.append(item())
            except Exception as error:
                results.append(error)
        self._keep(records)
        if self._unseen > min(LOOK, self.min_free // 8):
            self.look()
        return [item.error if isinstance(item, Record) else item for item in results]

    def look(self) -> bool:
        """Is the disk nearly full? It is then if we cannot find out."""
        self._unseen = 0
        try:
            self.low = self.disk.free(self.folder) < self.min_free
        except OSError:
            self.low = True
        return self.low

    # -- records -----------------------------------------------------------------------------------------------------

    def _keep(self, waiting: list[Record]) -> None:
        again = True
        while waiting:
            if not self._reserved():
                for record in waiting:
                    if not record.urgent:
                        record.error = refused(self._full or OSError(errno.ENOSPC, "no reserve"))
                waiting = [record for record in waiting if record.urgent]
                if not waiting:
                    return
            some = self._fitting(waiting)
            if not some:
                try:
                    self._next(waiting[0].size)
                except OSError as error:
                    waiting[0].error = refused(error)
                    self.errors.append(f"no new segment: {error}")
                    waiting = waiting[1:]
                continue
            try:
                self._write(some)
            except OSError as error:
                self._break(error)
                for record in some:
                    record.doubt = True
                if not again:
                    for record in waiting:
                        record.error = refused(error)
                    return
                again = False
            else:
                waiting = waiting[len(some) :]

    def _fitting(self, records: list[Record]) -> list[Record]:
        """As many of them as there is room for."""
        if self.current is None:
            return []
        room, n = self.current.size - self.current.end, 0
        for record in records:
            room -= record.size
            if room < 0:
                break
            n += 1
        return records[:n]

    def _write(self, records: list[Record]) -> None:
        segment = self.current
        assert segment is not None
        buffers: list[Buffer] = []
        places = []
        at = segment.end
        for record in records:
            places.append(at)
            buffers.append(record.head(segment.mark))
            buffers.append(record.line)
            buffers += record.buffers
            at += record.size
        end = aligned(at)
        if end > at:
            buffers.append(_ZEROS[: end - at])
        self.disk.write(segment.fd, buffers, segment.end)
        self.disk.sync(segment.fd)
        self._unseen += end - segment.end
        segment.end = end
        for record, place in zip(records, places, strict=True):
            segment.records += 1
            segment.written += record.puts
            record.at, record.segment = place, segment

    def _break(self, error: OSError) -> None:
        segment, self.current = self.current, None
        assert segment is not None
        self.errors.append(f"segment {segment.name}: {error}")
        segment.broken = True
        self._shut(segment)
        if not segment.records:  # nothing in it was promised: the surest way to undo what was half written
            try:
                self.disk.unlink(segment.path)
                self.disk.sync_folder(segment.folder)
            except OSError:
                return
            self.segments.remove(segment)

    # -- segments ----------------------------------------------------------------------------------------------------

    def _reserved(self) -> bool:
        """Is there a segment that only what makes room may use?"""
        if not self.ready:
            try:
                self.ready.append(self._make(self.size))
            except OSError as error:
                if self._full is None:
                    self.errors.append(f"no room for a segment in reserve, new mail is refused: {error}")
                self._full = error
                return False
            self._full = None
        return True

    @property
    def wanting(self) -> bool:
        """Should `prepare` be called, so that no commit has to wait until a segment is made?"""
        return len(self.ready) < 2 and not self.low and self._full is None

    def prepare(self) -> None:
        """Make a ready segment, in any thread. Raises OSError."""
        self.ready.append(self._make(self.size))

    def _next(self, size: int) -> None:
        """Begin a segment in which `size` bytes have room."""
        size = aligned(size)
        if size <= self.size and self.ready:
            segment = self.ready.pop(0)
            if segment.number < self._newest:  # it was overtaken: recovery goes by the numbers
                segment = self._renamed(segment)
        else:
            segment = self._make(max(size, self.size))
        segment.fd = self.disk.open(segment.path, write=True)
        if self.current is not None:
            self._shut(self.current)
        self.current, self._newest = segment, segment.number
        self.segments.add(segment)

    def _shut(self, segment: Segment) -> None:
        if segment.fd >= 0:
            try:
                self.disk.close(segment.fd)
            except OSError:
                pass
        segment.fd = -1
        segment.closed = True

    def _name(self, size: int) -> Segment:
        return Segment(self.folder, next(self._numbers), os.urandom(8), size)

    def _make(self, size: int) -> Segment:
        """A new ready segment, its name and its space durable."""
        segment = self._name(size)
        fd = self.disk.make(segment.path)
        try:
            try:
                self.disk.allocate(fd, size)
                self.disk.sync(fd)
            finally:
                self.disk.close(fd)
            self.disk.sync_folder(self.folder)
        except OSError:
            try:
                self.disk.unlink(segment.path)
            except OSError:
                pass
            raise
        return segment

    def _renamed(self, segment: Segment) -> Segment:
        """Its file as a segment without records, durably."""
        ready = self._name(segment.size)
        self.disk.rename(segment.path, ready.path)
        self.disk.sync_folder(self.folder)
        return ready

    def reclaim(self, segment: Segment) -> None:
        """Make the oldest segment vanish, durably: as a ready one, or from the disk. Raises OSError."""
        again = segment.folder == self.folder and segment.size == self.size and not segment.broken
        if again and (not self.ready or (len(self.ready) < READY and not self.low)):
            self.ready.append(self._renamed(segment))
        else:
            self.disk.unlink(segment.path)
            self.disk.sync_folder(segment.folder)

    def close(self) -> None:
        """End writing; ready segments go, as nothing is in them. Not called on the thread but after its end."""
        if self.current is not None:
            self._shut(self.current)
            self.current = None
        for segment in self.ready:
            try:
                self.disk.unlink(segment.path)
            except OSError:
                pass
        self.ready = []
