"""Carries one mail: asks the rules, delivers, and tells the spool in one commit what became of it.

    rules of postq, once -> for each destination: rules of delivery, transport -> ONE commit
            |                                                                          |
    commit(settle, keep) if they            all served, failed or discarded: drop      | with the bounce that
    decided or changed something            some to be tried again:          settle    | tells of what failed

Until that one commit the spool knows nothing of the attempt, so a crash anywhere repeats a delivery at most and loses
none. What rules change at delivery is for that attempt only. A commit that fails (a full disk) is tried again, with
growing pauses, while the mail stays leased: nothing is lost and nothing is delivered twice meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from mta import log, settings
from mta.deliver.judge import Judge, Rules
from mta.deliver.route import Destination, Domains, Router
from mta.deliver.transport import Result, Transport, attempt
from mta.deliver.verdicts import Effect, effect
from mta.message import bounce, ids
from mta.message.address import NULL
from mta.message.bounce import Failure
from mta.message.envelope import Envelope, Recipient, Route
from mta.message.ids import Ids
from mta.message.message import Message
from mta.message.reply import Refused, Reply
from mta.net import clock, offload
from mta.rules.verdict import NEXT, Verdict
from mta.rules.words.envelope import taken
from mta.rules.words.routing import Ways, postponed
from mta.spool.schedule import Schedule
from mta.spool.spool import Mail, Settled, Spool

LARGE = 1 << 20  # bytes of a mail that is copied off the loop
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between tries of a commit


class Outcome:
    """What one attempt has come to so far, recipient by recipient; who is in none of the lists is served."""

    __slots__ = ("failures", "held", "later", "until", "waiting", "why")

    def __init__(self) -> None:
        self.waiting: list[Recipient] = []  # a rule of delivery holds them until then
        self.until = 0.0
        self.later: list[tuple[Result, str, Verdict]] = []  # with the transport's name, and the rule that decided
        self.failures: list[tuple[Failure, str, Verdict]] = []
        self.held: list[Recipient] = []
        self.why = ""  # they are held


def _wait(recipients: list[Recipient], outcome: Outcome) -> None:
    """They stay, each until its time."""
    for recipient in recipients:
        outcome.waiting.append(recipient)
        outcome.until = min(outcome.until or recipient.until, recipient.until)


class Courier:
    """Everything an attempt needs. `counts`: delivered, deferred, failed, bounced, dropped, discarded, held."""

    def __init__(
        self,
        settings: settings.Settings,
        spool: Spool,
        rules: Callable[[], Rules | None],
        domains: Domains,
        ids: Ids,
        transport: Callable[[Route], Transport],
    ) -> None:
        """`transport` makes or finds what serves a route; it may raise Refused."""
        self._spool, self._rules, self._ids, self._transport = spool, rules, ids, transport
        self._domains, self._server = domains, settings.server.name
        self._bounces = settings.rules.bounce_strangers
        self._router = Router(settings, domains)
        self._schedule = Schedule(settings.queue)
        self._ended = False
        self.counts = dict.fromkeys(("delivered", "deferred", "failed", "bounced", "dropped", "discarded", "held"), 0)

    @property
    def router(self) -> Router:
        return self._router

    def end(self) -> None:
        """Commits that fail are no longer tried again; the spool finds these mails leased by a dead process."""
        self._ended = True

    def deliver(self, mail: Mail) -> None:
        """One attempt for one mail. Parks the greenlet."""
        envelope, message = mail
        judge = Judge(self._rules(), envelope, self._server)
        if not envelope.postq and "postq" in judge.stages:
            judged = self._postq(judge, envelope, message)
            if judged is None:
                judge.close()
                return
            envelope, message = judged
            if envelope.accepted:
                judge.close()
        outcome = Outcome()
        for destination, group in self._router.groups(self._due(envelope, outcome)):
            content, verdict, ways = message, NEXT, None
            if "delivery" in judge.stages:
                content = copied(message)
                verdict, facts = judge.ask("delivery", envelope, content, group)
                said, ways = effect(verdict, bounces=envelope.ours or self._bounces), facts.ways
                if facts.vars != envelope.vars:  # what is edited is for this attempt, what is remembered lasts
                    envelope = replace(envelope, vars=facts.vars)
                if said.kind != "go":
                    self._obey(said, verdict, "delivery", envelope, group, outcome)
                    continue
            if ways is None:
                self._attempt(destination, envelope, group, content, verdict, outcome)
            else:
                self._attempt_by(ways, envelope, group, content, verdict, outcome)
        judge.close()  # where everybody waits, delivery was not asked
        self._finish(envelope, message, outcome, postq=True)

    def _due(self, envelope: Envelope, outcome: Outcome) -> list[Recipient]:
        """The recipients whose time has come; the others wait, for a rule holds them."""
        early = [recipient for recipient in envelope.recipients if recipient.until]
        if not early:
            return envelope.recipients
        now = clock.now()
        _wait([recipient for recipient in early if recipient.until > now], outcome)
        return [recipient for recipient in envelope.recipients if recipient.until <= now]

    # -- the rules ----------------------------------------------------------------------------------------------------

    def _postq(self, judge: Judge, envelope: Envelope, message: Message) -> Mail | None:
        """The mail as the rules of postq want it, or None: they ended the attempt."""
        content = copied(message)
        verdict, facts = judge.ask("postq", envelope, content, envelope.recipients)
        changed, values, now = content.edited, facts.vars, clock.now()
        decided = replace(envelope, vars=values, postq=True, accepted=envelope.accepted or verdict.kind == "faccept")
        if facts.edited:
            decided.sender = facts.sender or NULL
            decided.recipients = taken(facts, envelope.recipients)
        if facts.ways is not None:
            decided.recipients = [replace(recipient) for recipient in decided.recipients]
            facts.ways.write(decided, now)
        said = effect(verdict, bounces=envelope.ours or self._bounces)
        if said.kind == "go":
            if not decided.recipients:  # rules took out everybody
                nobody = Outcome()
                self._obey(Effect("discard"), verdict, "postq", envelope, envelope.recipients, nobody)
                self._finish(envelope, message, nobody, postq=True)
                return None
            waits = facts.ways is not None and facts.ways.until > now
            if facts.edited or changed or values != envelope.vars or verdict.rule or facts.ways is not None:
                self._commit(envelope.id, settle=[Settled(decided, content if changed else None, keep=not waits)])
            if facts.ways is not None:
                postponed(decided, facts.ways.held(decided.recipients, now))
            if waits:
                return None
            return Mail(decided, content if changed else message)
        outcome = Outcome()
        later = said.kind == "later"  # it is asked again, about the mail as it was, and knows what it remembered
        about = replace(envelope, vars=values) if later else decided
        self._obey(said, verdict, "postq", about, about.recipients, outcome)
        if later:
            self._finish(about, message, outcome, postq=False)
        else:
            self._finish(decided, content, outcome, postq=True, changed=changed)
        return None

    def _obey(
        self,
        said: Effect,
        verdict: Verdict,
        stage: str,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        outcome: Outcome,
    ) -> None:
        """Sort recipients a rule decided about."""
        if said.kind == "hold":
            outcome.held += recipients
            outcome.why = said.held
            self.counts["held"] += 1
            log.event(
                "held",
                mail=envelope.id,
                sender=envelope.sender.shown,
                recipients=[str(recipient.address) for recipient in recipients],
                reason=said.held if said.reply is None else f"{said.held}: {said.reply}",
                stage=stage,
                rule=verdict.rule,
                where=verdict.where,
            )
        elif said.kind == "discard":
            self.counts["discarded"] += 1
            log.event(
                "discarded",
                mail=envelope.id,
                sender=envelope.sender.shown,
                recipients=[str(recipient.address) for recipient in recipients],
                stage=stage,
                rule=verdict.rule,
                where=verdict.where,
            )
        else:
            assert said.reply is not None
            for recipient in recipients:
                if said.kind == "later":
                    outcome.later.append((Result(recipient, said.reply), "", verdict))
                else:
                    tried = replace(recipient, attempts=recipient.attempts + 1)
                    outcome.failures.append((Failure(tried, said.reply), "", verdict))

    # -- the attempt --------------------------------------------------------------------------------------------------

    def _attempt(
        self,
        destination: Destination,
        envelope: Envelope,
        recipients: list[Recipient],
        message: Message,
        verdict: Verdict,
        outcome: Outcome,
    ) -> None:
        began = time.perf_counter()
        try:
            transport = self._transport(destination.route)
        except Refused as no:
            outcome.later += [(Result(r, no.reply, reason=no.reason), "", verdict) for r in recipients]
            return
        name = transport.name
        for result in attempt(transport, envelope, recipients, message):
            recipient, reply, host, said, _ = result
            if reply.code < 400:
                delay, ms = clock.now() - envelope.arrived, (time.perf_counter() - began) * 1000
                tries = recipient.attempts + 1
                self._note("delivered", envelope, recipient, tries, name, host, reply, verdict, delay=delay, ms=ms)
            elif reply.code < 500:
                outcome.later.append((result, name, verdict))
            else:
                tried = replace(recipient, attempts=recipient.attempts + 1)
                outcome.failures.append((Failure(tried, reply, host, said), name, verdict))

    def _attempt_by(
        self,
        ways: Ways,
        envelope: Envelope,
        recipients: list[Recipient],
        message: Message,
        verdict: Verdict,
        outcome: Outcome,
    ) -> None:
        """Where a rule of delivery says, for this attempt: who waits goes back to the route it came with."""
        held = ways.held(recipients, now := clock.now())
        if held:
            for hold, early in held.items():
                _wait([replace(one, until=hold.until, until_by=hold.by) for one in early], outcome)
            postponed(envelope, held)
            recipients = [one for one in recipients if ways.until_of(one.address) <= now]
        copies = [replace(recipient, route=ways.of(recipient)) for recipient in recipients]
        own = {id(copy): recipient for copy, recipient in zip(copies, recipients, strict=True)}
        before = len(outcome.later)
        for destination, group in self._router.groups(copies):
            self._attempt(destination, envelope, group, message, verdict, outcome)
        outcome.later[before:] = [
            (result._replace(recipient=own[id(result.recipient)]), name, said)
            for result, name, said in outcome.later[before:]
        ]

    # -- the end of it ------------------------------------------------------------------------------------------------

    def _finish(
        self, envelope: Envelope, message: Message, outcome: Outcome, *, postq: bool, changed: bool = False
    ) -> None:
        """The one commit: what is served and what failed is gone, what is left waits, the sender is told."""
        if not (outcome.later or outcome.failures or outcome.held or outcome.waiting):
            self._commit(envelope.id, drop=[envelope.id])
            return
        now = clock.now()
        left = self._left(envelope, outcome, now)
        for failure, name, verdict in outcome.failures:
            recipient, reply, host, _, expired = failure
            reason = "it was tried for as long as queue.expire allows" if expired else ""
            self._note("failed", envelope, recipient, recipient.attempts, name, host, reply, verdict, reason=reason)
        content = message if changed else None
        add, settle, drop = self._told(envelope, message, outcome, now), [], []
        if left is not None:
            left.postq = postq
            settle.append(Settled(left, content))
            if outcome.held:  # the held recipients cannot stay with those who wait: they become a mail of their own
                id = ids.mail(self._ids.session(), 1)
                own = replace(
                    envelope, id=id, recipients=outcome.held, held=outcome.why, origin=envelope.id, postq=True
                )
                add.append(Mail(own, Message(bytes(message))))
        elif outcome.held:
            settle.append(Settled(replace(envelope, recipients=outcome.held, held=outcome.why, postq=postq), content))
        else:
            drop.append(envelope.id)
        self._commit(envelope.id, add, settle, drop)

    def _left(self, envelope: Envelope, outcome: Outcome, now: float) -> Envelope | None:
        """The mail as it waits for the next try. What is too old for one becomes a failure."""
        if not outcome.later:
            return self._only_waiting(envelope, outcome)
        attempts = envelope.attempts + 1
        began = max(envelope.arrived, envelope.until)  # what a rule held was not tried meanwhile
        next_try = self._schedule.next_try(began, attempts, now, random.random())
        recipients = list(outcome.waiting)
        for (recipient, reply, host, said, reason), name, verdict in outcome.later:
            tried = replace(recipient, attempts=recipient.attempts + 1, reply=str(reply))
            if next_try is None:
                outcome.failures.append((Failure(tried, reply, host, said, expired=True), name, verdict))
                continue
            recipients.append(tried)
            more = {"next_try": next_try, "reason": reason}
            self._note("deferred", envelope, tried, tried.attempts, name, host, reply, verdict, **more)
        if next_try is None:
            return self._only_waiting(envelope, outcome)
        if outcome.waiting:
            next_try = min(next_try, outcome.until)
        return replace(envelope, recipients=recipients, attempts=attempts, next_try=next_try)

    def _only_waiting(self, envelope: Envelope, outcome: Outcome) -> Envelope | None:
        if not outcome.waiting:
            return None
        until = outcome.until
        return replace(envelope, recipients=outcome.waiting, next_try=until, until=until, until_by="")

    def _note(
        self,
        event: str,
        envelope: Envelope,
        recipient: Recipient,
        attempts: int,
        name: str,
        host: str,
        reply: Reply,
        verdict: Verdict,
        **more: Any,
    ) -> None:
        """Count and log what became of one recipient: delivered, deferred or failed."""
        self.counts[event] += 1
        log.event(
            event,
            mail=envelope.id,
            sender=envelope.sender.shown,
            recipient=str(recipient.address),
            transport=name,
            host=host,
            attempts=attempts,
            reply=str(reply),
            stage=verdict.stage,
            rule=verdict.rule,
            where=verdict.where,
            **{field: round(value, 3) if isinstance(value, float) else value for field, value in more.items()},
        )

    def _told(self, envelope: Envelope, message: Message, outcome: Outcome, now: float) -> list[Mail]:
        """The bounce, if something failed and there is somebody to tell (RFC 5321 4.5.5)."""
        if not outcome.failures:
            return []
        failures = [failure for failure, _, _ in outcome.failures]
        recipients = [str(failure.recipient.address) for failure in failures]
        told = [failure for failure in failures if failure.recipient.heard]
        if not envelope.sender or not told:
            self.counts["dropped"] += 1
            why = "it has the null sender, whom nobody can tell" if told else "a copy of which the sender is not told"
            reason = f"{why}: {failures[0].reply}"
            log.event("dropped", mail=envelope.id, sender=envelope.sender.shown, recipients=recipients, reason=reason)
            return []
        id = ids.mail(self._ids.session(), 1)
        direction = "outgoing" if self._domains.find(envelope.sender.domain) is None else "internal"
        about = bounce.make(envelope, message, told, server=self._server, id=id, now=now)
        recipients = [str(failure.recipient.address) for failure in told]
        self.counts["bounced"] += 1
        log.event("bounced", mail=envelope.id, bounce=id, sender=envelope.sender.shown, recipients=recipients)
        return [Mail(bounce.envelope_of(envelope, id=id, now=now, direction=direction), about)]

    def _commit(
        self, id: str, add: Sequence[Mail] = (), settle: Sequence[Settled] = (), drop: Sequence[str] = ()
    ) -> None:
        """Commit, however long it takes."""
        pause = FIRST_PAUSE
        while True:
            try:
                self._spool.commit(add, settle, drop)
                return
            except Refused:  # the spool has said why
                pass
            except Exception as error:
                log.bug(error, mail=id, stage="delivery")
            if self._ended:
                return
            offload.pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def copied(message: Message) -> Message:
    """One for rules to change. Where they have changed the body before, all of it is copied."""
    return message.copy() if len(message.raw) <= LARGE else offload.run(message.copy)


def local_trouble(what: str) -> Refused:
    """A slip in the settings or in a rule must delay mail, not lose it."""
    return Refused(Reply(451, "4.3.5", "This server is not set up for that now"), what)
