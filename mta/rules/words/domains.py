"""Domain names: who stands above whom, who can be registered, how they look beyond ASCII."""

from __future__ import annotations

import functools

import idna

from mta.rules.outside.lists import fold
from mta.rules.outside.suffixes import suffixes
from mta.rules.words.pure import Declared, declare, lua, to_bytes


@functools.lru_cache(maxsize=4096)
def _root(name: str) -> str:
    return suffixes().privatesuffix(name) or name


def _name(text: str) -> str:
    """In small letters, and as it stands in the DNS: so all spellings are one."""
    name = fold(text.strip().strip("."))
    if not name or len(name) > 255 or ".." in name:
        raise ValueError(f"{text[:80]!r} is no domain name")
    return name if name.isascii() else _labels(name)


def _labels(name: str) -> str:
    try:
        return idna.encode(to_bytes(name).decode("utf-8"), uts46=True).decode("ascii")
    except (UnicodeError, idna.IDNAError) as error:
        raise ValueError(f"{name[:80]!r} is no domain name: {error}") from None


@lua
def root_domain(domain: str) -> str:
    """The part of a name that somebody registered: a.b.example.co.uk -> example.co.uk. A public suffix is itself."""
    return _root(_name(domain))


@lua
def public_suffix(domain: str) -> str:
    """The part nobody owns: co.uk."""
    name = _name(domain)
    return suffixes().publicsuffix(name) or name


@lua
def below(domain: str, parents: str) -> bool:
    """Whether a name is one of these domains or lies below one: below("mx.example.test", "example.test other.test")."""
    name = "." + _name(domain)
    return any(name.endswith("." + _name(parent)) for parent in parents.replace(",", " ").split())


@lua
def parent(domain: str) -> str:
    """What stands above: mx.example.test -> example.test; "" above a top-level domain."""
    return _name(domain).partition(".")[2]


@lua
def to_ascii(domain: str) -> str:
    """A name as it stands in DNS: bücher.example -> xn--bcher-kva.example (UTS 46)."""
    return _labels(domain)


@lua
def to_unicode(domain: str) -> str:
    """A name as people read it, in UTF-8."""
    try:
        return idna.decode(domain).encode("utf-8").decode("latin-1")
    except (UnicodeError, idna.IDNAError) as error:
        raise ValueError(f"{domain[:80]!r} is no domain name: {error}") from None


WORDS: list[Declared] = [
    declare(
        "domain.root(name: string) -> string?, string?",
        "The part of a domain that somebody registered, by the public suffix list.",
        'assert(domain.root("mx.example.co.uk") == "example.co.uk")',
        root_domain,
    ),
    declare(
        "domain.suffix(name: string) -> string?, string?",
        "The part of a domain nobody owns.",
        'assert(domain.suffix("mx.example.co.uk") == "co.uk")',
        public_suffix,
    ),
    declare(
        "domain.below(name: string, parents: string) -> boolean?, string?",
        "Whether a domain is one of these, or lies below one.",
        'assert(domain.below("mx.example.com", "example.org example.com"))',
        below,
    ),
    declare(
        "domain.parent(name: string) -> string?, string?",
        "The domain above.",
        'assert(domain.parent("mx.example.com") == "example.com")',
        parent,
    ),
    declare(
        "domain.to_ascii(name: string) -> string?, string?",
        "A domain as it stands in the DNS.",
        'assert(domain.to_ascii("bücher.example") == "xn--bcher-kva.example")',
        to_ascii,
    ),
    declare(
        "domain.to_unicode(name: string) -> string?, string?",
        "A domain as people read it.",
        'assert(domain.to_unicode("xn--bcher-kva.example") == "bücher.example")',
        to_unicode,
    ),
]
