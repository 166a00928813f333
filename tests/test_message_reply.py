"""Replies: how they are read, printed and sent, and that none can ever become two."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.message.reply import Refused, Reply

READ = [
    # said                              code  enhanced   text
    ("250", 250, "", ""),
    ("250 Ok", 250, "", "Ok"),
    ("250 2.0.0", 250, "2.0.0", ""),
    ("550 5.7.1 Not from outside", 550, "5.7.1", "Not from outside"),
    ("550-5.7.1 Not from outside", 550, "5.7.1", "Not from outside"),
    ("421 4.3.2  two blanks", 421, "4.3.2", "two blanks"),
    ("250 5 items", 250, "", "5 items"),
    ("250-mx.test\r\n250-SIZE 1000\r\n250 HELP", 250, "", "mx.test\nSIZE 1000\nHELP"),
    ("550-5.7.1 First\n550 5.7.1 Second\n", 550, "5.7.1", "First\nSecond"),
    ("550 5.7.1 First\nplain words", 550, "5.7.1", "First\nplain words"),
]


@pytest.mark.parametrize(("said", "code", "enhanced", "text"), READ)
def test_read(said: str, code: int, enhanced: str, text: str) -> None:
    reply = Reply.parse(said)
    assert (reply.code, reply.enhanced, reply.text) == (code, enhanced, text)


@pytest.mark.parametrize(
    "said", ["", "Ok", "25 Ok", "2500 Ok", "199 low", "650 high", "250Ok", " 250 Ok", "٢٥٠ Ok", "250 5.0.0 mixed"]
)
def test_what_is_no_reply_is_refused_with_an_example(said: str) -> None:
    with pytest.raises(ValueError, match=r"write it as|does not belong"):
        Reply.parse(said)


def test_classes() -> None:
    assert Reply.parse("250 Ok").positive and Reply.parse("354 Go on").positive
    assert Reply.parse("451 4.3.0 Later").temporary and Reply.parse("550 5.1.1 No").permanent
    assert not Reply.parse("451 4.3.0 Later").positive and not Reply.parse("451 4.3.0 Later").permanent


SENT = [
    (Reply(250), b"250 \r\n"),
    (Reply(250, "2.0.0", "Ok"), b"250 2.0.0 Ok\r\n"),
    (Reply(550, "5.7.1", "One\nTwo"), b"550-5.7.1 One\r\n550 5.7.1 Two\r\n"),
    (Reply(550, "", "a\r250 b\0c\x7fd"), b"550 a?250 b?c?d\r\n"),
    (Reply(550, "", "Gr\xfc\xdfe"), "550 Grüße\r\n".encode()),
    (Reply(550, "", "half a character: \udce4"), b"550 half a character: ?\r\n"),
]


@pytest.mark.parametrize(("reply", "wire"), SENT)
def test_sent(reply: Reply, wire: bytes) -> None:
    assert reply.wire == wire


@given(st.integers(200, 599), st.sampled_from(["", "5.7.1", "4.123.456"]), st.text(max_size=3000))
def test_whatever_the_text_it_is_one_reply_of_legal_lines(code: int, enhanced: str, text: str) -> None:
    wire = Reply(code, enhanced, text).wire
    lines = wire.split(b"\r\n")
    assert lines.pop() == b""
    assert all(len(line) + 2 <= 512 for line in lines), "RFC 5321 4.5.3.1.5"
    assert all(line.startswith(b"%d-" % code) for line in lines[:-1])
    assert lines[-1].startswith(b"%d " % code)
    assert not re.search(rb"[\x00-\x1f\x7f]", b"".join(lines))
    wire.decode()  # no character was cut in two


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=100))
def test_what_was_sent_reads_back(text: str) -> None:
    reply = Reply(550, "5.7.1", text.strip())
    assert Reply.parse(reply.wire.decode()) == reply


def test_more_words_stand_at_the_end_and_keep_the_rest() -> None:
    reply = Reply(550, "5.7.1", "One\nTwo", close=True).adding("(id)")
    assert reply.wire == b"550-5.7.1 One\r\n550 5.7.1 Two (id)\r\n" and reply.close
    assert Reply(250).adding("(id)").wire == b"250 (id)\r\n"


def test_closing_is_part_of_the_reply() -> None:
    reply = Reply.parse("421 4.3.2 Bye")
    assert reply.closing().close and reply.closing() != reply
    assert len({reply, Reply.parse("421 4.3.2 Bye"), reply.closing()}) == 2


def test_people_read_one_line() -> None:
    reply = Reply(550, "5.7.1", "One\nTwo")
    assert str(reply) == "550 5.7.1 One / Two"
    assert repr(reply.closing()) == "<Reply 550 5.7.1 One / Two and close>"


def test_refused_carries_its_reply_and_a_reason_for_the_log() -> None:
    plain = Refused("550 5.7.1 No")
    assert plain.reply == Reply(550, "5.7.1", "No") and plain.reason == str(plain) == "550 5.7.1 No"
    assert Refused(Reply(452, "4.3.1", "Full"), "disk full").reason == "disk full"


@given(st.text(max_size=200))
def test_reading_raises_only_value_errors(said: str) -> None:
    try:
        reply = Reply.parse(said)
    except ValueError:
        return
    assert 200 <= reply.code <= 599
