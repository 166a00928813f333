"""A mail's content as a record tells it: in the record itself, or as what differs from a body file."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from typing import Protocol

from mta.message.envelope import Envelope
from mta.message.headers import end_of
from mta.message.layout import Piece
from mta.message.message import Message, Span
from mta.net import offload
from mta.spool.bodies import Bodies, File
from mta.spool.disk import Disk
from mta.spool.reading import Job, Reader
from mta.spool.records import Buffer, Content
from mta.spool.spool import refused


class Files(Protocol):
    """The body files: Bodies, or what reads a spool at rest."""

    def view(self, name: str) -> bytes | mmap.mmap: ...


def told(message: Message, bodies: Bodies, buffers: list[Buffer]) -> Content:
    """What a record is to say; the bytes it needs go to `buffers`. A file is durable afterwards. Raises Refused."""
    file = message.file
    if file is None or not bodies.knows(file.name):
        pieces: Sequence[Buffer] = message.pieces() if message.changed else [memoryview(message.raw)]
        size = sum(map(len, pieces))
        if size > bodies.large:
            return _file_of_its_own(pieces, size, bodies)
        buffers += pieces
        return Content(size)
    layout = offload.run(message.layout) if message.rewritten else message.layout()
    if not _body_is_whole(message, layout):
        pieces = message.pieces(layout)
        return _file_of_its_own(pieces, sum(map(len, pieces)), bodies)
    if not bodies.synced(file.name):
        try:
            offload.run(bodies.sync, file.name)
        except OSError as error:
            raise refused(error) from error
    size = 0
    pieces_told: list[int | tuple[int, int]] = []
    for piece in layout:
        if isinstance(piece, Span):
            pieces_told.append((piece.start, piece.stop))
        else:
            buffers.append(piece)
            pieces_told.append(len(piece))
            size += len(piece)
    return Content(size, file.name, pieces_told)


def _file_of_its_own(pieces: Sequence[Buffer], size: int, bodies: Bodies) -> Content:
    name = bodies.new_name()
    try:
        offload.run(bodies.store, name, pieces)
    except OSError as error:
        raise refused(error) from error
    return Content(file=name, layout=[(0, size)])


def _body_is_whole(message: Message, layout: list[Piece]) -> bool:
    """Only the header was changed, so it is worth referring to the file. It could grow too many pieces otherwise."""
    last = layout[-1] if layout else None
    return isinstance(last, Span) and last.stop == len(message.raw) and last.start <= end_of(message.raw)[1]


def message(content: Content, own: memoryview, bodies: Files) -> Message:
    """The message a record told of; `own` are the bytes it needed. Raises OSError."""
    if not content.file:
        return Message(bytes(own))
    raw = bodies.view(content.file)
    size = max((piece[1] for piece in content.layout if not isinstance(piece, int)), default=0)
    if len(raw) < size:  # half a mail must not be delivered as a whole one
        raise OSError(errno.EIO, f"the file {content.file} has {len(raw)} bytes of {size}")
    at, layout = 0, list[bytes | Span]()
    for piece in content.layout:
        if isinstance(piece, int):
            layout.append(bytes(own[at : at + piece]))
            at += piece
        else:
            layout.append(Span(*piece))
    return Message.laid_out(raw, layout, File(content.file, len(raw)))


def mails(disk: Disk, bodies: Bodies, jobs: list[Job]) -> list[tuple[Envelope, Message] | OSError]:
    """Read mails, each by itself: what is unreadable of one does not touch the others."""
    found: list[tuple[Envelope, Message] | OSError] = []
    with Reader(disk) as reader:
        for job in jobs:
            try:
                stored = reader.stored(job)
                found.append((stored.envelope, message(stored.content, stored.own, bodies)))
            except OSError as error:
                found.append(error)
    return found
