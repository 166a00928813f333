"""The marks a mail gathers on its way: Received (RFC 5321 4.4), Return-Path, Delivered-To. Pure, ready to prepend.

Much of what they quote was said by a stranger, so every word passes an allow-list: nothing a client calls itself can
end a comment, a line or a field.
"""

from __future__ import annotations

import re
import time

from mta.message.address import Address
from mta.message.envelope import Client

_ODD = re.compile(r"[^A-Za-z0-9.:_\[\]-]")
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@\[\]:-]+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_second = (0, "")


def date(now: float) -> str:
    """A date as RFC 5322 3.3 wants it, in UTC; `now` in seconds since 1970."""
    global _second
    whole = int(now)
    if whole != _second[0]:
        t = time.gmtime(whole)
        clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
        _second = whole, f"{_DAYS[t.tm_wday]}, {t.tm_mday} {_MONTHS[t.tm_mon - 1]} {t.tm_year} {clock}"
    return _second[1]


def literal(ip: str) -> str:
    """An IP address as an address literal (RFC 5321 4.1.3)."""
    return f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"


def passage(client: Client, server: str) -> str:
    """The part of Received that is the same for all mails of a connection: from whom, by whom, with what."""
    name = f"{_ODD.sub('?', client.name)} " if client.name else ""
    helo = _ODD.sub("?", client.helo) or "unknown"
    tls = f" ({_ODD.sub(' ', client.tls)})" if client.tls else ""
    return f"Received: from {helo} ({name}{literal(client.ip)})\r\n\tby {server} with {client.protocol}{tls}"


def received(passage: str, id: str, recipient: Address | None, now: float) -> bytes:
    """A whole Received field. `recipient` only if it is the only one: no one shall learn who else got the mail."""
    whom = str(recipient) if recipient else ""
    if whom and _PLAIN.fullmatch(whom):
        return f"{passage} id {id}\r\n\tfor <{whom}>; {date(now)}\r\n".encode("ascii", "replace")
    return f"{passage} id {id};\r\n\t{date(now)}\r\n".encode("ascii", "replace")


def return_path(sender: Address) -> bytes:
    """Who gets the bounces; written at the final delivery (RFC 5321 4.4)."""
    return f"Return-Path: <{sender}>\r\n".encode("ascii", "replace")


def delivered_to(recipient: Address) -> bytes:
    """Whose mailbox this is; a mail that meets its own mark again is a loop."""
    return f"Delivered-To: {recipient}\r\n".encode("ascii", "replace")
