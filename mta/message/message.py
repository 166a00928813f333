"""A mail's content: the bytes as they came, and what has been changed since, kept apart until it is written out.

`layout()` tells how to write the mail: a list in which a `Span` is a piece of the raw mail and all else is new. So one
changed header of a 25 MB mail costs a few hundred bytes, and a spool can refer to a body file instead of copying it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from mta.message.headers import Field, Headers, end_of, index, written
from mta.message.layout import Layout, Measure, Piece, Raw, Span
from mta.message.mime import Part

__all__ = ["BodyFile", "Message", "Raw", "Span"]


class BodyFile(Protocol):
    """Where the raw bytes of a large mail lie. The spool made it and knows what the name means."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...


class Message:
    """The content of one mail. `raw` is what arrived, with CRLF, never changed; `file`: where it lies on disk."""

    __slots__ = ("_body", "_headers", "_root", "file", "raw")

    def __init__(self, raw: Raw, file: BodyFile | None = None) -> None:
        self.raw, self.file = raw, file
        self._headers: Headers | None = None
        self._body = 0  # where the body begins in raw
        self._root: Part | None = None

    @classmethod
    def laid_out(cls, raw: Raw, layout: list[bytes | Span], file: BodyFile | None = None) -> Message:
        """The message whose `layout()` was this. What cannot be told as fields of raw is put together in memory."""
        message = cls(raw, file)
        whole = Span(0, len(raw))
        if layout == [whole]:
            return message
        headers = message.headers
        if layout[-1:] == [whole] and not any(isinstance(piece, Span) for piece in layout[:-1]):
            headers._top = [piece for piece in reversed(layout) if isinstance(piece, bytes)]
        else:
            headers._fields = []
            for piece in layout:
                if isinstance(piece, bytes):
                    headers._fields += written(piece)
                elif piece.start < headers._end:
                    text = bytes(raw[piece.start : min(piece.stop, headers._end)])
                    moved = [(f.name, f.start + piece.start, f.stop + piece.start) for f in index(text, len(text))]
                    headers._fields += [Field(name, start, stop, None) for name, start, stop in moved]
        headers.changed = True
        if message.layout() != layout:  # its body was changed
            return cls(b"".join(p if isinstance(p, bytes) else bytes(raw[p.start : p.stop]) for p in layout))
        return message

    def copy(self) -> Message:
        """The same content, to be changed apart from this one; nothing of a body is copied that is still as it came."""
        if self._root is not None and self._root.outermost.touched:
            return Message(bytes(self)).copy()
        other = Message(self.raw, self.file)
        other._headers, other._body = self.headers.copy(), self._body
        return other

    @property
    def edited(self) -> bool:
        """For a copy: it was changed since."""
        if self._root is not None and self._root.outermost.touched:
            return True
        return self._headers is not None and self._headers.edited

    def _split(self) -> Headers:
        if self._headers is None:
            end, self._body = end_of(self.raw)
            self._headers = Headers(self.raw, end)
        return self._headers

    @property
    def headers(self) -> Headers:
        return self._headers or self._split()

    @property
    def header_size(self) -> int:
        """Bytes of the header as it came, with the CRLF of its last field."""
        return self.headers._end

    @property
    def root(self) -> Part:
        """The mail as a MIME part; its headers are the mail's. Splitting a large mail takes time (see mime.py)."""
        if self._root is None:
            headers = self._split()
            self._root = Part.root(self.raw, headers)
        return self._root.outermost

    def parts(self) -> Iterator[Part]:
        """All parts, the mail itself first, a multipart before what is in it."""
        return self.root.walk()

    @property
    def changed(self) -> bool:
        if self._root is not None and self._root.outermost.touched:
            return True
        return self._headers is not None and self._headers.changed

    @property
    def rewritten(self) -> bool:
        """More than its own header was changed; then `layout` may take long, for a mail in it may be encoded anew."""
        return self._root is not None and self._root.outermost.rewritten

    @property
    def size(self) -> int:
        """Bytes the mail has as it would be written now."""
        return self._layout(Measure).size if self.changed else len(self.raw)

    def layout(self) -> list[Piece]:
        """The mail as it would be written now."""
        return self._layout().pieces if self.changed else [Span(0, len(self.raw))]

    def _layout(self, kind: type[Layout] = Layout) -> Layout:
        headers, out = self._split(), kind(self.raw)
        if self._root is not None and self.rewritten:
            self._root.outermost.write(out)
            return out
        headers.write(out, self.raw, 0)
        if headers._end == self._body < len(self.raw):
            out.new(b"\r\n")  # there was no empty line; now a header stands before a body that has none
        out.old(self.raw, headers._end, len(self.raw))
        return out

    def pieces(self, layout: list[Piece] | None = None) -> list[bytes | memoryview]:
        """The mail, or its `layout` if that is known, as buffers for writev or send, nothing of the body copied."""
        view = memoryview(self.raw)
        return [view[p.start : p.stop] if isinstance(p, Span) else p for p in layout or self.layout()]

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())

    def body(self) -> memoryview:
        """What follows the empty line, as it came."""
        self._split()
        return memoryview(self.raw)[self._body :]
