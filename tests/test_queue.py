"""The queue: what becomes of a mail, whatever rules, transports, disks and clocks do."""

from __future__ import annotations

import email
import email.policy
import itertools
import mailbox
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
import pytest
from fake_dns import FakeDns
from fake_smtp import FakeSmtp
from gevent.event import Event
from receiving import PATIENCE, until

from mta import events, log, settings
from mta.deliver import courier, queue
from mta.deliver.queue import Queue
from mta.deliver.transport import Result
from mta.message.address import Address, parse
from mta.message.envelope import Client, Envelope, Recipient, Route
from mta.message.ids import Ids
from mta.message.message import Message
from mta.message.reply import Refused, Reply
from mta.net import clock
from mta.net.dns import Resolver
from mta.rules.engine.folders import Folders
from mta.rules.transaction import Transaction
from mta.rules.verdict import Verdict
from mta.spool.journal import JournalSpool
from mta.spool.memory import MemorySpool
from mta.spool.spool import Mail, Settled

RAW = b"Received: by here\r\nMessage-ID: <m@far.test>\r\nSubject: hello\r\n\r\nbody\r\n"
USER = Client(ip="192.0.2.1", user="ann", helo="there")
STRANGER = Client(ip="192.0.2.2", helo="there")


class Ended(BaseException):
    """The process dies here."""


class Shelf:
    """A spool in memory that breaks when told to. What it was given and hands out is its own: a change shows."""

    def __init__(self) -> None:
        self.mails: dict[str, tuple[Envelope, Message]] = {}
        self.leased: set[str] = set()
        self.commits: list[tuple[list[str], list[str], list[str]]] = []
        self.on_due: Callable[[], None] | None = None
        self.breaks: Iterator[BaseException | None] = itertools.repeat(None)  # before each commit
        self.after: Iterator[BaseException | None] = itertools.repeat(None)

    def commit(self, add: Sequence[Mail] = (), settle: Sequence[Settled] = (), drop: Sequence[str] = ()) -> None:
        gevent.sleep(0)
        self._break(self.breaks)
        self.commits.append(([m.envelope.id for m in add], [s.envelope.id for s in settle], list(drop)))
        for envelope, message in add:
            assert envelope.id not in self.mails
            self.mails[envelope.id] = envelope, Message(bytes(message))
        for settled in settle:
            envelope = settled.envelope
            old, new = self.mails[envelope.id][1], settled.message
            self.mails[envelope.id] = envelope, old if new is None else Message(bytes(new))
            if not settled.keep:
                self.leased.discard(envelope.id)
        for id in drop:
            del self.mails[id]
            self.leased.discard(id)
        self._break(self.after)
        if self.on_due is not None:
            self.on_due()

    @staticmethod
    def _break(breaks: Iterator[BaseException | None]) -> None:
        error = next(breaks, None)
        if error is not None:
            raise error

    def _waiting(self) -> list[Envelope]:
        waiting = [e for e, _ in self.mails.values() if e.id not in self.leased and not e.held]
        return sorted(waiting, key=lambda e: e.next_try)

    def claim(self, now: float, limit: int) -> list[Mail]:
        found = [e for e in self._waiting() if e.next_try <= now][:limit]
        self.leased.update(e.id for e in found)
        return [Mail(e, self.mails[e.id][1]) for e in found]

    def release(self, id: str, next_try: float | None = None) -> None:
        self.leased.discard(id)
        if next_try is not None:
            self.mails[id][0].next_try = next_try

    def next_due(self) -> float | None:
        return min((e.next_try for e in self._waiting()), default=None)


class Ours:
    """Domains: here.test is ours."""

    first = "here.test"

    def __init__(self, **domains: settings.Domain) -> None:
        self.domains = {"here.test": settings.Domain(transport="discard")}
        self.domains.update({name.replace("_", "."): domain for name, domain in domains.items()})

    def find(self, domain: str) -> settings.Domain | None:
        return self.domains.get(domain)

    def lists(self, address: Address) -> bool:
        return False


class Said:
    """Rules that are Python functions: `postq`, `delivery`."""

    def __init__(self, **stages: Callable[[Transaction], Verdict | None]) -> None:
        self.stages = frozenset(stages)
        self.folders = Folders(settings.Rules(path="/nowhere", domains="/nowhere"))
        self._rules = stages
        self.asked: list[str] = []

    def stages_of(self, file: str) -> frozenset[str]:
        return self.stages

    def run(self, stage: str, transaction: Transaction) -> Verdict:
        self.asked.append(stage)
        gevent.sleep(0)
        return (self._rules[stage](transaction) or Verdict("next"))._replace(stage=stage)


class Hands:
    now = 1_700_000_000.0


class Script:
    """A transport that answers what it is told: a Reply, or something to raise, by recipient."""

    name = "script"

    def __init__(self) -> None:
        self.says: dict[str, Reply | BaseException | list[Reply]] = {}
        self.delivered: list[tuple[str, bytes]] = []
        self.tries: list[tuple[str, float]] = []

    def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
        for recipient in recipients:
            name = str(recipient.address)
            self.tries.append((name, clock.now()))
            say = self.says.get(name, Reply(250, "2.0.0", "Ok"))
            if isinstance(say, list):
                say = say.pop(0) if len(say) > 1 else say[0]
            if isinstance(say, BaseException):
                raise say
            if say.positive:
                self.delivered.append((name, bytes(message)))
            yield Result(recipient, say, "mx.far.test [192.0.2.9]", said=True)


class House:
    """A queue with everything around it in the test's hands."""

    def __init__(
        self, made: settings.Settings | None = None, rules: Said | None = None, dns: str = "127.0.0.1:9"
    ) -> None:
        self.spool, self.rules, self.script, self.hands = Shelf(), rules, Script(), Hands()
        self.settings = made or settings.Settings(server=settings.Server(name="mx.here.test"))
        self.domains = Ours(**self.settings.domain)
        self.dns = dns
        self.count = 0
        self.lines: list[dict[str, Any]] = []
        self.scripted = True
        self.queue = self.open()

    def open(self) -> Queue:
        """A new process."""
        resolver = Resolver(settings.Dns(servers=[self.dns], timeout=PATIENCE))
        self.queue = Queue(self.settings, self.spool, lambda: self.rules, resolver, Ids(), self.domains)  # type: ignore[arg-type]
        if self.scripted:
            self.queue._transports[Route("smtp")] = self.script
        return self.queue

    def put(
        self, *names: str, sender: str = "ann@far.test", client: Client | None = USER, raw: bytes = RAW, **more: Any
    ) -> str:
        self.count += 1
        envelope = Envelope(
            f"w-1.{self.count}",
            parse(sender) if sender else Address(),
            [Recipient(parse(name)) for name in names],
            client,
            arrived=clock.now(),
            next_try=clock.now(),
            **more,
        )
        self.spool.commit(add=[Mail(envelope, Message(raw))])
        return envelope.id

    def run(self, until: Callable[[], bool] | None = None, seconds: float = PATIENCE) -> None:
        """Let the queue work until nothing is due."""
        if self.queue._claimer is None:
            self.queue.start()
        self.queue.wake()
        with gevent.Timeout(seconds):
            gevent.sleep(0.001)
            while not (until or self.quiet)():
                gevent.sleep(0.001)

    def quiet(self) -> bool:
        due = self.spool.next_due()
        return not self.queue._busy and (due is None or due > clock.now())

    def told(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def only(self) -> tuple[Envelope, bytes]:
        ((envelope, message),) = self.spool.mails.values()
        return envelope, bytes(message)

    def bounce(self) -> tuple[Envelope, email.message.EmailMessage]:
        (found,) = [mail for mail in self.spool.mails.values() if mail[0].origin]
        report = email.message_from_bytes(bytes(found[1]), policy=email.policy.default)
        assert isinstance(report, email.message.EmailMessage)
        return found[0], report


@pytest.fixture(autouse=True)
def hands() -> Iterator[Hands]:
    hands = Hands()
    old = clock.replace(clock.Clock(now=lambda: hands.now))
    yield hands
    clock.replace(old)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """All that is logged, checked against the list of events."""
    lines: list[dict[str, Any]] = []

    def event(event: str, **fields: Any) -> None:
        assert set(fields) <= set(events.EVENTS[event].fields.split()), event
        lines.append({"event": event, **{k: v for k, v in fields.items() if v not in (None, "")}})

    monkeypatch.setattr(log, "event", event)
    return lines


@pytest.fixture
def house(lines: list[dict[str, Any]]) -> Iterator[House]:
    house = House()
    house.lines = lines
    yield house
    house.queue.drain(0)
    if not house.told("bug"):
        return
    assert getattr(house, "bugs", False), house.told("bug")


NO = Reply(550, "5.1.1", "No such user")
LATER = Reply(451, "4.3.0", "Later")


def test_a_mail_is_delivered_logged_and_gone(house: House, hands: Hands) -> None:
    house.put("bob@far.test")
    hands.now += 2
    house.run()
    assert house.spool.mails == {} and house.spool.leased == set()
    assert house.script.delivered == [("bob@far.test", RAW)]
    (line,) = house.told("delivered")
    assert line.pop("ms") >= 0
    assert line == {
        "event": "delivered",
        "mail": "w-1.1",
        "sender": "ann@far.test",
        "recipient": "bob@far.test",
        "transport": "script",
        "host": "mx.far.test [192.0.2.9]",
        "attempts": 1,
        "reply": "250 2.0.0 Ok",
        "delay": 2.0,
    }
    assert house.queue.status()["delivered"] == 1


def test_mixed_outcomes_are_one_commit(house: House) -> None:
    house.script.says = {"no@far.test": NO, "later@far.test": LATER, "ann@far.test": LATER}
    house.put("bob@far.test", "no@far.test", "later@far.test", "joe@here.test")
    house.run()
    (added, settled, dropped) = house.spool.commits[1]
    assert len(added) == 1 and settled == ["w-1.1"] and dropped == []
    left = house.spool.mails["w-1.1"][0]
    assert [str(r.address) for r in left.recipients] == ["later@far.test"]
    assert (left.attempts, left.recipients[0].attempts, left.recipients[0].reply) == (1, 1, "451 4.3.0 Later")
    assert clock.now() + 60 <= left.next_try <= clock.now() + 66
    assert left.postq
    envelope, report = house.bounce()
    assert envelope.sender == Address() and str(envelope.recipients[0].address) == "ann@far.test"
    words = next(report.iter_parts()).get_content()
    assert "<no@far.test>" in words and "later@far.test" not in words
    assert len(house.told("delivered")) >= 2
    assert house.told("deferred")[0]["next_try"] == pytest.approx(left.next_try, abs=0.01)
    assert house.told("failed")[0]["reply"] == "550 5.1.1 No such user"
    assert house.told("bounced")[0]["bounce"] == envelope.id


def test_only_who_is_left_is_tried_again_and_what_expires_bounces(house: House, hands: Hands) -> None:
    house.script.says = {"later@far.test": LATER}
    house.put("bob@far.test", "later@far.test")
    began = hands.now
    house.run()
    while (due := house.spool.next_due()) is not None and "w-1.1" in house.spool.mails:
        hands.now = due
        house.run()
    tries = [at - began for name, at in house.script.tries if name == "later@far.test"]
    assert [name for name, _ in house.script.tries].count("bob@far.test") == 1
    assert tries[-1] == 5 * 86400
    assert len(tries) > 20
    assert house.told("failed")[0]["attempts"] == len(tries)
    (raw,) = [raw for name, raw in house.script.delivered if name == "ann@far.test"]
    words = next(email.message_from_bytes(raw, policy=email.policy.default).iter_parts()).get_content()  # type: ignore[attr-defined]
    assert f"It was tried {len(tries)} times in 5 days." in words
    assert "mx.far.test [192.0.2.9] answered:" in words
    assert house.spool.mails == {}


def test_waits_follow_the_settings(lines: list[dict[str, Any]], hands: Hands) -> None:
    house = House(settings.Settings(queue=settings.Queue(retry=["10s", "1m"], expire=200)))
    house.script.says = {"later@far.test": LATER}
    house.put("later@far.test", sender="")
    began = hands.now
    while (due := house.spool.next_due()) is not None:
        hands.now = due
        house.run()
    tries = [at - began for _, at in house.script.tries]
    assert 10 <= tries[1] <= 11 and 60 <= tries[2] - tries[1] <= 66
    assert tries[-1] == 200
    house.queue.drain(0)


def test_the_null_sender_is_never_told(house: House) -> None:
    house.script.says = {"no@far.test": NO}
    house.put("no@far.test", sender="")
    house.run()
    assert house.spool.mails == {}
    assert house.told("dropped")[0]["recipients"] == ["no@far.test"]
    assert not house.told("bounced")


def test_a_bounce_that_fails_is_the_end_of_it(house: House) -> None:
    house.script.says = {"no@far.test": NO, "ann@far.test": NO}
    house.put("no@far.test")
    house.run()
    assert house.spool.mails == {}
    assert len(house.told("bounced")) == len(house.told("dropped")) == 1


def test_a_held_mail_stays(house: House) -> None:
    house.put("bob@far.test", held="quarantine virus")
    house.run()
    assert house.script.tries == [] and len(house.spool.mails) == 1


def test_a_bug_in_a_transport_delays_and_loses_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(log, "bug", lambda error, **_: bugs.append(error))
    house.script.says = {"eve@far.test": KeyError("oops")}
    house.put("bob@far.test", "eve@far.test", "joe@far.test")
    house.run()
    left = house.only()[0]
    assert [str(r.address) for r in left.recipients] == ["eve@far.test", "joe@far.test"]
    assert left.recipients[0].reply.startswith("451 4.3.0 Local trouble")
    assert [repr(b) for b in bugs] == ["KeyError('oops')"]


def test_who_hangs_for_long_gives_its_place_to_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a stranger whose servers answer slowly holds up the mail of all others."""
    monkeypatch.setattr(queue, "SLOW", -1.0)
    monkeypatch.setattr(queue, "SLOW_ONES", 2)
    house.settings = settings.Settings(queue=settings.Queue(concurrency=3))
    house.open()
    over = Event()
    monkeypatch.setattr(house.script, "deliver", lambda *_: over.wait() and ())
    for n in range(3):
        house.put(f"u{n}@slow.test")
    house.queue.start()
    house.queue._sweeper.stop()  # only when we say so
    house.run(lambda: house.queue._busy == 3)
    good = house.put("bob@here.test")
    gevent.sleep(0.02)
    assert good in house.spool.mails
    house.queue._sweep()
    house.run(lambda: good not in house.spool.mails)
    for n in range(20):
        house.put(f"v{n}@slow.test")
    for _ in range(10):
        house.queue._sweep()
        gevent.sleep(0.005)
    assert house.queue._busy == 9, "as many as may have given it away, and those that have a place"
    first, over = over, Event()
    first.set()
    tried = lambda: sum(envelope.attempts for envelope, _ in house.spool.mails.values())  # noqa: E731
    house.run(lambda: tried() == 9 and house.queue._parked and not house.queue._woken)
    assert house.queue._busy <= 3, "they have taken their places with them"
    over.set()
    house.run(lambda: not house.queue._busy)
    assert house.queue._slow == 0 and not house.queue._began


def test_a_transport_that_forgets_or_repeats_recipients(house: House) -> None:
    class Sloppy:
        name = "sloppy"

        def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
            for _ in range(2):
                yield Result(recipients[0], Reply(250, "2.0.0", "Ok"))

    house.queue._transports[Route("smtp")] = Sloppy()
    house.put("bob@far.test", "eve@far.test")
    house.run()
    assert [str(r.address) for r in house.only()[0].recipients] == ["eve@far.test"]
    assert len(house.told("delivered")) == 1


def test_a_bug_of_ours_leaves_the_mail_as_it_is(house: House, monkeypatch: pytest.MonkeyPatch, hands: Hands) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(log, "bug", lambda error, **_: bugs.append(error))
    monkeypatch.setattr(house.queue._courier._router, "groups", lambda _: 1 / 0)
    house.put("bob@far.test")
    house.run()
    monkeypatch.undo()
    left = house.only()[0]
    assert left.next_try == hands.now + queue.BROKEN and house.spool.leased == set()
    assert len(bugs) == 1


def test_a_transport_nobody_built_delays(house: House) -> None:
    house.put("bob@far.test")
    house.spool.mails["w-1.1"][0].recipients[0].route = Route("pigeon")
    house.run()
    assert house.only()[0].recipients[0].reply.startswith("451 4.3.5")
    assert "pigeon" in house.told("deferred")[0]["reason"]


def test_a_full_disk_loses_nothing_and_delivers_nothing_twice(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(courier.offload, "pause", lambda seconds: (pauses.append(seconds), gevent.sleep(0.001)))
    house.script.says = {"later@far.test": LATER}
    house.put("bob@far.test", "later@far.test")
    full = [Refused("452 4.3.1 Full")] * 8
    house.spool.breaks = iter([*full, None])
    house.run()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [name for name, _ in house.script.tries] == ["bob@far.test", "later@far.test"]
    assert [str(r.address) for r in house.only()[0].recipients] == ["later@far.test"]


@pytest.mark.parametrize("point", range(6))
@pytest.mark.parametrize("where", ["breaks", "after"])
def test_dying_at_any_commit_repeats_at_most(
    lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, point: int, where: str
) -> None:
    """The process ends before or after its n-th commit; the next one finds what is on the shelf."""
    rules = Said(postq=lambda t: (t.message.headers.append("X-Seen", "1"), None)[1])  # type: ignore[union-attr]
    house = House(rules=rules)
    house.script.says = {"no@far.test": NO, "later@far.test": [LATER, Reply(250, "2.0.0", "Ok")]}
    monkeypatch.setattr(get_hub_class(), "handle_error", lambda *_: None)  # the greenlet dies with its process
    house.put("bob@far.test", "no@far.test", "later@far.test")
    ended: list[bool] = []

    def deeds() -> Iterator[BaseException | None]:
        yield from [None] * point
        ended.append(True)
        yield Ended()

    setattr(house.spool, where, deeds())
    house.run(lambda: bool(ended) or house.quiet())
    house.queue._draining = True
    house.spool.leased.clear()
    house.spool.breaks = house.spool.after = itertools.repeat(None)
    house.open()
    house.run()
    for mail in house.spool.mails.values():
        mail[0].next_try = clock.now()
    house.run()
    assert house.spool.mails == {}
    names = [name for name, _ in house.script.delivered]
    assert {"bob@far.test", "later@far.test", "ann@far.test"} == set(names)
    assert all(1 <= names.count(name) <= 2 for name in names)
    mails = [raw for name, raw in house.script.delivered if name == "bob@far.test"]
    assert all(raw.count(b"X-Seen: 1") == 1 for raw in mails)
    house.queue.drain(0)


def get_hub_class() -> type:
    return type(gevent.get_hub())


# -- rules -----------------------------------------------------------------------------------------------------------


def ruled(house: House, **stages: Callable[[Transaction], Verdict | None]) -> Said:
    house.rules = Said(**stages)
    return house.rules


def test_postq_speaks_once_and_what_it_changed_is_kept_before_delivery(house: House, hands: Hands) -> None:
    def postq(t: Transaction) -> None:
        assert t.message is not None and (t.session, t.mail_id, t.user, t.helo) == ("w-1", "w-1.1", "ann", "there")
        assert [str(r) for r in t.recipients] == ["later@far.test"] and t.recipient is None
        t.message.headers.append("X-Rule", "was here")
        t.vars = {**t.vars, "n": 1}

    rules = ruled(house, postq=postq)
    house.script.says = {"later@far.test": [LATER, Reply(250, "2.0.0", "Ok")]}
    house.put("later@far.test")
    house.run()
    assert house.spool.commits[1:] == [([], ["w-1.1"], []), ([], ["w-1.1"], [])]
    envelope, raw = house.only()
    assert envelope.postq and envelope.vars == {"n": 1} and b"X-Rule: was here\r\n\r\nbody" in raw
    hands.now = envelope.next_try
    house.run()
    assert rules.asked == ["postq"]
    assert house.script.delivered[0][1].count(b"X-Rule") == 1


def test_postq_that_changes_nothing_costs_no_commit(house: House) -> None:
    ruled(house, postq=lambda t: None)
    house.put("bob@far.test")
    house.run()
    assert len(house.spool.commits) == 2


def test_what_delivery_changes_is_for_that_attempt_only_but_what_it_remembers_lasts(house: House, hands: Hands) -> None:
    def delivery(t: Transaction) -> None:
        assert t.message is not None
        t.message.headers.append("X-To", ",".join(str(r) for r in t.recipients))
        t.vars = {"asked": int(str(t.vars.get("asked", 0))) + 1}

    rules = ruled(house, delivery=delivery)
    house.script.says = {"later@far.test": [LATER, Reply(250, "2.0.0", "Ok")]}
    house.put("later@far.test", "joe@here.test", "bob@far.test")
    house.run()
    assert rules.asked == ["delivery"] * 2  # a destination each
    envelope, raw = house.only()
    assert raw == RAW and envelope.vars == {"asked": 2}
    hands.now = envelope.next_try
    house.run()
    assert [raw.count(b"X-To") for _, raw in house.script.delivered] == [1, 1]
    assert b"X-To: later@far.test\r\n" in house.script.delivered[1][1]


def test_nobody_hears_of_a_copy_that_fails(house: House) -> None:
    no = Reply(550, "5.1.1", "No such mailbox")
    house.script.says = {name: [no] for name in ("bob@far.test", "archive@far.test", "vault@far.test")}
    both, alone = house.put("bob@far.test", "archive@far.test"), house.put("vault@far.test")
    for id in (both, alone):
        house.spool.mails[id][0].recipients[-1].notify = "never"
    house.run()
    assert {line["recipient"] for line in house.told("failed")} == set(house.script.says)
    (bounced,), (dropped,) = house.told("bounced"), house.told("dropped")
    assert bounced["mail"] == both and bounced["recipients"] == ["bob@far.test"]
    assert dropped["mail"] == alone and "of which the sender is not told" in dropped["reason"]
    (about,) = [raw for name, raw in house.script.delivered if name == "ann@far.test"]
    assert b"bob@far.test" in about and b"archive" not in about and b"vault" not in about


def test_a_copy_nobody_hears_of_stays_one_when_postq_edits(house: House) -> None:
    def postq(t: Transaction) -> None:
        t.recipients.append(Address("joe", "here.test"))
        t.edited = True

    ruled(house, postq=postq)
    house.script.says = {"vault@far.test": [Reply(450, "4.2.0", "Later")] * 2}
    house.spool.mails[house.put("bob@far.test", "vault@far.test")][0].recipients[-1].notify = "never"
    house.run()
    (left,) = house.only()[0].recipients
    assert (str(left.address), left.heard) == ("vault@far.test", False)


def test_faccept_ends_all_later_stages(house: House) -> None:
    rules = ruled(house, postq=lambda t: Verdict("faccept", rule="r", where="main.lua:1"), delivery=lambda t: 1 / 0)  # type: ignore[arg-type]
    house.put("bob@far.test")
    house.put("eve@far.test", accepted=True)
    house.run()
    assert rules.asked == ["postq"]
    assert len(house.script.delivered) == 2


@pytest.mark.parametrize("stage", ["postq", "delivery"])
class TestVerdicts:
    def test_deny_bounces_the_mail_of_our_own_people(self, house: House, stage: str) -> None:
        deny = Verdict("deny", Reply(554, "5.7.1", "Not that"), rule="no way", where="main.lua:7")
        ruled(house, **{stage: lambda t: deny if t.user else None})
        house.put("bob@far.test", "eve@far.test")
        house.run()
        assert {name for name, _ in house.script.delivered} == {"ann@far.test"}
        assert [(line["stage"], line["where"]) for line in house.told("failed")] == [(stage, "main.lua:7")] * 2
        assert b"554 5.7.1 Not that" in house.script.delivered[0][1]

    def test_deny_holds_the_mail_of_a_stranger(self, house: House, stage: str) -> None:
        ruled(
            house, **{stage: lambda t: Verdict("deny", Reply(554, "5.7.1", "Not that"), rule="r", where="main.lua:7")}
        )
        house.put("bob@far.test", client=STRANGER)
        house.run()
        envelope = house.only()[0]
        assert envelope.held == "quarantine denied" and len(envelope.recipients) == 1 and envelope.postq
        assert house.told("held")[0]["reason"] == "quarantine denied: 554 5.7.1 Not that"
        assert not house.told("bounced")

    def test_deny_bounces_strangers_when_told_to(self, lines: list[dict[str, Any]], stage: str) -> None:
        house = House(settings.Settings(rules=settings.Rules(bounce_strangers=True)))
        house.lines = lines
        ruled(house, **{stage: lambda t: Verdict("deny") if t.client.ip else None})
        house.put("bob@far.test", client=STRANGER)
        house.run()
        assert {name for name, _ in house.script.delivered} == {"ann@far.test"}
        house.queue.drain(0)

    def test_defer_is_tried_again_and_asked_again(self, house: House, hands: Hands, stage: str) -> None:
        verdicts = iter([Verdict("defer", Reply(450, "4.7.1", "Not yet")), None])

        def asked(t: Transaction) -> Verdict | None:
            assert t.message is not None
            t.message.headers.append("X-N", "1")
            t.vars = {"asked": True}
            return next(verdicts)

        rules = ruled(house, **{stage: asked})
        house.put("bob@far.test")
        house.run()
        envelope, raw = house.only()
        assert envelope.recipients[0].reply == "450 4.7.1 Not yet" and envelope.attempts == 1 and raw == RAW
        assert envelope.vars == {"asked": True}
        hands.now = envelope.next_try
        house.run()
        assert rules.asked == [stage] * 2
        assert house.script.delivered[0][1].count(b"X-N") == 1

    def test_quarantine(self, house: House, stage: str) -> None:
        ruled(house, **{stage: lambda t: Verdict("quarantine", folder="virus", rule="r", where="main.lua:3")})
        house.put("bob@far.test", "eve@far.test")
        house.run()
        assert house.only()[0].held == "quarantine virus"
        assert house.told("held")[0] == {
            "event": "held",
            "mail": "w-1.1",
            "sender": "ann@far.test",
            "recipients": ["bob@far.test", "eve@far.test"],
            "reason": "quarantine virus",
            "stage": stage,
            "rule": "r",
            "where": "main.lua:3",
        }
        assert not house.script.tries

    def test_discard(self, house: House, stage: str) -> None:
        ruled(house, **{stage: lambda t: Verdict("discard", rule="r", where="main.lua:3")})
        house.put("bob@far.test")
        house.run()
        assert house.spool.mails == {} and not house.script.tries and not house.told("bounced")
        assert house.told("discarded")[0]["stage"] == stage

    def test_a_rule_that_breaks_like_a_bug_keeps_the_mail(
        self, house: House, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bugs: list[BaseException] = []
        monkeypatch.setattr(log, "bug", lambda error, **_: bugs.append(error))
        ruled(house, **{stage: lambda t: 1 / 0})  # type: ignore[arg-type,return-value]
        house.put("bob@far.test")
        house.run()
        assert house.only()[1] == RAW and len(bugs) == 1 and not house.script.tries


def test_recipients_a_rule_holds_part_from_those_that_wait(house: House) -> None:
    def delivery(t: Transaction) -> Verdict | None:
        return Verdict("quarantine", folder="odd") if t.recipients[0].domain == "here.test" else None

    ruled(house, delivery=delivery)
    house.script.says = {"later@far.test": LATER}
    house.put("later@far.test", "joe@here.test", "bob@far.test")
    house.run()
    held, waiting = sorted(house.spool.mails.values(), key=lambda mail: mail[0].held == "")
    assert [str(r.address) for r in held[0].recipients] == ["joe@here.test"]
    assert (held[0].held, held[0].origin, bytes(held[1])) == ("quarantine odd", "w-1.1", RAW)
    assert [str(r.address) for r in waiting[0].recipients] == ["later@far.test"]
    assert len(house.spool.commits) == 2


# -- many at once ----------------------------------------------------------------------------------------------------


def test_no_more_than_the_settings_allow_at_once(lines: list[dict[str, Any]]) -> None:
    house = House(settings.Settings(queue=settings.Queue(concurrency=7)))
    now = most = 0

    class Slow:
        name = "slow"

        def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
            nonlocal now, most
            now += 1
            most = max(most, now)
            gevent.sleep(0.002)
            now -= 1
            yield Result(recipients[0], Reply(250, "2.0.0", "Ok"))

    house.queue._transports[Route("smtp")] = Slow()
    for _ in range(100):
        house.put("bob@far.test")
    house.run()
    assert house.spool.mails == {} and most == 7
    house.queue.drain(0)


def test_mail_that_comes_while_the_queue_sleeps_is_delivered_at_once(house: House) -> None:
    house.run()
    for n in range(50):
        house.put("joe@here.test")
        if n % 10 == 0:
            gevent.sleep(0.002)
    with gevent.Timeout(PATIENCE):
        while house.spool.mails:
            gevent.sleep(0.001)


def test_what_becomes_due_is_tried_without_a_word_from_the_spool(lines: list[dict[str, Any]]) -> None:
    clock.replace(clock.Clock())
    house = House(settings.Settings(queue=settings.Queue(retry=["100ms"])))
    house.script.says = {"later@far.test": [LATER, LATER, Reply(250, "2.0.0", "Ok")]}
    house.put("later@far.test")
    house.spool.on_due = None
    house.run(lambda: not house.spool.mails)
    assert len(house.script.tries) == 3
    house.queue.drain(0)


def test_a_claim_that_fails_is_tried_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(log, "bug", lambda error, **_: bugs.append(error))
    real, fails = house.spool.claim, iter([OSError("disk")])

    def claim(now: float, limit: int) -> list[Mail]:
        for error in fails:
            raise error
        return real(now, limit)

    house.spool.claim = claim  # type: ignore[method-assign]
    house.put("bob@far.test")
    house.run(lambda: not house.spool.mails)
    assert len(bugs) == 1


def test_places_that_become_free_while_the_spool_is_read_are_used(
    lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(settings.Settings(queue=settings.Queue(concurrency=2)))
    real = house.spool.claim

    def claim(now: float, limit: int) -> list[Mail]:
        found = real(now, limit)
        gevent.sleep(0.005)
        return found

    pauses = itertools.cycle([0.001, 0.003])

    class Uneven:
        name = "uneven"

        def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
            gevent.sleep(next(pauses))
            yield Result(recipients[0], Reply(250, "2.0.0", "Ok"))

    house.queue._transports[Route("smtp")] = Uneven()
    monkeypatch.setattr(house.spool, "claim", claim)
    for _ in range(10):
        house.put("bob@far.test")
    house.queue.start()
    house.spool.on_due = None
    with gevent.Timeout(PATIENCE):
        while house.spool.mails:
            gevent.sleep(0.005)
    house.queue.drain(PATIENCE)


def test_a_claim_that_ends_during_a_drain_delivers_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    real, draining = house.spool.claim, Event()
    monkeypatch.setattr(house.spool, "claim", lambda now, limit: (real(now, limit), draining.wait())[0])
    house.put("bob@far.test")
    house.queue.start()
    until(lambda: house.spool.leased == {"w-1.1"})
    drained = gevent.spawn(house.queue.drain, PATIENCE)
    gevent.sleep(0)
    draining.set()
    assert drained.get()
    assert house.spool.leased == set() and not house.script.tries and len(house.spool.mails) == 1


def test_drain_finishes_what_is_under_way_and_begins_nothing(house: House) -> None:
    told = Event()

    class Slow:
        name = "slow"

        def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
            told.wait()
            yield Result(recipients[0], Reply(250, "2.0.0", "Ok"))

    house.queue._transports[Route("smtp")] = Slow()
    house.put("bob@far.test")
    house.run(lambda: house.queue._busy == 1)
    assert not house.queue.drain(0)
    told.set()
    assert house.queue.drain(PATIENCE)
    assert house.spool.mails == {}
    house.put("eve@far.test")
    gevent.sleep(0.01)
    assert len(house.spool.mails) == 1


# -- the real transports -----------------------------------------------------------------------------------------------


def test_from_the_spool_to_a_maildir_and_to_another_server(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    with FakeSmtp({"RCPT TO:<no@far.test>": "550 5.1.1 No such user"}) as far, FakeDns({}) as dns:
        dns.zone["far.test"] = {"A": ["127.0.0.1"]}
        made = settings.Settings(
            server=settings.Server(name="mx.here.test"),
            queue=settings.Queue(port=far.port, reply_timeout=PATIENCE),
            domain={"box.test": settings.Domain(path=f"{tmp_path}/{{domain}}/{{local_part}}")},
        )
        house = House(made, dns=dns.server)
        house.lines, house.scripted = lines, False
        house.open()
        house.put("joe@box.test", "bob@far.test", "no@far.test", sender="ann@box.test")
        house.run()
        assert house.spool.mails == {}
        assert [mail[:2] for mail in far.mails] == [("ann@box.test", ["bob@far.test"])]
        assert bytes(mailbox.Maildir(tmp_path / "box.test/joe").popitem()[1]).endswith(b"\nbody\n")
        bounce = mailbox.Maildir(tmp_path / "box.test/ann").popitem()[1]
        assert bounce["Return-Path"] == "<>" and bounce["Subject"] == "Your mail to no@far.test could not be delivered"
        assert {line["transport"] for line in house.told("delivered")} == {"maildir", "smtp"}
        house.queue.drain(PATIENCE)


@pytest.fixture(params=["memory", "journal"])
def real_spool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemorySpool()
        return
    (tmp_path / "spool").mkdir()
    made = JournalSpool(settings.Spool(path=str(tmp_path / "spool"), segment=1 << 20, min_free=0), Ids().writer)
    yield made
    made.close()


def test_the_real_spools(lines: list[dict[str, Any]], real_spool: Any) -> None:
    """Some hundred mails, some served, some failed, some tried again, over the spools that ship."""
    clock.replace(clock.Clock())
    ruled = Said(postq=lambda t: (t.message.headers.append("X-Rule", "1"), None)[1])  # type: ignore[union-attr]
    house = House(settings.Settings(queue=settings.Queue(retry=["100ms"])), rules=ruled)
    house.lines, house.spool = lines, real_spool
    house.open()
    ok = Reply(250, "2.0.0", "Ok")
    house.script.says = {"no@far.test": NO}
    house.script.says.update({f"later{n}@far.test": [LATER, ok] for n in range(100)})
    house.queue.start()
    puts = [gevent.spawn(house.put, "bob@far.test", "no@far.test", f"later{n}@far.test", sender="") for n in range(100)]
    puts += [gevent.spawn(house.put, "joe@here.test", client=USER) for _ in range(100)]
    gevent.joinall(puts, raise_error=True)
    with gevent.Timeout(PATIENCE):
        while list(real_spool.find()):
            gevent.sleep(0.01)
    names = [name for name, _ in house.script.delivered]
    assert sorted(names) == sorted(["bob@far.test"] * 100 + [f"later{n}@far.test" for n in range(100)])
    assert all(raw.count(b"X-Rule: 1\r\n") == 1 for _, raw in house.script.delivered)
    assert len(house.told("dropped")) == len(house.told("deferred")) == 100
    assert house.queue.drain(PATIENCE)
