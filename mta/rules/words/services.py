"""The word of a service: each `[service.NAME]` of the settings has one of its own; `SERVICE` is the pattern of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mta.message.message import Message
from mta.message.mime import Part
from mta.rules.outside.services import Request
from mta.rules.outside.services.request import Flat
from mta.rules.outside.world import World
from mta.rules.transaction import Transaction
from mta.rules.words.inner import parts_of
from mta.rules.words.waiting import Asker, OfMail, many
from mta.rules.words.word import Word, word

LARGE = 1 << 20  # bytes of a mail whose splitting is no work for the loop


FACTS = (
    *("id", "session", "client", "client_name", "helo", "user", "server", "listener", "sender", "sender_domain"),
    *("recipient", "recipient_domain", "size"),
)


def facts(tx: Transaction) -> dict[str, str | bytes]:
    """What `{name}` in a service's arguments and environment may stand for, known or not yet: `FACTS`."""
    sender, recipient = tx.sender, tx.recipient or (tx.recipients[0] if tx.recipients else None)
    return {
        "id": tx.mail_id or tx.session,
        "session": tx.session,
        "client": tx.client.ip,
        "client_name": tx.client.name,
        "helo": tx.helo,
        "user": tx.user,
        "server": tx.server,
        "listener": tx.listener,
        "sender": str(sender or ""),
        "sender_domain": sender.domain if sender else "",
        "recipient": str(recipient or ""),
        "recipient_domain": recipient.domain if recipient else "",
        "size": str(tx.message.size if tx.message else 0),
    }


def _service(name: str) -> Callable[..., dict[str, Flat]]:
    def call(world: World, tx: Transaction, asker: Asker, given: str = "") -> dict[str, Flat]:
        items = many(given)
        values: dict[str, str] = dict(zip(items[::2], items[1::2], strict=True))
        text, part = values.pop("text", None), values.pop("part", None)
        own: dict[str, str | bytes] = {key: value.encode("latin-1") for key, value in values.items()}
        request = Request(
            values={**facts(tx), **own},
            mail=tx.message.pieces() if tx.message else None,
            part=None if part is None else _numbered(parts_of(tx).message, part).chunks(),
            text=None if text is None else text.encode("latin-1"),
            about={"session": tx.session, "mail": tx.mail_id, **asker._asdict()},
            hide=str if tx.credentials is None else tx.credentials.hide,
        )
        return world.services.call(name, request).flat()

    return call


def _numbered(message: Message, number: str) -> Part:
    from mta.net import offload  # brings gevent along

    parts = message.parts() if len(message.raw) < LARGE else offload.run(lambda: list(message.parts()))
    for part in parts:
        if part.number == number:
            return part
    raise ValueError(f"the mail has no part {number}")


SERVICE = word(
    "service.NAME(given?: table) -> answer",
    "Ask [service.NAME] of the settings. `given`: text or part (a part's number) for its stdin, and values for the "
    f"{{names}} in its arguments, beside what is known of the mail: {', '.join(FACTS)}. The answer has code or signal, "
    "stdout, stderr, cut, timed_out, ms, and failed, which is empty unless its fault is to be ignored: with fault = "
    '"defer" or "deny" a fault ends the stage.',
    'local scan = service.clamscan()\nif scan.code == 1 then return quarantine("virus") end\nassert(scan.code == 0)',
    waits=True,
)


def service_words(names: list[str]) -> dict[str, Word]:
    made = (dataclasses.replace(SERVICE, name=f"service.{name}") for name in names)
    return {one.name: one for one in made}


def bound(world: World) -> dict[str, OfMail]:
    """The function behind the word of every service of this world, by the word's name."""
    return {f"service.{name}": OfMail(_service(name)) for name in world.services.names()}
