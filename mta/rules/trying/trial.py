"""Runs rules on a made-up session, stage by stage, with the engine the server runs: for the prompt, tests and replays.

    Sketch -> Trial.step() -> Stage -> Trial.step() ... each Stage tells what every rule said and what the client hears
                  ^                        |
                  '------ Trial.back() <---'   a snapshot is taken before each stage

Only the World is another one. What the server itself decides is done here as the session does it, without a socket: a
recipient elsewhere is refused unless relay() was said, faccept, quarantine and discard end the rules of later stages,
and a refusal ends the mail. A verdict that has no effect is told in `Stage.ignored`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mta.message import trace
from mta.message.address import NULL, Address
from mta.message.credentials import Credentials
from mta.message.envelope import Client
from mta.message.reply import Refused, Reply
from mta.rules.engine.engine import Rules
from mta.rules.transaction import Addressed, Transaction, put
from mta.rules.trying.asking import one_by_one, together
from mta.rules.trying.sketch import Sketch, Spoke, Stage
from mta.rules.trying.trial_world import State, TrialWorld
from mta.rules.verdict import DENY_LOGIN, LASTING, NEXT, STAGES, Verdict

SESSION, MAIL_ID = "trial", "trial.1"
YES = {  # what the client hears when no rule has words of its own
    "connect": "220 {server} ESMTP",
    "helo": "250 {server}",
    "authenticate": "235 2.7.0 Welcome",
    "mail": "250 2.1.0 Ok",
    "rcpt": "250 2.1.5 Ok",
    "data": "354 End with <CRLF>.<CRLF>",
    "preq": "250 2.0.0 Kept as {mail}",
}


class Fate(NamedTuple):
    """A verdict that holds beyond its stage."""

    stage: str
    verdict: Verdict


class _Moment(NamedTuple):
    """Everything a step may change."""

    at: int
    tx: Transaction
    fate: Fate | None
    over: str
    taken: list[Address]
    world: State


class Trial:
    """One session under one set of rules. `load()` reads the rules; it raises RulesError.

    `only` and `skip` hold names of rules. With `watch_each` the changes each rule made are told with it. `over` says
    why no stage is left, `fate` which verdict still holds. `done` are the stages that ran.
    """

    def __init__(self, load: Callable[[], Rules], world: TrialWorld, sketch: Sketch | None = None) -> None:
        self.load, self.world, self.sketch = load, world, sketch or Sketch()
        self.rules = load()
        self.only: set[str] = set()
        self.skip: set[str] = set()
        self.watch_each = False
        self._fresh = world.state()
        self._moments: list[_Moment] = []
        self._before: Addressed | None = None  # the envelope as the stage found it, where rules are asked
        self.done: list[Stage] = []
        self._outlook: tuple[str, Transaction] | None = None
        self._begin()

    def _begin(self) -> None:
        sketch = self.sketch
        client = Client(ip=sketch.ip, port=sketch.port, name=sketch.name, listener=sketch.listener)
        client.trusted = sketch.trusted
        self.tx = Transaction(SESSION, client, server=sketch.server, listener=sketch.listener, trusted=sketch.trusted)
        self.tx.tracing, self.tx.vars = True, copy.deepcopy(sketch.vars)
        self.at = 0
        self.fate: Fate | None = None
        self.over = ""
        self.taken: list[Address] = []
        self._outlook = None

    # -- the session -------------------------------------------------------------------------------------------------

    def change(self, **facts: Any) -> None:
        """Another session; it begins anew."""
        self.sketch = dataclasses.replace(self.sketch, **facts)
        self.reset()

    def reset(self) -> None:
        """Back to the beginning, also for the world's memory."""
        self.tx.close()
        if self._moments:
            self.world.put_back(self._moments[0].world)
        self._moments.clear()
        self.done.clear()
        self._begin()

    def reload(self) -> None:
        """Read the rules again and begin anew. Raises RulesError; the old rules then stay."""
        self.rules = self.load()
        self.reset()

    @property
    def upcoming(self) -> tuple[str, Address | None] | None:
        """The stage that comes next, and at rcpt its recipient; None when there is none."""
        plan = self.sketch.plan()
        if self.over or self.at >= len(plan):
            return None
        return plan[self.at]

    def names(self) -> list[str]:
        """Every rule there is."""
        files = ["", *self.rules.folders.files]
        return list(
            dict.fromkeys(name for stage in STAGES for file in files for name, _ in self.rules.listed(stage, file))
        )

    def listed(self, stage: str) -> list[tuple[str, str]]:
        """The rules this session meets at a stage: (name, where)."""
        return self.rules.listed(stage, self.tx.file)

    def here(self) -> tuple[str, Transaction]:
        """The stage and the transaction that a line of Lua at the prompt is about: those of the last stage, or, before
        the first one, all that is known of the session."""
        if self.done:
            return self.done[-1].name, self.tx
        if self._outlook is None:
            sketch = self.sketch
            tx = _copied(self.tx)
            tx.helo, tx.user, tx.sender, tx.recipients = sketch.helo, sketch.user, sketch.sender, [*sketch.recipients]
            tx.client.tls, tx.client.helo = sketch.encryption, sketch.helo
            tx.mail_id = MAIL_ID if sketch.sender is not None else ""
            tx.message = sketch.message.copy() if sketch.message is not None else None
            tx.recipient = tx.recipients[0] if tx.recipients else None
            stage = "preq" if tx.message else "rcpt" if tx.recipients else "mail" if tx.sender is not None else "helo"
            self._outlook = stage, tx
        return self._outlook

    # -- stages ------------------------------------------------------------------------------------------------------

    def run(self, until: str = "") -> Iterator[Stage]:
        """Step until the stage `until` has run (the next time it comes), or to the end."""
        while self.upcoming is not None:
            stage = self.step()
            yield stage
            if stage.name == until:
                return

    def step(self) -> Stage:
        """Run the next stage. Raises ValueError when there is none."""
        upcoming = self.upcoming
        if upcoming is None:
            raise ValueError(self.over or "no stage is left")
        self._outlook = self._before = None
        self._moments.append(
            _Moment(self.at, _copied(self.tx), self.fate, self.over, [*self.taken], self.world.state())
        )
        name, recipient = upcoming
        self._learn(name, recipient)
        events, unknown = len(self.world.events), len(self.world.unknown)
        if self.fate is not None:
            decided = self.fate
            listed = tuple(Spoke(rule, where, "not reached") for rule, where in self.listed(name))
            told = f"{decided.verdict.kind} at {decided.stage} ended the rules of later stages" if listed else ""
            verdict, rules = NEXT, listed
        else:
            told = ""
            self._before = self.tx.addressed()
            verdict, rules = self._ask(name)
        self.tx.credentials = None
        reply, ignored = self._effect(name, recipient, verdict)
        self.at += 1
        stage = Stage(
            name, recipient, verdict, rules, reply, ignored or told,
            tuple(self.world.events[events:]), tuple(self.world.unknown[unknown:]),
        )  # fmt: skip
        self.done.append(stage)
        return stage

    def back(self) -> bool:
        """To the moment before the last stage; False at the beginning."""
        if not self._moments:
            return False
        moment = self._moments.pop()
        self.done.pop()
        self.tx.close()
        self.at, self.fate, self.over, self.taken = moment.at, moment.fate, moment.over, moment.taken
        self.tx, self._outlook = moment.tx, None
        self.world.put_back(moment.world)
        return True

    def others(self, index: int = -1) -> list[Spoke]:
        """What the rules that were not reached would have said at a stage that is over. Nothing of it lasts."""
        stage, moment = self.done[index], self._moments[index]
        missed = {rule.rule for rule in stage.rules if rule.said == "not reached"}
        if not missed:
            return []
        kept = self.tx, self.at, self.fate, self.world.state()
        self.tx, self.at = _copied(moment.tx), moment.at
        self.world.put_back(moment.world)
        try:
            self._learn(stage.name, stage.recipient)
            found = one_by_one(
                self.rules, stage.name, self.tx, lambda name: name in missed, watch=self.watch_each, on=True
            )[1]
        finally:
            self.tx.close()
            self.tx, self.at, self.fate = kept[0], kept[1], kept[2]
            self.world.put_back(kept[3])
        return [rule for rule in found if rule.rule in missed]

    def _learn(self, stage: str, recipient: Address | None) -> None:
        """What the server knows when this stage comes."""
        tx, sketch = self.tx, self.sketch
        if stage == "helo":
            tx.helo = sketch.helo
            tx.client.helo, tx.client.tls, tx.client.protocol = sketch.helo, sketch.encryption, sketch.protocol
        elif stage == "authenticate":
            tx.credentials = Credentials("PLAIN", sketch.user, sketch.password or "")
        elif stage == "mail":
            if sketch.password is None:
                tx.user = tx.client.user = sketch.user
            self.tx = mail = tx.mail(MAIL_ID)
            mail.sender = NULL if sketch.sender is None else sketch.sender
            mail.file = self.rules.folders.at_mail(self._ours, mail.sender, mail.user, self._find)
            tx.close()
        elif stage == "rcpt":
            tx.recipient = recipient
            tx.file = self._scope(recipient)
        elif stage == "data":
            tx.recipient = None
            tx.file = self._scope(tx.recipients[0] if tx.recipients else None)
        elif stage == "preq" and sketch.message is not None:
            tx.message = sketch.message.copy()
            only = tx.recipients[0] if len(tx.recipients) == 1 else None
            passed = trace.passage(tx.client, sketch.server)
            tx.message.headers.prepend_raw(trace.received(passed, MAIL_ID, only, self.world.now()))
            put(tx.early, tx.message.headers)
        elif stage in ("postq", "delivery"):
            self.tx = _copied(tx)
            tx.close()

    @property
    def _ours(self) -> bool:
        return bool(self.tx.user or self.tx.trusted)

    def _find(self, domain: str) -> Any:
        """A domain of ours, or None."""
        domains = self.sketch.domains
        return True if domains is None else domains.find(domain)

    def _scope(self, recipient: Address | None) -> str:
        """The file of a domain that this recipient's mail meets."""
        if recipient is None:
            return ""
        return self.rules.folders.scope(self._ours, self.tx.sender or NULL, self.tx.user, recipient, self._find).file

    def _ask(self, stage: str) -> tuple[Verdict, tuple[Spoke, ...]]:
        """Let the rules speak: all at once, as the server does, unless only some shall, or each is watched."""
        listed = self.listed(stage)
        if self.watch_each or any(not self._wanted(name) for name, _ in listed):
            return one_by_one(self.rules, stage, self.tx, self._wanted, watch=self.watch_each)
        return together(self.rules, stage, self.tx)

    def _wanted(self, name: str) -> bool:
        return name not in self.skip and (not self.only or name in self.only)

    # -- what the server makes of it ---------------------------------------------------------------------------------

    def _effect(self, stage: str, recipient: Address | None, verdict: Verdict) -> tuple[str, str]:
        """What the client hears, and why a verdict has no effect, or another one than its words say."""
        kind, ignored = verdict.kind, ""
        if kind in LASTING:
            self.fate = Fate(stage, verdict)
        if stage in ("postq", "delivery"):
            return "", self._in_the_queue(stage, verdict)
        if stage == "authenticate":
            return self._log_in(verdict)
        if kind in ("deny", "defer", "reply") and verdict.reply is not None:
            reply = verdict.reply
            if stage == "connect" and reply.temporary:
                ignored = f"at connect a 4xx is said as 421 (RFC 5321 3.1), not {reply.code}"
                reply = Reply(421, reply.enhanced, reply.text, close=True)
            if stage == "rcpt" and not reply.close:
                self._recipients_left()
            else:
                self.over = f"the {stage} stage refused it: {reply}"
            return str(reply), ignored
        if stage == "rcpt" and recipient is not None:
            refused = self._admit(recipient)
            if refused is not None:
                if verdict.reply is not None or kind != "next":
                    ignored = f"{kind}() does not open the relay: only relay() does" if refused.code == 554 else kind
                    ignored = f"{kind}() makes nobody known" if refused.code == 550 else ignored
                self._recipients_left()
                return str(refused), ignored
            if self.tx.recipient is not None and self.tx.recipient not in self.tx.recipients:
                self.tx.recipients.append(self.tx.recipient)
        if stage == "preq" and kind == "discard":
            self.over = "it was discarded"
            return "250 2.0.0 Ok", ""
        if stage == "preq" and self.fate is not None and self.fate.verdict.kind != "faccept":
            self.over = f"{self.fate.verdict.kind} at {self.fate.stage} holds it"
        heard = str(verdict.reply) if verdict.reply is not None and verdict.reply.positive else YES[stage]
        if stage == "data" and verdict.reply is not None:
            heard, ignored = YES[stage], f"the words of {kind}() are not said at data: 354 stands there"
        return heard.format(server=self.sketch.server, mail=MAIL_ID), ignored

    def _log_in(self, verdict: Verdict) -> tuple[str, str]:
        reply, stage = verdict.reply, "authenticate"
        if verdict.kind == "accept":
            self.tx.user = self.tx.client.user = self.sketch.user
            return YES[stage] if reply is None else str(Reply(235, reply.enhanced, reply.text)), ""
        if reply is None or reply.positive:
            reply = DENY_LOGIN
        self.over = f"the {stage} stage refused it: {reply}"
        return str(reply), f"{verdict.kind}() lets nobody in: only accept() does" if verdict.kind in LASTING else ""

    def _in_the_queue(self, stage: str, verdict: Verdict) -> str:
        kind = verdict.kind
        ours = bool(self.tx.user or self.tx.trusted)
        if kind == "deny":
            self.over = "it bounces to its sender" if ours else "it is held as quarantine denied"
            return "" if ours else "a stranger's mail does not bounce (rules.bounce_strangers): it is held"
        if kind in ("defer", "reply"):
            self.over = "it is tried again later"
        elif kind == "quarantine":
            self.over = f"it is held as quarantine {verdict.folder}"
        elif kind == "discard":
            self.over = "it was discarded"
        if verdict.reply is not None and verdict.reply.positive:
            return f"at {stage} nobody hears the words of {kind}(): the client has gone"
        return ""

    def _admit(self, recipient: Address) -> Reply | None:
        """The server's own no, as the session says it."""
        tx, domains = self.tx, self.sketch.domains
        rewritten = tx.recipient
        if domains is None:
            return None
        relay = tx.relay or tx.trusted or bool(tx.user)
        if domains.find(recipient.domain) is None and not relay:
            return Reply(554, "5.7.1", "We do not relay for you")
        try:
            if rewritten is not None and domains.find(rewritten.domain) is not None and not domains.knows(rewritten):
                return Reply(550, "5.1.1", "There is no such mailbox")
        except Refused as refused:
            return refused.reply
        return None

    def _recipients_left(self) -> None:
        """A recipient was refused, and what rules did or decided for it; without any the client can go no further."""
        if self._before is not None:
            self.fate = None
            self.tx.readdress(self._before)
        plan = self.sketch.plan()
        more = self.at + 1 < len(plan) and plan[self.at + 1][0] == "rcpt"
        if not more and not self.tx.recipients:
            self.over = "no recipient was taken"

    @property
    def result(self) -> str:
        """The fate of the mail in one line."""
        if self.over:
            return self.over
        if self.upcoming is not None:
            return f"next: {self.upcoming[0]}"
        if self.done and self.done[-1].name == "delivery":
            return "delivered"
        return "no mail was sent"


def _copied(tx: Transaction) -> Transaction:
    """The same facts, to be changed apart; Lua learns them anew."""
    other = Transaction.__new__(Transaction)
    for name in Transaction.__slots__:
        setattr(other, name, getattr(tx, name))
    other.side = other.parts = None
    other.trace = []
    other.alone = 0
    other.client = copy.copy(tx.client)
    other.message = None if tx.message is None else tx.message.copy()
    other.recipients, other.originals = [*tx.recipients], dict(tx.originals)
    other.vars, other.ways = copy.deepcopy(tx.vars), copy.deepcopy(tx.ways)
    return other
