"""What every way out has in common: one try, and a reply for each recipient whatever breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from mta import log
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Refused, Reply


class Result(NamedTuple):
    """How one recipient fared. 2xx: served; 4xx: later; 5xx: never."""

    recipient: Recipient
    reply: Reply
    host: str = ""  # the host it was tried with
    said: bool = False  # the reply is that host's own words, not ours about it
    reason: str = ""  # for the log only: paths, and what to do


class Transport(Protocol):
    """A way out. `name` is what the log calls it."""

    name: str

    def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
        """Try once. Yield each recipient with the answer it got. May raise Refused: the answer for all the others."""
        ...


def attempt(
    transport: Transport, envelope: Envelope, recipients: Sequence[Recipient], message: Message
) -> Iterator[Result]:
    """One transport, one go: each recipient is yielded once, whatever breaks. A bug delays mail, it never loses it."""
    unheard = {id(recipient): recipient for recipient in recipients}
    lost = Reply(451, "4.3.0", "The transport forgot this recipient")
    try:
        for result in transport.deliver(envelope, recipients, message):
            if unheard.pop(id(result.recipient), None) is not None:
                yield result
    except Refused as no:
        lost = no.reply
    except Exception as error:
        log.bug(error, mail=envelope.id, stage="delivery")
        lost = Reply(451, "4.3.0", "Local trouble; it is tried again")
    for recipient in unheard.values():
        yield Result(recipient, lost)
