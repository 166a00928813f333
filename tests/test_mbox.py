"""Delivery into mbox files: read back with the standard library and Dovecot, written beside procmail, nobody misled."""

from __future__ import annotations

import errno
import itertools
import mailbox
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiving import PATIENCE, until

from mta.deliver import mbox
from mta.deliver.mbox import Mbox, Outcome, stored
from mta.deliver.transport import Result
from mta.message.address import Address, parse
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.net.offload import Batch

RAW = b"Subject: hello\r\n\r\nFrom here on\r\n>From there\r\nline\r\n"

OTHER = """
import itertools, mailbox, os, sys, time
for n in itertools.count():
    box = mailbox.mbox(sys.argv[1])
    while True:
        try:
            box.lock()
            break
        except mailbox.ExternalClashError:
            time.sleep(0.001)
    message = mailbox.mboxMessage(f"Subject: other {n}\\n\\nbody\\n")
    message.set_unixfrom("From other@here.test Thu Jan  1 10:00:00 2026")
    box.add(message)
    box.flush()
    box.unlock()
    box.close()
    if os.path.exists(sys.argv[2]):
        break
    time.sleep(0.003)
print(n + 1)
"""


@pytest.fixture
def batch() -> Iterator[Batch[list[Outcome]]]:
    batch: Batch[list[Outcome]] = Batch(mbox.write, "mbox")
    yield batch
    batch.close()


class Post:
    def __init__(self, folder: Path, batch: Batch[list[Outcome]], template: str = "{local_part}") -> None:
        self.folder, self.count = folder, 0
        self.transport = Mbox(f"{folder}/{template}", batch)

    def __call__(
        self, *names: str, raw: bytes = RAW, sender: str = "ann@far.test", message: Message | None = None
    ) -> list[Result]:
        self.count += 1
        recipients = [Recipient(parse(name)) for name in names]
        envelope = Envelope(f"w-1.{self.count}", parse(sender) if sender else Address(), recipients)
        return list(self.transport.deliver(envelope, recipients, message or Message(raw)))

    def say(self, name: str, **more: bytes) -> str:
        (result,) = self(name, **more)  # type: ignore[arg-type]
        return f"{result.reply} | {result.reason}"


@pytest.fixture
def post(tmp_path: Path, batch: Batch[list[Outcome]]) -> Post:
    return Post(tmp_path, batch)


def mails(path: Path) -> list[mailbox.mboxMessage]:
    return list(mailbox.mbox(path, create=False))


def test_a_mail_is_appended(post: Post) -> None:
    post("bob@here.test")
    post("bob@here.test", raw=b"Subject: two\r\n\r\nno end of line", sender="")
    text = (post.folder / "bob").read_bytes()
    first, second = re.split(rb"(?m)^(?=From )", text)[1:]
    assert re.match(rb"From ann@far\.test [A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d 2\d{3}\n", first)
    assert first.split(b"\n", 1)[1] == (
        b"Return-Path: <ann@far.test>\nDelivered-To: bob@here.test\nSubject: hello\n\n"
        b">From here on\n>>From there\nline\n\n"
    )
    assert second.startswith(b"From MAILER-DAEMON ") and second.endswith(b"\n\nno end of line\n\n")
    assert [mail["Subject"] for mail in mails(post.folder / "bob")] == ["hello", "two"]
    assert (post.folder / "bob").stat().st_mode & 0o777 == 0o600
    assert not (post.folder / "bob.lock").exists()


def test_several_recipients_and_their_own_files(post: Post) -> None:
    assert [r.reply.code for r in post("bob@here.test", "eve@here.test", "Bob@here.test")] == [250] * 3
    assert [m["Delivered-To"] for m in mails(post.folder / "bob")] == ["bob@here.test", "Bob@here.test"]
    assert len(mails(post.folder / "eve")) == 1


def test_a_path_without_placeholders(tmp_path: Path, batch: Batch[list[Outcome]]) -> None:
    for template in ("all", "/a/b/all", "a//{domain}"):
        post = Post(tmp_path, batch, template)
        assert [r.reply.code for r in post("bob@here.test", "eve@here.test")] == [250] * 2
    assert len(mails(tmp_path / "all")) == len(mails(tmp_path / "a" / "b" / "all")) == 2
    assert len(mails(tmp_path / "a" / "here.test")) == 2


def test_what_a_broken_writer_left_does_not_swallow_a_mail(post: Post) -> None:
    for left in (b"From x@y Thu Jan  1 10:00:00 2026\nSubject: cut", b"From x@y Thu Jan  1 10:00:00 2026\nS: cut\n"):
        (post.folder / "bob").write_bytes(left)
        post("bob@here.test")
        assert len(mails(post.folder / "bob")) == 2


def test_fields_that_mean_something_in_a_mailbox_stay_out(post: Post) -> None:
    post("bob@here.test", raw=b"Status: RO\r\nSubject: x\r\nContent-Length: 5\r\nX-UID: 7\r\n\r\nbody\r\n")
    (mail,) = mails(post.folder / "bob")
    assert (mail["Status"], mail["Content-Length"], mail["X-UID"], mail["Subject"]) == (None, None, None, "x")


def test_a_loop(post: Post) -> None:
    assert post.say("bob@here.test", raw=b"Delivered-To: BOB@here.test\r\n\r\nx\r\n").startswith("554 5.4.6")
    assert not (post.folder / "bob").exists()


# -- traps -------------------------------------------------------------------------------------------------------------


def test_a_link_is_not_followed(post: Post, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "bob").symlink_to(victim)
    (tmp_path / "eve").symlink_to(tmp_path / "nowhere")
    assert "no symbolic links" in post.say("bob@here.test")
    assert post.say("eve@here.test").startswith("451 4.3.0")
    assert victim.read_bytes() == b"mine" and not (tmp_path / "nowhere").exists()


def test_a_second_name_is_not_written_to(post: Post, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    os.link(victim, tmp_path / "bob")
    assert "hard link" in post.say("bob@here.test")
    assert victim.read_bytes() == b"mine"


def test_a_folder_that_is_a_link(tmp_path: Path, batch: Batch[list[Outcome]]) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here.test").symlink_to(tmp_path / "elsewhere")
    assert Post(tmp_path, batch, "{domain}/{local_part}").say("bob@here.test").startswith("451 4.3.0")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "lists").symlink_to(tmp_path / "elsewhere")
    assert Post(tmp_path, batch, "x//lists/all").say("bob@here.test").startswith("451 4.3.0")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_devices_pipes_and_folders(post: Post, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bob")
    (tmp_path / "eve").mkdir()
    assert "no regular file" in post.say("bob@here.test")
    assert post.say("eve@here.test").startswith("451 4.3.0")


def test_a_dot_lock_that_is_a_link(post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mbox, "PATIENCE", 0.05)
    (tmp_path / "bob.lock").symlink_to(tmp_path / "nowhere")
    assert post.say("bob@here.test").startswith("451 4.2.0")
    assert not (tmp_path / "nowhere").exists()


# -- locks -------------------------------------------------------------------------------------------------------------


def test_who_holds_a_lock_is_waited_for(post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, waits = tmp_path / "bob.lock", list[float]()
    lock.touch()

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            lock.unlink()

    monkeypatch.setattr(mbox.offload, "pause", pause)
    assert post.say("bob@here.test").startswith("250")
    assert len(waits) == 5 and waits == sorted(waits) and waits[0] < waits[-1] <= mbox.LONGEST_WAIT


def test_a_lock_that_stays(post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mbox, "PATIENCE", 0.1)
    (tmp_path / "bob.lock").touch()
    said = {str(r.recipient.address): r.reply.code for r in post("bob@here.test", "eve@here.test")}
    assert said == {"bob@here.test": 451, "eve@here.test": 250}, "eve is served meanwhile"
    assert "locked by bob.lock for 0.1 s" in post.say("bob@here.test")
    program = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl,time\nf=open({str(tmp_path / 'eve')!r},'r+')\n"
         "fcntl.lockf(f, fcntl.LOCK_EX)\nprint(1,flush=True)\ntime.sleep(60)"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        program.stdout.readline()
        size = (tmp_path / "eve").stat().st_size
        assert "locked by another program" in post.say("eve@here.test")
        assert (tmp_path / "eve").stat().st_size == size and not (tmp_path / "eve.lock").exists()
    finally:
        program.kill()
        program.wait()


def test_nobody_locks_a_mailbox_by_mail_or_loses_one_as_a_lock(
    post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mbox, "STALE", -1.0)  # whatever is called so is taken for a forgotten lock
    (first,) = post("bob.lock@here.test")
    (second,) = post("bob@here.test")
    (third,) = post("bob.lock@here.test")
    assert {first.reply.code, second.reply.code, third.reply.code} == {250}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bob", "bob%2Elock"]
    assert len(mails(tmp_path / "bob%2Elock")) == 2 and len(mails(tmp_path / "bob")) == 1


def test_a_forgotten_lock(post: Post, tmp_path: Path) -> None:
    lock = tmp_path / "bob.lock"
    lock.touch()
    os.utime(lock, (time.time() - mbox.STALE - 10,) * 2)
    assert post.say("bob@here.test").startswith("250")
    assert not lock.exists()


def test_a_file_replaced_while_we_open_it(post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bob").write_bytes(b"")
    real, times = mbox._lock, []

    def lock(file: int) -> None:
        real(file)
        if not times:  # a mail program compacts the mailbox: another file takes its name
            (tmp_path / "new").write_bytes(b"From x@y Thu Jan  1 10:00:00 2026\nSubject: kept\n\n")
            os.rename(tmp_path / "new", tmp_path / "bob")
        times.append(1)

    monkeypatch.setattr(mbox, "_lock", lock)
    assert post.say("bob@here.test").startswith("250")
    assert [m["Subject"] for m in mails(tmp_path / "bob")] == ["kept", "hello"] and len(times) == 2


def test_beside_other_programs_that_lock_as_we_do(post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, and we in rounds: after each the others come to write again."""
    monkeypatch.setattr(mbox, "PATIENCE", 10 * PATIENCE)
    monkeypatch.setattr(mbox, "LONGEST_WAIT", 0.05)
    box, over, count = tmp_path / "bob", tmp_path / "over", 0
    box.touch()  # two programs of Python that make it at once would empty it for each other
    program = [sys.executable, "-c", OTHER, str(box), str(over)]
    others = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        until(lambda: box.stat().st_size)
        for _ in range(8):
            jobs = [gevent.spawn(post, "bob@here.test", raw=b"Subject: ours\r\n\r\nbody\r\n") for _ in range(8)]
            gevent.joinall(jobs, raise_error=True)
            assert [job.value[0].reply.code for job in jobs] == [250] * len(jobs)
            count += len(jobs)
            size = box.stat().st_size
            until(lambda size=size: box.stat().st_size > size)
    finally:
        over.touch()
        theirs = [int(other.communicate(timeout=PATIENCE)[0]) for other in others]
    subjects = [mail["Subject"] for mail in mails(box)]
    assert subjects.count("ours") == count
    expected = [f"other {n}" for other in theirs for n in range(other)]
    assert sorted(subject for subject in subjects if subject != "ours") == sorted(expected)
    assert sum(a != b == "ours" for a, b in itertools.pairwise(subjects)) >= 8, "they really wrote at the same time"


@pytest.mark.needs("procmail")
def test_beside_procmail(post: Post, tmp_path: Path) -> None:
    recipe = tmp_path / "rc"
    recipe.write_text(f"LOCKSLEEP=1\nDEFAULT={tmp_path}/bob\nORGMAIL={tmp_path}/bob\n:0:\n{tmp_path}/bob\n")
    recipe.chmod(0o600)
    count = 20
    jobs = [gevent.spawn(post, "bob@here.test", raw=b"Subject: ours\r\n\r\nbody\r\n") for _ in range(count)]
    theirs = []
    for _ in range(count):
        one = subprocess.Popen(["procmail", str(recipe)], stdin=subprocess.PIPE, cwd=tmp_path)
        one.communicate(b"From x@y Thu Jan  1 10:00:00 2026\nSubject: theirs\n\nbody\n")
        theirs.append(one)
        gevent.sleep(0.002)
    gevent.joinall(jobs, raise_error=True, timeout=120)
    assert [one.wait(30) for one in theirs] == [0] * count
    subjects = [mail["Subject"] for mail in mails(tmp_path / "bob")]
    assert (subjects.count("ours"), subjects.count("theirs")) == (count, count)


@pytest.mark.needs("doveadm", root=True)
def test_dovecot_reads_and_writes_it(post: Post, tmp_path: Path) -> None:
    shutil.chown(tmp_path, "nobody", "nogroup")
    for up in tmp_path.parents:  # so that it may come in
        if up == Path("/tmp"):
            break
        up.chmod(up.stat().st_mode | 0o011)
    (tmp_path / "home").mkdir()
    shutil.chown(tmp_path / "home", "nobody", "nogroup")
    config = tmp_path / "dovecot.conf"
    config.write_text(
        f"base_dir = {tmp_path}/run\nmail_location = mbox:{tmp_path}/home:INBOX={tmp_path}/bob\nssl = no\n"
        f"log_path = {tmp_path}/dovecot.log\nmail_uid = nobody\nmail_gid = nogroup\nfirst_valid_uid = 1\n"
        f"first_valid_gid = 1\nmbox_write_locks = fcntl dotlock\nmail_home = {tmp_path}/home\n"
    )

    def doveadm(*words: str) -> str:
        done = subprocess.run(
            ["doveadm", "-c", str(config), *words], capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "HOME": str(tmp_path / "home"), "USER": "nobody"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    tricky = b"Content-Length: 3\r\nSubject: tricky\r\n\r\nabc\r\n"
    tricky += b"From eve@far.test Thu Jan  1 10:00:00 2026\r\nSubject: forged\r\n"
    post("bob@here.test", raw=tricky)
    for _ in range(10):
        post("bob@here.test")
    shutil.chown(tmp_path / "bob", "nobody", "nogroup")
    found = doveadm("-f", "tab", "fetch", "hdr.subject", "mailbox", "INBOX")
    assert found.split("\n")[1:-1] == ["tricky", *["hello"] * 10]
    jobs = [gevent.spawn(post, "bob@here.test") for _ in range(20)]
    expunged = subprocess.Popen(
        ["doveadm", "-c", str(config), "expunge", "mailbox", "INBOX", "SUBJECT", "tricky"],
        env={**os.environ, "HOME": str(tmp_path / "home"), "USER": "nobody"},
    )
    gevent.joinall(jobs, raise_error=True, timeout=120)
    assert expunged.wait(120) == 0
    subjects = [mail["Subject"] for mail in mails(tmp_path / "bob") if "X-IMAP" not in mail or mail["Subject"]]
    assert subjects.count("hello") == 30 and "tricky" not in subjects


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_file_as_it_was(post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    post("bob@here.test")
    before = (tmp_path / "bob").read_bytes()
    real = os.fdatasync
    failing = [OSError(errno.ENOSPC, "No space left on device"), None]

    def sync(fd: int) -> None:
        error = failing.pop(0) if failing else None
        if error:
            raise error
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    assert (
        post.say("bob@here.test")
        == f"452 4.3.1 There is no space for mail here now | {tmp_path}/bob: No space left on device; make room"
    )
    assert (tmp_path / "bob").read_bytes() == before
    assert not (tmp_path / "bob.lock").exists()
    assert post.say("bob@here.test").startswith("250")
    assert len(mails(tmp_path / "bob")) == 2


def test_it_is_synced_before_the_answer(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("fdatasync", "fsync", "unlink"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _real=real, _name=name, **k: (seen.append(_name), _real(*a, **k))[1])
    post("bob@here.test")
    assert seen == ["fdatasync", "fsync", "unlink"], "the file, its new name, then the lock"


# -- quoting -----------------------------------------------------------------------------------------------------------


def unquoted(text: bytes) -> bytes:
    return re.sub(rb"(?m)^>(>*From )", rb"\1", text)


@given(st.lists(st.sampled_from([b"From x", b">From x", b">>From ", b"\r\n", b"\n", b"a", b"\r", b">", b"F", b"rom "])))
def test_quoting_can_be_undone_and_leaves_no_separator(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    _, *rest = stored(b"From a b\n", Message(b"Subject: x\r\n\r\n" + body))
    text = b"".join(rest)
    assert not re.search(rb"(?m)^From ", text)
    plain = (b"Subject: x\r\n\r\n" + body).replace(b"\r\n", b"\n")
    assert unquoted(text) == plain + (b"" if plain.endswith(b"\n") else b"\n") + b"\n"


def test_large_mails_are_quoted_across_their_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mbox, "CHUNK", 64)
    for shift in range(70):
        body = b"x" * shift + b"\r\nFrom eve\r\n" + b"y" * 200 + b"From no\r\n>From x\r\n"
        text = b"".join(stored(b"", Message(b"S: x\r\n\r\n" + body)))
        assert not re.search(rb"(?m)^From ", text), shift
        assert unquoted(text) == b"S: x\n\n" + body.replace(b"\r\n", b"\n") + b"\n", shift
