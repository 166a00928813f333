"""One mail's content, from the 354 to our word that we keep it.

read    every byte up to the end of the mail is read, also of a mail that is refused by then; a large one goes to
        its own file on the way. A client that leaves here leaves nothing behind
look    limits of the header, the loop guard; our Received goes on top
ask     the rules of preq; a client that was cut off by now leaves nothing behind
keep    `spool.commit`: from its first moment the mail is ours, whatever becomes of the client
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mta import log
from mta.message import trace
from mta.message.envelope import Envelope
from mta.message.message import Message
from mta.message.reply import Refused, Reply
from mta.net import clock
from mta.net.stream import Gone
from mta.receive import limits, replies
from mta.receive.content import Content
from mta.receive.copies import Copies
from mta.rules.transaction import put
from mta.rules.words.routing import postponed
from mta.spool.spool import Body, Mail

if TYPE_CHECKING:
    from mta.receive.judge import Said
    from mta.receive.session import Session
    from mta.rules.engine.folders import Scope

PIECE = 1 << 20  # bytes handed to a body file at once
SMALL = 512  # bytes of a chunk that is kept together with its neighbours


class Arrival:
    """A mail on its way in. Used once."""

    def __init__(self, session: Session, envelope: Envelope) -> None:
        self.session, self.envelope = session, envelope
        self.door, self.stream = session.door, session.stream
        self.began = session.now
        self.refused: Refused | None = None  # what the client will hear at the end of the mail
        self.size = self.held = 0
        self.chunks: list[bytes | bytearray] = []  # what is not in the file
        self.waiting = 0  # bytes in chunks
        self.file: Body | None = None

    def take(self) -> Reply:
        """The whole way. Raises Refused, and Gone or TimedOut before the mail is ours."""
        try:
            self.read()
            if self.refused is not None:
                raise self.refused
            return self.keep(self.message())
        finally:
            self.door.budget.held -= self.held
            if self.file is not None:
                self.file.discard()

    # -- read -------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        stream, smtp = self.stream, self.door.settings.smtp
        self.session.patience(smtp.data_timeout)
        content = Content(smtp.max_body_line, self.door.listener.newlines == "repair")
        stream.say(replies.GO_AHEAD.wire)
        rest = None
        while rest is None:
            piece, rest = content.feed(stream.chunk())
            self.size += len(piece)
            if self.refused is not None:
                continue
            try:
                if self.size > smtp.max_size:
                    raise Refused(f"552 5.3.4 At most {smtp.max_size} bytes")
                if content.long:
                    raise Refused(f"552 5.3.4 A line is longer than {smtp.max_body_line} bytes")
                self.hold(piece)
            except Refused as refused:
                self.refused = refused
                self.let_go()
        stream.unread(rest)
        self.door.counts.bytes += self.size

    def hold(self, piece: bytes) -> None:
        budget = self.door.budget
        if budget.held + len(piece) > budget.room:
            raise Refused(replies.BUSY, "smtp.memory is used up")
        budget.held += len(piece)
        self.held += len(piece)
        if not self.chunks or len(piece) > SMALL:
            self.chunks.append(piece)
        elif type(self.chunks[-1]) is bytearray:  # each for itself would take fifty bytes more than it says
            self.chunks[-1] += piece
        else:
            self.chunks.append(bytearray(piece))
        self.waiting += len(piece)
        if self.size > self.door.settings.spool.large and (self.file is None or self.waiting >= PIECE):
            self.write()

    def write(self) -> None:
        if self.file is None:
            self.file = self.door.spool.body()
        chunks, self.chunks, self.waiting = self.chunks, [], 0
        self.file.write(b"".join(chunks))

    def let_go(self) -> None:
        self.chunks = []
        self.door.budget.held -= self.held
        self.held = 0
        if self.file is not None:
            self.file.discard()
            self.file = None

    # -- look -------------------------------------------------------------------------------------------------------

    def message(self) -> Message:
        envelope = self.envelope
        if self.file is not None:
            self.write()
            message = self.file.finish()
        else:
            message = Message(b"".join(self.chunks))
        limits.header(message.raw, message.header_size, self.door.settings.smtp.max_received)
        envelope.arrived = envelope.next_try = clock.now()
        return message

    def sign(self, envelope: Envelope, message: Message) -> None:
        """Our Received field, on top (RFC 5321 4.4), and what rules wanted in the header before it was here."""
        only = envelope.recipients[0].address if len(envelope.recipients) == 1 else None
        message.headers.prepend_raw(trace.received(self.session.passage, envelope.id, only, envelope.arrived))
        early = self.session.judge.early
        if early:
            put(early, message.headers)

    # -- ask and keep -----------------------------------------------------------------------------------------------

    def keep(self, message: Message) -> Reply:
        session, envelope, judge = self.session, self.envelope, self.session.judge
        session.recipient = None
        if judge.apart:
            return Copies(self, message).keep()
        self.sign(envelope, message)
        scope = judge.scope_of(session, envelope.recipients)
        if "preq" in judge.rules.stages_of(judge.file):
            judge.facts(session).message = message
        said = session.ask("preq")
        if self.stream.reset:
            raise Gone("the connection was reset")
        fate = judge.fated
        if not self.decide(envelope, fate, scope):
            self.report("discarded", envelope, fate, None)
            return said or replies.kept(envelope.id)
        envelope.vars = judge.vars
        if judge.mail is not None and judge.mail.ways is not None:
            judge.mail.ways.write(envelope, envelope.arrived)
        self.door.spool.commit(add=[Mail(envelope, message)])
        reply = said if said is not None and said.positive else replies.kept(envelope.id)
        self.report("accepted", envelope, fate, reply)
        if judge.mail is not None and judge.mail.ways is not None:
            postponed(envelope, judge.mail.ways.held(envelope.recipients, envelope.arrived), session.id)
        return reply

    def decide(self, envelope: Envelope, fate: Said | None, scope: Scope) -> bool:
        """What lasting verdicts mean for the envelope. False: nothing is to be kept of it."""
        kind = fate.verdict.kind if fate is not None else ""
        if kind == "discard" or not envelope.recipients:  # or rules took out everybody
            return False
        if kind == "quarantine" and fate is not None:
            envelope.held = f"quarantine {fate.verdict.folder}".rstrip()
        envelope.accepted = kind == "faccept"
        envelope.direction, envelope.domain = scope.direction, scope.domain
        return True

    def report(self, event: str, envelope: Envelope, fate: Said | None, reply: Reply | None) -> None:
        session, client = self.session, self.session.client
        if event == "accepted":
            self.door.counts.accepted += 1
        log.event(
            event,
            session=session.id,
            mail=envelope.id,
            origin=envelope.origin or None,
            client=client.ip,
            helo=client.helo,
            sender=envelope.sender.shown,
            recipients=[str(recipient.address) for recipient in envelope.recipients],
            size=self.size,
            tls=client.tls,
            user=client.user,
            stage=fate.stage if fate is not None else None,
            rule=fate.verdict.rule if fate is not None else None,
            where=fate.verdict.where if fate is not None else None,
            held=envelope.held or None,
            reply=str(reply) if reply is not None else None,
            ms=round((clock.monotonic() - self.began) * 1000, 1),
        )
