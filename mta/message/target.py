"""A server that is to get mail, as settings and rules name it. Pure.

    host  host:port  [2001:db8::1]:port  2001:db8::1        SMTP, with TLS if it offers it
    smtp://user:password@host:port?tls=none|optional|required
    smtps://user:password@host:port?tls=optional|required   TLS from the first byte

    tls        smtp://                                              smtps://
    none       never; the password goes in clear                    -
    optional   if offered, whatever the certificate                 always, whatever the certificate
    required   always, with a certificate for that host             the same

Without tls= it is required where there is a password, and always for smtps://; else optional. With optional a password
is said under TLS only. Port: 465 for smtps://, 587 with a password, else the one of MX hosts (queue.port).
User and password are percent-encoded (RFC 3986 3.2.1). No text made here shows the password.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import unquote

SUBMISSION, SUBMISSIONS = 587, 465

POLICIES = ("none", "optional", "required")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.S)
_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/?#\s]+))(?::(.*))?", re.S)
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Target(NamedTuple):
    """`host` is a name or an address; `port` 0: that of MX hosts; `at_once`: TLS from the first byte."""

    host: str
    port: int = 0
    tls: str = "optional"
    at_once: bool = False
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Target({self})"

    def __str__(self) -> str:
        """As it may be shown to anybody."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        place = f"{host}:{self.port}" if self.port else host
        if self.tls == "optional" and not (self.at_once or self.user):
            return place
        return f"smtp{'s' * self.at_once}://{self.user + ':***@' if self.user else ''}{place}?tls={self.tls}"


def parse(text: str) -> Target:
    """Read it. Raises ValueError that says what is wrong and shows no password."""
    url = _URL.fullmatch(text)
    if url is None:
        if "@" in text:
            raise ValueError(f"a host with a user is written smtp://user:password@host, not {masked(text)!r}")
        if _is_ipv6(text):
            return Target(text)
        return Target(*_place(text, text))
    scheme, rest = url[1].lower(), url[2]
    if scheme not in ("smtp", "smtps"):
        raise ValueError(f"{scheme}:// is no way to send mail; there are smtp:// and smtps://")
    shown = masked(text)
    rest, _, query = rest.partition("?")
    login, at, place = rest.rpartition("@")
    user, password = _login(login, shown) if at else ("", "")
    if place.endswith("/"):
        place = place[:-1]
    host, port = _place(place, shown)
    tls = _policy(query, shown)
    at_once = scheme == "smtps"
    if at_once and tls == "none":
        raise ValueError(f"{shown}: smtps:// without TLS makes no sense; write smtp://")
    if not port and (at_once or user):
        port = SUBMISSIONS if at_once else SUBMISSION
    return Target(host, port, tls or ("required" if at_once or user else "optional"), at_once, user, password)


def complaint(text: str) -> str | None:
    """What is wrong with it, for the check of a setting."""
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return None


def masked(text: str) -> str:
    """The same text without its password, as far as it is one: for logs and lists."""
    url = _URL.fullmatch(text)
    scheme, rest = (f"{url[1]}://", url[2]) if url else ("", text)
    login, at, place = rest.rpartition("@")
    if not at:
        return text
    user, colon, _ = login.partition(":")
    return f"{scheme}{user}{':***' if colon else ''}@{place}"


def _login(text: str, shown: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not colon or not user or not password:
        raise ValueError(f"{shown}: write user:password@ before the host, or nothing")
    if _LONE_PERCENT.search(text):
        raise ValueError(f"{shown}: a % in user or password is written %25")
    try:
        user, password = unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{shown}: user and password are UTF-8, percent-encoded") from None
    if any(c < " " or c == "\x7f" for c in user + password):
        raise ValueError(f"{shown}: control characters have no place in user or password")
    return user, password


def _place(text: str, shown: str) -> tuple[str, int]:
    shape = _PLACE.fullmatch(text)
    if shape is None:
        raise ValueError(f'{shown!r} names no host; write "host", "host:port" or "[2001:db8::1]:port"')
    host, port = shape[1] or shape[2], 0
    if shape[1] is not None and not _is_ipv6(host):
        raise ValueError(f"{shown}: [{host}] is no IPv6 address")
    if shape[2] is not None and (not _NAME.fullmatch(host) or len(host) > 255):
        raise ValueError(f"{shown}: {host!r} is no name of a host")
    if shape[3] is not None:
        if not re.fullmatch(r"[0-9]{1,5}", shape[3]) or not 0 < int(shape[3]) < 65536:
            raise ValueError(f"{shown}: a port is a number from 1 to 65535")
        port = int(shape[3])
    return host.rstrip("."), port


def _policy(query: str, shown: str) -> str:
    if not query:
        return ""
    tls = ""
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key != "tls" or tls:
            raise ValueError(f"{shown}: behind the ? there may be tls= once and nothing else")
        if value not in POLICIES:
            raise ValueError(f"{shown}: tls is one of {', '.join(POLICIES)}")
        tls = value
    return tls


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text
