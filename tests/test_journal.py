"""The journal when something goes wrong: full and failing disks, dead processes, damaged files, old mail in the way."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest
from receiving import PATIENCE, until

from mta import log
from mta.message import encodings
from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Refused
from mta.settings import Spool as Settings
from mta.spool import adoption, keeping, reading, records
from mta.spool.disk import Buffers, Disk
from mta.spool.index import Entry, Index
from mta.spool.journal import JournalSpool
from mta.spool.recovery import recover
from mta.spool.resting import Resting
from mta.spool.spool import POISON, Mail, Settled

SEGMENT = 64 << 10


class Faulty(Disk):
    """A disk that fails when told: `fail(kind, path)` returns an errno, or a number of bytes to write ("short", n)."""

    def __init__(self) -> None:
        self.fail: Callable[[str, str], Any] = lambda kind, path: None
        self.space: int | None = None
        self.done: list[tuple[str, str]] = []

    def _told(self, kind: str, path: str) -> None:
        self.done.append((kind, os.path.basename(path)))
        error = self.fail(kind, path)
        if error:
            raise OSError(error, os.strerror(error), path)

    def _path(self, fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    def free(self, path: str) -> int:
        return super().free(path) if self.space is None else self.space

    def allocate(self, fd: int, size: int) -> None:
        self._told("allocate", self._path(fd))
        super().allocate(fd, size)

    def write(self, fd: int, buffers: Buffers, at: int) -> None:
        path = self._path(fd)
        error = self.fail("write", path)
        if isinstance(error, tuple):
            os.pwrite(fd, b"".join(buffers)[: error[1]], at)
            raise OSError(errno.ENOSPC, "short")
        self.done.append(("write", os.path.basename(path)))
        if error:
            raise OSError(error, os.strerror(error), path)
        super().write(fd, buffers, at)

    def sync(self, fd: int) -> None:
        self._told("sync", self._path(fd))
        super().sync(fd)

    def sync_folder(self, path: str) -> None:
        self._told("sync_folder", path)
        super().sync_folder(path)

    def listed(self, path: str) -> tuple[list[str], list[str]]:
        found = super().listed(path)
        self._told("listed", path)
        return found

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self._told("renamed", new)

    def unlink(self, path: str) -> None:
        self._told("unlink", path)
        super().unlink(path)

    def open(self, path: str, *, write: bool = False) -> int:
        self._told("open", path)
        return super().open(path, write=write)

    def read(self, fd: int, size: int, at: int) -> bytes:
        self._told("read", self._path(fd))
        return super().read(fd, size, at)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log.log, "sink", lambda text: lines.extend(map(msgspec.json.decode, text.splitlines())))
    yield lines


@pytest.fixture
def disk() -> Faulty:
    return Faulty()


Make = Callable[..., JournalSpool]


@pytest.fixture
def make(tmp_path: Path, disk: Faulty) -> Iterator[Make]:
    made: list[JournalSpool] = []

    def new(name: str = "w1", **more: Any) -> JournalSpool:
        settings = Settings(path=str(tmp_path), segment=SEGMENT, **{"min_free": 0, **more})
        made.append(JournalSpool(settings, name, disk))
        made[-1]._keeper.rate = 1e12
        return made[-1]

    yield new
    disk.fail = lambda kind, path: None
    for spool in made:
        spool.close()


def mail(id: str, size: int = 100, next_try: float = 0.0, **more: Any) -> Mail:
    fields: dict[str, Any] = {"sender": Address("ann", "a.test"), "recipients": [Recipient(Address("bob", "b.test"))]}
    text = f"Subject: {id}\r\n\r\n".encode() + id.encode() * (size // len(id)) + b"\r\n"
    return Mail(Envelope(id=id, next_try=next_try, **{**fields, **more}), Message(text))


def content(id: str, size: int = 100) -> bytes:
    return bytes(mail(id, size).message)


def ids(spool: JournalSpool) -> list[str]:
    return sorted(e.id for e in spool.find())


def spoil(path: str, text: bytes) -> None:
    """One byte on the disk is another: the first of where that text stands first."""
    with open(path, "r+b") as file:
        file.seek(file.read().index(text))
        file.write(b"X")


def die(spool: JournalSpool) -> str:
    """End as a killed process does: nothing is tidied, the lock is gone. Its folder."""
    spool._closed = True
    spool._keeper.end()
    spool._batch.close()
    gevent.sleep(0.01)
    spool._disk.close(spool._lock)
    spool.close = lambda: None  # type: ignore[method-assign]
    return spool._folder


def settle_down(spool: JournalSpool) -> None:
    gevent.sleep(0.002)
    until(lambda: not spool._keeper._running)


def keep_up(spool: JournalSpool) -> None:
    """Give the keeper the time that a slow disk takes of it, before it is far behind."""
    if len(spool._segments.order) > 6:
        settle_down(spool)


# -- a dead process --------------------------------------------------------------------------------------------------


def test_what_a_file_system_of_its_own_has_lost_and_found_is_no_mail(make: Make, tmp_path: Path) -> None:
    """Only root may read it, so it would be doubt for ever."""
    spool = make()
    spool.commit(add=[mail("a-1.1")])
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / f"{1:08}-{1:016x}.seg").symlink_to("nowhere")  # which cannot be opened, not even by root
    resting = Resting(str(tmp_path))
    assert [envelope.id for envelope in resting.envelopes()] == ["a-1.1"] and not resting.doubt


def test_what_a_dead_process_left_is_delivered_by_another(make: Make, tmp_path: Path, events: list) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1"), mail("a-2.1", 5000, 500.0), mail("a-3.1", held="quarantine x")])
    one.commit(drop=["a-1.1"])
    body = one.body()
    body.write(b"Subject: large\r\n\r\n" + b"x" * 300_000)
    large = body.finish()
    large.headers.prepend("Received", "here")
    one.commit(add=[Mail(mail("a-4.1").envelope, large)])
    wanted = bytes(large)
    folder = die(one)
    two = make("w2")
    told: list[int] = []
    two.on_due = lambda: told.append(1)
    assert two.adopt(folder)
    assert told
    assert not os.path.exists(folder)
    assert ids(two) == ["a-2.1", "a-3.1", "a-4.1"]
    (got,) = two.claim(100.0, 10)
    assert got.envelope.id == "a-4.1" and bytes(got.message) == wanted
    assert two.next_due() == 500.0
    assert bytes(two.open("a-2.1")) == content("a-2.1", 5000)
    counts = two.counts()
    assert (counts["mails"], counts["leased"], counts["held"]) == (3, 1, 1)
    (event,) = [e for e in events if e["event"] == "spool_recovered"]
    assert event["writer"] == "w1" and event["mails"] == 3
    two.commit(drop=["a-2.1", "a-3.1", "a-4.1"])
    settle_down(two)
    assert os.listdir(two._folder) and "w1" not in os.listdir(two._folder)
    until(lambda: os.listdir(two._bodies.folder) == [])


def test_adopted_again_and_again(make: Make) -> None:
    spool = make("w1")
    spool.commit(add=[mail("a-1.1"), mail("a-2.1")])
    for n in range(2, 6):
        folder = die(spool)
        spool = make(f"w{n}")
        assert spool.adopt(folder)
        spool.commit(add=[mail(f"a-{n + 1}.1")], drop=[f"a-{n}.1"])
    assert ids(spool) == ["a-1.1", "a-6.1"]
    assert {e.id for e in Resting(os.path.dirname(spool._folder)).envelopes()} == {"a-1.1", "a-6.1"}


def test_a_folder_is_adopted_once_and_only_when_nobody_holds_it(make: Make) -> None:
    one, two, three = make("w1"), make("w2"), make("w3")
    one.commit(add=[mail("a-1.1")])
    assert two.adopt(one._folder) is False
    folder = die(one)
    adopted = [gevent.spawn(spool.adopt, folder) for spool in (two, three)]
    gevent.joinall(adopted)
    assert sorted(g.value for g in adopted) == [False, True]
    assert ids(two) + ids(three) == ["a-1.1"]
    assert two.adopt(folder) is False


def test_an_empty_folder_goes_at_the_end_and_one_with_mail_stays(make: Make, tmp_path: Path) -> None:
    one, two = make("w1"), make("w2")
    one.commit(add=[mail("a-1.1")])
    two.commit(add=[mail("b-1.1")])
    two.commit(drop=["b-1.1"])
    one.close()
    two.close()
    assert os.listdir(tmp_path) == ["w1"]
    three = make("w3")
    assert three.adopt(str(tmp_path / "w1"))
    assert ids(three) == ["a-1.1"]


def test_a_half_made_folder_is_removed(make: Make, tmp_path: Path) -> None:
    (tmp_path / ".new-w9" / "bodies").mkdir(parents=True)
    (tmp_path / ".new-w9" / "00000001-0011223344556677.seg").write_bytes(b"")
    spool = make("w1")
    assert spool.adopt(str(tmp_path / ".new-w9"))
    assert os.listdir(tmp_path) == ["w1"]


def test_the_spool_folder_is_made_if_it_is_missing(tmp_path: Path) -> None:
    spool = JournalSpool(Settings(path=str(tmp_path / "spool"), segment=SEGMENT, min_free=0), "w1")
    spool.commit(add=[mail("a-1.1")])
    assert [e.id for e in Resting(str(tmp_path / "spool")).envelopes()] == ["a-1.1"]
    spool.close()


def test_a_folder_taken_for_a_dead_one_while_it_is_made(make: Make, tmp_path: Path, disk: Faulty) -> None:
    other = make("w1")
    left = [1]

    def hurry(kind: str, path: str) -> None:
        if left and path.endswith(".new-w2"):
            left.clear()
            os.rmdir(path)

    lock = disk.lock
    disk.lock = lambda path: (hurry("lock", path), lock(path))[1]  # type: ignore[method-assign]
    spool = make("w2")
    spool.commit(add=[mail("a-1.1")])
    assert not left and ids(spool) == ["a-1.1"] and ids(other) == []


def test_a_body_that_died_before_its_commit_is_removed(make: Make) -> None:
    one = make("w1")
    body = one.body()
    body.write(b"x" * 400_000)
    body.finish()
    lost = one.body()
    lost.write(b"y" * 400_000)
    kept = one.body()
    kept.write(b"z" * 400_000)
    one.commit(add=[Mail(mail("a-1.1").envelope, kept.finish())])
    assert len(os.listdir(one._bodies.folder)) == 3
    folder = die(one)
    two = make("w2")
    assert two.adopt(folder)
    assert len(os.listdir(os.path.join(two._folder, "w1", "bodies"))) == 1
    assert bytes(two.open("a-1.1")) == b"z" * 400_000


def left_with_a_body(make: Make) -> str:
    """The folder of a dead process that had one large mail."""
    one = make("w1")
    body = one.body()
    body.write(b"Subject: large\r\n\r\n" + b"x" * 300_000)
    one.commit(add=[Mail(mail("a-1.1").envelope, body.finish())])
    return die(one)


def test_a_body_that_goes_while_its_folder_is_cleared(make: Make, disk: Faulty) -> None:
    """The mail was the last of the adopted folder: its body is removed, and what else is there moved to ours."""
    folder, spool = left_with_a_body(make), make("w2")
    assert spool.adopt(folder)
    looked = threading.Event()

    def fail(kind: str, path: str) -> None:
        if kind == "listed" and path.endswith("w1/bodies"):
            looked.set()
        if kind == "unlink" and path.endswith(".body"):
            assert looked.wait(PATIENCE)

    disk.fail = fail
    spool.commit(drop=["a-1.1"])
    until(lambda: "w1" not in os.listdir(spool._folder))
    until(lambda: os.listdir(spool._bodies.folder) == [])


def test_a_body_that_is_moved_while_it_is_read(make: Make, disk: Faulty) -> None:
    folder, spool = left_with_a_body(make), make("w2")
    assert spool.adopt(folder)
    found, moved = threading.Event(), threading.Event()

    def fail(kind: str, path: str) -> None:
        if kind == "open" and path.endswith(".body"):
            found.set()
            moved.wait(0.2)  # it may not
        if kind == "renamed" and path.endswith(".body"):
            moved.set()

    disk.fail = fail
    reading = gevent.spawn(spool.open, "a-1.1")
    until(found.is_set)
    gevent.get_hub().threadpool.apply(spool._keeper.clear, (os.path.join(spool._folder, "w1"),))
    assert moved.is_set() and bytes(reading.get()).endswith(b"x" * 300_000)
    assert os.listdir(spool._bodies.folder)


def test_two_mails_of_one_body(make: Make) -> None:
    spool = make("w1")
    body = spool.body()
    body.write(b"Subject: both\r\n\r\n" + b"z" * 400_000)
    one = body.finish()
    spool.commit(add=[Mail(mail("a-1.1").envelope, one), Mail(mail("a-2.1").envelope, one)])
    spool.commit(drop=["a-1.1"])
    gevent.sleep(0.05)
    assert bytes(spool.open("a-2.1")) == bytes(one)
    spool.commit(drop=["a-2.1"])
    until(lambda: os.listdir(spool._bodies.folder) == [])


def test_a_hidden_mail_is_encoded_anew_once_and_in_a_thread(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger may send one of 25 MB, and encoding that would hold everybody else up."""
    spool, threads, encode = make("w1"), [], encodings.encode

    def told(content: bytes, encoding: str) -> bytes:
        threads.append(threading.get_ident())
        return encode(content, encoding)

    monkeypatch.setattr(encodings, "encode", told)
    body = spool.body()
    body.write(b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nSubject: x\r\n\r\n")
    body.write(b"line\r\n" * 100_000)
    message = body.finish()
    message.root.parts[0].headers.set("Subject", "y")
    spool.commit(add=[Mail(mail("a-1.1").envelope, message)])
    assert bytes(spool.open("a-1.1")) == bytes(message.raw[:]).replace(b"Subject: x", b"Subject: y")
    assert len(threads) == 1 and threads[0] != threading.get_ident()


def test_a_body_changed_inside_gets_a_file_of_its_own(make: Make) -> None:
    spool = make("w1")
    body = spool.body()
    body.write(b"Subject: x\r\n\r\n" + b"line\r\n" * 100_000)
    spool.commit(add=[Mail(mail("a-1.1").envelope, body.finish())])
    (got,) = spool.claim(100.0, 1)

    class Changed(Message):
        def layout(self) -> list:
            whole = super().layout()[0]
            return [type(whole)(0, 14), b"LINE", type(whole)(18, whole.stop)]

        changed = property(lambda self: True)  # type: ignore[assignment]
        size = property(lambda self: len(self.raw))  # type: ignore[assignment]

    spool.commit(settle=[Settled(got.envelope, Changed(got.message.raw, got.message.file))])
    assert bytes(spool.open("a-1.1"))[:20] == b"Subject: x\r\n\r\nLINE\r\n"
    until(lambda: len(os.listdir(spool._bodies.folder)) == 1)


# -- poison ----------------------------------------------------------------------------------------------------------


def test_a_mail_in_hand_at_two_deaths_is_held(make: Make, events: list) -> None:
    spool = make("w1")
    spool.commit(add=[mail("a-1.1"), mail("a-2.1"), mail("a-3.1", next_try=50.0)])
    for n in (2, 3):
        claimed = [m.envelope.id for m in spool.claim(10.0, 10)]
        if "a-2.1" in claimed:
            spool.release("a-2.1")
        assert "a-1.1" in claimed
        folder = die(spool)
        spool = make(f"w{n}")
        assert spool.adopt(folder)
    there = {e.id: (e.deaths, e.held) for e in spool.find()}
    assert there == {"a-1.1": (2, POISON), "a-2.1": (0, ""), "a-3.1": (0, "")}
    assert [m.envelope.id for m in spool.claim(100.0, 10)] == ["a-2.1", "a-3.1"]
    (event,) = [e for e in events if e["event"] == "held"]
    assert event["mail"] == "a-1.1" and "poison" in event["reason"]
    folder = die(spool)
    spool = make("w9")
    assert spool.adopt(folder)
    assert {e.id: e.held for e in spool.find()}["a-1.1"] == POISON


def test_suspects_are_given_out_one_at_a_time(make: Make) -> None:
    spool = make("w1")
    spool.commit(add=[mail(f"a-{n}.1") for n in range(5)])
    assert len(spool.claim(10.0, 10)) == 5
    folder = die(spool)
    spool = make("w2")
    assert spool.adopt(folder)
    spool.commit(add=[mail("b-1.1", next_try=5.0)])
    first = [m.envelope.id for m in spool.claim(10.0, 10)]
    assert first == ["a-0.1", "b-1.1"]
    assert spool.claim(10.0, 10) == [] and spool.next_due() is None
    spool.commit(drop=["a-0.1"])
    assert spool.next_due() == 0.0
    assert [m.envelope.id for m in spool.claim(10.0, 10)] == ["a-1.1"]
    spool.release("a-1.1", 20.0)
    assert [m.envelope.id for m in spool.claim(10.0, 10)] == ["a-2.1"]


def test_a_clean_end_is_no_death(make: Make, tmp_path: Path) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1")])
    one.claim(10.0, 1)
    one.close()
    two = make("w2")
    assert two.adopt(str(tmp_path / "w1"))
    assert [e.deaths for e in two.find()] == [0]


def test_the_note_survives_a_kill_and_nothing_acknowledged_is_missing(make: Make, tmp_path: Path) -> None:
    script = """
import sys
from gevent import monkey; monkey.patch_all()
import gevent
from mta.message.envelope import Envelope
from mta.message.message import Message
from mta.settings import Spool
from mta.spool.journal import JournalSpool
from mta.spool.spool import Mail
spool = JournalSpool(Spool(path=sys.argv[1], segment=65536, min_free=0), "child")
spool.commit(add=[Mail(Envelope(id="first-1.1"), Message(b"in hand"))])
spool.claim(1.0, 1)
def live(name):
    for n in range(100000):
        id = f"c-{name}.{n}"
        spool.commit(add=[Mail(Envelope(id=id, next_try=5.0), Message(id.encode() * 50))])
        print("+", id, flush=True)
        if n % 2:
            print("?", id, flush=True)
            spool.commit(drop=[id])
            print("-", id, flush=True)
for name in range(8):
    gevent.spawn(live, name)
gevent.sleep(300)
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(500)]
    child.kill()
    lines += child.stdout.read().splitlines(keepends=True)
    child.wait()
    words = [line.split() for line in lines if line.endswith("\n")]
    kept = {id for word, id in words if word == "+"}
    perhaps = {id for word, id in words if word == "?"}
    gone = {id for word, id in words if word == "-"}
    spool = make("w1")
    assert spool.adopt(str(tmp_path / "child"))
    there = {e.id: e for e in spool.find()}
    assert kept - perhaps <= set(there)
    assert not gone & set(there)
    assert there["first-1.1"].deaths == 1
    for id in list(kept - perhaps)[:50]:
        assert bytes(spool.open(id)) == id.encode() * 50


# -- disks that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_one_error_is_written_again_elsewhere_and_nobody_notices(
    make: Make, disk: Faulty, kind: str, events: list
) -> None:
    spool = make()
    spool.commit(add=[mail("a-1.1")])
    first, left = spool._writer.current, [errno.EIO]
    assert first is not None
    disk.fail = lambda k, path: left.pop() if left and k == kind and path.endswith(first.name) else 0
    spool.commit(add=[mail("a-2.1")], drop=["a-1.1"])
    assert spool._writer.current is not first and first.broken
    assert ids(spool) == ["a-2.1"]
    assert [e["event"] for e in events].count("spool_failed") == 1
    disk.done.clear()
    spool.commit(add=[mail("a-3.1")])
    assert [name for k, name in disk.done if k == "write"] != [first.name], "a closed segment is written again"
    folder = die(spool)
    again = make("w2")
    assert again.adopt(folder)
    assert ids(again) == ["a-2.1", "a-3.1"]


@pytest.mark.parametrize(
    ("failing", "code"), [(errno.EIO, 451), (errno.ENOSPC, 452), (errno.EDQUOT, 452), (("short", 50), 452)]
)
def test_a_failing_disk_is_told_and_the_spool_serves_on(make: Make, disk: Faulty, failing: Any, code: int) -> None:
    spool = make()
    spool.commit(add=[mail("a-1.1")])
    disk.fail = lambda kind, path: failing if kind == "write" and path.endswith(".seg") else None
    for n in range(3):
        with pytest.raises(Refused) as refused:
            spool.commit(add=[mail(f"b-{n}.1")], drop=["a-1.1"])
        assert refused.value.reply.code == code
        assert str(make) not in str(refused.value.reply) and "/" not in refused.value.reply.text
    assert ids(spool) == ["a-1.1"]
    disk.fail = lambda kind, path: None
    spool.commit(add=[mail("c-1.1")])
    assert ids(spool) == ["a-1.1", "c-1.1"]
    folder = die(spool)
    again = make("w2")
    assert again.adopt(folder)
    assert ids(again) == ["a-1.1", "c-1.1"]


def test_what_was_refused_does_not_come_back_after_the_next_commit(make: Make, disk: Faulty) -> None:
    """The bytes reached the disk, but the sync failed: the client was told 451 and will send it again."""
    spool = make()
    spool.commit(add=[mail("a-0.1")])
    disk.fail = lambda kind, path: errno.EIO if kind == "sync" and path.endswith(".seg") else None
    with pytest.raises(Refused):
        spool.commit(add=[mail("a-1.1")])
    disk.fail = lambda kind, path: None
    spool.commit(add=[mail("a-2.1")])
    assert not spool._doubt
    folder = die(spool)
    again = make("w2")
    assert again.adopt(folder)
    assert ids(again) == ["a-0.1", "a-2.1"]


def test_a_failed_sync_is_never_tried_again(make: Make, disk: Faulty) -> None:
    spool = make()
    spool.commit(add=[mail("a-1.1")])
    bad = spool._writer.current
    assert bad is not None
    disk.fail = lambda kind, path: errno.EIO if kind == "sync" and path.endswith(bad.name) else None
    disk.done.clear()
    spool.commit(add=[mail("a-2.1")])
    for n in range(3, 9):
        spool.commit(add=[mail(f"a-{n}.1")])
    assert [name for kind, name in disk.done if kind == "sync"].count(bad.name) == 1


def test_below_min_free_new_mail_waits_but_what_makes_room_passes(make: Make, disk: Faulty) -> None:
    spool = make(min_free=1 << 20)
    spool.commit(add=[mail("a-1.1"), mail("a-2.1")])
    disk.space = 1000
    spool._writer.look()
    with pytest.raises(Refused) as refused:
        spool.commit(add=[mail("b-1.1")])
    assert refused.value.reply.code == 452
    with pytest.raises(Refused):
        spool.body()
    spool.commit(add=[mail("bounce-1.1")], drop=["a-1.1"])
    spool.commit(settle=[Settled(mail("a-2.1", next_try=9.0).envelope)])
    disk.space = 1 << 30
    spool.commit(add=[mail("b-1.1")])
    assert ids(spool) == ["a-2.1", "b-1.1", "bounce-1.1"]


def test_a_full_disk_leaves_a_reserve_for_what_makes_room(make: Make, disk: Faulty) -> None:
    spool = make()
    added = []
    disk.fail = lambda kind, path: errno.ENOSPC if kind == "allocate" else None
    with pytest.raises(Refused) as refused:
        for n in range(1000):
            spool.commit(add=[mail(f"a-{n}.1", 3000)])
            added.append(f"a-{n}.1")
    assert refused.value.reply.code == 452
    assert added
    for n in range(8):
        spool.commit(settle=[Settled(mail(added[n], next_try=7.0).envelope)])
    spool.commit(drop=added)
    settle_down(spool)
    spool.commit(add=[mail("b-1.1")])  # a reclaimed segment is the new reserve
    assert ids(spool) == ["b-1.1"]


def test_a_disk_full_in_a_body_is_told(make: Make, disk: Faulty) -> None:
    spool = make()
    body = spool.body()
    disk.fail = lambda kind, path: errno.ENOSPC if path.endswith(".body") and kind == "write" else None
    with pytest.raises(Refused) as refused:
        body.write(b"x" * 1_000_000)
    assert refused.value.reply.code == 452
    body.discard()
    until(lambda: os.listdir(spool._bodies.folder) == [])
    disk.fail = lambda kind, path: errno.EIO if path.endswith(".body") and kind == "sync" else None
    body = spool.body()
    body.write(b"x" * 1_000_000)
    message = body.finish()
    with pytest.raises(Refused) as refused:
        spool.commit(add=[Mail(mail("a-1.1").envelope, message)])
    assert refused.value.reply.code == 451
    assert ids(spool) == []
    disk.fail = lambda kind, path: None
    with pytest.raises(Refused):  # the first sync told the truth, a second one might not
        spool.commit(add=[Mail(mail("a-1.1").envelope, message)])


def test_a_large_mail_whose_body_was_changed_has_one_file_and_then_none(make: Make) -> None:
    """The file it came in is named by nobody: with every large mail a rule added a footer to, it stayed."""
    spool = make()
    body = spool.body()
    body.write(b"Subject: large\r\n\r\n" + b"x" * 3_000_000 + b"\r\n")
    message = body.finish()
    message.root.set_text("another text, " * 200_000)
    spool.commit(add=[Mail(mail("a-1.1").envelope, message)])
    body.discard()
    until(lambda: os.listdir(spool._bodies.folder) == [spool._bodies.of("a-1.1")])
    (claimed,) = spool.claim(1.0, 9)
    assert bytes(claimed.message) == bytes(message) and spool._bodies.of("a-1.1")
    spool.commit(drop=["a-1.1"])
    until(lambda: os.listdir(spool._bodies.folder) == [])


def test_a_mail_that_has_grown_large_lies_in_a_file(make: Make) -> None:
    spool = make(large=10_000)
    small, large = mail("a-1.1", 9_000), mail("a-2.1", 9_000)
    large.message.root.attach(b"Content-Type: text/plain\r\n\r\n" + b"x" * 9_000)
    spool.commit(add=[small, large])
    assert not spool._bodies.of("a-1.1") and spool._bodies.of("a-2.1")
    wanted = {m.envelope.id: bytes(m.message) for m in (small, large)}
    spool.close()
    other = make("w2")
    assert other.adopt(spool._folder)
    assert {m.envelope.id: bytes(m.message) for m in other.claim(1.0, 9)} == wanted


@pytest.mark.parametrize("part", ["the second file", "the journal"])
def test_a_commit_that_fails_leaves_no_files(make: Make, disk: Faulty, part: str) -> None:
    spool = make(large=10_000)
    spool.commit(add=[mail("a-1.1")])
    written: list[str] = []

    def fail(kind: str, path: str) -> int:
        if kind == "write" and path.endswith(".body"):
            written.append(path)
        if part == "the journal":
            return errno.ENOSPC if kind == "allocate" else 0
        return errno.ENOSPC if kind == "write" and len(written) == 2 else 0

    disk.fail = fail
    for _ in range(3):
        with pytest.raises(Refused):
            spool.commit(
                add=[mail("b-1.1", 50_000), mail("b-2.1", 50_000), *(mail(f"c-{n}.1", 9_000) for n in range(9))]
            )
        del written[:]
    until(lambda: os.listdir(spool._bodies.folder) == [])
    disk.fail = lambda kind, path: None
    assert ids(spool) == ["a-1.1"]


def test_a_body_that_both_its_commit_and_its_client_remove(
    make: Make, disk: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make()
    spool.commit(add=[mail("a-1.1")])
    body = spool.body()
    body.write(b"Subject: large\r\n\r\n" + b"x" * 1_000_000)
    message = body.finish()
    errors: list[Any] = []
    monkeypatch.setattr(type(gevent.get_hub()), "handle_error", lambda *told: errors.append(told))
    ended: list[str] = []
    remove = spool._bodies.remove

    def removed(name: str) -> None:
        try:
            remove(name)
        finally:
            ended.append(name)

    monkeypatch.setattr(spool._bodies, "remove", removed)
    disk.fail = lambda kind, path: errno.ENOSPC if kind == "allocate" else 0
    with pytest.raises(Refused):
        spool.commit(add=[Mail(mail("b-1.1").envelope, message), *(mail(f"c-{n}.1", 9_000) for n in range(9))])
    body.discard()
    until(lambda: len(ended) == 2)
    until(lambda: os.listdir(spool._bodies.folder) == [])
    gevent.sleep(0)
    assert errors == []


def test_a_deadline_in_a_slow_sync_waits_for_the_commit(make: Make, disk: Faulty) -> None:
    spool = make()
    pause = gevent.monkey.get_original("time", "sleep")
    ticks: list[int] = []
    thrown = gevent.Timeout(0.05)
    disk.fail = lambda kind, path: slow(lambda: len(ticks) > 8 and not thrown.pending) if kind == "sync" else None

    def slow(enough: Callable[[], bool]) -> None:
        """Until the loop has gone on meanwhile, and the deadline has passed."""
        end = time.monotonic() + 60
        while not enough():
            assert time.monotonic() < end, "the loop stood still"
            pause(0.005)

    ticker = gevent.spawn(lambda: [(ticks.append(1), gevent.sleep(0.01)) for _ in range(10_000)])
    with pytest.raises(gevent.Timeout), thrown:
        spool.commit(add=[mail("a-1.1")])
    ticker.kill()
    assert ids(spool) == ["a-1.1"]


def test_a_mail_that_cannot_be_read_does_not_stop_the_others(make: Make, disk: Faulty, events: list) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1", 3000)])
    one.commit(add=[mail("a-2.1", 3000)])
    folder = die(one)
    two = make("w2")
    assert two.adopt(folder)
    segment = two._segments.order[0]
    spoil(segment.path, b"a-1.1a-1.1")
    assert [m.envelope.id for m in two.claim(10.0, 10)] == ["a-2.1"]
    assert two.counts()["held"] == 1
    assert any(e["event"] == "spool_damaged" and "a-1.1" in e["reason"] for e in events)
    with pytest.raises(KeyError):
        two.open("a-1.1")


# -- segments --------------------------------------------------------------------------------------------------------


def segments(spool: JournalSpool) -> list[str]:
    return sorted(name for name in os.listdir(spool._folder) if name.endswith(".seg"))


def test_segments_are_used_again_under_new_names(make: Make) -> None:
    spool = make()
    seen: dict[int, set[str]] = {}
    for n in range(400):
        spool.commit(add=[mail(f"a-{n}.1", 2000)])
        spool.commit(drop=[f"a-{n}.1"])
        keep_up(spool)
        for entry in os.scandir(spool._folder):
            if entry.name.endswith(".seg"):
                seen.setdefault(entry.inode(), set()).add(entry.name)
    settle_down(spool)
    assert len(segments(spool)) <= 6
    assert max(map(len, seen.values())) > 5, "no file was used again"
    names = [name for used in seen.values() for name in used]
    assert len(set(names)) == len(names)
    marks = {name.split("-")[1] for name in names}
    assert len(marks) == len(names)


def test_what_a_file_held_in_its_last_life_is_not_seen(make: Make, events: list) -> None:
    spool = make()
    for n in range(300):
        spool.commit(add=[mail(f"a-{n}.1", 2000)])
        spool.commit(drop=[f"a-{n}.1"])
        keep_up(spool)
    settle_down(spool)
    spool.commit(add=[mail("last-1.1")])
    raw = b"".join(Path(spool._folder, name).read_bytes() for name in segments(spool))
    assert raw.count(b'"put"') > 20
    folder = die(spool)
    again = make("w2")
    assert again.adopt(folder)
    assert ids(again) == ["last-1.1"]
    assert not [e for e in events if e["event"] == "spool_damaged"]


def test_a_record_larger_than_a_segment(make: Make) -> None:
    spool = make()
    spool.commit(add=[mail("a-1.1", 300_000), mail("a-2.1", 200_000)])
    spool.commit(add=[mail("a-3.1")])
    folder = die(spool)
    again = make("w2")
    assert again.adopt(folder)
    assert ids(again) == ["a-1.1", "a-2.1", "a-3.1"]
    assert bytes(again.open("a-1.1")) == content("a-1.1", 300_000)
    assert bytes(again.open("a-2.1")) == content("a-2.1", 200_000)


def test_segments_are_used_in_the_order_of_their_numbers(make: Make, disk: Faulty) -> None:
    """Recovery goes by the numbers: a drop must never lie in a lower one than its mail."""
    spool = make()
    spool.commit(add=[mail("a-0.1")])
    until(lambda: len(segments(spool)) >= 3)  # two are ready now
    spool.commit(add=[mail("large-1.1", 200_000)])  # gets a new one, which overtakes them
    for n in range(40):
        spool.commit(add=[mail(f"a-{n + 1}.1", 2000)], drop=[f"a-{n}.1", "large-1.1"])
    numbers = [segment.number for segment in spool._segments.order]
    assert numbers == sorted(numbers)
    folder = die(spool)
    again = make("w2")
    assert again.adopt(folder)
    assert ids(again) == ["a-40.1"]


def test_old_mail_is_carried_on_then_gets_a_file_of_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOOK", 1)
    spool = make()
    spool.commit(add=[mail("old-1.1", 3000, 1e9), mail("old-2.1", 3000, 5.0)])
    (leased,) = spool.claim(10.0, 1)
    assert leased.envelope.id == "old-2.1"
    most = 0
    carried = set()
    for n in range(900):
        spool.commit(add=[mail(f"a-{n}.1", 2000, 2e9)])
        spool.commit(drop=[f"a-{n}.1"])
        if n == 300:
            spool.commit(settle=[Settled(mail("old-1.1", next_try=1e9, attempts=7).envelope)])
        keep_up(spool)
        carried.add(spool._index.entries["old-1.1"].carried)
        most = max(most, len(spool._segments.order))
    settle_down(spool)
    assert most < 12
    assert carried >= {0, 1, 2, 3}
    assert len(os.listdir(spool._bodies.folder)) == 2
    assert spool.claim(10.0, 10) == []
    assert bytes(spool.open("old-1.1")) == content("old-1.1", 3000)
    assert {e.id: e.attempts for e in spool.find()} == {"old-1.1": 7, "old-2.1": 0}
    spool.release("old-2.1")
    (leased,) = spool.claim(10.0, 10)
    assert leased.envelope.id == "old-2.1" and bytes(leased.message) == content("old-2.1", 3000)
    spool.release("old-2.1")
    folder = die(spool)
    again = make("w2")
    assert again.adopt(folder)
    assert ids(again) == ["old-1.1", "old-2.1"]
    assert bytes(again.open("old-1.1")) == content("old-1.1", 3000)
    again.commit(drop=["old-1.1", "old-2.1"])
    settle_down(again)
    until(lambda: os.listdir(again._bodies.folder) == [])


def test_old_mail_that_finds_no_room_for_its_file_is_told_and_tried_again(
    make: Make, disk: Faulty, events: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "LOOK", 1)
    spool = make()
    spool.commit(add=[mail("old-1.1", 3000, 1e9), mail("old-2.1", 3000, 1e9)])
    disk.fail = lambda kind, path: errno.ENOSPC if kind == "write" and path.endswith(".body") else 0

    def told() -> list[str]:
        return [event["reason"] for event in events if event["event"] == "spool_failed"]

    for n in range(2000):
        spool.commit(add=[mail(f"a-{n}.1", 2000, 2e9)])
        spool.commit(drop=[f"a-{n}.1"])
        keep_up(spool)
        if told():
            disk.fail = lambda kind, path: None
            if spool._bodies.of("old-1.1"):
                break
    settle_down(spool)
    assert told() and all("old mail cannot be carried on" in reason for reason in told())
    assert sorted(os.listdir(spool._bodies.folder)) == sorted(map(spool._bodies.of, ("old-1.1", "old-2.1")))


def test_a_full_queue_is_not_carried_round_and_round(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOOK", 1)
    spool = make()
    for n in range(300):
        spool.commit(add=[mail(f"a-{n}.1", 2000, 1e9)])
    for n in range(300):
        spool.commit(settle=[Settled(mail(f"a-{n}.1", next_try=1e9, attempts=1).envelope)])
    settle_down(spool)
    assert {e.carried for e in spool._index.entries.values()} == {0}


def test_reclaiming_goes_strictly_oldest_first(make: Make) -> None:
    spool = make()
    spool.commit(add=[mail("old-1.1", 100, 1e9)])
    first = spool._segments.order[0].name
    for n in range(60):
        spool.commit(add=[mail(f"a-{n}.1", 2000)])
        spool.commit(drop=[f"a-{n}.1"])
    settle_down(spool)
    assert spool._segments.order[0].name == first
    assert len(spool._segments.order) >= 4, "what holds only dropped mail may not go before what is older"
    spool.commit(drop=["old-1.1"])
    settle_down(spool)
    assert len(spool._segments.order) == 1


def test_a_segment_with_an_unreadable_mail_is_set_aside(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list
) -> None:
    monkeypatch.setattr(keeping, "LOOK", 1)
    spool = make()
    spool.commit(add=[mail("bad-1.1", 3000, 1e9)])
    spool.commit(add=[mail("good-1.1", 3000, 1e9)])
    segment = spool._segments.order[0]
    spoil(segment.path, b"bad-1.1bad-1.1")
    for n in range(300):
        spool.commit(add=[mail(f"a-{n}.1", 2000)])
        spool.commit(drop=[f"a-{n}.1"])
    settle_down(spool)
    assert len(spool._segments.order) < 6
    assert ids(spool) == ["good-1.1"]
    (aside,) = tmp_path.glob("damaged-*")
    assert b"Subject: bad-1.1" in aside.read_bytes()
    assert any(e["event"] == "spool_damaged" and "bad-1.1" in e["reason"] for e in events)


# -- damage ----------------------------------------------------------------------------------------------------------


def test_damage_is_stepped_over_and_told(make: Make, events: list) -> None:
    one = make("w1")
    for n in range(10):
        one.commit(add=[mail(f"a-{n}.1", 3000)])
    path = one._segments.order[0].path
    folder = die(one)
    spoil(path, b"a-4.1a-4.1")
    two = make("w2")
    assert two.adopt(folder)
    assert ids(two) == [f"a-{n}.1" for n in range(10) if n != 4]
    (event,) = [e for e in events if e["event"] == "spool_damaged"]
    assert event["writer"] == "w1" and event["segment"] == os.path.basename(path) and event["offset"] % 4096 == 0


def test_what_was_damaged_is_kept_for_a_person_when_its_segment_goes(make: Make, tmp_path: Path) -> None:
    """Also the body file of a large mail whose record cannot be read: with it the mail would be gone for good."""
    one = make("w1")
    for n in range(3):
        body = one.body()
        body.write(f"Subject: {n}\r\n\r\nthe large mail {n}\r\n".encode())
        one.commit(add=[Mail(mail(f"large-{n}.1").envelope, body.finish())])
    one.commit(add=[mail("small-1.1", 3000)])
    path = one._segments.order[0].path
    folder = die(one)
    spoil(path, b"large-1.1")
    two = make("w2")
    assert two.adopt(folder)
    assert ids(two) == ["large-0.1", "large-2.1", "small-1.1"]
    assert b"the large mail 2" in bytes(two.open("large-2.1"))
    two.commit(drop=["large-0.1", "large-2.1", "small-1.1"])
    settle_down(two)
    assert not os.path.exists(os.path.join(two._folder, "w1"))
    body_file, segment = sorted(tmp_path.glob("damaged-w1-*"), key=lambda path: path.suffix)
    assert b"the large mail 1" in body_file.read_bytes() and b"arge-1.1" in segment.read_bytes()


def test_half_a_body_file_is_not_a_mail(make: Make, events: list) -> None:
    spool = make()
    body = spool.body()
    body.write(b"Subject: x\r\n\r\n" + b"line\r\n" * 100_000)
    spool.commit(add=[Mail(mail("a-1.1").envelope, body.finish())])
    (file,) = Path(spool._bodies.folder).iterdir()
    os.truncate(file, 5000)
    spool._fresh.pop("a-1.1")
    assert spool.claim(100.0, 1) == [] and spool.counts()["held"] == 1
    (event,) = [e for e in events if e["event"] == "spool_damaged"]
    assert "a-1.1" in event["reason"] and "5000 bytes of 600014" in event["reason"]


def test_what_was_damaged_outlives_a_spool_that_is_closed_at_once(make: Make, tmp_path: Path) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1", 3000)])
    one.commit(add=[mail("b-1.1", 3000)])
    one.commit(add=[mail("c-1.1", 3000)])
    path = one._segments.order[0].path
    folder = die(one)
    spoil(path, b"b-1.1")
    two = make("w2")
    assert two.adopt(folder)
    two.commit(drop=["a-1.1", "c-1.1"])
    two.close()
    assert any(b"b-1.1b-1.1" in segment.read_bytes() for segment in tmp_path.rglob("*.seg"))


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
@pytest.mark.parametrize("step", ["recover", "sweep"])
def test_a_take_over_that_fails_gives_the_folder_back(
    make: Make, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    """Else the one that failed would close an empty spool one day, and the mail would go with its folder."""
    one = make("w1")
    one.commit(add=[mail("a-1.1", 3000)])
    folder = die(one)
    two = make("w2")

    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(adoption, step, fails)
        with pytest.raises(type(error)):
            two.adopt(folder)
    two.close()
    three = make("w3")
    assert three.adopt(folder)
    assert ids(three) == ["a-1.1"]


def test_mail_that_cannot_even_be_given_back_stays(make: Make, disk: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1", 3000)])
    folder = die(one)
    two = make("w2")

    def rename(old: str, new: str) -> None:
        if new == folder:
            raise OSError(errno.EIO, "Input/output error")
        os.rename(old, new)

    disk.fail = lambda kind, path: errno.EMFILE if kind == "open" and path.endswith(".seg") else None
    monkeypatch.setattr(disk, "rename", rename)
    with pytest.raises(OSError, match="Input/output"):
        two.adopt(folder)
    disk.fail = lambda kind, path: None
    two.close()
    three = make("w3")
    assert three.adopt(two._folder)
    assert ids(three) == ["a-1.1"]


def test_a_spool_closed_while_it_takes_a_folder_over_keeps_its_mail(make: Make, disk: Faulty) -> None:
    """A reload may end a worker that has just been given what a dead one left."""
    one = make("w1")
    one.commit(add=[mail("a-1.1", 3000)])
    folder = die(one)
    two = make("w2")
    reading, go_on = threading.Event(), threading.Event()

    def slow(kind: str, path: str) -> None:
        if kind == "read" and path.endswith(".seg"):
            reading.set()
            assert go_on.wait(PATIENCE)

    disk.fail = slow
    taking = gevent.spawn(two.adopt, folder)
    until(reading.is_set)
    closing = gevent.spawn(two.close)
    gevent.sleep(0.05)
    go_on.set()
    gevent.joinall([taking, closing], timeout=PATIENCE, raise_error=True)
    assert closing.ready()
    disk.fail = lambda kind, path: None
    three = make("w3")
    assert three.adopt(two._folder)
    assert ids(three) == ["a-1.1"]


def test_a_body_file_that_cannot_be_set_aside_holds_nobody_up(
    make: Make, disk: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1", 3000)])
    one.commit(add=[mail("b-1.1", 3000)])
    lost = one.body()
    lost.write(b"Subject: lost\r\n\r\n")
    lost.finish()
    path = one._segments.order[0].path
    folder = die(one)
    spoil(path, b"a-1.1")
    two = make("w2")

    def rename(old: str, new: str) -> None:
        if "damaged-" in new:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.rename(old, new)

    monkeypatch.setattr(disk, "rename", rename)
    assert two.adopt(folder)
    assert ids(two) == ["b-1.1"]


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_segment_that_cannot_be_opened_is_not_taken_for_an_empty_one(make: Make, disk: Faulty, error: int) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1", 3000)])
    folder = die(one)
    two = make("w2")
    disk.fail = lambda kind, path: error if kind == "open" and path.endswith(".seg") else None
    with pytest.raises(OSError, match=os.strerror(error)):
        two.adopt(folder)
    disk.fail = lambda kind, path: None
    assert two.adopt(folder)
    assert ids(two) == ["a-1.1"]


def test_files_removed_under_the_running_server_take_no_mail(make: Make) -> None:
    """Somebody tidies up: what is written to a file without a name is acknowledged, and gone with the process."""
    spool = make()
    spool.commit(add=[mail("a-1.1")])
    for segment in Path(spool._folder).glob("*.seg"):
        segment.unlink()
    taken = []
    for n in range(8):
        try:
            spool.commit(add=[mail(f"b-{n}.1")])
            taken.append(f"b-{n}.1")
        except Refused as refused:
            assert refused.reply.code == 451
    assert taken, "it takes mail again in files it has made anew"
    folder = die(spool)
    again = make("w2")
    assert again.adopt(folder)
    assert ids(again) == taken


def test_a_torn_end_is_no_damage(make: Make, events: list) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1", 3000)])
    one.commit(add=[mail("a-2.1", 3000)])
    path = one._segments.order[0].path
    folder = die(one)
    with open(path, "r+b") as file:
        at = file.read().index(b"a-2.1a-2.1")
        file.seek(at + 500)
        file.write(bytes(5000))
    two = make("w2")
    assert two.adopt(folder)
    assert ids(two) == ["a-1.1"]
    assert not [e for e in events if e["event"] == "spool_damaged"]


def test_a_mail_cannot_forge_a_record(make: Make) -> None:
    """Even the very bytes of another record, sent as a mail, are not taken for one behind damage: the mark differs."""
    one = make("w1")
    one.commit(add=[mail("victim-1.1")])
    mark = one._segments.order[0].mark
    stolen = records.Record(
        [records.Put(mail("forged-1.1").envelope, records.Content(3))], ["victim-1.1"], [b"abc"], True
    )
    other = bytes(b ^ 1 for b in mark)
    forged = stolen.head(other) + stolen.line + b"abc"
    one.commit(add=[Mail(mail("evil-1.1").envelope, Message(forged * 50))])
    one.commit(add=[mail("after-1.1")])
    path = one._segments.order[0].path
    folder = die(one)
    data = Path(path).read_bytes()
    at = data.index(mark, 100)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes(24))  # the header of the evil one
    two = make("w2")
    assert two.adopt(folder)
    assert ids(two) == ["after-1.1", "victim-1.1"]


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_never_raises_and_spares_the_rest(make: Make, seed: int) -> None:
    dice = random.Random(seed)
    one = make(f"w{seed}")
    for n in range(40):
        one.commit(add=[mail(f"a-{n}.1", dice.randrange(10, 4000))])
        if n % 3 == 0:
            one.commit(settle=[Settled(mail(f"a-{n}.1", next_try=3.0).envelope)])
        if n % 4 == 0:
            one.commit(drop=[f"a-{n}.1"])
    paths = [segment.path for segment in one._segments.order]
    folder = die(one)
    for _ in range(dice.choice([1, 3, 50])):
        path = dice.choice(paths)
        with open(path, "r+b") as file:
            size = os.stat(path).st_size
            do = dice.randrange(4)
            if do == 0:
                file.truncate(dice.randrange(size))
                continue
            file.seek(dice.randrange(size))
            file.write(dice.randbytes(dice.choice([1, 8, 600])) if do < 3 else bytes(4096))
    os.truncate(os.path.join(folder, "in-hand"), dice.randrange(5000))
    found = recover(Disk(), folder)
    assert set(found.entries) <= {f"a-{n}.1" for n in range(40)}
    two = make(f"x{seed}")
    assert two.adopt(folder)
    for got in two.claim(10.0, 100):
        assert bytes(got.message).startswith(f"Subject: {got.envelope.id}\r\n\r\n".encode())
        two.commit(drop=[got.envelope.id])


def test_a_file_that_is_all_noise(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "dead"
    (folder / "bodies").mkdir(parents=True)
    dice = random.Random(1)
    (folder / "00000001-0011223344556677.seg").write_bytes(dice.randbytes(100_000))
    mark = bytes.fromhex("8899aabbccddeeff")
    (folder / f"00000002-{mark.hex()}.seg").write_bytes(mark * 3000)
    (folder / "in-hand").write_bytes(dice.randbytes(3000))
    (folder / "nonsense").write_bytes(b"x")
    spool = make()
    assert spool.adopt(str(folder))
    assert ids(spool) == []


# -- size ------------------------------------------------------------------------------------------------------------


def test_a_queued_mail_takes_about_300_bytes_of_memory() -> None:
    index = Index()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(20_000):
        index.put(Entry(1e9 + n, f"k3v9x0a2bq-{n}.1", n << 40, n << 40))
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used / 20_000 < 400


@pytest.mark.long
def test_a_hundred_thousand_mails_are_back_within_seconds(make: Make, tmp_path: Path) -> None:
    settings = Settings(path=str(tmp_path), min_free=0)
    one = JournalSpool(settings, "big")

    def fill(name: int) -> None:
        for n in range(100):
            one.commit(add=[mail(f"a-{name}x{n}x{k}.1", 4000, 1e9) for k in range(10)])

    gevent.joinall([gevent.spawn(fill, name) for name in range(100)], raise_error=True)
    folder = die(one)
    two = make("w2")
    began = time.monotonic()
    assert two.adopt(folder)
    took = time.monotonic() - began
    assert two.counts()["mails"] == 100_000
    print(f"100,000 mails recovered in {took:.2f} s")
    assert took < 15


def test_mails_that_leave_together_leave_in_one_record(make: Make) -> None:
    one = make("w1")
    one.commit(add=[mail(f"a-{n}.1") for n in range(20)])
    before = one._segments.order[0].records
    gone = [gevent.spawn(one.commit, drop=[f"a-{n}.1"]) for n in range(19)]
    gevent.joinall(gone, timeout=PATIENCE, raise_error=True)
    assert one._segments.order[0].records == before + 1
    assert ids(one) == ["a-19.1"] and one.counts()["mails"] == 1
    two = make("w2")
    assert two.adopt(die(one)) and ids(two) == ["a-19.1"]


def test_mails_that_cannot_leave_together_all_stay(make: Make, disk: Faulty) -> None:
    one = make("w1")
    one.commit(add=[mail(f"a-{n}.1") for n in range(5)])
    disk.fail = lambda kind, path: errno.EIO if kind in ("write", "sync", "allocate") else None
    gone = [gevent.spawn(one.commit, drop=[f"a-{n}.1"]) for n in range(5)]
    gevent.joinall(gone, timeout=PATIENCE)
    assert all(isinstance(one.exception, Refused) for one in gone)
    disk.fail = lambda kind, path: None
    assert len(ids(one)) == 5
    one.commit(drop=["a-0.1"])
    assert ids(one) == ["a-1.1", "a-2.1", "a-3.1", "a-4.1"]


def test_who_leaves_after_a_change_leaves_behind_it(make: Make) -> None:
    """A record that others may join lies before a change of a mail that is then deleted by a person."""
    one = make("w1")
    one.commit(add=[mail("a-1.1"), mail("a-2.1"), mail("a-3.1")])
    changed = Settled(mail("a-2.1").envelope, mail("a-2.1", 300).message)
    orders: list[dict[str, Any]] = [{"drop": ["a-1.1"]}, {"settle": [changed]}, {"drop": ["a-2.1"]}]
    gevent.joinall([gevent.spawn(one.commit, **order) for order in orders], timeout=PATIENCE, raise_error=True)
    assert ids(one) == ["a-3.1"]
    two = make("w2")
    assert two.adopt(die(one)) and ids(two) == ["a-3.1"]


def test_who_leaves_while_it_is_carried_on_does_not_come_back(make: Make) -> None:
    one = make("w1")
    one.commit(add=[mail("a-1.1"), mail("a-2.1"), mail("a-3.1")])
    entry = one._index.entries["a-2.1"]
    at = one._segments.at
    job = reading.Job(entry.id, at(entry.at), at(entry.content))
    stored = one._keeper._read([job])[0]
    assert not isinstance(stored, OSError)
    carried = records.Put(stored.envelope, stored.content, 1)
    orders = [
        lambda: one.commit(drop=["a-1.1"]),
        lambda: one._keeper._write([carried], [stored.own]),
        lambda: one.commit(drop=["a-2.1"]),
    ]
    gevent.joinall([gevent.spawn(order) for order in orders], timeout=PATIENCE, raise_error=True)
    assert ids(one) == ["a-3.1"]
    two = make("w2")
    assert two.adopt(die(one)) and ids(two) == ["a-3.1"]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("other", [{"drop": ["a-1.1"]}, {"add": [mail("a-4.1")]}], ids=["drop", "add"])
def test_what_is_tried_again_after_a_doubt_stays(make: Make, disk: Faulty, other: dict[str, Any], first: bool) -> None:
    """A bounce was refused, though perhaps it is on the disk; it is added again, and others commit at that moment."""
    one = make("w1")
    one.commit(add=[mail("a-1.1"), mail("a-2.1")])
    disk.fail = lambda kind, path: errno.EIO if kind == "sync" and path.endswith(".seg") else None
    with pytest.raises(Refused):
        one.commit(add=[mail("a-3.1")], drop=["a-2.1"])
    disk.fail = lambda kind, path: None
    assert one._doubt == {"a-3.1"}
    orders: list[dict[str, Any]] = [{"add": [mail("a-3.1")], "drop": ["a-2.1"]}, other]
    orders.sort(key=lambda order: order is other, reverse=first)
    gevent.joinall([gevent.spawn(one.commit, **order) for order in orders], timeout=PATIENCE, raise_error=True)
    left = ids(one)
    assert "a-3.1" in left and "a-2.1" not in left
    two = make("w2")
    assert two.adopt(die(one)) and ids(two) == left
