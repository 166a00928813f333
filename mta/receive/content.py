"""The content of a mail, read from chunks as they come: where it ends, what a dot means, which line ends are none.

One state machine serves a mail that will be kept, one that is refused already and one that is thrown away; servers
that read a mail more loosely when it does not matter any more can be made to take its end for commands.

    fresh   what came so far ends with CRLF (or nothing came yet): a dot now is a dot at the start of a line
    held    bytes at the end of a chunk that mean nothing yet: CR, or at the start of a line "." and "." CR

Only CRLF "." CRLF ends a mail (RFC 5321 4.1.1.4). A CR or LF that stands alone, or a NUL, is refused where it is seen,
and so that nothing behind it can run the connection is closed; with `repair` the first two become CRLF, but what they
make is never an end.
"""

from __future__ import annotations

from mta.message.reply import Refused, Reply

_BARE = Reply(521, "5.5.2", "Lines end with CRLF; a CR or LF alone, or NUL, has no place in a mail", close=True)
_NUL = Reply(521, "5.5.2", "NUL has no place in a mail", close=True)


class Content:
    """Feed it chunks until the second thing it returns is not None."""

    __slots__ = ("_fresh", "_held", "_line", "long", "max_line", "repair")

    def __init__(self, max_line: int, repair: bool = False) -> None:
        self.max_line, self.repair = max_line, repair
        self.long = False  # a line was longer than max_line
        self._fresh, self._held = True, b""
        self._line = 0  # bytes since the last line end

    def feed(self, chunk: bytes) -> tuple[bytes, bytes | None]:
        """(content without stuffing, what follows the end of the mail or None while it goes on). Raises Refused."""
        raw = self._held + chunk if self._held else chunk
        lead = 2 if self._fresh else 0
        if lead:
            raw = b"\r\n" + raw  # so that the start of a line looks the same everywhere
        rest: bytes | None = None
        self._held = b""
        dot = raw.find(b"\r\n.")
        if dot >= 0:
            end = dot if raw.startswith(b"\r\n.\r\n", dot) else raw.find(b"\r\n.\r\n", dot)
            if end >= 0:
                raw, rest = raw[: end + 2], raw[end + 5 :]
            elif raw.endswith((b"\r\n.\r", b"\r\n.", b"\r")):
                raw = self._hold(raw, 2 if raw.endswith(b"\r\n.\r") else 1)
        elif raw.endswith(b"\r"):
            raw = self._hold(raw, 1)
        self._fresh = raw.endswith(b"\r\n")
        if 0 <= dot < len(raw) - 2:
            raw = raw.replace(b"\r\n.", b"\r\n")
        bare = raw.replace(b"\r\n", b"")  # a third of what counting line ends costs
        if b"\n" in bare or b"\r" in bare or b"\0" in bare:
            raw = self._mend(raw)
        content = raw[lead:] if lead else raw
        self._measure(content)
        return content, rest

    def _hold(self, raw: bytes, count: int) -> bytes:
        self._held = raw[-count:]
        return raw[:-count]

    def _mend(self, raw: bytes) -> bytes:
        if not self.repair:
            raise Refused(_BARE)
        if b"\0" in raw:
            raise Refused(_NUL)
        return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")

    def _measure(self, content: bytes) -> None:
        last = content.rfind(b"\n")
        if self._line + len(content) > self.max_line:  # perhaps; the lines themselves decide
            first, *others = content.split(b"\n")
            longest = max([self._line + len(first), *map(len, others)])
            self.long = self.long or longest > self.max_line
        self._line = self._line + len(content) if last < 0 else len(content) - last - 1
