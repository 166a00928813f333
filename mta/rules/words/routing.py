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
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mta import log, settings
from mta.message import target
from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient, Route
from mta.message.reply import Refused
from mta.rules.outside.world import World
from mta.rules.transaction import Transaction
from mta.rules.words import times
from mta.rules.words.waiting import Asker, OfMail, many
from mta.rules.words.word import Word, word

THERE_ARE = "mx, host:port, smtp://, smtps://, maildir:PATH, mbox:PATH, discard, settings"
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
    "mail:hold(until: number|string, recipients?: string[])",
    'Deliver not before a time (seconds since 1970), or only after a while ("30m"). What is past does nothing. At rcpt '
    "this recipient waits, later all of them, or those named.",
    'if mail.size > 10000000 then mail:hold("2h") end\nmail:hold(time.parse("2024-01-01T06:00:00Z"))\n'
    'mail:hold("1h", "you@example.test")',
    "rcpt..",
    waits=True,
)

ROUTING: list[Word] = [ROUTE, HOLD]


def read(way: str, mailboxes: Sequence[str]) -> Route | None:
    """The route a rule named; None for that of the settings. Raises ValueError that shows no password."""
    before, colon, rest = way.partition(":")
    kind = before.lower()
    if kind in ("maildir", "mbox"):
        return Route(kind, path=_path(kind, rest, mailboxes))
    if re.fullmatch(r"[a-z]+", kind) and re.fullmatch(r"(?!//)[^0-9:][^:]*(:[^:]*)?", rest):
        raise ValueError(f"{before}: is no way to send mail; there are {THERE_ARE}")
    if not colon and kind == "settings":
        return None
    if not colon and kind == "mx":
        return Route("smtp")
    if not colon and kind == "discard":
        return Route("discard")
    target.parse(way)
    return Route("smtp", host=way)


def _path(kind: str, path: str, mailboxes: Sequence[str]) -> str:
    """Where it lies, written FOLDER//BELOW: from the // on no link is followed, whoever made it."""
    if not path or path.endswith("/") or any(c < " " or c == "\x7f" for c in path):
        raise ValueError(f'{kind} where? Write "{kind}:PATH"')
    wrong = settings.mailbox(path)
    if wrong:
        raise ValueError(f"{path} {wrong}")
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


class Hold(NamedTuple):
    """Until when, in seconds since 1970, and the rule that says so."""

    until: float = 0.0
    stage: str = ""
    rule: str = ""
    where: str = ""

    @property
    def by(self) -> str:
        """As people read it."""
        return f'rule "{self.rule}" ({self.where})'


NO_HOLD = Hold()


class Ways:
    """What rules have said so far of where one mail goes and when."""

    __slots__ = ("_all", "_each", "_hold", "_holds")

    def __init__(self) -> None:
        self._all: list[Route | None] = []  # one at most
        self._each: dict[tuple[str, str], Route | None] = {}
        self._hold = NO_HOLD  # for all
        self._holds: dict[tuple[str, str], Hold] = {}

    def copy(self) -> Ways:
        other = Ways()
        other._all, other._each = list(self._all), dict(self._each)
        other._hold, other._holds = self._hold, dict(self._holds)
        return other

    def say(self, route: Route | None, recipients: Sequence[Address] | None) -> None:
        """For these, or for all: the last word counts."""
        if recipients is None:
            self._all, self._each = [route], {}
        else:
            self._each.update(dict.fromkeys((one.key for one in recipients), route))

    def hold(self, hold: Hold, recipients: Sequence[Address] | None) -> None:
        """These or all: the last word counts."""
        if recipients is None:
            self._hold, self._holds = hold, {}
        else:
            self._holds.update(dict.fromkeys((one.key for one in recipients), hold))

    @property
    def until(self) -> float:
        """When the time of the whole mail comes; 0.0: at once."""
        return self._hold.until

    def until_of(self, address: Address) -> float:
        """When the time of this one comes."""
        return self._holds.get(address.key, self._hold).until

    def held(self, recipients: Sequence[Recipient], now: float) -> dict[Hold, list[Recipient]]:
        """Who of them is to wait, by what rules said."""
        found: dict[Hold, list[Recipient]] = {}
        for recipient in recipients:
            hold = self._holds.get(recipient.address.key, self._hold)
            if hold.until > now:
                found.setdefault(hold, []).append(recipient)
        return found

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
        if self._holds:
            for recipient in envelope.recipients:
                recipient.until, recipient.until_by = 0.0, ""
            for hold, recipients in self.held(envelope.recipients, now).items():
                for recipient in recipients:
                    recipient.until, recipient.until_by = hold.until, hold.by
            moments = [recipient.until for recipient in envelope.recipients]
            if moments and all(moments):
                envelope.until = envelope.next_try = min(moments)
                envelope.until_by = ""
        elif self.until > now:
            for recipient in envelope.recipients:
                recipient.until, recipient.until_by = 0.0, ""
            envelope.until = envelope.next_try = self.until
            envelope.until_by = self._hold.by


def postponed(envelope: Envelope, held: dict[Hold, list[Recipient]], session: str = "") -> None:
    """Write into the log who waits, and because of which rule."""
    for hold, recipients in held.items():
        log.event(
            "postponed",
            session=session,
            mail=envelope.id,
            sender=envelope.sender.shown,
            recipients=[str(recipient.address) for recipient in recipients],
            next_try=round(hold.until, 3),
            stage=hold.stage,
            rule=hold.rule,
            where=hold.where,
        )


def _route(world: World, tx: Transaction, asker: Asker, mailboxes: Sequence[str], way: str, names: str = "") -> None:
    try:
        way = way.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("a way is written in UTF-8") from None
    _ways(tx).say(read(way, mailboxes), _meant(tx, asker.stage, names))


def _meant(tx: Transaction, stage: str, names: str) -> list[Address] | None:
    """The recipients a rule speaks of: those it names, at rcpt the one in question, else all (None)."""
    if names:
        return [_address(name) for name in many(names)]
    return [tx.recipient] if stage == "rcpt" and tx.recipient is not None else None


def _address(text: str) -> Address:
    from mta.message import address

    try:
        return address.parse(text)
    except Refused:
        raise ValueError(f"{text[:100]!r} is no address") from None


def _hold(world: World, tx: Transaction, asker: Asker, until: float | str, names: str = "") -> None:
    _ways(tx).hold(Hold(when(until, world.now()), *asker), _meant(tx, asker.stage, names))


def _ways(tx: Transaction) -> Ways:
    if tx.ways is None:
        tx.ways = Ways()
    return tx.ways


def shown(word: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What a word was given, as people may read it: without the password of a way, recipients as one text."""
    given = [one for one in arguments if one is not None]
    if word in (ROUTE.name, HOLD.name) and len(given) > 1:
        given[1] = ", ".join(many(given[1]))
    return tuple(target.masked(one) if word == ROUTE.name and isinstance(one, str) else one for one in given)


def bound(settings: settings.Rules) -> dict[str, OfMail]:
    """The function behind each of these words."""

    def route(world: World, tx: Transaction, asker: Asker, way: str, names: str = "") -> None:
        _route(world, tx, asker, settings.mailboxes, way, names)

    return {ROUTE.name: OfMail(route), HOLD.name: OfMail(_hold)}
