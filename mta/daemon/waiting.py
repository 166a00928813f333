"""Envelopes in the spool as plain values, for whoever lists the queue; page by page, so that no answer grows large."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from mta.message.envelope import Envelope, Recipient

PAGE = 500  # mails in one answer
OPEN = 16  # lists being read at once; the oldest is given up


def plain(envelope: Envelope) -> dict[str, Any]:
    """What people want to know of a mail that waits. Times are seconds since 1970."""
    told: dict[str, Any] = {
        "id": envelope.id,
        "sender": str(envelope.sender),
        "recipients": [_recipient(recipient) for recipient in envelope.recipients],
        "arrived": envelope.arrived,
        "next_try": envelope.next_try,
        "attempts": envelope.attempts,
        "direction": envelope.direction,
    }
    if envelope.held:
        told["held"] = envelope.held
    if envelope.until:
        told["until"], told["until_by"] = envelope.until, envelope.until_by
    return told


def _recipient(recipient: Recipient) -> dict[str, Any]:
    told: dict[str, Any] = {
        "address": str(recipient.address),
        "attempts": recipient.attempts,
        "reply": recipient.reply,
    }
    if recipient.route is not None:
        told["route"] = str(recipient.route)
    if recipient.until:
        told["until"], told["until_by"] = recipient.until, recipient.until_by
    if recipient.notify:
        told["notify"] = recipient.notify
    return told


class Pages:
    """Lists under way: each has a cursor to go on with; 0 says that it has ended."""

    def __init__(self) -> None:
        self._lists: dict[int, Iterator[Envelope]] = {}
        self._numbers = itertools.count(1)

    def first(self, envelopes: Iterator[Envelope]) -> dict[str, Any]:
        while len(self._lists) >= OPEN:
            del self._lists[next(iter(self._lists))]
        cursor = next(self._numbers)
        self._lists[cursor] = envelopes
        return self.next(cursor)

    def next(self, cursor: int) -> dict[str, Any]:
        """The next mails, and the cursor for those after them."""
        mails = [plain(envelope) for envelope in itertools.islice(self._lists.get(cursor, iter(())), PAGE)]
        if len(mails) < PAGE:
            self._lists.pop(cursor, None)
            cursor = 0
        return {"mails": mails, "cursor": cursor}
