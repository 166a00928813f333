"""Mail addresses as text: their parts, extensions, and how they are written."""

from __future__ import annotations

from mta.message import address
from mta.message.reply import Refused
from mta.rules.lists import fold
from mta.rules.words import word


def _parsed(text: str) -> address.Address:
    text = text.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    try:
        return address.parse(text)
    except Refused as refused:
        raise ValueError(f"{text[:80]!r}: {refused.reply.text}") from None


@word
def parse(text: str) -> tuple[str, str]:
    """`local_part, domain` of an address, with or without <>; the domain in small letters."""
    parsed = _parsed(text)
    return parsed.local_part, parsed.domain


@word
def local_part(text: str) -> str:
    return _parsed(text).local_part


@word
def domain(text: str) -> str:
    return _parsed(text).domain


@word
def join(local: str, domain: str) -> str:
    """An address of these parts, quoted where it must be and checked: the parts may come from a client."""
    return str(_parsed(str(address.Address(local, domain))))


@word
def extension(text: str, separators: str = "+") -> tuple[str, str]:
    """`base, extension` of a local part or address: ann+lists@x -> ann@x, lists. Without one the extension is ""."""
    local, at, rest = text.rpartition("@")
    if not at:
        local, rest = text, ""
    cut = min((n for n in (local.find(s, 1) for s in separators) if n > 0), default=-1)
    if cut < 0:
        return text, ""
    return local[:cut] + at + rest, local[cut + 1 :]


@word
def same(one: str, other: str) -> bool:
    """Whether two addresses mean the same mailbox to most servers: capitals make no difference."""
    first, second = _parsed(one), _parsed(other)
    return (fold(first.local_part), first.domain) == (fold(second.local_part), second.domain)
