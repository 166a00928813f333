"""How much one client, and all of them together, may ask of us."""

from __future__ import annotations

import mmap

from mta.message.reply import Refused

MAX_HEADER = 256_000  # bytes of a header block; real ones stay below 100 kB
MAX_FIELD = 100_000  # bytes of one field
MAX_FIELDS = 1000

Raw = bytes | mmap.mmap


class Budget:
    """Mail content held at one moment, over all sessions of a worker. In bytes."""

    __slots__ = ("held", "room")

    def __init__(self, room: int) -> None:
        self.room, self.held = room, 0

    @property
    def full(self) -> bool:
        return self.held >= self.room


def header(raw: Raw, end: int, max_received: int) -> None:
    """Look at a header, raw[:end], before anything takes it apart. Raises Refused."""
    if end > MAX_HEADER:
        raise Refused(f"552 5.3.4 The header is larger than {MAX_HEADER} bytes")
    head = bytes(raw[:end])
    if head.count(b"\n") > MAX_FIELDS or end > MAX_FIELD:
        _fields(head)
    if count(head, b"received") > max_received:  # RFC 5321 6.3
        raise Refused(f"554 5.4.6 This mail goes in circles: more than {max_received} Received fields")


def _fields(head: bytes) -> None:
    fields, size = 0, 0
    for line in head.splitlines(keepends=True):
        if line[:1] in (b" ", b"\t"):
            size += len(line)
        else:
            fields, size = fields + 1, len(line)
        if size > MAX_FIELD:
            raise Refused(f"552 5.3.4 A header field is larger than {MAX_FIELD} bytes")
        if fields > MAX_FIELDS:
            raise Refused(f"552 5.3.4 More than {MAX_FIELDS} header fields")


def count(head: bytes, name: bytes) -> int:
    """How many fields are called `name` (lower case)."""
    folded = head.lower()
    return folded.count(b"\n" + name + b":") + folded.startswith(name + b":")
