"""The end of a mail, its dots and its line ends, however the bytes are cut; and every known way to smuggle."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiving import Receiving, unread, until

from mta import settings
from mta.message.reply import Refused
from mta.receive.content import Content

REFUSED = "refused"


def plainly(raw: bytes) -> tuple[bytes, bytes] | str | None:
    """The rules written down once more, for a mail that is here whole: (content, rest), REFUSED, or None: no end."""
    text = b"\r\n" + raw
    end = text.find(b"\r\n.\r\n")
    content = text[: end + 2] if end >= 0 else text
    if re.search(rb"\0|\r(?!\n|\Z)|(?<!\r)\n", content):
        return REFUSED
    if end < 0:
        return None
    return re.sub(rb"(?m)^\.", b"", content[2:]), text[end + 5 :]


def fed(chunks: list[bytes], **how: bool) -> tuple[bytes, bytes] | str | None:
    content, seen = Content(1000, **how), b""
    try:
        for n, chunk in enumerate(chunks):
            piece, rest = content.feed(chunk)
            seen += piece
            if rest is not None:
                return seen, rest + b"".join(chunks[n + 1 :])
    except Refused as refused:
        assert refused.reply.close and refused.reply.code == 521
        return REFUSED
    return None


def cuts(raw: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(raw), *(place % (len(raw) + 1) for place in at)})
    return [raw[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize("length", range(1, 6))
def test_all_short_mails_in_one_piece_and_byte_by_byte(length: int) -> None:
    for letters in itertools.product((b"\r", b"\n", b".", b"a", b"\0"), repeat=length):
        raw = b"".join(letters)
        assert fed([raw]) == plainly(raw) == fed([raw[n : n + 1] for n in range(len(raw))]), raw


parts = st.sampled_from([b"\r\n", b".", b"..", b"a", b"\r", b"\n", b"\0", b"\xff", b"\r\n.\r\n", b"\r\n.", b"text\r\n"])
mostly = st.sampled_from([b"\r\n", b".", b"..", b"a", b"text\r\n", b"\r\n..", b"\r\n.x"])


@given(st.lists(parts, max_size=20), st.lists(st.integers(0, 200), max_size=10))
def test_cuts_do_not_matter(pieces: list[bytes], at: list[int]) -> None:
    raw = b"".join(pieces)
    assert fed(cuts(raw, at)) == plainly(raw)


@given(st.lists(mostly, max_size=20), st.lists(st.integers(0, 200), max_size=10))
def test_what_was_stuffed_comes_out_again(pieces: list[bytes], at: list[int]) -> None:
    mail = b"".join(pieces) + b"\r\n"
    stuffed = re.sub(rb"(?m)^\.", b"..", mail) + b".\r\nQUIT\r\n"
    assert fed(cuts(stuffed, at)) == (mail, b"QUIT\r\n")


@given(st.lists(parts, max_size=20), st.lists(st.integers(0, 200), max_size=10))
def test_repaired_content_has_only_whole_line_ends(pieces: list[bytes], at: list[int]) -> None:
    raw = b"".join(pieces)
    outcome, strict = fed(cuts(raw, at), repair=True), plainly(raw)
    if isinstance(strict, tuple):
        assert outcome == strict
    if isinstance(outcome, tuple):
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", outcome[0])
        assert raw.endswith(b"\r\n.\r\n" + outcome[1]) or raw == b".\r\n" + outcome[1]


def test_long_lines_are_noticed_across_chunks() -> None:
    for size, long in ((99, False), (101, True)):
        content = Content(100)
        for chunk in (b"a\r\n" + b"x" * (size - 51), b"y" * 50, b"\r\nb\r\n.\r\n"):
            content.feed(chunk)
        assert content.long is long


# -- smuggling ----------------------------------------------------------------------------------------------------

HIDDEN = b"MAIL FROM:<smuggled@evil.example>\r\nRCPT TO:<jones@example.test>\r\nDATA\r\nevil\r\n.\r\n"
REJECTED = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\n", b"\n.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n\0.\r\n",
    b"\r\n.\0\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\r\n.\r\n",
]  # fmt: skip
HARMLESS = [b"\r\n. \r\n", b"\x0b.\x0b", b"\xc2\x85.\xc2\x85"]


def smuggle(server: Receiving, sequence: bytes, split: bool, oversize: bool) -> bytes:
    """What the server answers to a mail with `sequence` and a whole second mail in it."""
    with server.connect() as client:
        for line in (b"EHLO x.example", b"MAIL FROM:<a@b.example>", b"RCPT TO:<jones@example.test>", b"DATA"):
            client.recv(4096)
            client.sendall(line + b"\r\n")
        assert client.recv(4096).startswith(b"354")
        mail = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * (30 if oversize else 0) + b"line1"
        client.sendall(mail + sequence + (b"" if split else HIDDEN))
        heard = b""
        if split:
            sessions = server.receiver.sessions
            until(lambda: all(one.stream.waiting and not unread(one.stream) for one in sessions))
            try:
                client.sendall(HIDDEN)
            except OSError:
                pass
        try:
            client.shutdown(1)
        except OSError:
            pass
        while chunk := client.recv(4096):
            heard += chunk
        return heard


@pytest.mark.parametrize("oversize", [False, True], ids=["kept", "oversize"])
@pytest.mark.parametrize("split", [False, True], ids=["glued", "split"])
@pytest.mark.parametrize("sequence", REJECTED)
def test_smuggling_is_refused_and_nothing_behind_it_runs(sequence: bytes, split: bool, oversize: bool) -> None:
    with Receiving(smtp=settings.Smtp(max_size=1000)) as server:
        heard = smuggle(server, sequence, split, oversize)
        server.settle()
        assert heard.startswith(b"521 5.5.2 ") and heard.count(b"\r\n") == 1
        assert server.mails == []
        assert server.receiver.budget.held == 0


@pytest.mark.parametrize("oversize", [False, True], ids=["kept", "oversize"])
@pytest.mark.parametrize("split", [False, True], ids=["glued", "split"])
@pytest.mark.parametrize("sequence", HARMLESS)
def test_what_ends_nothing_is_text(sequence: bytes, split: bool, oversize: bool) -> None:
    with Receiving(smtp=settings.Smtp(max_size=1000)) as server:
        heard = smuggle(server, sequence, split, oversize)
        server.settle()
        assert heard.startswith(b"552 5.3.4" if oversize else b"250 2.0.0") and heard.count(b"\r\n") == 1
        assert [b"MAIL FROM:<smuggled" in mail for _, mail in server.mails] == ([] if oversize else [True])
