"""Every step of the spool's disk is recorded; whatever a power cut after any of them may leave is recovered.

A mail that was acknowledged must be there whole, as last acknowledged or as a commit under way would have made it; what
was dropped and acknowledged must not come back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
from receiving import until

from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Refused
from mta.net import offload
from mta.settings import Spool as Settings
from mta.spool import contents, keeping
from mta.spool.bodies import Bodies
from mta.spool.disk import Disk
from mta.spool.journal import JournalSpool
from mta.spool.reading import Job
from mta.spool.recovery import Recovered, recover
from mta.spool.spool import Mail, Settled

from .virtual import Virtual, states

SPOOL = "/spool"
SEGMENT = 6 * 4096

Version = tuple[float, bytes] | None  # next_try as a version number, the content; None: gone


class Ledger:
    """What was begun and what was acknowledged, as marks among the disk's steps."""

    def __init__(self, disk: Virtual) -> None:
        self.disk = disk
        self._version = 0.0

    def commit(
        self,
        spool: JournalSpool,
        add: dict[str, Message] | None = None,
        settle: dict[str, Message | None] | None = None,
        drop: tuple[str, ...] = (),
        before: dict[str, bytes] | None = None,
    ) -> bool:
        self._version += 1
        version = self._version
        versions: dict[str, Version] = {id: (version, bytes(m)) for id, m in (add or {}).items()}
        for id, message in (settle or {}).items():
            versions[id] = (version, (before or {})[id] if message is None else bytes(message))
        versions.update(dict.fromkeys(drop))
        self.disk.mark(("begun", versions))
        try:
            spool.commit(
                add=[Mail(envelope(id, version), m) for id, m in (add or {}).items()],
                settle=[Settled(envelope(id, version), m) for id, m in (settle or {}).items()],
                drop=drop,
            )
        except Refused:
            self.disk.mark(("refused", versions))
            return False
        self.disk.mark(("acknowledged", versions))
        return True


def envelope(id: str, version: float) -> Envelope:
    recipients = [Recipient(Address("bob", "b.test"), reply="x" * int(version * 37 % 300))]
    return Envelope(id=id, sender=Address("ann", "a.test"), recipients=recipients, next_try=version)


def allowed(marks: list[Any]) -> dict[str, list[Version]]:
    """For each mail what it may be: as last acknowledged, or as begun since then."""
    may: dict[str, list[Version]] = {}
    for word, versions in marks:
        for id, version in versions.items():
            if word == "begun":
                may.setdefault(id, [None]).append(version)
            elif word == "acknowledged":
                rest = may[id]
                may[id] = rest[rest.index(version) :]
    return may


def contents_of(disk: Disk, found: Recovered) -> dict[str, Version]:
    bodies = Bodies(disk, SPOOL, "x", 1 << 20)
    bodies.where.update(found.files)
    at = found.segments.at
    jobs = [Job(e.id, at(e.at), at(e.content)) for e in found.entries.values()]
    there: dict[str, Version] = {}
    for job, mail in zip(jobs, contents.mails(disk, bodies, jobs), strict=True):
        assert not isinstance(mail, OSError), f"{job.id}: {mail}"
        there[job.id] = mail[0].next_try, bytes(mail[1])
    return there


def everything(disk: Disk) -> dict[str, Version]:
    there: dict[str, Version] = {}
    for name in disk.listed(SPOOL)[1]:
        if not name.startswith("."):
            found = recover(disk, f"{SPOOL}/{name}")
            there.update(contents_of(disk, found))
    return there


def check(there: dict[str, Version], may: dict[str, list[Version]], where: str) -> None:
    for id, versions in may.items():
        got = there.get(id)
        if got not in versions:
            short = [v and (v[0], len(v[1])) for v in versions]
            raise AssertionError(f"{where}: {id} is {got and (got[0], len(got[1]))}, may be {short}")
    assert set(there) <= set(may), where


def work(disk: Virtual, seed: int, commits: int, fail: Callable[[str, str], Any] | None = None) -> JournalSpool:
    """A spool that has lived: adds, settles, drops, bounces, body files, from several greenlets."""
    disk.make_folder(SPOOL)
    disk.steps.clear()
    disk.begun_with = disk.state.copy()
    spool = JournalSpool(Settings(path=SPOOL, segment=SEGMENT, min_free=1000, large=8000), f"w{seed}", disk)
    spool._keeper.rate = 1e12
    disk.fail = fail
    ledger = Ledger(disk)
    dice = random.Random(seed)
    count = [0]

    def new() -> tuple[str, Message]:
        count[0] += 1
        id = f"w{seed}-{count[0]}.1"
        text = (
            f"Subject: {id}\r\n\r\n".encode()
            + dice.randbytes(dice.choice([10, 500, 3000, 5000, 9000, 14_000])).hex().encode()
        )
        message = Message(text)
        if dice.random() < 0.15:
            body = spool.body()
            try:
                body.write(text)
                message = body.finish()
            except Refused:
                body.discard()
        message.headers.prepend("Received", f"from nowhere as {id}")
        return id, message

    def live(left: int) -> None:
        mine: dict[str, bytes] = {}
        for _ in range(left):
            old = dice.choice(list(mine)[1:]) if len(mine) > 1 else ""  # the first one lives long, and is carried on
            do = dice.random() if len(mine) < 3 else 0.65 + dice.random() / 3
            if do < 0.45 or not old:
                id, message = new()
                if ledger.commit(spool, add={id: message}):
                    mine[id] = bytes(message)
            elif do < 0.60:
                ledger.commit(spool, settle={old: None}, before={old: mine[old]})
            elif do < 0.65:
                id, message = new()
                if ledger.commit(spool, settle={old: message}):
                    mine[old] = bytes(message)
            elif do < 0.75:
                id, message = new()
                if ledger.commit(spool, add={id: message}, drop=(old,)):
                    del mine[old]
                    mine[id] = bytes(message)
            elif ledger.commit(spool, drop=(old,)):
                del mine[old]
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(live, commits // 4) for _ in range(4)], raise_error=True)
    until(partial(tidy, spool))
    disk.fail = None
    return spool


def tidy(spool: JournalSpool) -> bool:
    return not spool._keeper._running


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOOK", 1)


def prefixes(seed: int, commits: int, subsets: int, every: int, fail: Callable[[str, str], Any] | None = None) -> int:
    disk = Virtual()
    spool = work(disk, seed, commits, fail)
    check(everything(disk), allowed([s.what for s in disk.steps if s.kind == "mark"]), "at the end")
    dice = random.Random(seed)
    n, last, may = 0, -1, dict[str, list[Version]]()
    for left in states(disk, dice, subsets=subsets, every=every):
        if left.after != last:
            last, may = left.after, allowed(left.marks)
        check(everything(Virtual(left.state)), may, f"seed {seed}, cut after step {left.after}, {left.how}")
        n += 1
    spool.close()
    return n


def test_every_prefix() -> None:
    assert prefixes(seed=1, commits=40, subsets=50, every=1) > 3000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 14))
def test_every_prefix_long(seed: int) -> None:
    assert prefixes(seed, commits=200, subsets=50, every=1) > 10_000


def test_cut_while_closing() -> None:
    disk = Virtual()
    spool = work(disk, 7, 40)
    ledger = Ledger(disk)
    ledger._version = 1e6
    for e in list(spool.find()):
        ledger.commit(spool, drop=(e.id,))
    begun = len(disk.steps)
    spool.close()
    assert disk.listed(SPOOL) == ([], [])
    for left in states(disk, random.Random(7), subsets=10):
        if left.after >= begun:
            check(everything(Virtual(left.state)), allowed(left.marks), f"cut after step {left.after}, {left.how}")


def failing(seed: int) -> Callable[[str, str], Any]:
    """A disk that now and then says no, or writes only a part."""
    dice = random.Random(seed)

    def fail(kind: str, path: str) -> Any:
        if "in-hand" in path or kind in ("open", "read"):
            return None
        if dice.random() < 0.06:
            return OSError(dice.choice([5, 28]), "told to fail") if dice.random() < 0.7 else dice.randrange(5000)
        return None

    return fail


def test_every_prefix_on_a_failing_disk() -> None:
    assert prefixes(seed=3, commits=48, subsets=2, every=3, fail=failing(3)) > 300


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20, 40))
def test_every_prefix_on_a_failing_disk_long(seed: int) -> None:
    assert prefixes(seed, commits=120, subsets=20, every=2, fail=failing(seed)) > 1000


def adopted(disk: Virtual, name: str) -> JournalSpool:
    spool = JournalSpool(Settings(path=SPOOL, segment=SEGMENT, min_free=1000), name, disk)
    spool._keeper.rate = 1e12
    for folder in disk.listed(SPOOL)[1]:
        if folder != name:
            assert spool.adopt(f"{SPOOL}/{folder}")
    return spool


def claimed(spool: JournalSpool) -> dict[str, Version]:
    return {m.envelope.id: (m.envelope.next_try, bytes(m.message)) for m in spool.claim(1e9, 10_000)}


def adoptions(seed: int, commits: int, every: int, inner: int) -> None:
    """Adopt what a cut left, go on working, cut again at every step of that, and adopt once more."""
    first = Virtual()
    work(first, seed, commits).close()
    dice = random.Random(seed)
    for left in states(first, dice, subsets=1, every=every):
        may = allowed(left.marks)
        disk = Virtual(left.state)
        spool = adopted(disk, "next")
        there = claimed(spool)
        check(there, may, f"seed {seed}, adopted after step {left.after}, {left.how}")
        ledger, ids = Ledger(disk), sorted(there)
        ledger._version = 1e6
        for id in ids[::2]:
            ledger.commit(spool, drop=(id,))
        for id in ids[1::2]:
            version = there[id]
            assert version is not None
            ledger.commit(spool, settle={id: None}, before={id: version[1]})
        until(partial(tidy, spool))
        spool._batch.close()
        for again in states(disk, dice, subsets=1, every=inner):
            known: dict[str, list[Version]] = {id: [version] for id, version in there.items()}
            for id, versions in allowed(again.marks).items():
                began = [*known[id], *versions[1:]] if versions[0] is None and len(versions) > 1 else versions
                known[id] = began
            for word, versions_ in again.marks:
                if word == "acknowledged":
                    for id in versions_:
                        known[id] = [versions_[id]]
            check(everything(Virtual(again.state)), known, f"seed {seed}, {left.after}, then {again.after} {again.how}")
        offload.pause(0)


def test_cut_while_adopting() -> None:
    adoptions(seed=5, commits=40, every=100, inner=6)


@pytest.mark.long
def test_cut_while_adopting_long() -> None:
    adoptions(seed=6, commits=120, every=40, inner=2)
