"""What every spool promises, checked on the journal and on the one in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from mta.message.address import Address
from mta.message.envelope import Client, Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Refused
from mta.settings import Spool as Settings
from mta.spool.journal import JournalSpool
from mta.spool.memory import MemorySpool
from mta.spool.spool import Mail, Settled, Spool

RAW = b"From: ann@a.test\r\nSubject: one\r\n\r\nA body.\r\n"


@pytest.fixture(params=["journal", "memory"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spool]:
    made: Spool
    if request.param == "journal":
        made = JournalSpool(Settings(path=str(tmp_path), segment=1 << 20, min_free=0), "aaaaaaaaaa")
    else:
        made = MemorySpool()
    yield made
    made.close()


def envelope(id: str, next_try: float = 0.0, **more: object) -> Envelope:
    fields = {"sender": Address("ann", "a.test"), "recipients": [Recipient(Address("bob", "b.test"))], **more}
    return Envelope(id=id, next_try=next_try, **fields)  # type: ignore[arg-type]


def mail(id: str, next_try: float = 0.0, raw: bytes = RAW, **more: object) -> Mail:
    return Mail(envelope(id, next_try, **more), Message(raw))


def claimed(spool: Spool, now: float = 100.0, limit: int = 100) -> list[str]:
    return [m.envelope.id for m in spool.claim(now, limit)]


def test_what_was_added_is_claimed_as_it_was(spool: Spool) -> None:
    there = mail(
        "a-1.1", vars={"score": 3, "names": ["x", None]}, client=Client(ip="192.0.2.1", helo="h"), origin="o-1"
    )
    spool.commit(add=[there])
    (got,) = spool.claim(100.0, 10)
    assert got.envelope == there.envelope
    assert bytes(got.message) == RAW
    assert bytes(spool.open("a-1.1")) == RAW
    assert list(spool.find()) == [there.envelope]


def test_a_mail_is_claimed_once_until_it_is_given_back(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1")])
    assert claimed(spool) == ["a-1.1"]
    assert claimed(spool) == []
    spool.release("a-1.1")
    assert claimed(spool) == ["a-1.1"]
    spool.release("a-1.1", 200.0)
    assert claimed(spool, 199.0) == []
    assert spool.next_due() == 200.0
    (again,) = spool.claim(200.0, 1)
    assert again.envelope.id == "a-1.1" and bytes(again.message) == RAW


def test_a_suspect_is_told_of_when_the_one_before_it_is_gone(spool: Spool) -> None:
    """What was in hand when a process died is given out one at a time; nobody else might ever wake the queue."""
    spool.commit(add=[mail("a-1.1", deaths=0.5), mail("a-2.1", deaths=0.5)])
    assert claimed(spool) == ["a-1.1"] and spool.next_due() is None
    told: list[str] = []
    spool.on_due = lambda: told.append("due")
    spool.commit(drop=["a-1.1"])
    assert told and claimed(spool) == ["a-2.1"]
    told.clear()
    spool.commit(drop=["a-2.1"])
    assert not told


def test_due_mails_come_the_longest_due_first_and_no_more_than_asked(spool: Spool) -> None:
    spool.commit(add=[mail("a-3.1", 30.0), mail("a-1.1", 10.0), mail("a-2.1", 20.0), mail("a-4.1", 400.0)])
    assert spool.next_due() == 10.0
    assert claimed(spool, limit=2) == ["a-1.1", "a-2.1"]
    assert claimed(spool) == ["a-3.1"]
    assert spool.next_due() == 400.0
    assert claimed(spool, 399.9) == []
    assert claimed(spool, 400.0) == ["a-4.1"]
    assert spool.next_due() is None


def test_settling_replaces_the_envelope_and_frees_the_lease(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1")])
    (got,) = spool.claim(100.0, 1)
    later = envelope("a-1.1", 300.0, attempts=1, recipients=[Recipient(Address("eve", "e.test"), reply="450 later")])
    spool.commit(settle=[Settled(later)])
    assert claimed(spool, 299.0) == []
    (got,) = spool.claim(300.0, 1)
    assert got.envelope == later
    assert bytes(got.message) == RAW


def test_settling_with_keep_leaves_it_leased(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1")])
    (got,) = spool.claim(100.0, 1)
    got.envelope.postq = True
    got.message.headers.prepend("X-Seen", "yes")
    spool.commit(settle=[Settled(got.envelope, got.message, keep=True)])
    assert claimed(spool) == []
    assert bytes(spool.open("a-1.1")) == b"X-Seen: yes\r\n" + RAW
    spool.release("a-1.1")
    (again,) = spool.claim(100.0, 1)
    assert again.envelope.postq
    assert bytes(again.message) == b"X-Seen: yes\r\n" + RAW


def test_settling_with_other_content(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1")])
    claimed(spool)
    spool.commit(settle=[Settled(envelope("a-1.1"), Message(b"Subject: two\r\n\r\nother\r\n"))])
    (again,) = spool.claim(100.0, 1)
    assert bytes(again.message) == b"Subject: two\r\n\r\nother\r\n"


def test_dropped_is_gone(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1"), mail("a-2.1")])
    claimed(spool)
    spool.commit(drop=["a-1.1", "a-2.1"])
    assert list(spool.find()) == []
    assert spool.next_due() is None
    assert spool.counts()["mails"] == 0 and spool.counts()["leased"] == 0
    with pytest.raises(KeyError):
        spool.open("a-1.1")


def test_one_commit_drops_one_mail_and_adds_its_bounce(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1")])
    claimed(spool)
    spool.commit(add=[mail("b-1.1", raw=b"Subject: bounce\r\n\r\n", origin="a-1.1")], drop=["a-1.1"])
    assert claimed(spool) == ["b-1.1"]
    assert [e.id for e in spool.find()] == ["b-1.1"]


def test_held_mail_is_found_but_never_claimed_until_it_is_let_go(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1", held="quarantine spam"), mail("a-2.1")])
    assert claimed(spool) == ["a-2.1"]
    spool.commit(settle=[Settled(envelope("a-2.1", held="poison"))])
    assert claimed(spool) == []
    assert spool.next_due() is None
    assert {e.id: e.held for e in spool.find()} == {"a-1.1": "quarantine spam", "a-2.1": "poison"}
    assert spool.counts()["held"] == 2
    spool.commit(settle=[Settled(envelope("a-1.1"))])
    assert claimed(spool) == ["a-1.1"]
    assert spool.counts()["held"] == 1


def test_find_takes_a_condition_and_sees_leased_mails(spool: Spool) -> None:
    spool.commit(add=[mail(f"a-{n}.1", float(n)) for n in range(10)])
    claimed(spool, 4.0)
    assert sorted(e.id for e in spool.find(lambda e: e.next_try > 6)) == ["a-7.1", "a-8.1", "a-9.1"]
    assert len(list(spool.find())) == 10
    assert spool.counts()["leased"] == 5


def test_what_is_gone_does_not_come_back(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1")])
    claimed(spool)
    spool.commit(drop=["a-1.1"])
    spool.commit(settle=[Settled(envelope("a-1.1", 5.0))], drop=["a-1.1", "never-1.1"])
    spool.release("a-1.1")
    assert list(spool.find()) == [] and claimed(spool) == []


def test_an_id_is_used_once(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1")])
    with pytest.raises(ValueError):
        spool.commit(add=[mail("a-1.1"), mail("a-2.1")])
    assert [e.id for e in spool.find()] == ["a-1.1"]


def test_on_due_tells_of_every_mail_that_may_be_due(spool: Spool) -> None:
    told: list[int] = []
    spool.on_due = lambda: told.append(1)
    spool.commit(add=[mail("a-1.1")])
    assert len(told) == 1
    claimed(spool)
    spool.release("a-1.1")
    assert len(told) == 2
    claimed(spool)
    spool.commit(settle=[Settled(envelope("a-1.1", 50.0))])
    assert len(told) == 3
    claimed(spool)
    spool.commit(drop=["a-1.1"])
    assert len(told) == 3


def test_an_empty_commit_is_nothing(spool: Spool) -> None:
    spool.commit()
    assert spool.counts()["mails"] == 0


def test_changed_headers_and_many_recipients_are_kept(spool: Spool) -> None:
    there = mail("a-1.1", recipients=[Recipient(Address(f"user{n}", "b.test")) for n in range(1000)])
    there.message.headers.prepend("Received", "from a by b")
    there.message.headers.set("Subject", "two")
    wanted = bytes(there.message)
    spool.commit(add=[there])
    (got,) = spool.claim(100.0, 1)
    assert bytes(got.message) == wanted == bytes(spool.open("a-1.1"))
    assert got.envelope == there.envelope


def test_a_large_body_grows_in_pieces(spool: Spool) -> None:
    text = b"Subject: large\r\n\r\n" + b"".join(b"%076d\r\n" % n for n in range(40_000))
    body = spool.body()
    for at in range(0, len(text), 70_000):
        body.write(text[at : at + 70_000])
    message = body.finish()
    assert message.headers.get("subject") == "large"
    message.headers.prepend("Received", "from a by b")
    spool.commit(add=[Mail(envelope("a-1.1"), message)])
    body.discard()  # too late: nothing happens
    gevent.sleep(0.01)
    wanted = b"Received: from a by b\r\n" + text
    (got,) = spool.claim(100.0, 1)
    assert bytes(got.message) == wanted
    got.message.headers.set("Subject", "larger")
    spool.commit(settle=[Settled(got.envelope, got.message)])
    (again,) = spool.claim(100.0, 1)
    assert bytes(again.message) == wanted.replace(b"Subject: large\r\n", b"Subject: larger\r\n")
    assert again.message.headers.get("subject") == "larger"
    spool.commit(drop=["a-1.1"])
    assert spool.counts()["mails"] == 0


def test_a_discarded_body_leaves_nothing(spool: Spool) -> None:
    for pieces in (0, 1, 2):
        body = spool.body()
        for _ in range(pieces):
            body.write(b"x" * 500_000)
        body.discard()
    body = spool.body()
    body.write(b"Subject: x\r\n\r\n")
    body.finish()
    body.discard()
    assert spool.counts()["mails"] == 0


def test_many_greenlets(spool: Spool) -> None:
    def life(name: int) -> None:
        for n in range(20):
            id = f"a-{name}.{n}"
            spool.commit(add=[mail(id, raw=RAW * (n + 1))])
            if n % 3:
                spool.commit(drop=[id])

    greenlets = [gevent.spawn(life, n) for n in range(10)]
    gevent.joinall(greenlets, raise_error=True)
    left = {e.id for e in spool.find()}
    assert left == {f"a-{name}.{n}" for name in range(10) for n in range(0, 20, 3)}
    got = spool.claim(100.0, 1000)
    assert {m.envelope.id for m in got} == left
    for m in got:
        assert bytes(m.message) == RAW * (int(m.envelope.id.split(".")[1]) + 1)


def test_adopting_what_is_not_there(spool: Spool, tmp_path: Path) -> None:
    assert spool.adopt(str(tmp_path / "nobody")) is False


def test_closed_is_closed(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1")])
    spool.close()
    with pytest.raises(Refused) as refused:
        spool.commit(add=[mail("a-2.1")])
    assert refused.value.reply.temporary
    spool.close()


def test_a_person_takes_a_mail_whatever_its_state(spool: Spool) -> None:
    spool.commit(add=[mail("a-1.1", 500.0), mail("a-2.1", held="quarantine spam"), mail("a-3.1")])
    for id in ("a-1.1", "a-2.1", "a-3.1"):
        taken = spool.take(id)
        assert taken is not None and taken.id == id and taken == spool.look(id)
        assert spool.take(id) is None, "it is leased now"
    assert claimed(spool, 1000.0) == []
    spool.release("a-1.1")
    spool.release("a-2.1")
    assert claimed(spool, 1000.0) == ["a-1.1"], "held mail is held still"
    assert spool.take("a-1.1") is None
    freed = spool.take("a-2.1")
    assert freed is not None
    freed.held = ""
    spool.commit(settle=[Settled(freed)])
    assert claimed(spool) == ["a-2.1"]
    for missing in (spool.take, spool.look):
        with pytest.raises(KeyError):
            missing("b-1.1")
