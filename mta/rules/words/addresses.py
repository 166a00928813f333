"""Mail addresses as text: their parts, extensions, and how they are written."""

from __future__ import annotations

from mta.message import address, addresses, charsets
from mta.message.reply import Refused
from mta.rules.outside.lists import fold
from mta.rules.words.pure import Declared, declare, lua

LONGEST = 1000  # bytes; RFC 5321 4.5.3.1 allows some 320


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise ValueError(f"a text of {len(text)} bytes is no address, nor part of one")
    return text


def _parsed(text: str) -> address.Address:
    text = _short(text)
    text = text.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    try:
        return address.parse(text)
    except Refused as refused:
        raise ValueError(f"{text[:80]!r}: {refused.reply.text}") from None


@lua
def parse(text: str) -> tuple[str, str]:
    """`local_part, domain` of an address, with or without <>; the domain in small letters."""
    parsed = _parsed(text)
    return parsed.local_part, parsed.domain


@lua
def local_part(text: str) -> str:
    return _parsed(text).local_part


@lua
def domain(text: str) -> str:
    return _parsed(text).domain


@lua
def join(local: str, domain: str) -> str:
    """An address of these parts, quoted where it must be and checked: the parts may come from a client."""
    return str(_parsed(str(address.Address(_short(local), _short(domain)))))


@lua
def named(name: str, text: str) -> str:
    """As a header has it, in ASCII. The name may come from a stranger: commas and colons in it are no list."""
    return str(addresses.Mailbox(charsets.disguised(_short(name)), str(_parsed(text))))


def _cut(text: str, separators: str) -> tuple[str, str]:
    """ann+lists@x -> ann@x, lists."""
    local, at, rest = text.rpartition("@")
    if not at:
        local, rest = text, ""
    cut = min((n for n in (local.find(s, 1) for s in separators) if n > 0), default=-1)
    if cut < 0:
        return text, ""
    return local[:cut] + at + rest, local[cut + 1 :]


@lua
def base(text: str, separators: str = "+") -> str:
    """A local part or address without its extension."""
    return _cut(text, separators)[0]


@lua
def extension(text: str, separators: str = "+") -> str:
    """What stands behind the first separator in a local part or address; "" without one."""
    return _cut(text, separators)[1]


@lua
def same(one: str, other: str) -> bool:
    """Whether two addresses mean the same mailbox to most servers: capitals make no difference."""
    first, second = _parsed(one), _parsed(other)
    return (fold(first.local_part), first.domain) == (fold(second.local_part), second.domain)


WORDS: list[Declared] = [
    declare(
        "mailbox.local_part(address: string) -> string?, string?",
        "What stands before the @ of an address that is text; nil and why if it is none.",
        'assert(mailbox.local_part("<Ann@example.com>") == "Ann")',
        local_part,
    ),
    declare(
        "mailbox.domain(address: string) -> string?, string?",
        "The domain of an address that is text, in small letters.",
        'assert(mailbox.domain("ann@Example.COM") == "example.com")',
        domain,
    ),
    declare(
        "mailbox.join(local_part: string, domain: string) -> string?, string?",
        "An address of these parts, quoted where it must be; nil and why if there is none such.",
        'assert(mailbox.join("ann", "example.com") == "ann@example.com")',
        join,
    ),
    declare(
        "mailbox.named(name: string, address: string) -> string?, string?",
        "An address with a name (UTF-8) as header fields have it, in ASCII, the name quoted or encoded where it must "
        "be; nil and why if there is no such address, or the name has more than 1000 bytes.",
        'local from = mail.headers:addresses("From")[1]\n'
        'mail.headers:set_addresses("From", mailbox.named(from.name .. ", via list", "list@example.test"))\n'
        'assert(mail.headers:get("From") == \'"Ann, via list" <list@example.test>\')',
        named,
    ),
    declare(
        "mailbox.base(address: string, separators?: string) -> string",
        "An address (or local part) without its extension.",
        'assert(mailbox.base("ann+lists@example.com") == "ann@example.com")',
        base,
    ),
    declare(
        "mailbox.extension(address: string, separators?: string) -> string",
        'The extension of an address (or local part), "" without one.',
        'assert(mailbox.extension("ann+lists@example.com") == "lists")',
        extension,
    ),
    declare(
        "mailbox.same(one: string, other: string) -> boolean?, string?",
        "Whether two addresses differ in nothing but capitals.",
        'assert(mailbox.same(mail.sender, "Ann@EXAMPLE.com"))',
        same,
    ),
]
