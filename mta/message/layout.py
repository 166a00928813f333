"""How a changed mail is written: pieces in order, new bytes, or spans of the raw mail and views of what took the place
of large parts, which nobody copies."""

from __future__ import annotations

import mmap
from typing import NamedTuple

from mta.message import encodings

Raw = bytes | mmap.mmap

LARGE = 1 << 16  # bytes: what is shorter is copied, for few pieces are quicker to write than many


class Span(NamedTuple):
    """raw[start:stop] of the mail it belongs to."""

    start: int
    stop: int


Piece = bytes | memoryview | Span


class Layout:
    """The pieces written so far. Neighbouring spans become one."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.pieces: list[Piece] = []
        self.size = 0

    def new(self, text: bytes) -> None:
        if text:
            self.pieces.append(text)
            self.size += len(text)

    def old(self, source: Raw, start: int, stop: int) -> None:
        """source[start:stop]: a span if `source` is the raw mail, else its bytes or, of many, a view of them."""
        if start >= stop:
            return
        self.size += stop - start
        if source is not self.raw:
            view = memoryview(source)[start:stop]
            self.pieces.append(view if stop - start >= LARGE else bytes(view))
            return
        last = self.pieces[-1] if self.pieces else None
        if isinstance(last, Span) and last.stop == start:
            self.pieces[-1] = Span(last.start, stop)
        else:
            self.pieces.append(Span(start, stop))

    def encoded(self, content: Layout, encoding: str) -> None:
        """All that is laid out in `content`, which has no spans, in a transfer encoding."""
        whole = b"".join([piece for piece in content.pieces if not isinstance(piece, Span)])
        self.new(encodings.encode(whole, encoding))

    def end_line(self) -> None:
        """End the line last written, if it has no end yet."""
        if not self.pieces:
            return
        last = self.pieces[-1]
        tail = self.raw[max(last.start, last.stop - 2) : last.stop] if isinstance(last, Span) else last[-2:]
        if tail != b"\r\n":
            self.new(b"\r\n")


class Measure(Layout):
    """A layout of which only the size is wanted: 25 MB are not encoded for that."""

    def encoded(self, content: Layout, encoding: str) -> None:
        if encoding == "base64":
            self.size += encodings.base64_size(content.size)
        else:
            super().encoded(content, encoding)
