"""What rules changed: envelope, header, MIME tree and bodies, before and after."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import NamedTuple

from mta.message.message import Message
from mta.message.mime import Part
from mta.rules.transaction import Transaction

TEXT = 64 << 10  # characters of a body that are compared line by line; a longer one is compared by its size
LINES = 60  # of one body's difference that are told


class Change(NamedTuple):
    """`section`: envelope, header, parts, body. `sign`: "-" was, "+" is, " " stands between, "@" tells where."""

    section: str
    sign: str
    text: str

    def __str__(self) -> str:
        return f"{self.sign} {self.text}"


class Picture(NamedTuple):
    """A mail at one moment, as lines."""

    envelope: list[str]
    header: list[str]
    parts: list[str]
    bodies: dict[str, tuple[int, str | None]]  # by number and type: size, and text where it is one

    @classmethod
    def of(cls, tx: Transaction, message: Message | None = None) -> Picture:
        """`message` in place of the transaction's own."""
        content = message or tx.message
        if content is None:
            return cls(envelope(tx), [], [], {})
        head = [f"{name}: {value}" for name, value in fields(content)]
        parts = list(content.parts())
        bodies = {f"{p.number or '1'} {p.type}": _body(p) for p in parts if not p.multipart}
        return cls(envelope(tx), head, [outline(part) for part in parts], bodies)


def envelope(tx: Transaction) -> list[str]:
    lines = []
    if tx.sender is not None:
        lines.append(f"sender <{tx.sender}>")
    lines += [f"recipient <{one}>" for one in tx.recipients]
    lines += [f"vars.{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in sorted(tx.vars.items())]
    if tx.relay:
        lines.append("relay allowed")
    if tx.ways is not None:
        lines += [f"{name} {value}" for name, value in routes(tx)]
    return lines


def routes(tx: Transaction) -> Iterator[tuple[str, str]]:
    """What rules said of where it goes and when: ("route <you@example.test>", "smtp host"), ("hold", "until ...")."""
    from mta.message.envelope import Recipient

    ways = tx.ways
    if ways is None:
        return
    if ways.named:
        for one in tx.recipients or ([tx.recipient] if tx.recipient is not None else []):
            route = ways.of(Recipient(one))
            told = "as the settings say" if route is None else f"{route.transport} {route.host}{route.path}".strip()
            yield f"route <{one}>", told
    for one in tx.recipients or ([tx.recipient] if tx.recipient is not None else []):
        if ways.until_of(one) != ways.until:
            yield f"hold <{one}>", f"until {ways.until_of(one):.0f}"
    if ways.until:
        yield "hold", f"until {ways.until:.0f}"


def fields(message: Message) -> list[tuple[str, str]]:
    """The fields of the header as they would be written, unfolded; bytes as Latin-1."""
    raw = b"".join(bytes(piece) for piece in _pieces(message))
    head = raw.partition(b"\r\n\r\n")[0].decode("latin-1")
    found: list[list[str]] = []
    for line in head.split("\r\n"):
        if line[:1] in (" ", "\t") and found:
            found[-1][1] += " " + line.strip()
        elif line:
            name, _, value = line.partition(":")
            found.append([name, value.strip()])
    return [(name, value) for name, value in found]


def _pieces(message: Message) -> Iterator[bytes]:
    """As much of the mail as surely holds its header."""
    seen = b""
    for piece in message.pieces():
        part = piece if isinstance(piece, bytes) else bytes(piece[: 1 << 20])
        yield part
        seen = seen[-3:] + part
        if b"\r\n\r\n" in seen:
            return


def outline(part: Part) -> str:
    """One part in one line: "  2.1 application/pdf 34 KB report.pdf"."""
    number = part.number or "1"
    name = f" {part.filename}" if part.filename else ""
    flaw = f" ({part.flaw})" if part.flaw else ""
    attached = " attached" if part.attachment and not name else ""
    return f"{'  ' * part.depth}{number} {part.type} {part.size} bytes{name}{attached}{flaw}"


def _body(part: Part) -> tuple[int, str | None]:
    if part.size > TEXT or not part.type.startswith("text/"):
        return part.size, None
    try:
        return part.size, part.text(TEXT)
    except ValueError:
        return part.size, None


def between(before: Picture, after: Picture) -> Iterator[Change]:
    """Every difference, section by section."""
    for section in ("envelope", "header", "parts"):
        old, new = getattr(before, section), getattr(after, section)
        yield from (Change(section, sign, text) for sign, text in _lines(old, new))
    for name in dict.fromkeys([*before.bodies, *after.bodies]):
        was, now = before.bodies.get(name), after.bodies.get(name)
        if was == now:
            continue
        if was is None or now is None or was[1] is None or now[1] is None:
            if was is not None and now is not None:
                yield Change("body", "@", f"part {name}: {was[0]} bytes became {now[0]}")
            continue
        yield Change("body", "@", f"part {name}")
        for count, (sign, text) in enumerate(_lines(was[1].splitlines(), now[1].splitlines(), context=1)):
            if count == LINES:
                yield Change("body", "@", "...")
                break
            yield Change("body", sign, text)


def _lines(old: list[str], new: list[str], context: int = 0) -> Iterator[tuple[str, str]]:
    for line in list(difflib.unified_diff(old, new, lineterm="", n=context))[2:]:
        if not line.startswith("@@"):
            yield line[:1], line[1:]
