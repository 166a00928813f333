"""Mail addresses: read, print and compare what stands between the angle brackets of a path (RFC 5321 4.1.2)."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from mta.message.reply import Refused

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_PLAIN = re.compile(rf"({_ATEXT}(?:\.{_ATEXT})*)@({_LABEL}(?:\.{_LABEL})*)")
_DOT_STRING = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\[ -~])*)"')
_SOURCE_ROUTE = re.compile(rf"@{_LABEL}(?:\.{_LABEL})*(?:,@{_LABEL}(?:\.{_LABEL})*)*:")


class Address(msgspec.Struct, frozen=True, array_like=True, cache_hash=True):
    """One mailbox: `local_part` without quotes, `domain` in lower case (or a literal). Both empty: the null sender.

    Local parts keep their case (RFC 5321 2.4); `key` folds it, for comparing.
    """

    local_part: str = ""
    domain: str = ""

    def __str__(self) -> str:
        local = self.local_part
        if local.isalnum() and local.isascii() and self.domain:  # nearly every one, and ten times as fast
            return f"{local}@{self.domain}"
        if not local and not self.domain:
            return ""
        if not _DOT_STRING.fullmatch(local):
            local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
        return f"{local}@{self.domain}" if self.domain else local

    def __bool__(self) -> bool:
        return bool(self.local_part or self.domain)

    @property
    def shown(self) -> str:
        """As people and logs see it: the null sender is "<>"."""
        return str(self) or "<>"

    @property
    def key(self) -> tuple[str, str]:
        return self.local_part.lower(), self.domain


NULL = Address()


def parse(text: str) -> Address:
    """Read `local@domain` as it stands in a path, without brackets. Raises Refused (501/553)."""
    plain = _PLAIN.fullmatch(text)
    if plain:
        local, domain = plain[1], plain[2].lower()
        if len(domain) > 63:
            domain = parse_domain(domain)
    else:
        local, domain = _split(text)
    if len(local) > 64:  # RFC 5321 4.5.3.1.1
        raise Refused("501 5.1.3 That address is too long")
    return Address(local, domain)


def _split(text: str) -> tuple[str, str]:
    """The rarer forms: source routes (dropped, RFC 5321 appendix C), quoted local parts, address literals."""
    if not text.isascii():
        raise Refused("553 5.6.7 Addresses outside ASCII need SMTPUTF8, which is not offered here")
    if any(c < " " or c == "\x7f" for c in text):
        raise Refused("501 5.5.2 Control characters have no place in an address")
    route = _SOURCE_ROUTE.match(text)
    if route:
        text = text[route.end() :]
    quoted = _QUOTED.match(text)
    if quoted:
        local, rest = re.sub(r"\\(.)", r"\1", quoted[1]), text[quoted.end() :]
    else:
        local, at, domain = text.partition("@")
        rest = at + domain
        if not _DOT_STRING.fullmatch(local):
            raise Refused("501 5.1.3 That is not a mail address")
    if not rest.startswith("@"):
        raise Refused("501 5.1.3 An address needs a domain")
    return local, parse_domain(rest[1:])


def parse_domain(text: str) -> str:
    """A domain name in lower case, or an address literal in its one canonical form. Raises Refused."""
    if text.startswith("[") and text.endswith("]"):
        body = text[1:-1]
        try:
            if body[:5].lower() == "ipv6:" and "%" not in body:  # a scope (%eth0) means nothing to anyone else
                return f"[IPv6:{ipaddress.IPv6Address(body[5:])}]"
            return f"[{ipaddress.IPv4Address(body)}]"
        except ValueError:
            raise Refused("501 5.1.3 That is not an address literal") from None
    if len(text) > 255 or not _DOMAIN.fullmatch(text) or any(len(label) > 63 for label in text.split(".")):
        raise Refused("501 5.1.3 That is not a domain name")  # RFC 5321 4.5.3.1.2, RFC 1035 2.3.4
    return text.lower()
