"""The words that say which way a mail goes and when: `mail:route` and `mail:hold`.

A rule names a way in one text; it is judged here, so that a slip is an error at the rule's line and not a mail that
waits for days:

    mx                   the MX hosts of the recipient's domain, whatever the settings say
    host, host:port      that host                      } as message/target.py reads them
    smtp://, smtps://    that host, with TLS and AUTH   }
    maildir:PATH         a Maildir                      } PATH below rules.mailboxes, {domain} and {local_part} in it
    mbox:PATH            a file of mails                } are made safe
    discard              away with it
    settings             as the settings say, again

What is said is noted with the transaction: `Ways`. Its caller puts it into the envelope once the stage is over. From
rcpt to postq it holds for good and lives in the spool; at delivery it holds for that attempt.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from mta import settings
from mta.message import target
from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient, Route
from mta.message.reply import Refused
from mta.rules.mail_words import OfMail, many
from mta.rules.transaction import Transaction
from mta.rules.word import Word, word
from mta.rules.words import times
from mta.rules.world import World

LONGEST = 366 * 86400.0  # seconds a rule may hold a mail

ROUTE = word(
    "mail:route(way: string, recipients?: string[])",
    'Send the mail that way instead of where the settings say: "mx", "host:port", "smtp://user:password@host", '
    '"smtps://host", "maildir:PATH", "mbox:PATH", "discard", or "settings" for what they say after all. At rcpt this '
    "recipient, later all of them, or those named. At delivery it holds for this attempt only.",
    'mail:route("smtp://filter.example.test:10025?tls=none")\n'
    'mail:route("mbox:archive/{domain}/{local_part}", "you@example.test")\n'
    'assert(not pcall(mail.route, mail, "smtp://filter.example.test:smtp"))',
    "rcpt..",
    waits=True,
)

HOLD = word(
    "mail:hold(until: number|string)",
    'Deliver not before a time (seconds since 1970), or only after a while ("30m"). What is past does nothing.',
    'if mail.size > 10000000 then mail:hold("2h") end\nmail:hold(time.parse("2024-01-01T06:00:00Z"))',
    "rcpt..",
    waits=True,
)

ROUTING: list[Word] = [ROUTE, HOLD]


def read(way: str, mailboxes: Sequence[str]) -> Route | None:
    """The route a rule named; None for that of the settings. Raises ValueError that shows no password."""
    kind, colon, rest = way.partition(":")
    if way == "settings":
        return None
    if way == "mx":
        return Route("smtp")
    if way == "discard":
        return Route("discard")
    if colon and kind in ("maildir", "mbox"):
        return Route(kind, path=_path(kind, rest, mailboxes))
    if way in ("maildir", "mbox"):
        raise ValueError(f'{way} where? Write "{way}:PATH"')
    target.parse(way)
    return Route("smtp", host=way)


def _path(kind: str, path: str, mailboxes: Sequence[str]) -> str:
    """Where it lies, written FOLDER//BELOW: from the // on no link is followed, whoever made it."""
    if not path or "\0" in path or path.endswith("/"):
        raise ValueError(f'{kind} where? Write "{kind}:PATH"')
    if ".." in path.split("/"):
        raise ValueError(f"{path}: no way leads upwards with ..")
    if not mailboxes:
        raise ValueError("rules may name no mailboxes here (rules.mailboxes)")
    if not path.startswith("/"):
        return f"{mailboxes[0].rstrip('/')}//{path}"
    for folder in mailboxes:
        top = os.path.normpath(folder).rstrip("/") + "/"
        if path.startswith(top) and path[len(top) :].strip("/"):
            return f"{top}/{path[len(top) :].lstrip('/')}"
    raise ValueError(f"{path} is not below a folder in which rules may name mailboxes (rules.mailboxes)")


def when(until: float | str, now: float) -> float:
    """The time meant, in seconds since 1970. Raises ValueError."""
    moment = now + (times.seconds(until) or 0.0) if isinstance(until, str) else float(until)
    if math.isnan(moment) or moment > now + LONGEST:
        raise ValueError("a mail can be held for a year at most")
    return max(moment, 0.0)


class Ways:
    """What rules have said so far of where one mail goes and when."""

    __slots__ = ("_all", "_each", "until")

    def __init__(self) -> None:
        self._all: list[Route | None] = []  # one at most
        self._each: dict[tuple[str, str], Route | None] = {}
        self.until = 0.0

    def copy(self) -> Ways:
        other = Ways()
        other._all, other._each, other.until = list(self._all), dict(self._each), self.until
        return other

    def say(self, route: Route | None, recipients: Sequence[Address] | None) -> None:
        """For these, or for all: the last word counts."""
        if recipients is None:
            self._all, self._each = [route], {}
        else:
            self._each.update(dict.fromkeys((one.key for one in recipients), route))

    def of_address(self, address: Address) -> Route | None:
        """What was said of this one."""
        return self._each.get(address.key, self._all[0] if self._all else None)

    def of(self, recipient: Recipient) -> Route | None:
        """The route of a recipient now."""
        found = self._each.get(recipient.address.key, ...) if self._each else ...
        if found is ...:
            return self._all[0] if self._all else recipient.route
        return found

    @property
    def named(self) -> bool:
        """Whether a rule named a route at all."""
        return bool(self._all or self._each)

    def write(self, envelope: Envelope, now: float) -> None:
        """Put it into an envelope, for good."""
        if self.named:
            for recipient in envelope.recipients:
                recipient.route = self.of(recipient)
        if self.until > now:
            envelope.until = envelope.next_try = self.until


def _route(world: World, tx: Transaction, stage: str, mailboxes: Sequence[str], way: str, names: str = "") -> None:
    try:
        way = way.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("a way is written in UTF-8") from None
    route = read(way, mailboxes)
    recipients: list[Address] | None = [_address(name) for name in many(names)] if names else None
    if recipients is None and stage == "rcpt" and tx.recipient is not None:
        recipients = [tx.recipient]
    _ways(tx).say(route, recipients)


def _address(text: str) -> Address:
    from mta.message import address

    try:
        return address.parse(text)
    except Refused:
        raise ValueError(f"{text[:100]!r} is no address") from None


def _hold(world: World, tx: Transaction, stage: str, until: float | str) -> None:
    _ways(tx).until = when(until, world.now())


def _ways(tx: Transaction) -> Ways:
    if tx.ways is None:
        tx.ways = Ways()
    return tx.ways


def shown(word: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What a word was given, as a trace may show it: without the password of a way."""
    given = (one for one in arguments if one is not None)
    return tuple(target.masked(one) if word == ROUTE.name and isinstance(one, str) else one for one in given)


def bound(settings: settings.Rules) -> dict[str, OfMail]:
    """The function behind each of these words."""

    def route(world: World, tx: Transaction, stage: str, way: str, names: str = "") -> None:
        _route(world, tx, stage, settings.mailboxes, way, names)

    return {ROUTE.name: OfMail(route), HOLD.name: OfMail(_hold)}
