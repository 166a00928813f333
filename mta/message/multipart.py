"""Where the parts of a multipart body begin and end (RFC 2046 5.1.1), found by their boundary lines alone.

The CRLF before a boundary belongs to the boundary. Two boundaries may share one (an empty part between them): then the
second line begins where the first one ended.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from mta.message.layout import Raw

MAX_PARTS = 1000

NOT_FOUND = "boundary not found"
NOT_CLOSED = "boundary not closed"
CLOSED_TWICE = "boundaries after the closing one"
TOO_MANY = "too many parts"
TOO_LONG = "too long to split"
CUT = (TOO_MANY, TOO_LONG)  # the last part is all the rest

_STEP = 4 << 20
_CLOSE = re.compile(rb"(--)?[ \t]*(?:\r\n|\Z)")  # what may follow a boundary on its line

Line = tuple[int, int]  # from where to where a boundary line reaches, the CRLF before it and the one after it included


class Budget:
    """What one mail may still cost to split: parts, bytes looked at (each line found counts as a thousand), and bytes
    of mails in it that are decoded and kept: base64 in base64 takes three times the mail, other nesting any multiple.
    """

    __slots__ = ("bytes", "decoded", "parts")

    def __init__(self, size: int) -> None:
        self.parts, self.bytes, self.decoded = MAX_PARTS, 8 * size + 64_000_000, 4 * size


class Found(NamedTuple):
    """`parts`: (the line before it, where it ends) for each; `tail`: the closing line, None if there is none."""

    parts: list[tuple[Line, int]]
    tail: Line | None
    flaw: str


def search(raw: Raw, wanted: bytes, start: int, stop: int) -> int:
    """raw.find, in steps short enough for others to have their turn in between."""
    while start < stop:
        found = raw.find(wanted, start, min(stop, start + _STEP + len(wanted)))
        if found >= 0:
            return found
        start += _STEP
    return -1


def find(raw: Raw, body: int, stop: int, boundary: bytes, budget: Budget) -> Found:
    """The parts in raw[body:stop]. Something that only begins like the boundary is text."""
    line = b"\r\n--" + boundary
    parts: list[tuple[Line, int]] = []
    lead: Line | None = None  # of the part whose end is looked for
    tail: Line | None = None
    flaw = ""
    at = body - 2  # the header's empty line may be the CRLF of the first boundary
    while True:
        found = search(raw, line, max(at, 0), stop)
        budget.bytes -= (stop if found < 0 else found) - at + 1000
        if found < 0:
            flaw = NOT_CLOSED if lead else NOT_FOUND
        elif budget.bytes < 0:
            flaw = TOO_LONG
        elif budget.parts <= len(parts):
            flaw = TOO_MANY
        if flaw:
            break
        end = _CLOSE.match(raw, found + len(line), stop)
        if end is None:
            at = found + 2
            continue
        begin = max(found, lead[1] if lead else body)
        if lead is not None:
            parts.append((lead, begin))
        lead = (begin, end.end())
        at = end.end() - 2 if raw[end.end() - 2 : end.end()] == b"\r\n" else end.end()
        if end[1]:
            tail, lead = lead, None
            flaw = CLOSED_TWICE if search(raw, line, at, stop) >= 0 else ""
            break
    if lead is not None:
        parts.append((lead, stop))
    budget.parts -= len(parts)
    return Found(parts, tail, flaw)


def unused(raws: Iterable[Raw], known: Collection[bytes]) -> bytes:
    """A boundary that is not in `known` and stands nowhere in `raws`; the same for the same input."""
    raws = list(raws)
    seed = b"".join(bytes(raw[:4096]) + b"%d" % len(raw) for raw in raws)
    while True:
        seed = hashlib.sha256(seed).digest()
        boundary = b"=_" + seed.hex()[:32].encode()
        if boundary not in known and all(search(raw, boundary, 0, len(raw)) < 0 for raw in raws):
            return boundary
