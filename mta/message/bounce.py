"""The mail that tells a sender what could not be delivered, and why (RFC 3464, in the shape of RFC 6522). Pure.

Three parts: words for people, message/delivery-status for programs, the header of the mail it is about. It has the
null sender, so that nothing ever answers it (RFC 5321 4.5.5), and stays below 50 kB however much failed: first the
original header is cut, then addresses beyond what fits are counted instead of listed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate
from typing import NamedTuple

from mta.message.address import NULL
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Reply

LIMIT = 50_000  # bytes of a bounce
_WORDS = 16_000  # of that: for people,
_STATUS = 16_000  # for programs,
_HEADER = 16_000  # and of the mail it is about
_ID = re.compile(r"<[!-;=?-~]{1,200}>")


class Failure(NamedTuple):
    """One recipient that will not be served."""

    recipient: Recipient
    reply: Reply  # the last one
    host: str = ""  # who was asked
    said: bool = False  # these are that host's words
    expired: bool = False  # it was tried for as long as the settings allow


def make(
    envelope: Envelope, message: Message, failures: Sequence[Failure], *, server: str, id: str, now: float
) -> Message:
    """The content of a bounce. `id` is its own mail id, `now` seconds since 1970; `server` is our name."""
    boundary = f"={id}="  # "=" never begins a line of ours, nor stands in an id
    top = [
        f"Date: {formatdate(now)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{_host(server)}>",
        f"To: <{envelope.sender}>",
        f"Subject: {_subject(failures)}",
        f"Message-ID: <{id}@{_host(server)}>",
        *_references(message),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
        "",
        "This is a report in MIME format: words for people, fields for programs, and the",
        "header of the mail it is about.",
    ]
    header = _original(message)
    encoding = "7bit" if header.isascii() else "8bit"
    parts = [
        ("Content-Type: text/plain; charset=us-ascii", _words(envelope, failures, server, now).encode("ascii")),
        ("Content-Type: message/delivery-status", _status(envelope, failures, server, now).encode("ascii")),
        (f"Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: {encoding}", header),
    ]
    out = ["\r\n".join(top).encode("ascii", "replace"), b"\r\n"]
    for kind, content in parts:
        out.append(f"\r\n--{boundary}\r\n{kind}\r\n\r\n".encode())
        out.append(content)
    out.append(f"\r\n--{boundary}--\r\n".encode())
    return Message(b"".join(out))


def envelope_of(envelope: Envelope, *, id: str, now: float, direction: str) -> Envelope:
    """The envelope a bounce travels in."""
    return Envelope(
        id=id,
        sender=NULL,
        recipients=[Recipient(envelope.sender)],
        arrived=now,
        next_try=now,
        body="8BITMIME",
        origin=envelope.id,
        direction=direction,
        domain=envelope.sender.domain if direction == "internal" else envelope.domain,
    )


def _subject(failures: Sequence[Failure]) -> str:
    if len(failures) == 1:
        return f"Your mail to {_clean(str(failures[0].recipient.address), 200)} could not be delivered"
    return f"Your mail could not be delivered to {len(failures)} recipients"


def _words(envelope: Envelope, failures: Sequence[Failure], server: str, now: float) -> str:
    """The part for people. Recipients that fared alike stand together."""
    alike: dict[tuple[str, str, bool, bool], list[Failure]] = {}
    for failure in failures:
        alike.setdefault((str(failure.reply), failure.host, failure.said, failure.expired), []).append(failure)
    begin = (
        f"This is the mail server {_host(server)}.\n\n"
        f"Your mail of {formatdate(envelope.arrived)} could not be delivered to\n"
        f"{'the recipient' if len(failures) == 1 else 'some or all of the recipients'} below. "
        f"It will not be tried again.\n"
    )
    end = f"\nThe id of your mail here is {envelope.id}; quote it when you ask {_host(server)} about it.\n"
    told, room = [begin], _WORDS - len(begin) - len(end) - 60
    left = len(failures)
    for group in alike.values():
        reason = _reason(group[0], envelope, now)
        names = []
        for failure in group:
            name = f"  <{_clean(str(failure.recipient.address), 400)}>\n"
            if room < len(name) + len(reason) + 1:
                break
            names.append(name)
            room -= len(name)
            left -= 1
        if not names:
            break
        room -= len(reason) + 1
        told += ["\n", *names, reason]
    if left:
        told.append(f"\n  and {left} more recipients.\n")
    return "".join([*told, end]).replace("\n", "\r\n")


def _reason(failure: Failure, envelope: Envelope, now: float) -> str:
    tries = failure.recipient.attempts
    reply = _clean(str(failure.reply), 600)
    if failure.said and failure.host:
        answer = f"    {_clean(failure.host, 300)} answered:\n      {reply}\n"
    elif failure.host:
        answer = f"    {reply}\n    (tried with {_clean(failure.host, 300)})\n"
    else:
        answer = f"    {reply}\n"
    if failure.expired:
        answer = f"    It was tried {_times(tries)} in {_span(now - envelope.arrived)}. The last time:\n" + answer
    elif tries > 1:
        answer += f"    after {tries} tries in {_span(now - envelope.arrived)}\n"
    return answer


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _span(seconds: float) -> str:
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = round(seconds / size)
            return f"{count} {word}{'s' if count != 1 else ''}"
    return "less than a minute"


def _status(envelope: Envelope, failures: Sequence[Failure], server: str, now: float) -> str:
    """RFC 3464 2: fields about the mail, an empty line, fields about each recipient."""
    blocks = [
        f"Reporting-MTA: dns; {_host(server)}\nX-Mail-ID: {envelope.id}\nArrival-Date: {formatdate(envelope.arrived)}\n"
    ]
    room = _STATUS - len(blocks[0])
    for failure in failures:
        recipient = failure.recipient
        block = "\n"
        if recipient.original is not None and recipient.original != recipient.address:
            block += f"Original-Recipient: rfc822; {_clean(str(recipient.original), 400)}\n"
        block += f"Final-Recipient: rfc822; {_clean(str(recipient.address), 400)}\nAction: failed\n"
        block += f"Status: {_code(failure)}\n"
        if failure.said and failure.host:
            host = failure.host.partition(" ")[0]
            block += f"Remote-MTA: dns; {_clean(host, 300)}\n"
            block += f"Diagnostic-Code: smtp; {_clean(str(failure.reply), 600)}\n"
        block += f"Last-Attempt-Date: {formatdate(now)}\n"
        room -= len(block) + block.count("\n")
        if room < 0:
            break
        blocks.append(block)
    return "".join(blocks).replace("\n", "\r\n")


def _code(failure: Failure) -> str:
    """RFC 3463; what expired is 4.4.7 whatever the last reply was."""
    if failure.expired:
        return "4.4.7"
    return failure.reply.enhanced or f"{failure.reply.code // 100}.0.0"


def _references(message: Message) -> list[str]:
    """So that a mail program shows the bounce beside the mail."""
    about = _ID.fullmatch((message.headers.get("message-id") or "").strip())
    return [f"In-Reply-To: {about[0]}", f"References: {about[0]}"] if about else []


def _original(message: Message) -> bytes:
    """The header of the mail, field by field, as much as fits."""
    headers, kept, room = message.headers, [], _HEADER
    for field in headers.fields:
        text = headers.text(field)
        if not text.endswith(b"\r\n"):
            text += b"\r\n"
        room -= len(text)
        if room < 0:
            break
        kept.append(text)
    return b"".join(kept)


def _clean(text: str, longest: int) -> str:
    """One line of printable ASCII; what a stranger's server said must not become a field of ours."""
    text = "".join(c if " " <= c <= "~" else "?" for c in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _host(server: str) -> str:
    return _clean(server, 255).replace(" ", "") or "localhost"
