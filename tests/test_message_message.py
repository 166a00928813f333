"""A mail's content: what is not changed is never copied, and every way to write it out says the same."""

import itertools
import mmap
from pathlib import Path

import pytest

from mta.message.message import Message, Span

SAMPLES = sorted((Path(__file__).parent / "messages").glob("*.eml"))


def test_there_are_samples() -> None:
    assert len(SAMPLES) > 40


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_read_without_a_change(path: Path) -> None:
    raw = path.read_bytes()
    mail = Message(raw)
    dict(mail.headers)
    assert bytes(mail) == raw and not mail.changed
    assert raw.endswith(bytes(mail.body()))


def with_empty_line(raw: bytes) -> bytes:
    """The mail as it is written once its header is changed: a body that no empty line parted gets one."""
    body = len(Message(raw).body())
    head = raw[: len(raw) - body]
    parted = not body or head == b"\r\n" or head.endswith(b"\r\n\r\n")
    return raw if parted else head + b"\r\n" + raw[-body:]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_field_on_top_of_a_sample_leaves_the_rest_as_it_came(path: Path) -> None:
    raw = path.read_bytes()
    mail = Message(raw)
    mail.headers.prepend("X-Top", "1")
    assert bytes(mail) == b"X-Top: 1\r\n" + with_empty_line(raw)
    assert mail.headers.get("X-Top") == "1"
    assert bytes(mail) == b"X-Top: 1\r\n" + with_empty_line(raw), "and so it stays once the fields were looked at"
    assert bytes(mail.body()) == bytes(Message(raw).body())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_field_changed_and_taken_away_again(path: Path) -> None:
    raw = path.read_bytes()
    mail = Message(raw)
    mail.headers.append("X-Bottom", "1")
    assert mail.size == len(bytes(mail)) == len(b"".join(mail.pieces()))
    mail.headers.remove("X-Bottom")
    assert bytes(mail) == with_empty_line(raw)


WHERE = [
    # raw                            header    body
    (b"", b"", b""),
    (b"\r\n", b"", b""),
    (b"\r\nbody", b"", b"body"),
    (b"A: 1\r\n\r\nbody\r\n", b"A: 1\r\n", b"body\r\n"),
    (b"A: 1\r\n\r\n", b"A: 1\r\n", b""),
    (b"A: 1\r\n", b"A: 1\r\n", b""),
    (b"A: 1", b"A: 1", b""),
    (b"A: 1\r\n \r\n\r\nbody", b"A: 1\r\n \r\n", b"body"),
    (b"A: 1\n\nbody", b"A: 1\n\nbody", b""),
    (b"A: 1\r\nno field\r\nB: 2\r\n", b"A: 1\r\n", b"no field\r\nB: 2\r\n"),
    (b"A: 1\r\nno field\r\nB: 2\r\n\r\nbody", b"A: 1\r\nno field\r\nB: 2\r\n", b"body"),
    (b"no field\r\nat all\r\n\r\nbody", b"", b"no field\r\nat all\r\n\r\nbody"),
    (b" folded from nowhere\r\nA: 1\r\n\r\nbody", b" folded from nowhere\r\nA: 1\r\n", b"body"),
]


@pytest.mark.parametrize(("raw", "header", "body"), WHERE)
def test_where_the_body_begins(raw: bytes, header: bytes, body: bytes) -> None:
    mail = Message(raw)
    assert bytes(mail.body()) == body
    assert b"".join(mail.headers.text(field) for field in mail.headers.fields) == header


def test_one_field_of_a_large_mail_costs_a_few_hundred_bytes() -> None:
    raw = b"From: a@x.test\r\nSubject: old\r\nTo: b@x.test\r\n\r\n" + b"line\r\n" * 4_000_000
    mail = Message(raw)
    mail.headers.set("Subject", "new")
    mail.headers.prepend("Received", "from somewhere")
    layout = mail.layout()
    assert sum(len(piece) for piece in layout if isinstance(piece, bytes)) < 100
    assert [piece for piece in layout if isinstance(piece, Span)][-1].stop == len(raw)
    assert mail.size == len(raw) + len(b"Received: from somewhere\r\n")
    body = mail.pieces()[-1]
    assert isinstance(body, memoryview) and body.obj is raw, "the body is looked at, not copied"


def test_neighbouring_fields_are_one_piece() -> None:
    mail = Message(b"A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\nbody")
    mail.headers.remove("C")
    assert mail.layout() == [Span(0, 12), Span(18, 30)]


def test_a_mail_may_lie_in_a_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "mail"
    path.write_bytes(b"A: 1\r\nB: 2\r\n\r\nbody\r\n")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        mail = Message(raw)
        mail.headers.set("B", "3")
        assert bytes(mail) == b"A: 1\r\nB: 3\r\n\r\nbody\r\n"
        assert bytes(mail.body()) == b"body\r\n"
        del mail


def test_a_copy_shares_nothing_that_can_change() -> None:
    def top(m: Message) -> None:
        m.headers.prepend("X-A", "1")

    def more(m: Message) -> None:
        m.headers.append("X-B", "2")

    def less(m: Message) -> None:
        m.headers.remove("subject")

    def part(m: Message) -> None:
        m.root.set_text("other words")

    raw = b"Subject: hi\r\nFrom: a@b\r\n\r\nbody\r\n"
    for edits in itertools.product([top, more, less, part], repeat=2):
        message = Message(raw)
        for edit in [*edits, None]:
            other = message.copy()
            assert bytes(other) == bytes(message)
            assert not other.edited
            before = bytes(message)
            top(other)
            assert other.edited
            more(other)
            assert bytes(message) == before
            assert bytes(other) != before
            if edit is not None:
                edit(message)


def test_a_copy_whose_part_was_changed_says_so() -> None:
    copy = Message(b"Subject: hi\r\n\r\nbody\r\n").copy()
    copy.root.set_text("other words")
    assert copy.edited
