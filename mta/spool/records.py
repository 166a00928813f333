"""One commit as bytes: a header, one line of JSON, then the contents of its mails, one after the other.

::

    mark (8) | length of the line (4) | length of the contents (4) | CRC of both (4) | CRC of this header (4)
    {"put": [{"envelope": {...}, "content": {"size": 4096}}], "drop": ["k3v9x0a2bq-1f.2"]}
    From: ...

The mark is eight random bytes that a segment draws anew each time its file is used again, and keeps in its name. So
what a file held in its last life is no record any more; the next good record behind damage is found by searching for
the mark; and nobody who sends us mail can write a record into it, for he cannot know the mark.

A batch of records begins at a multiple of BLOCK and is padded with zeros to the next: no later write touches a block
in which something acknowledged lies.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from mta.message.envelope import Envelope
from mta.spool.segments import Segment

BLOCK = 4096
HEAD = struct.Struct("<8sIIII")
_LENGTHS = struct.Struct("<8sIII")
_CRC = struct.Struct("<I")

Buffer = bytes | memoryview


class Content(msgspec.Struct, omit_defaults=True):
    """A mail's content: the next `size` bytes of the record; with `file`, those are the pieces that differ from it.

    `layout` then tells how it is put together: a number is that many of the bytes, [a, b] is that span of the file.
    """

    size: int = 0
    file: str = ""
    layout: list[int | tuple[int, int]] = []


class Put(msgspec.Struct, omit_defaults=True):
    """A mail as it is from now on. Without `content` that stays what it was. `carried`: how often it was moved on."""

    envelope: Envelope
    content: Content | None = None
    carried: int = 0


class Meta(msgspec.Struct, omit_defaults=True):
    put: Sequence[Put] = []
    drop: list[str] = []


class Known(msgspec.Struct):
    """What recovery needs of an envelope."""

    id: str
    next_try: float = 0.0
    held: str = ""
    deaths: float = 0


class KnownPut(msgspec.Struct):
    envelope: Known
    content: Content | None = None
    carried: int = 0


class KnownMeta(msgspec.Struct):
    put: list[KnownPut] = []
    drop: list[str] = []


_encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Meta).decode
decode_known = msgspec.json.Decoder(KnownMeta).decode


class Record:
    """A commit on its way to the disk. `urgent`: it settles or drops, so it may use the reserve.

    One that only drops may be given more ids until the thread has it, which then seals it.
    """

    __slots__ = ("at", "body", "buffers", "crc", "doubt", "drop", "error", "line", "puts", "segment", "size", "urgent")

    def __init__(self, put: list[Put], drop: Sequence[str], buffers: list[Buffer], urgent: bool) -> None:
        self.drop, self.buffers, self.urgent, self.puts = list(drop), buffers, urgent, len(put)
        self.line = b""
        self.crc = self.body = self.size = 0
        self.segment: Segment | None = None  # where it lies, once it is durable
        self.at = 0
        self.error: Exception | None = None
        self.doubt = False  # it failed, but may be on the disk all the same
        if put:
            self.seal(put)

    def seal(self, put: Sequence[Put] = ()) -> None:
        """From here on it is bytes."""
        self.line = line = _encode(Meta(put, self.drop)) + b"\n"
        crc, body = zlib.crc32(line), 0
        for buffer in self.buffers:
            crc = zlib.crc32(buffer, crc)
            body += len(buffer)
        self.crc, self.body, self.size = crc, body, HEAD.size + len(line) + body

    def head(self, mark: bytes) -> bytes:
        head = _LENGTHS.pack(mark, len(self.line), self.body, self.crc)
        return head + _CRC.pack(zlib.crc32(head))


class Found(NamedTuple):
    """A good record: data[at:line] is its header, data[line:body] the line, data[body:stop] the contents."""

    at: int
    line: int
    body: int
    stop: int


class Damage(NamedTuple):
    """Bytes that should be a record and are none. `last`: no good one follows (what a crash leaves of a commit)."""

    at: int
    reason: str
    last: bool


def aligned(at: int) -> int:
    return -(-at // BLOCK) * BLOCK


def parse(data: bytes, at: int, mark: bytes) -> Found | None:
    """The record at data[at:], if there is a good one."""
    head = data[at : at + HEAD.size]
    if len(head) < HEAD.size or head[:8] != mark:
        return None
    _, line, body, crc, head_crc = HEAD.unpack(head)
    if zlib.crc32(head[:-4]) != head_crc:
        return None
    start = at + HEAD.size
    stop = start + line + body
    if stop > len(data) or zlib.crc32(memoryview(data)[start:stop]) != crc:
        return None
    return Found(at, start, start + line, stop)


def need(head: bytes, mark: bytes) -> int | None:
    """How many bytes the record has that begins with `head`; None if that is no header."""
    if len(head) < HEAD.size or head[:8] != mark or zlib.crc32(head[: HEAD.size - 4]) != HEAD.unpack_from(head)[4]:
        return None
    _, line, body, _, _ = HEAD.unpack_from(head)
    return HEAD.size + int(line) + int(body)


def scan(data: bytes, mark: bytes) -> Iterator[Found | Damage]:
    """All good records of a segment in order, and what was stepped over between them."""
    at = 0
    while True:
        found = parse(data, at, mark) or (parse(data, aligned(at), mark) if at % BLOCK else None)
        if found is None:
            good = None
            candidate = data.find(mark, at)
            first = candidate
            while candidate >= 0:
                good = parse(data, candidate, mark)
                if good is not None:
                    break
                candidate = data.find(mark, candidate + 1)
            if good is None:
                if first >= 0:
                    yield Damage(first, "a record is not whole", last=True)
                return
            at = first if first < good.at else aligned(at)
            yield Damage(at, f"{good.at - at} bytes are no record", last=False)
            found = good
        yield found
        at = found.stop
