"""A mail's content: the bytes as they came, and what has been changed since, kept apart until it is written out.

`layout()` tells how to write the mail: a list in which bytes are new and a `Span` is a piece of the raw mail. So one
changed header of a 25 MB mail costs a few hundred bytes, and a spool can refer to a body file instead of copying it.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple, Protocol

from mta.message.headers import Headers, end_of

Raw = bytes | mmap.mmap


class Span(NamedTuple):
    """raw[start:stop] of the message it belongs to."""

    start: int
    stop: int


class BodyFile(Protocol):
    """Where the raw bytes of a large mail lie. The spool made it and knows what the name means."""

    name: str
    size: int


class Message:
    """The content of one mail. `raw` is what arrived, with CRLF, never changed; `file`: where it lies on disk."""

    __slots__ = ("_body", "_headers", "file", "raw")

    def __init__(self, raw: Raw, file: BodyFile | None = None) -> None:
        self.raw, self.file = raw, file
        self._headers: Headers | None = None
        self._body: int | None = None  # where the body begins in raw

    def _split(self) -> Headers:
        if self._headers is None:
            end, self._body = end_of(self.raw)  # type: ignore[arg-type]
            self._headers = Headers(self.raw, end)  # type: ignore[arg-type]
        return self._headers

    @property
    def headers(self) -> Headers:
        return self._headers or self._split()

    @property
    def changed(self) -> bool:
        return self._headers is not None and self._headers.changed

    @property
    def size(self) -> int:
        """Bytes the mail has as it would be written now."""
        if not self.changed:
            return len(self.raw)
        return sum(len(p) if isinstance(p, bytes) else p.stop - p.start for p in self.layout())

    def layout(self) -> list[bytes | Span]:
        """The mail as it would be written now."""
        whole = len(self.raw)
        headers = self._headers
        if headers is None or not headers.changed:
            return [Span(0, whole)]
        body = self._body or 0
        if headers._fields is None:  # only prepended: the most common change by far (a Received on top)
            return [*reversed(headers._top), Span(0, whole)]
        out: list[bytes | Span] = []
        for field in headers._fields:
            last = out[-1] if out else None
            if field.text is not None:
                if isinstance(last, Span) and last.stop == whole and self.raw[-2:] != b"\r\n":
                    out.append(b"\r\n")  # the mail ended inside its last field
                out.append(field.text)
            elif isinstance(last, Span) and last.stop == field.start:
                out[-1] = Span(last.start, field.stop)
            else:
                out.append(Span(field.start, field.stop))
        if body > headers._end:  # there was an empty line; it stays
            out.append(Span(headers._end, whole))
        return out

    def pieces(self) -> list[bytes | memoryview]:
        """The mail as buffers for writev or send, nothing of the body copied."""
        view = memoryview(self.raw)
        return [p if isinstance(p, bytes) else view[p.start : p.stop] for p in self.layout()]

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())

    def body(self) -> memoryview:
        """What follows the empty line, as it came."""
        self._split()
        return memoryview(self.raw)[self._body :]
