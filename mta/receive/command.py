"""What a client says, read strictly: pure functions that return values or raise Refused, and nothing else."""

from __future__ import annotations

import re
from typing import NamedTuple

from mta.message import address
from mta.message.address import NULL, Address
from mta.message.reply import Refused

# The browser's way of being sent to a mail server; whatever it says next comes from a stranger's page.
HTTP = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "CONNECT", "TRACE", "PATCH", "PRI"})

_PLAIN = re.compile(r'(?:FROM|TO):<([^"<>\\ ]+)>', re.I)
_PATH = re.compile(r'<((?:[^"<>\\]|"(?:[^"\\]|\\.)*")*)>')
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")  # RFC 5321 4.1.2, esmtp-param
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")  # RFC 3461 4
_DIGITS = re.compile(r"[0-9]{1,20}")  # RFC 1870 3: more cannot be meant


class Mail(NamedTuple):
    """MAIL: who sends. `size` is what the client says it will send (bytes, 0 if it does not); `body` as declared."""

    sender: Address
    size: int = 0
    body: str = ""


def read(line: bytes) -> tuple[str, str]:
    """(verb in capitals, what follows it). Raises Refused for anything but printable ASCII."""
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        raise _not_ascii(line) from None
    if not text.isprintable():
        raise Refused("501 5.5.2 Control characters have no place in a command")
    verb, _, rest = text.partition(" ")
    return verb.upper(), rest.rstrip(" ")  # RFC 5321 4.1.1: white space before CRLF is harmless


def _not_ascii(line: bytes) -> Refused:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return Refused("500 5.5.2 That is neither ASCII nor UTF-8")
    if line[:4].upper() in (b"MAIL", b"RCPT"):
        return Refused("553 5.6.7 Addresses outside ASCII need SMTPUTF8, which is not offered here")
    return Refused("501 5.5.2 Commands are ASCII")


def helo(rest: str) -> str:
    """The name a client gives itself. Raises Refused.

    Many honest clients do not know their name; what they say must only be one short word. Rules may ask for more.
    """
    if not rest:
        raise Refused("501 5.5.4 Say who you are: EHLO your.name")
    if " " in rest or len(rest) > 255:
        raise Refused("501 5.5.4 That is not a host name")
    return rest


def mail(rest: str, loose: bool = False) -> Mail:
    """MAIL's argument: FROM:<path> [parameters]; `loose`: perhaps a blank before the path. Raises Refused."""
    text, parameters = _argument(rest, "FROM:", "MAIL FROM:<address>", loose)
    sender = address.parse(text) if text else NULL
    if not parameters:
        return Mail(sender)
    size, body = 0, ""
    for name, value in _parameters(parameters).items():
        if name == "SIZE":
            if value is None or not _DIGITS.fullmatch(value):
                raise Refused("501 5.5.4 SIZE is a number of bytes")
            size = int(value)
        elif name == "BODY":
            body = (value or "").upper()
            if body not in ("7BIT", "8BITMIME"):
                raise Refused("501 5.5.4 BODY is 7BIT or 8BITMIME")
        elif name == "AUTH":  # RFC 4954 5: who else vouches for the mail is nothing we believe, or tell others
            if value is None or not _XTEXT.fullmatch(value):
                raise Refused("501 5.5.4 AUTH is an address as xtext, or <>")
        else:
            raise Refused(f"555 5.5.4 The parameter {name} is not offered here")
    return Mail(sender, size, body)


def rcpt(rest: str, loose: bool = False) -> Address:
    """RCPT's argument: TO:<path>. A bare <Postmaster> (RFC 5321 4.1.1.3) has no domain. Raises Refused."""
    text, parameters = _argument(rest, "TO:", "RCPT TO:<address>", loose)
    if not text:
        raise Refused("501 5.1.3 A mail needs a recipient")
    for name in _parameters(parameters):
        raise Refused(f"555 5.5.4 The parameter {name} is not offered here")
    if text.lower() == "postmaster":
        return Address("postmaster")
    return address.parse(text)


def _argument(rest: str, word: str, shape: str, loose: bool) -> tuple[str, str]:
    """(what stands between the brackets, the parameters)."""
    if loose:
        rest = rest[: len(word)] + rest[len(word) :].lstrip(" ")
    plain = _PLAIN.fullmatch(rest)
    if plain and rest[: len(word)].upper() == word:
        return plain[1], ""
    path = _PATH.match(rest, len(word)) if rest[: len(word)].upper() == word else None
    if path is None:
        raise Refused(f"501 5.5.4 Say {shape}, without blanks")
    after = rest[path.end() :]
    if after and after[0] != " ":
        raise Refused(f"501 5.5.4 Say {shape}, then a blank, then parameters")
    return path[1], after.strip(" ")


def _parameters(text: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for word in text.split():
        parameter = _PARAMETER.fullmatch(word)
        if not parameter:
            raise Refused("501 5.5.4 Parameters are NAME or NAME=VALUE")
        name = parameter[1].upper()
        if name in found:
            raise Refused(f"501 5.5.4 {name} is said twice")
        found[name] = parameter[2]
    return found
