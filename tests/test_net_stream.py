"""A connection as lines and chunks, over socket pairs; deadlines and wake-ups that reach only those who wait."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from daemon import free_ports
from fake_smtp import certificate
from receiving import unread, until

from mta.message.reply import Refused
from mta.net import clock, deadline
from mta.net.stream import Gone, Stream, TimedOut, connect
from mta.net.tls import client_context, server_context


@pytest.fixture(autouse=True)
def fine() -> Iterator[None]:
    old = deadline.TABLE.finer(0.01)
    yield
    deadline.TABLE.finer(old)


@pytest.fixture
def pair() -> Iterator[tuple[Stream, socket.socket]]:
    ours, theirs = socket.socketpair()
    stream = Stream(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


def test_lines(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    other.sendall(b"one\r\n\r\nthr")
    assert stream.line(100) == b"one"
    assert stream.pending
    assert stream.line(100) == b""
    assert not stream.pending and stream.buffered
    gevent.spawn(other.sendall, b"ee\r\n")
    assert stream.line(100) == b"three"
    assert not stream.buffered


def test_a_carriage_return_at_the_border(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    other.sendall(b"one\r")
    gevent.spawn_later(0.02, other.sendall, b"\ntwo\r\n")
    assert [stream.line(100), stream.line(100)] == [b"one", b"two"]


@pytest.mark.parametrize("size", [101, 5000, 200_000])
def test_a_line_too_long_is_skipped(pair: tuple[Stream, socket.socket], size: int) -> None:
    stream, other = pair
    writing = gevent.spawn(other.sendall, b"x" * (size - 2) + b"\r\nnext\r\n")
    with pytest.raises(Refused) as refused:
        stream.line(100)
    assert not refused.value.reply.close
    assert stream.line(100) == b"next"
    writing.join()


def test_a_line_of_just_the_limit(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    other.sendall(b"x" * 98 + b"\r\n")
    assert stream.line(100) == b"x" * 98


@pytest.mark.parametrize("line", [b"\n", b"x\n", b"x\ny\r\n", b"x\r\r\n\n"])
def test_a_bare_line_feed_ends_the_conversation(pair: tuple[Stream, socket.socket], line: bytes) -> None:
    stream, other = pair
    other.sendall(line)
    with pytest.raises(Refused) as refused:
        stream.line(100)
        stream.line(100)
    assert refused.value.reply.close


def test_what_is_said_leaves_in_one_piece_when_we_wait(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    for word in (b"a", b"b", b"c"):
        stream.say(word)
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(10)
    other.sendall(b"x\r\n")
    stream.line(10)
    assert other.recv(10) == b"abc"


def test_large_and_many_buffers(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    pieces = [bytes([n % 256]) * (n % 977) for n in range(5000)]
    sending = gevent.spawn(lambda: (stream.send(pieces), stream.send(b"!" * 3_000_000), stream.close()))
    got = b""
    while chunk := other.recv(1 << 20):
        got += chunk
    sending.join()
    assert got == b"".join(pieces) + b"!" * 3_000_000


def test_gone(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    other.sendall(b"half")
    other.close()
    with pytest.raises(Gone):
        stream.line(100)
    assert stream.ended
    with pytest.raises(Gone):
        stream.send(b"x" * 10_000_000)


def test_reading_and_writing_time_out(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    for act in (lambda: stream.line(10), lambda: stream.send(b"x" * 10_000_000)):
        stream.deadline = began = clock.monotonic() + 0.1
        with pytest.raises(TimedOut):
            act()
        assert 0 <= clock.monotonic() - began < 50
    assert not stream.waiting
    other.sendall(b"x\r\n")
    stream.deadline = clock.monotonic() + 60
    assert stream.line(10) == b"x"


def test_a_deadline_reaches_only_a_wait_for_the_network(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    stream.deadline = clock.monotonic() + 0.05
    gevent.sleep(0.15)  # elsewhere
    other.sendall(b"x\r\n")
    gevent.sleep(0)
    stream.deadline = clock.monotonic() + 60
    assert stream.line(10) == b"x"


def test_wake(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    waiting = gevent.spawn(lambda: stream.line(10))
    gevent.sleep(0)
    stream.wake(KeyError("no"), lambda: False)
    stream.wake(KeyError("yes"))
    with pytest.raises(KeyError, match="yes"):
        waiting.get()
    stream.wake(KeyError("nobody waits"))
    gevent.sleep(0.01)
    other.sendall(b"x\r\n")
    assert stream.line(10) == b"x"


def test_a_wake_that_comes_with_the_bytes_is_too_late_or_in_time_but_never_stale(
    pair: tuple[Stream, socket.socket],
) -> None:
    stream, other = pair
    heard: list[object] = []

    def listen() -> None:
        for _ in range(200):
            try:
                heard.append(stream.line(10))
            except KeyError:
                heard.append("woken")
            gevent.sleep(0)  # a stale wake-up would raise here

    listening = gevent.spawn(listen)
    for n in range(200):
        gevent.sleep(0)
        other.sendall(b"x\r\n")
        if n % 3 == 0:
            stream.wake(KeyError())
    while not listening.ready():
        other.sendall(b"x\r\n")
        gevent.sleep(0.001)
    listening.get()
    assert len(heard) == 200


def test_within() -> None:
    with pytest.raises(TimedOut), deadline.within(0.02):
        gevent.sleep(600)
    with deadline.within(0.02):
        pass
    gevent.sleep(0.04)


def test_who_lingers_reads_on_however_small_the_pieces(pair: tuple[Stream, socket.socket]) -> None:
    """Else a client that is still sending loses the reply to a reset."""
    stream, other = pair
    stream.say(b"521 No\r\n")
    lingering = gevent.spawn(stream.linger, 60.0)
    for _ in range(100):
        other.sendall(b"x")
        until(lambda: lingering.ready() or not unread(stream))
    assert not lingering.ready()
    other.shutdown(socket.SHUT_WR)
    lingering.join()
    assert other.recv(100) == b"521 No\r\n"


def test_who_lingers_gives_no_free_ride(pair: tuple[Stream, socket.socket]) -> None:
    stream, other = pair
    lingering = gevent.spawn(lambda: (stream.linger(60.0), stream.close()))
    with pytest.raises(OSError):
        for _ in range(1000):
            other.sendall(b"x" * 65536)
    lingering.join()


def test_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = connect("127.0.0.1", server.getsockname()[1], clock.monotonic() + 60)
        other, _ = server.accept()
        stream.send([b"hel", b"lo"])
        assert other.recv(10) == b"hello"
        stream.close()
        assert other.recv(10) == b""
        other.close()
    (port,) = free_ports(1)
    with pytest.raises(Gone, match="refused"):
        connect("127.0.0.1", port, clock.monotonic() + 60)


def test_many_small_records_are_one_chunk(pair: tuple[Stream, socket.socket], tmp_path: Path) -> None:
    stream, other = pair
    theirs = Stream(other)
    shaking = gevent.spawn(theirs.start_tls, client_context(), False)
    stream.start_tls(server_context(*certificate(tmp_path)), True)
    shaking.get()
    for n in range(100):
        theirs.send(b"%03d\n" % n)
    sent = b"".join(b"%03d\n" % n for n in range(100))
    first = stream.chunk()
    assert sent.startswith(first) and len(first) > 100
    theirs.close()  # the end of TLS lies behind the last of them
    while len(first) < len(sent):
        first += stream.chunk()
    assert first == sent
    with pytest.raises(Gone):
        stream.chunk()
