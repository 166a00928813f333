"""The transport that throws mail away, for tests, measurements and addresses nobody reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mta.deliver.transport import Result
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Reply

DONE = Reply(250, "2.0.0", "Discarded")


class Discard:
    name = "discard"

    def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
        for recipient in recipients:
            yield Result(recipient, DONE)
