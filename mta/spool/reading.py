"""Mails read back from a segment: by place, checked, in a borrowed thread."""

from __future__ import annotations

import errno
from typing import NamedTuple

from mta.message.envelope import Envelope
from mta.spool import records
from mta.spool.disk import Disk
from mta.spool.records import Content, Put
from mta.spool.segments import Segment

GUESS = 8192  # bytes read at first: most records are smaller


class Unreadable(OSError):
    """A record that was good is none now."""


class Job(NamedTuple):
    """A mail to read: where its envelope is, and where its content."""

    id: str
    envelope: tuple[Segment, int]
    content: tuple[Segment, int]


class Stored(NamedTuple):
    """A mail as it lies there: `own` are the bytes of the record that belong to its content."""

    envelope: Envelope
    content: Content
    own: memoryview


class Reader:
    """For one turn of reading: keeps files open meanwhile. Use it with `with`, off the loop."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._fds: dict[str, int] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            self._disk.close(fd)

    def put(self, where: tuple[Segment, int], id: str, *, line_only: bool = False) -> tuple[Put, memoryview]:
        """What a record says of a mail, and the content it holds of it. Raises OSError."""
        segment, at = where
        path = segment.path
        fd = self._fds.get(path)
        if fd is None:
            fd = self._fds[path] = self._disk.open(path)
        data = self._disk.read(fd, GUESS, at)
        size = records.need(data, segment.mark)
        if size is None:
            raise Unreadable(errno.EIO, f"no record at {at} of {segment.name}")
        if line_only:
            stop = records.HEAD.size + records.HEAD.unpack_from(data)[1]
            if len(data) < stop:
                data += self._disk.read(fd, stop - len(data), at + len(data))
            body = stop
        else:
            if len(data) < size:
                data += self._disk.read(fd, size - len(data), at + len(data))
            found = records.parse(data, 0, segment.mark)
            if found is None:
                raise Unreadable(errno.EIO, f"a damaged record at {at} of {segment.name}")
            body = found.body
        try:
            meta = records.decode(memoryview(data)[records.HEAD.size : body])
        except ValueError as error:
            raise Unreadable(errno.EIO, f"no sense in the record at {at} of {segment.name}: {error}") from error
        for put in meta.put:
            size = put.content.size if put.content else 0
            if put.envelope.id == id:
                return put, memoryview(data)[body : body + size]
            body += size
        raise Unreadable(errno.EIO, f"{id} is not in the record at {at} of {segment.name}")

    def stored(self, job: Job) -> Stored:
        """Raises OSError."""
        put, own = self.put(job.envelope, job.id)
        envelope = put.envelope
        if put.content is None or job.content != job.envelope:
            put, own = self.put(job.content, job.id)
            if put.content is None:
                raise Unreadable(errno.EIO, f"{job.id} has no content in its record")
        return Stored(envelope, put.content, own)


def envelopes(disk: Disk, jobs: list[Job]) -> list[Envelope | OSError]:
    found: list[Envelope | OSError] = []
    with Reader(disk) as reader:
        for job in jobs:
            try:
                found.append(reader.put(job.envelope, job.id, line_only=True)[0].envelope)
            except OSError as error:
                found.append(error)
    return found
