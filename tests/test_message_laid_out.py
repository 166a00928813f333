"""A message put together again from its layout: same bytes, same fields, and still only spans of the raw mail."""

import tracemalloc

import pytest

from mta.message.message import Message, Span

RAW = (
    b"Received: from a\r\n\tby b\r\nFrom: ann@a.test\r\nSubject: one\r\nX-Last: end\r\n"
    b"\r\nbody, a line\r\nFrom: not a field\r\n"
)
BARE = b"From: ann@a.test\r\nSubject: one\r\n"


def prepend(message: Message) -> None:
    message.headers.prepend("X-One", "1")
    message.headers.prepend("X-Two", "2")


def change(message: Message) -> None:
    message.headers.get("From")
    message.headers.prepend("X-One", "1")
    message.headers.set("Subject", "two")
    message.headers.append("X-New", "new")


def take_out(message: Message) -> None:
    message.headers.remove("Subject")


def take_last(message: Message) -> None:
    message.headers.remove("X-Last")
    message.headers.prepend("X-One", "1")


def nothing(message: Message) -> None:
    message.headers.get("From")


@pytest.mark.parametrize("raw", [RAW, BARE, b"", b"\r\nonly a body\r\n"])
@pytest.mark.parametrize("edit", [prepend, change, take_out, take_last, nothing])
def test_the_same_bytes_and_fields(raw: bytes, edit) -> None:
    message = Message(raw)
    edit(message)
    again = Message.laid_out(raw, message.layout())
    assert bytes(again) == bytes(message)
    assert list(again.headers) == list(message.headers)
    again.headers.prepend("X-Later", "3")
    message.headers.prepend("X-Later", "3")
    assert bytes(again) == bytes(message)


def test_a_changed_header_copies_nothing_of_the_body() -> None:
    message = Message(RAW)
    change(message)
    again = Message.laid_out(RAW, message.layout())
    assert again.raw is RAW and again.layout() == message.layout()
    assert isinstance(again.layout()[-1], Span)


def test_a_changed_body_is_put_together() -> None:
    start = RAW.index(b"body")
    layout = [Span(0, start), b"another", Span(start + 4, len(RAW))]
    assert bytes(Message.laid_out(RAW, layout)) == RAW.replace(b"body,", b"another,")


def test_what_took_the_place_of_a_large_body_is_written_without_a_copy() -> None:
    message = Message(RAW)
    message.root.become(b"Content-Type: application/octet-stream\r\n\r\n" + b"x" * 10_000_000)
    message.layout()
    tracemalloc.start()
    pieces = message.pieces()
    assert message.size == sum(map(len, pieces)) > 10_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert bytes(message).endswith(b"application/octet-stream\r\nMIME-Version: 1.0\r\n\r\n" + b"x" * 10_000_000)
