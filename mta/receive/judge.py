"""The rules' part in a session: what they know so far, and what they said that still holds.

Three verdicts hold longer than their stage: faccept, quarantine and discard. Said at connect or helo they are
`standing` and hold for every mail of the connection, later they are one mail's `fate`; the rules of later stages are
then not asked any more. None of them, nor accept, opens the relay or makes an unknown recipient known.

A transaction is made only when a stage has rules: one for the connection, and from it one for each mail.

A mail has one set of rules: main.lua and the file the folders choose for its recipients (rules/engine/folders.py). A
recipient under other rules than the first one's comes again, if a stranger names it. Our own people's mail is `apart`
then: rcpt and data ask all files in question, and copies.py makes a mail of its own for each before preq.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mta.message.address import NULL, Address
from mta.message.envelope import Client, Envelope, Recipient
from mta.message.reply import Refused, Reply
from mta.receive import replies
from mta.receive.door import Door
from mta.rules.engine.folders import Scope
from mta.rules.transaction import Addressed, Early, Transaction
from mta.rules.verdict import LASTING, Verdict
from mta.rules.words.envelope import taken

if TYPE_CHECKING:
    from mta.receive.session import Session
    from mta.rules.engine.engine import Rules


class Judged(Refused):
    """A rule says no."""

    def __init__(self, reply: Reply, verdict: Verdict) -> None:
        super().__init__(reply)
        self.rule, self.where = verdict.rule, verdict.where


class Said(NamedTuple):
    """A verdict that holds beyond its stage, and the stage it was said at."""

    stage: str
    verdict: Verdict


class Before(NamedTuple):
    """The envelope as a command found it: what rules know, and what the session does."""

    known: Addressed
    sender: Address
    recipients: list[Recipient]


class Origin(NamedTuple):
    """What the rules of connect left behind; EHLO and STARTTLS go back to it."""

    standing: Said | None = None
    vars: dict[str, Any] | None = None
    relay: bool = False
    early: Early = ()


NO_ORIGIN = Origin()


class Judge:
    """One connection's dealings with the rules."""

    __slots__ = (
        "apart", "connection", "door", "fate", "fates", "file", "mail", "origin", "rules", "scopes", "sender",
        "standing",
    )  # fmt: skip

    def __init__(self, door: Door) -> None:
        self.door = door
        self.rules: Rules = door.rules()
        self.connection: Transaction | None = None
        self.mail: Transaction | None = None
        self.origin = NO_ORIGIN
        self.standing: Said | None = None
        self.fate: Said | None = None  # said up to MAIL: for the whole mail
        self.fates: dict[str, Said] = {}  # said later: for the recipients under the rules of this file
        self.file = ""  # the domain's file that speaks now, after main.lua
        self.sender = NULL  # as the client said it, whatever rules make of it
        self.scopes: dict[Address, Scope] = {}  # of the recipients taken
        self.apart = False  # they have different files

    def begin(self, sender: Address, client: Client) -> None:
        """A mail begins, under the rules now in force; it keeps them to its end."""
        self.rules, self.fate, self.sender = self.door.rules(), self.standing, sender
        folders = self.rules.folders
        if folders:
            ours = client.trusted or bool(client.user)
            self.file = folders.at_mail(ours, sender, client.user, self.door.domains.find)

    def forget(self) -> None:
        """The mail is over."""
        self.fate, self.file, self.apart = None, "", False
        if self.fates or self.scopes:
            self.fates, self.scopes = {}, {}
        if self.mail is not None:
            self.mail.close()
            self.mail = None

    def connected(self) -> None:
        """What was said so far holds for the whole connection."""
        if self.connection is not None:
            known = self.connection
            self.origin = Origin(self.standing, dict(known.vars), known.relay, known.early)

    def again(self) -> None:
        """Back to what was known after connect."""
        self.standing = self.origin.standing
        self.forget()
        if self.connection is not None:
            self.connection.again(self.origin.vars or {}, self.origin.relay, self.origin.early)

    def close(self) -> None:
        self.forget()
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # -- asking -----------------------------------------------------------------------------------------------------

    def ask(self, stage: str, session: Session) -> Reply | None:
        """Let the rules of a stage speak: the words of a yes, or None. Raises Judged."""
        mailing = session.envelope is not None
        if stage not in self.rules.stages_of(self.file) or (self.fated if mailing else self.standing) is not None:
            return None
        facts = self.facts(session)
        facts.file = self.file
        verdict = self.rules.run(stage, facts)
        if facts.edited:
            self.take_over(facts, session)
        kind, reply = verdict.kind, verdict.reply
        if kind == "next":
            return None
        if kind in LASTING:
            if mailing and stage == "mail":
                self.fate = Said(stage, verdict)
            elif mailing:
                self.fates[self.file] = Said(stage, verdict)
            else:
                self.standing = Said(stage, verdict)
        elif kind == "deny":
            raise Judged(reply or replies.DENIED, verdict)
        elif kind == "defer":
            raise Judged(reply or replies.LATER, verdict)
        elif kind == "reply" and reply is not None:
            raise Judged(reply, verdict)
        return reply

    def ask_recipient(self, session: Session) -> tuple[Reply | None, bool]:
        """The same at rcpt, and whether a rule said relay() for this recipient, or before for all of them."""
        if self.mail is not None:  # what rules made of the last one is no longer in question
            self.mail.recipient = session.recipient
        if "rcpt" not in self.rules.stages_of(self.file):
            return None, self.relay
        facts = self.facts(session)
        before = facts.relay
        try:
            return self.ask("rcpt", session), facts.relay
        finally:
            facts.relay = before  # said for one recipient it is not said for the next

    def addressed(self, session: Session) -> Before | None:
        """What a recipient that is refused shall leave as it is; None if no rule is asked of it."""
        envelope = session.envelope
        if envelope is None or "rcpt" not in self.rules.stages_of(self.file) or self.fated is not None:
            return None
        return Before(self.facts(session).addressed(), envelope.sender, [*envelope.recipients])

    def readdress(self, before: Before | None, session: Session) -> None:
        """The recipient was refused, and so is what its rules did to the envelope, or decided for good."""
        envelope = session.envelope
        if before is not None and self.mail is not None and envelope is not None:
            self.fates.pop(self.file, None)
            self.mail.readdress(before.known)
            envelope.sender, envelope.recipients = before.sender, before.recipients

    def ask_data(self, session: Session) -> None:
        """The same at data: the rules of every recipient are asked, and one no is a no to the command."""
        for file in dict.fromkeys(scope.file for scope in self.scopes.values()) if self.scopes else (self.file,):
            self.file = file
            session.ask("data")

    @property
    def fated(self) -> Said | None:
        """What holds for the recipients whose rules speak now."""
        return self.fate or (self.fates.get(self.file) if self.fates else None)

    @property
    def relay(self) -> bool:
        """A rule said relay() before RCPT."""
        known = self.mail or self.connection
        return self.origin.relay if known is None else known.relay

    @property
    def early(self) -> Early:
        """What rules did to the header before it was there."""
        known = self.mail or self.connection
        return self.origin.early if known is None else known.early

    # -- which rules ------------------------------------------------------------------------------------------------

    def scope(self, session: Session, recipient: Address) -> Scope:
        """What the folders choose for a recipient."""
        client, find = session.client, self.door.domains.find
        ours = client.trusted or bool(client.user)
        return self.rules.folders.scope(ours, self.sender, client.user, recipient, find)

    def scope_of(self, session: Session, recipients: list[Recipient]) -> Scope:
        """That of recipients under the same rules: outgoing if one of them is, else the first one's.

        Whom rules brought in meets the rules of the first.
        """
        found, known, ours = None, self.scopes, session.client.trusted or session.client.user
        first = next(iter(known.values())) if known else None
        for recipient in recipients:
            scope = known.get(recipient.address, first) or self.scope(session, recipient.address)
            if found is None or (scope.direction == "outgoing" and found.direction != "outgoing"):
                found = scope
            if scope.direction == "outgoing" or not ours:
                break
        return found or Scope()

    def turn_to(self, scope: Scope) -> bool:
        """The rules of this recipient speak now. False: they are not those of the recipients taken so far."""
        first = next(iter(self.scopes.values()), scope)
        self.file = scope.file
        return scope.file == first.file

    def took(self, scope: Scope, recipients: list[Recipient]) -> None:
        """The recipient in question was taken, perhaps as another, perhaps with others."""
        for recipient in recipients:
            self.scopes.setdefault(recipient.address, scope)
        if self.fate is None:  # else no rules are asked any more
            self.apart = self.apart or scope.file != next(iter(self.scopes.values()), scope).file

    def take_over(self, facts: Transaction, session: Session) -> None:
        """Rules changed the envelope; at rcpt perhaps also the recipient in question."""
        envelope = session.envelope
        if envelope is not None:
            envelope.sender = facts.sender or NULL
            envelope.recipients = taken(facts, envelope.recipients)

    def asked_for(self, address: Address, envelope: Envelope) -> None:
        """By the client, but rules had brought it in before: if it was a silent copy, the sender is told of it now."""
        if self.mail is not None and address in self.mail.silent:
            self.mail.silent -= {address}
            envelope.recipients = taken(self.mail, envelope.recipients)

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
            known.early = self.origin.early
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
