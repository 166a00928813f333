"""The one outcome of everything we do: an SMTP reply, and the exception that carries one.

A command returns a reply, a rule's verdict becomes one, a transport yields one for each recipient:
2xx done, 4xx not now, 5xx never (RFC 5321 4.2.1). Anything raised that is not `Refused` is a bug.
"""

from __future__ import annotations

import re
from functools import cached_property

_SHAPE = re.compile(r"([2-5][0-9][0-9])(?:[ -]+|$)(?:([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|$))?(.*)", re.S)
_LINE = 512  # RFC 5321 4.5.3.1.5: octets in a reply line, with code and CRLF


class Reply:
    """A reply: `code` (int), `enhanced` (RFC 3463, may be empty), `text` (lines split by "\\n"), `close` (hang up)."""

    def __init__(self, code: int, enhanced: str = "", text: str = "", *, close: bool = False) -> None:
        self.code, self.enhanced, self.text, self.close = code, enhanced, text, close

    @classmethod
    def parse(cls, said: str, *, close: bool = False) -> Reply:
        """Read "550 5.7.1 No" or several lines of it. Raises ValueError for anything else."""
        first, *rest = said.replace("\r\n", "\n").rstrip("\n").split("\n")
        shape = _SHAPE.fullmatch(first)
        if not shape:
            raise ValueError(f'not an SMTP reply: {said!r} (write it as "550 5.7.1 text")')
        code, enhanced, text = shape.groups()
        if enhanced and enhanced[0] != code[0]:
            raise ValueError(f"the enhanced code {enhanced} does not belong to a {code} reply (RFC 3463 2)")
        lines = [text]
        for line in rest:
            again = _SHAPE.fullmatch(line)
            lines.append(again[3] if again and again[1] == code else line)
        return cls(int(code), enhanced or "", "\n".join(lines), close=close)

    @property
    def positive(self) -> bool:
        return self.code < 400

    @property
    def temporary(self) -> bool:
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    def adding(self, words: str) -> Reply:
        """The same reply with `words` at the end of its last line."""
        return Reply(self.code, self.enhanced, f"{self.text} {words}".lstrip(), close=self.close)

    def closing(self) -> Reply:
        return Reply(self.code, self.enhanced, self.text, close=True)

    @cached_property
    def wire(self) -> bytes:
        """What goes over the wire; control characters become "?", so a reply can never become two."""
        head = f"{self.enhanced} " if self.enhanced else ""
        if len(self.text) < 400 and self.text.isascii() and self.text.isprintable():  # nearly always
            return f"{self.code} {head}{self.text}\r\n".encode()
        room = _LINE - len(f"{self.code} {head}\r\n")
        lines: list[bytes] = []
        for line in self.text.split("\n"):
            rest = "".join(c if " " <= c != "\x7f" else "?" for c in line).encode("utf-8", "replace")
            while len(rest) > room:
                cut = room
                while rest[cut] & 0xC0 == 0x80:  # never inside a UTF-8 character
                    cut -= 1
                lines.append(rest[:cut])
                rest = rest[cut:]
            lines.append(rest)
        last = len(lines) - 1
        return b"".join(
            f"{self.code}{' ' if n == last else '-'}{head}".encode() + line + b"\r\n" for n, line in enumerate(lines)
        )

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text.replace("\n", " / "))))

    def __repr__(self) -> str:
        return f"<Reply {self}{' and close' if self.close else ''}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and (self.wire, self.close) == (other.wire, other.close)

    def __hash__(self) -> int:
        return hash((self.wire, self.close))


class Refused(Exception):
    """We say no. `reply` is what the client, or the sender of a bounce, gets to read; `reason` is for the log."""

    def __init__(self, reply: Reply | str, reason: str = "") -> None:
        self.reply = Reply.parse(reply) if isinstance(reply, str) else reply
        self.reason = reason or str(self.reply)
        super().__init__(str(self.reply))
