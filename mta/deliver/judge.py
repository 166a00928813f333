"""The rules' part in one attempt: postq once for the mail, delivery once for each group of its recipients.

Both see the same transaction, so Lua makes its `mail` once. It is closed before a transport begins: a thousand slow
deliveries hold nothing of Lua.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.rules.engine.folders import Folders
from mta.rules.transaction import Transaction
from mta.rules.verdict import Verdict
from mta.rules.words.envelope import silent

NOTHING: frozenset[str] = frozenset()


class Rules(Protocol):
    """As much of rules.engine.Rules as we need."""

    @property
    def folders(self) -> Folders: ...

    def stages_of(self, file: str) -> Container[str]: ...

    def run(self, stage: str, transaction: Transaction) -> Verdict: ...


class Judge:
    """`stages` are those that have rules for this mail; none once a rule said faccept. Call `close()` at the end."""

    def __init__(self, rules: Rules | None, envelope: Envelope, server: str) -> None:
        self.rules, self.server, self.file = rules, server, ""
        self.facts: Transaction | None = None
        self.stages: Container[str] = NOTHING
        if rules is not None and not envelope.accepted:
            if rules.folders:  # as when the mail came in, if that file is still there
                self.file = rules.folders.file(envelope.direction, envelope.domain)
            self.stages = rules.stages_of(self.file)

    def ask(
        self, stage: str, envelope: Envelope, message: Message, recipients: Sequence[Recipient]
    ) -> tuple[Verdict, Transaction]:
        """What the rules of a stage say, and what they leave behind: vars, ways, a changed envelope."""
        assert self.rules is not None
        facts = self.facts = self.facts or self._begin(envelope)
        facts.sender = envelope.sender
        facts.next([recipient.address for recipient in recipients], message, envelope.vars)
        try:
            return self.rules.run(stage, facts), facts
        finally:
            if stage == "delivery" or "delivery" not in self.stages:
                facts.close()

    def close(self) -> None:
        """No rule is asked any more."""
        self.stages = NOTHING
        if self.facts is not None:
            self.facts.close()

    def _begin(self, envelope: Envelope) -> Transaction:
        client = envelope.client
        facts = Transaction(
            envelope.id.rpartition(".")[0],
            client,
            mail_id=envelope.id,
            origin=envelope.origin,
            server=self.server,
            listener=client.listener if client else "",
            trusted=client.trusted if client else False,
        )
        if client is not None:
            facts.helo, facts.user = client.helo, client.user
        facts.file, facts.silent = self.file, silent(envelope.recipients)
        return facts
