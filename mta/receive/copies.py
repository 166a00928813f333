"""Our own people's mail whose recipients are under different rules: one copy for each set of rules, one commit for all.

    preq of every copy, before anything is stored
        one defers      4xx for the mail: nothing is stored, nobody is told
        all deny        5xx for the mail, in the words of the first: the same
        some deny       the others are kept, and with them, in the same commit, a bounce for each that was denied;
                        for the null sender, whom no bounce can reach: 5xx for the mail
        none            all are kept, but for those that were discarded

Each copy is a mail of its own: id and origin, vars, header, Received field. The content is shared until it is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from mta import log
from mta.message import bounce, ids
from mta.message.bounce import Failure
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Reply
from mta.net.stream import Gone
from mta.receive import replies
from mta.receive.judge import Judged, Said
from mta.rules.engine.folders import Scope
from mta.rules.words.routing import Hold, postponed
from mta.spool.spool import Mail

if TYPE_CHECKING:
    from mta.receive.arrival import Arrival


class Copy(NamedTuple):
    """One copy as preq left it. `no`: its rules denied it; `said`: the words of their yes; `held`: who waits."""

    envelope: Envelope
    message: Message
    scope: Scope
    fate: Said | None
    said: Reply | None
    no: Judged | None
    held: dict[Hold, list[Recipient]]


class Copies:
    """All copies of one mail, on their way in. Used once."""

    def __init__(self, arrival: Arrival, message: Message) -> None:
        self.arrival, self.message = arrival, message
        self.session, self.judge = arrival.session, arrival.session.judge

    def keep(self) -> Reply:
        """Ask and keep. Raises Refused, and Gone before the copies are ours."""
        copies = self.ask()
        if self.session.stream.reset:
            raise Gone("the connection was reset")
        denied = [(copy, copy.no) for copy in copies if copy.no is not None]
        if denied and (len(denied) == len(copies) or not all(copy.envelope.sender for copy, _ in denied)):
            raise denied[0][1]
        taken = [copy for copy in copies if copy.no is None]
        kept = [copy for copy in taken if self.arrival.decide(copy.envelope, copy.fate, copy.scope)]
        bounces = [self.bounce(copy, no.reply) for copy, no in denied]
        add = [Mail(copy.envelope, copy.message) for copy in kept] + [mail for mail in bounces if mail is not None]
        if add:
            self.arrival.door.spool.commit(add=add)
        reply = next((copy.said for copy in kept if copy.said is not None and copy.said.positive), None)
        reply = reply or replies.kept(*(copy.envelope.id for copy in kept or taken))
        stored = {copy.envelope.id for copy in kept}
        for copy in taken:
            here = copy.envelope.id in stored
            self.arrival.report("accepted" if here else "discarded", copy.envelope, copy.fate, reply if here else None)
            if here:
                postponed(copy.envelope, copy.held, self.session.id)
        for (copy, no), mail in zip(denied, bounces, strict=True):
            self.told(copy.envelope, no, mail.envelope.id if mail is not None else "")
        return reply

    # -- preq ---------------------------------------------------------------------------------------------------------

    def ask(self) -> list[Copy]:
        """Let the rules of preq speak of each copy. Raises Judged when one is to come later, so all are."""
        session, judge, whole = self.session, self.judge, self.arrival.envelope
        groups: dict[str, list[Recipient]] = {}
        for recipient in whole.recipients:
            groups.setdefault(judge.scope_of(session, [recipient]).file, []).append(recipient)
        asked = any("preq" in judge.rules.stages_of(file) for file in groups)
        known = judge.facts(session) if asked else judge.mail
        try:
            return [self.copy(file, recipients) for file, recipients in groups.items()]
        finally:
            session.envelope, judge.mail = whole, known

    def copy(self, file: str, recipients: list[Recipient]) -> Copy:
        """Make one copy, and ask as if it were the mail."""
        session, judge, whole = self.session, self.judge, self.arrival.envelope
        known, scope = judge.mail, judge.scope_of(session, recipients)
        envelope = replace(whole, id=self.number(), origin=whole.id, recipients=recipients)
        message = self.message.copy()
        self.arrival.sign(envelope, message)
        session.envelope, judge.file = envelope, file
        if known is not None:
            judge.mail = known.copy(envelope.id, [recipient.address for recipient in recipients])
            judge.mail.message = message
        held: dict[Hold, list[Recipient]] = {}
        try:
            said = session.ask("preq")
        except Judged as no:
            if no.reply.temporary:
                raise
            return Copy(envelope, message, scope, None, None, no, held)
        finally:
            envelope.vars = judge.vars
            if judge.mail is not None and known is not None:
                if judge.mail.ways is not None:
                    judge.mail.ways.write(envelope, envelope.arrived)
                    held = judge.mail.ways.held(envelope.recipients, envelope.arrived)
                judge.mail.close()
                judge.mail = known
        return Copy(envelope, message, scope, judge.fated, said, None, held)

    def number(self) -> str:
        self.session.numbers += 1
        return ids.mail(self.session.id, self.session.numbers)

    # -- what was denied ----------------------------------------------------------------------------------------------

    def bounce(self, copy: Copy, reply: Reply) -> Mail | None:
        """The mail that tells the sender which recipients do not get it, and why; None if nobody is to hear of them."""
        envelope = copy.envelope
        failures = [Failure(recipient, reply) for recipient in envelope.recipients if recipient.heard]
        if not failures:
            return None
        settings, id = self.arrival.door.settings, self.number()
        about = bounce.make(envelope, copy.message, failures, server=settings.server.name, id=id, now=envelope.arrived)
        ours = self.arrival.door.domains.find(envelope.sender.domain) is not None
        own = bounce.envelope_of(envelope, id=id, now=envelope.arrived, direction="internal" if ours else "outgoing")
        return Mail(own, about)

    def told(self, envelope: Envelope, no: Judged, bounce: str) -> None:
        """The log's lines about a copy that was denied, as the queue writes them."""
        names = [str(recipient.address) for recipient in envelope.recipients]
        for name in names:
            log.event(
                "failed",
                session=self.session.id,
                mail=envelope.id,
                origin=envelope.origin,
                sender=envelope.sender.shown,
                recipient=name,
                reply=str(no.reply),
                stage="preq",
                rule=no.rule,
                where=no.where,
            )
        if bounce:
            names = [str(recipient.address) for recipient in envelope.recipients if recipient.heard]
            log.event("bounced", mail=envelope.id, bounce=bounce, sender=envelope.sender.shown, recipients=names)
