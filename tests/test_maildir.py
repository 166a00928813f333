"""Delivery into Maildirs, read back with the standard library."""

from __future__ import annotations

import errno
import mailbox
import os
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.deliver import maildir
from mta.deliver.maildir import Maildir
from mta.deliver.transport import Result
from mta.message.address import Address, parse
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.net import folders
from mta.net.offload import Batch

RAW = b"Received: by here\r\nSubject: hello\r\n\r\nline\r\n.dot\r\n"


@pytest.fixture
def batch() -> Iterator[Batch[list[OSError | None]]]:
    batch: Batch[list[OSError | None]] = Batch(maildir.write, "maildir")
    yield batch
    batch.close()


class Post:
    """Delivers mails to `root`/{domain}/{local_part}."""

    def __init__(self, root: Path, batch: Batch[list[OSError | None]]) -> None:
        self.root, self.count = root, 0
        self.transport = Maildir(f"{root}/{{domain}}/{{local_part}}", batch, "mx.here.test")

    def __call__(
        self, *names: str | Address, raw: bytes = RAW, id: str = "", sender: str = "ann@far.test"
    ) -> list[Result]:
        self.count += 1
        recipients = [Recipient(parse(name) if isinstance(name, str) else name) for name in names]
        envelope = Envelope(
            id or f"w-1.{self.count}", parse(sender) if sender else Address(), recipients, arrived=1.5e9
        )
        return list(self.transport.deliver(envelope, recipients, Message(raw)))

    def box(self, address: str) -> mailbox.Maildir:
        local, _, domain = address.rpartition("@")
        return mailbox.Maildir(self.root / domain / local, create=False)

    def texts(self, address: str) -> list[bytes]:
        box = self.box(address)
        return [box.get_bytes(key) for key in box.keys()]  # noqa: SIM118


@pytest.fixture
def post(tmp_path: Path, batch: Batch[list[OSError | None]]) -> Post:
    return Post(tmp_path / "mail", batch)


def codes(results: list[Result]) -> list[str]:
    return [f"{r.reply.code} {r.reply.enhanced}" for r in results]


def test_a_mail_lies_in_new_with_lf_and_its_marks_on_top(post: Post) -> None:
    assert codes(post("bob@here.test")) == ["250 2.0.0"]
    (text,) = post.texts("bob@here.test")
    assert text == b"Return-Path: <ann@far.test>\nDelivered-To: bob@here.test\n" + RAW.replace(b"\r\n", b"\n")
    (file,) = (post.root / "here.test/bob/new").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (post.root / "here.test").stat().st_mode & 0o777 == 0o700
    assert list((post.root / "here.test/bob/tmp").iterdir()) == []
    assert (post.root / "here.test/bob/cur").is_dir()


def test_a_bounce_has_an_empty_return_path(post: Post) -> None:
    post("bob@here.test", sender="")
    assert post.box("bob@here.test").popitem()[1]["Return-Path"] == "<>"


def test_each_recipient_gets_a_file_of_its_own(post: Post) -> None:
    names = [f"r{n}@here.test" for n in range(250)]  # several rounds
    assert codes(post(*names)) == ["250 2.0.0"] * 250
    for name in names:
        (text,) = post.texts(name)
        assert f"Delivered-To: {name}\n".encode() in text


def test_a_delivery_repeated_after_a_crash_replaces_its_file(post: Post) -> None:
    post("bob@here.test", "bob@here.test", "BOB@here.test", id="w-9.1")
    post("bob@here.test", id="w-9.1")
    assert len(post.texts("bob@here.test")) == 1
    post("bob@here.test", id="w-9.2")
    assert len(post.texts("bob@here.test")) == 2


def test_a_mail_that_meets_its_own_mark_is_a_loop(post: Post) -> None:
    raw = b"Delivered-To: Bob@here.test\r\n" + RAW
    assert codes(post("bob@here.test", "eve@here.test", raw=raw)) == ["554 5.4.6", "250 2.0.0"]
    assert not (post.root / "here.test/bob").exists()


def test_many_mails_go_to_the_disk_together(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = []
    real = maildir._Round.run
    monkeypatch.setattr(maildir._Round, "run", lambda self: (rounds.append(len(self.copies)), real(self))[1])
    work = [gevent.spawn(post, "bob@here.test") for _ in range(60)]
    gevent.joinall(work)
    assert all(codes(g.value) == ["250 2.0.0"] for g in work)
    assert len(post.texts("bob@here.test")) == 60
    assert max(rounds) >= 30


def test_files_and_folders_are_synced_before_the_reply(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what reaches the disk, alone (fdatasync, fsync) and with many (syncfs)."""
    done: list[str] = []

    def noting(name: str) -> None:
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, **k: (real(*a, **k), done.append(name))[0])

    class Libc:
        def syncfs(self, fd: int) -> int:
            done.append("syncfs")
            return 0

    post("bob@here.test")
    for name in ("fdatasync", "fsync", "rename"):
        noting(name)
    monkeypatch.setattr(maildir, "_libc", Libc())
    post("bob@here.test")
    assert done == ["fdatasync", "rename", "fsync"]
    done.clear()
    post(*["bob@here.test"] * 3, "eve+1@here.test", "eve+2@here.test", "eve+3@here.test", "eve+4@here.test")
    post(*[f"eve+{n}@here.test" for n in range(1, 5)], "bob@here.test")
    assert done[-7:] == ["syncfs", *["rename"] * 5, "syncfs"]


def test_a_link_below_the_base_is_never_followed(post: Post, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for sub in ("tmp", "new", "cur"):
        (outside / sub).mkdir(parents=True)
    (post.root / "here.test").mkdir(parents=True)
    (post.root / "here.test/bob").symlink_to(outside)
    (post.root / "here.test/eve").mkdir()
    (post.root / "here.test/eve/new").symlink_to(outside / "new")
    (post.root / "there.test").symlink_to(outside)
    results = post("bob@here.test", "eve@here.test", "joe@there.test", "ann@here.test")
    assert codes(results) == ["451 4.3.0"] * 3 + ["250 2.0.0"]
    assert f"{post.root}/here.test/bob" in results[0].reason and "no symbolic links" in results[0].reason
    assert not [file for file in outside.rglob("*") if file.is_file()]


def test_a_trap_in_tmp_is_not_written_through(post: Post, tmp_path: Path) -> None:
    post("bob@here.test", id="w-1.1")
    (file,) = (post.root / "here.test/bob/new").iterdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (post.root / "here.test/bob/tmp" / file.name).symlink_to(victim)
    assert codes(post("bob@here.test", id="w-1.1")) == ["250 2.0.0"]
    assert victim.read_text() == "precious"
    assert not file.is_symlink() and b"Subject: hello" in file.read_bytes()


@pytest.mark.parametrize(
    "local", ["..", ".", "../eve", "a/../../b", ".hidden", "/etc/passwd", "a\\b", "", "a b", "%", "grüß"]
)
def test_a_strange_local_part_is_one_folder_below_its_domain(post: Post, local: str) -> None:
    assert codes(post(Address(local, "here.test"))) == ["250 2.0.0"]
    assert [path.name for path in post.root.iterdir()] == ["here.test"]
    (box,) = (post.root / "here.test").iterdir()
    assert not box.name.startswith(".")
    assert len(list((box / "new").iterdir())) == 1


@given(st.text(max_size=64), st.text(max_size=64))
def test_names_are_safe_and_differ_where_their_texts_do(one: str, other: str) -> None:
    name = folders.safe_name(one)
    assert name and not name.startswith(".") and "/" not in name
    assert all(" " < c <= "~" for c in name)
    if one.lower() != other.lower():
        assert name != folders.safe_name(other)


def test_placeholders_stand_anywhere_in_a_path() -> None:
    path = folders.Path("/srv/mail/{domain}/u-{local_part}/Maildir")
    assert path.base == "/srv/mail"
    assert path.below(parse("Bob@here.test")) == ("here.test", "u-bob", "Maildir")
    assert (folders.Path("/srv/Maildir").base, folders.Path("/srv/Maildir").below(parse("a@b.test"))) == (
        "/srv/Maildir",
        (),
    )
    assert folders.Path("/{local_part}").base == "/"
    assert folders.Path("{local_part}").base == "."


@pytest.mark.parametrize(
    "number, reply, words",
    [
        (errno.ENOSPC, "452 4.3.1", "make room"),
        (errno.EDQUOT, "452 4.2.2", "make room"),
        (errno.EACCES, "451 4.3.0", "let the user of uid"),
        (errno.EROFS, "451 4.3.0", "read-only"),
        (errno.EIO, "451 4.3.0", "/here.test/bob: "),
    ],
)
@pytest.mark.parametrize("where", ["write", "fdatasync", "rename", "fsync"])
def test_trouble_is_a_reply_and_leaves_nothing_in_tmp(
    post: Post, monkeypatch: pytest.MonkeyPatch, number: int, reply: str, words: str, where: str
) -> None:
    post("bob@here.test")

    def broken(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, where, broken)
    (result,) = post("bob@here.test")
    monkeypatch.undo()
    assert codes([result]) == [reply]
    assert words in result.reason and f"{post.root}/here.test/bob" in result.reason
    assert list((post.root / "here.test/bob/tmp").iterdir()) == []
    assert codes(post("bob@here.test", id="w-1.2")) == ["250 2.0.0"]


def test_a_failed_syncfs_fails_all_it_was_for(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def syncfs(self, fd: int) -> int:
            maildir.ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(maildir, "_libc", Libc())
    assert codes(post(*[f"r{n}@here.test" for n in range(6)])) == ["451 4.3.0"] * 6
    assert not [p for p in post.root.rglob("*") if p.is_file()]


def test_one_bad_mailbox_harms_no_other(post: Post) -> None:
    (post.root / "here.test").mkdir(parents=True)
    (post.root / "here.test/bob").write_text("a file where a folder should be")
    assert codes(post("bob@here.test", "eve@here.test", "bob@here.test")) == ["451 4.3.0", "250 2.0.0", "451 4.3.0"]


def test_a_large_mail_keeps_every_byte(post: Post) -> None:
    line = b"0123456789abcdef" * 4 + b"\r\n"
    raw = b"Subject: big\r\n\r\n" + line * 50_000  # chunks end inside CRLFs
    post("bob@here.test", raw=raw)
    (text,) = post.texts("bob@here.test")
    assert text.endswith(raw.replace(b"\r\n", b"\n"))
    assert text.count(b"\r") == 0


@given(st.lists(st.binary(max_size=8).map(lambda b: b.replace(b"x", b"\r\n"))), st.integers(1, 5))
def test_line_ends_are_turned_wherever_chunks_end(pieces: list[bytes], chunk: int) -> None:
    old, maildir.CHUNK = maildir.CHUNK, chunk
    try:
        assert b"".join(maildir._unix(pieces)) == b"".join(pieces).replace(b"\r\n", b"\n")
    finally:
        maildir.CHUNK = old
