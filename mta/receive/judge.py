"""The rules' part in a session: what they know so far, and what they said that still holds.

Three verdicts hold longer than their stage: faccept, quarantine and discard. Said at connect or helo they are
`standing` and hold for every mail of the connection, later they are one mail's `fate`; the rules of later stages are
then not asked any more. None of them, nor accept, opens the relay or makes an unknown recipient known.

A transaction is made only when a stage has rules: one for the connection, and from it one for each mail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mta.message.address import NULL, Address
from mta.message.reply import Refused, Reply
from mta.receive import replies
from mta.receive.door import Door
from mta.rules.envelope_words import taken
from mta.rules.transaction import Transaction

if TYPE_CHECKING:
    from mta.receive.session import Session
    from mta.rules.engine import Rules
    from mta.rules.verdict import Verdict

LASTING = ("faccept", "quarantine", "discard")


class Judged(Refused):
    """A rule says no."""

    def __init__(self, reply: Reply, verdict: Verdict) -> None:
        super().__init__(reply)
        self.rule, self.where = verdict.rule, verdict.where


class Said(NamedTuple):
    """A verdict that holds beyond its stage, and the stage it was said at."""

    stage: str
    verdict: Verdict


class Origin(NamedTuple):
    """What the rules of connect left behind; EHLO and STARTTLS go back to it."""

    standing: Said | None = None
    vars: dict[str, Any] | None = None
    relay: bool = False


class Judge:
    """One connection's dealings with the rules."""

    __slots__ = ("connection", "door", "fate", "mail", "origin", "rules", "standing")

    def __init__(self, door: Door) -> None:
        self.door = door
        self.rules: Rules = door.rules()
        self.connection: Transaction | None = None
        self.mail: Transaction | None = None
        self.origin = Origin()
        self.standing: Said | None = None
        self.fate: Said | None = None

    def begin(self) -> None:
        """A mail begins, under the rules now in force; it keeps them to its end."""
        self.rules, self.fate = self.door.rules(), self.standing

    def forget(self) -> None:
        """The mail is over."""
        self.fate = None
        if self.mail is not None:
            self.mail.close()
            self.mail = None

    def connected(self) -> None:
        """What was said so far holds for the whole connection."""
        if self.connection is not None:
            self.origin = Origin(self.standing, dict(self.connection.vars), self.connection.relay)

    def again(self) -> None:
        """Back to what was known after connect."""
        self.standing = self.origin.standing
        self.forget()
        if self.connection is not None:
            self.connection.again(self.origin.vars or {}, self.origin.relay)

    def close(self) -> None:
        self.forget()
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # -- asking -----------------------------------------------------------------------------------------------------

    def ask(self, stage: str, session: Session) -> Reply | None:
        """Let the rules of a stage speak: the words of a yes, or None. Raises Judged."""
        mailing = session.envelope is not None
        if stage not in self.rules.stages or (self.fate if mailing else self.standing) is not None:
            return None
        facts = self.facts(session)
        verdict = self.rules.run(stage, facts)
        if facts.edited:
            self.take_over(facts, session)
        kind, reply = verdict.kind, verdict.reply
        if kind == "next":
            return None
        if kind in LASTING:
            if mailing:
                self.fate = Said(stage, verdict)
            else:
                self.standing = Said(stage, verdict)
        elif kind == "deny":
            raise Judged(reply or replies.DENIED, verdict)
        elif kind == "defer":
            raise Judged(reply or replies.DEFERRED, verdict)
        elif kind == "reply" and reply is not None:
            raise Judged(reply, verdict)
        return reply

    def ask_recipient(self, session: Session) -> tuple[Reply | None, bool]:
        """The same at rcpt, and whether a rule said relay() for this recipient, or before for all of them."""
        if self.mail is not None:  # what rules made of the last one is no longer in question
            self.mail.recipient = session.recipient
        if "rcpt" not in self.rules.stages:
            known = self.mail or self.connection
            return None, self.origin.relay if known is None else known.relay
        facts = self.facts(session)
        before = facts.relay
        try:
            return self.ask("rcpt", session), facts.relay
        finally:
            facts.relay = before  # said for one recipient it is not said for the next

    def take_over(self, facts: Transaction, session: Session) -> None:
        """Rules changed the envelope; at rcpt perhaps also the recipient in question."""
        envelope = session.envelope
        if envelope is not None:
            envelope.sender = facts.sender or NULL
            envelope.recipients = taken(facts, envelope.recipients)

    def facts(self, session: Session) -> Transaction:
        """What the rules may know at this moment."""
        client, envelope = session.client, session.envelope
        if self.mail is not None:
            self.mail.recipient = session.recipient
            return self.mail
        known = self.connection
        if known is None:
            known = self.connection = Transaction(
                session.id,
                client,
                server=self.door.settings.server.name,
                listener=client.listener,
                trusted=client.trusted,
            )
            known.vars.update(self.origin.vars or {})
            if self.origin.relay:
                known.allow_relay("connect")
        known.client, known.helo, known.user = client, client.helo, client.user
        if envelope is None:
            return known
        self.mail = mail = known.mail(envelope.id)
        mail.sender, mail.recipient = envelope.sender, session.recipient
        mail.recipients = [recipient.address for recipient in envelope.recipients]
        return mail

    def rewritten(self, recipient: Address) -> Address | None:
        """The recipient in question as rules left it; None: they took it out."""
        return self.mail.recipient if self.mail is not None and self.mail.edited else recipient

    @property
    def vars(self) -> dict[str, Any]:
        """What rules noted for this mail."""
        if self.mail is not None:
            return self.mail.vars
        return dict(self.connection.vars) if self.connection is not None else dict(self.origin.vars or {})
