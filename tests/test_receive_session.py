"""Sessions over real sockets: honest clients, slow ones, and those that vanish."""

from __future__ import annotations

import email.message
import os
import random
import smtplib
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hands import moved
from receiving import PATIENCE, KeptInMemory, PythonRules, Receiving, refusing, reply, until
from timing import slowness

from mta import settings
from mta.message.ids import Ids
from mta.message.reply import Reply
from mta.receive.arrival import Arrival
from mta.receive.limits import Budget
from mta.rules.verdict import Verdict
from mta.spool.journal import JournalSpool

HELLO = ("EHLO x.example", "MAIL FROM:<a@b.example>", "RCPT TO:<jones@example.test>", "DATA")


def begin_mail(server: Receiving, *, until_data: bool = True) -> tuple[socket.socket, Any]:
    client = server.connect()
    replies = client.makefile("rb")
    assert reply(replies).startswith(b"220")
    for line in HELLO if until_data else HELLO[:3]:
        client.sendall(line.encode() + b"\r\n")
        assert reply(replies)[:1] in b"23"
    return client, replies


def vanish(client: socket.socket, replies: Any) -> None:
    """Reset the connection, as a machine does that is switched on again."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    replies.close()
    client.close()


# -- honest clients -----------------------------------------------------------------------------------------------


def test_smtplib() -> None:
    message = email.message.EmailMessage()
    message["Subject"], message["From"], message["To"] = "Grüße", "ann@b.example", "jones@example.test"
    message.set_content(".\n..\n.dots\n")
    with Receiving() as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            for _ in range(3):
                client.send_message(message)
        assert len(server.mails) == 3
        envelope, mail = server.mails[0]
        assert str(envelope.sender) == "ann@b.example"
        assert [str(recipient.address) for recipient in envelope.recipients] == ["jones@example.test"]
        assert mail.endswith(b"\r\n\r\n.\r\n..\r\n.dots\r\n")
        assert len({envelope.id for envelope, _ in server.mails}) == 3
        assert [event["mail"] for event in server.events("accepted")] == [envelope.id for envelope, _ in server.mails]


@pytest.mark.needs("swaks")
def test_swaks() -> None:
    with Receiving() as server:

        def swaks(recipient: str) -> subprocess.CompletedProcess[str]:
            command = ["swaks", "--server", f"127.0.0.1:{server.port}", "--from", "a@b.example", "--to", recipient]
            command.append("--pipeline")
            return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)

        done = swaks("jones@example.test")
        assert done.returncode == 0, done.stdout
        done = swaks("eve@elsewhere.example")
        assert done.returncode == 24 and "554 5.7.1" in done.stdout
        assert len(server.mails) == 1


@pytest.mark.needs("smtp-source")
@pytest.mark.parametrize("kept", [False, True])
def test_smtp_source(kept: bool) -> None:
    with Receiving() as server:
        options = ["-s", "10", "-m", "200", "-l", "4096", *(["-d"] if kept else []), "-t", "jones@example.test"]
        env = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin"}
        subprocess.run(["smtp-source", *options, f"127.0.0.1:{server.port}"], check=True, timeout=PATIENCE, env=env)
        server.settle()
        assert len(server.mails) == 200
        assert server.receiver.status()["accepted"] == 200


def test_ten_megabytes_pass_byte_for_byte_and_hold_nobody_up() -> None:
    noise = random.Random(7)
    parts, size = [b"Subject: big\r\n\r\n"], 0
    while size < 10_000_000:
        line = noise.randbytes(70).translate(None, b"\r\n\0") + b"\r\n"
        parts.append((b"." if len(parts) % 5 == 0 else b"") + line)
        size += len(parts[-1])
    mail = b"".join(parts)
    stuffed = mail.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    with Receiving() as server:
        waits: list[float] = []

        def neighbour() -> None:
            with server.connect() as other, other.makefile("rb") as replies:
                reply(replies)
                while not server.mails:
                    began = time.process_time()
                    other.sendall(b"NOOP\r\n" if len(waits) % 50 else b"EHLO x\r\n")
                    reply(replies)
                    waits.append(time.process_time() - began)
                    gevent.sleep(0.005)

        client, replies = begin_mail(server)
        beside = gevent.spawn(neighbour)
        began = time.process_time()  # what other programs do meanwhile does not count
        client.sendall(stuffed)
        assert reply(replies).startswith(b"250 2.0.0 Kept as ")
        took = time.process_time() - began
        beside.join()
        client.close()
        received, found, rest = server.mails[0][1].partition(b"Subject: big\r\n")
        assert received.startswith(b"Received: from x.example ([192.0.2.1])\r\n\tby mx.example.test with ESMTP id ")
        assert received.count(b"\r\n") == 3 and not received.endswith(b"\r\n\r\n")
        assert found + rest == mail
        assert took < 5 * slowness()
        assert max(waits) < 0.25 * slowness()
        assert [body.state for body in server.spool.bodies] == ["finished"]
        assert server.receiver.budget.held == 0


def test_ten_megabytes_through_the_journal(tmp_path: Path) -> None:
    mail = b"Subject: big\r\n\r\n" + b"".join(b"%076d\r\n" % n for n in range(130_000))
    spool = JournalSpool(settings.Spool(path=str(tmp_path)), Ids().writer)
    with Receiving(spool=spool) as server:
        client, replies = begin_mail(server)
        client.sendall(mail + b".\r\n")
        assert reply(replies).startswith(b"250 2.0.0 Kept as ")
        client.close()
        [leased] = spool.claim(time.time() + 1, 10)
        assert leased.message.file is not None
        received, found, rest = bytes(leased.message).partition(b"Subject: big\r\n")
        assert received.startswith(b"Received: from ") and found + rest == mail
    spool.close()


def test_a_large_mail_that_is_refused_leaves_no_file() -> None:
    with Receiving(smtp=settings.Smtp(max_size=3_000_000)) as server:
        client, replies = begin_mail(server)
        client.sendall((b"x" * 98 + b"\r\n") * 40_000 + b".\r\n")
        assert reply(replies).startswith(b"552 5.3.4")
        client.sendall(b"QUIT\r\n")
        assert reply(replies).startswith(b"221")
        assert server.spool.bodies and {body.state for body in server.spool.bodies} == {"discarded"}
        client.close()


def test_a_body_file_that_cannot_be_written_is_452_and_the_mail_is_read_to_its_end() -> None:
    class Full(KeptInMemory):
        def body(self) -> Any:
            body = super().body()
            body.write = lambda _: refusing("452 4.3.1 No space")()  # type: ignore[method-assign]
            return body

    with Receiving(spool=Full()) as server:
        client, replies = begin_mail(server)
        client.sendall((b"x" * 98 + b"\r\n") * 20_000 + b".\r\nNOOP\r\n")
        assert reply(replies).startswith(b"452 4.3.1")
        assert reply(replies).startswith(b"250")
        assert [body.state for body in server.spool.bodies] == ["discarded"]
        client.close()


@pytest.mark.parametrize("code", ["452 4.3.1 full", "451 4.3.0 broken"])
def test_a_spool_that_refuses(code: str) -> None:
    spool = KeptInMemory()
    spool.before = refusing(code)
    with Receiving(spool=spool) as server:
        heard = server.talk(*HELLO, b"hello\r\n.\r\n", "NOOP", "QUIT")
        assert heard[5].startswith(code.encode())
        assert heard[6].startswith(b"250")
        assert server.events("refused")[0]["reply"] == code


def test_our_own_mistake_costs_one_mail_and_nothing_else() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    spool = KeptInMemory()
    spool.before = broken
    with Receiving(spool=spool) as server:
        heard = server.talk(*HELLO, b"hello\r\n.\r\n", *HELLO[1:3], "QUIT")
        assert heard[5].startswith(b"451 4.3.0 ")
        assert [line[:3] for line in heard[6:]] == [b"250", b"250", b"221"]
        assert [event["error"] for event in server.events("bug")] == ["ZeroDivisionError: "]
        server.log.clear()


# -- time ---------------------------------------------------------------------------------------------------------


def test_a_slow_client_has_time_for_a_command_not_for_each_byte() -> None:
    began = time.monotonic()
    with Receiving(smtp=settings.Smtp(command_timeout=0.3)) as server, server.connect() as client:
        replies = client.makefile("rb")
        reply(replies)
        with pytest.raises(OSError):
            while time.monotonic() - began < PATIENCE:
                client.sendall(b"N")
                gevent.sleep(0.05)
        assert time.monotonic() - began >= 0.3
        server.settle()
        assert server.events("lost")[0]["reason"] == "timed out"


def test_a_timeout_is_said() -> None:
    with Receiving(smtp=settings.Smtp(command_timeout=0.2)) as server, server.connect() as client:
        replies = client.makefile("rb")
        assert reply(replies).startswith(b"220")
        assert reply(replies).startswith(b"421 4.4.2 ")
        assert reply(replies) == b""


def test_a_mail_that_comes_in_tiny_pieces_takes_no_more_memory() -> None:
    door = SimpleNamespace(budget=Budget(10**6), settings=SimpleNamespace(spool=settings.Spool(large=10**6)))
    session = SimpleNamespace(door=door, stream=None, now=0.0)
    arrival = Arrival(session, None)  # type: ignore[arg-type]
    pieces = [b"a%d\r\n" % n for n in range(1000)] + [b"x" * 5000] + [b"b%d" % n for n in range(10_000)]
    for piece in pieces:
        arrival.hold(piece)
    assert b"".join(arrival.chunks) == b"".join(pieces)
    assert sum(map(sys.getsizeof, arrival.chunks)) < 1.5 * arrival.held


def test_time_for_a_mail_is_limited_however_steadily_it_drips() -> None:
    with Receiving(smtp=settings.Smtp(data_timeout=0.3)) as server:
        client, replies = begin_mail(server)

        def drip() -> None:
            try:
                while True:
                    client.sendall(b"x\r\n")
                    gevent.sleep(0.03)
            except OSError:
                pass

        dripping = gevent.spawn(drip)
        assert reply(replies).startswith(b"421 4.4.2")
        server.settle()
        dripping.kill()
        client.close()
        assert server.mails == []


def test_a_session_ends_however_busy_it_is() -> None:
    with Receiving(smtp=settings.Smtp(session_timeout=0.4, max_junk=10**6)) as server, server.connect() as client:
        replies = client.makefile("rb")
        reply(replies)
        heard, began = b"250", time.monotonic()
        while heard.startswith(b"250") and time.monotonic() - began < PATIENCE:
            client.sendall(b"NOOP\r\n")
            heard = reply(replies)
            gevent.sleep(0.02)
        assert heard.startswith(b"421 4.4.2")


def test_a_client_that_does_not_read_its_replies_is_left() -> None:
    with Receiving(smtp=settings.Smtp(command_timeout=0.3, max_junk=10**9)) as server, server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert client.recv(1000).startswith(b"220")
        flood = gevent.spawn(lambda: [client.sendall(b"HELP\r\n" * 5000) for _ in range(1000)])
        until(lambda: server.events("lost"))
        flood.kill()
        assert server.events("lost")[0]["reason"] == "timed out"


def test_a_deadline_that_passes_during_a_slow_commit_disturbs_nobody() -> None:
    spool, committing, done = KeptInMemory(), Event(), Event()
    spool.before = lambda: (committing.set(), done.wait())
    with moved() as hands, Receiving(spool=spool) as server:
        client, replies = begin_mail(server)
        client.sendall(b"hello\r\n.\r\n")
        committing.wait()
        hands.forward(settings.Smtp().data_timeout + 1)
        gevent.sleep(0.1)  # deadlines are looked at
        beside = server.talk("EHLO y.example", "QUIT")
        assert [line[:3] for line in beside] == [b"220", b"250", b"221"]
        done.set()
        assert reply(replies).startswith(b"250 2.0.0 Kept as ")
        client.sendall(b"NOOP\r\n")
        assert reply(replies).startswith(b"250")
        client.close()
        assert len(server.mails) == 1


# -- those who vanish ---------------------------------------------------------------------------------------------


def test_a_lost_acknowledgement_keeps_the_mail() -> None:
    spool, committing, gone = KeptInMemory(), Event(), Event()
    spool.before = lambda: (committing.set(), gone.wait())
    with Receiving(spool=spool) as server:
        client, replies = begin_mail(server)
        client.sendall(b"hello\r\n.\r\n")
        committing.wait()
        vanish(client, replies)
        gone.set()
        server.settle()
        assert len(server.mails) == 1
        assert len(server.events("accepted")) == 1


def test_a_client_that_vanishes_before_preq_ended_leaves_nothing() -> None:
    asking, gone = Event(), Event()

    def preq(transaction: Any) -> None:
        asking.set()
        gone.wait()

    with Receiving(rules=PythonRules(preq=preq)) as server:
        client, replies = begin_mail(server)
        client.sendall(b"hello\r\n.\r\n")
        asking.wait()
        vanish(client, replies)
        gone.set()
        server.settle()
        assert server.mails == []
        assert server.events("lost")[0]["stage"] == "preq"
        assert not server.events("accepted")


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt", "data"])
def test_a_client_that_vanishes_while_a_rule_waits(stage: str) -> None:
    asking, gone = Event(), Event()

    def rule(transaction: Any) -> None:
        asking.set()
        gone.wait()

    with Receiving(rules=PythonRules(**{stage: rule})) as server:
        client = server.connect()
        replies = client.makefile("rb")
        for line in (None, *HELLO):
            if line:
                client.sendall(line.encode() + b"\r\n")
            answered = gevent.spawn(reply, replies)
            gevent.wait([asking, answered], count=1)
            if asking.is_set():
                answered.kill()
                break
        vanish(client, replies)
        gone.set()
        server.settle()
        assert server.mails == [] and asking.is_set()
        assert [line[:3] for line in server.talk(*HELLO[:2])] == [b"220", b"250", b"250"]


def test_storms_of_resets_leave_nothing_behind() -> None:
    with Receiving() as server:
        server.talk(*HELLO, b"x\r\n.\r\n")
        server.settle()
        files = len(os.listdir("/proc/self/fd"))
        for round in range(100):
            client = server.connect()
            if round % 2:
                client.sendall(b"EHLO x\r\nMAIL")
            vanish(client, client.makefile("rb"))
        server.settle()
        until(lambda: len(os.listdir("/proc/self/fd")) <= files)
        assert len(server.receiver._idle) <= 200


def test_threads_of_clients_at_once() -> None:
    """Fifty clients in one go: each gets its own replies, ids never repeat."""
    with Receiving(rules=PythonRules(rcpt=lambda _: gevent.sleep(0.01))) as server:
        clients = [gevent.spawn(server.talk, *HELLO, b"x\r\n.\r\n", "QUIT") for _ in range(50)]
        gevent.joinall(clients)
        assert all(client.value[5].startswith(b"250 2.0.0 Kept as ") for client in clients)
        assert len({envelope.id for envelope, _ in server.mails}) == 50


# -- limits of the worker -----------------------------------------------------------------------------------------


def test_too_many_sessions() -> None:
    with Receiving(smtp=settings.Smtp(max_sessions=2)) as server:
        first, second = server.connect(), server.connect()
        until(lambda: len(server.receiver.sessions) == 2)
        with server.connect() as third:
            assert third.recv(1000).startswith(b"421 4.3.2 ")
        first.close()
        until(lambda: len(server.receiver.sessions) == 1)
        assert server.talk("QUIT")[0].startswith(b"220")
        second.close()


def test_draining_lets_a_mail_end_and_sends_idle_clients_away() -> None:
    with Receiving() as server:
        idle = server.connect()
        idle_replies = idle.makefile("rb")
        reply(idle_replies)
        busy, busy_replies = begin_mail(server)
        drained = gevent.spawn(server.receiver.drain, PATIENCE)
        assert reply(idle_replies).startswith(b"421 4.3.2 ")
        busy.sendall(b"hello\r\n.\r\n")
        assert reply(busy_replies).startswith(b"250 2.0.0 ")
        assert reply(busy_replies).startswith(b"421 4.3.2 ")
        assert drained.get() == 0
        assert len(server.mails) == 1
        idle.close(), busy.close()


def test_draining_does_not_wait_for_ever() -> None:
    with Receiving() as server:
        client, _ = begin_mail(server)
        assert server.receiver.drain(0.1) == 1
        server.settle()
        client.close()


# -- rules, told in Python ----------------------------------------------------------------------------------------


def test_nobody_waits_for_a_rule_that_waits() -> None:
    others = Event()

    def slow(transaction: Any) -> None:
        if transaction.helo == "slow.example":
            assert others.wait(PATIENCE)

    with Receiving(rules=PythonRules(helo=slow)) as server:
        waiting = gevent.spawn(server.talk, "EHLO slow.example")
        server.talk("EHLO quick.example", "QUIT")
        others.set()
        assert waiting.get()[1].startswith(b"250")


def test_a_rule_sees_what_is_known_so_far() -> None:
    seen: dict[str, Any] = {}

    def note(stage: str) -> Any:
        def rule(t: Any) -> None:
            head = t.message and t.message.headers.get("Received")
            seen[stage] = (t.helo, str(t.sender), str(t.recipient), [str(r) for r in t.recipients], bool(head))

        return rule

    stages = ("connect", "helo", "mail", "rcpt", "data", "preq")
    with Receiving(rules=PythonRules(**{stage: note(stage) for stage in stages})) as server:
        server.talk(*HELLO, b"Subject: x\r\n\r\n.\r\n")
    jones = "jones@example.test"
    assert seen == {
        "connect": ("", "None", "None", [], False),
        "helo": ("x.example", "None", "None", [], False),
        "mail": ("x.example", "a@b.example", "None", [], False),
        "rcpt": ("x.example", "a@b.example", jones, [], False),
        "data": ("x.example", "a@b.example", "None", [jones], False),
        "preq": ("x.example", "a@b.example", "None", [jones], True),
    }


def test_a_quarantine_said_at_connect_holds_for_every_mail() -> None:
    rules = PythonRules(connect=lambda _: Verdict("quarantine", folder="odd", rule="r", where="main.lua:1"))
    with Receiving(rules=rules) as server:
        server.talk(*HELLO, b"one\r\n.\r\n", *HELLO[1:], b"two\r\n.\r\n")
        assert [envelope.held for envelope, _ in server.mails] == ["quarantine odd"] * 2


def test_a_denial_that_closes() -> None:
    no = Verdict("deny", Reply(550, "5.7.1", "Away", close=True), rule="r", where="main.lua:1")
    with Receiving(rules=PythonRules(preq=lambda _: no)) as server:
        heard = server.talk(*HELLO, b"one\r\n.\r\n", "NOOP")
        assert heard[5].startswith(b"550 5.7.1 Away (") and heard[6] == b""


def test_faccept_is_noted_for_the_queue() -> None:
    with Receiving(rules=PythonRules(mail=lambda _: Verdict("faccept", rule="r", where="main.lua:1"))) as server:
        server.talk(*HELLO, b"one\r\n.\r\n")
        assert server.mails[0][0].accepted


def test_directions() -> None:
    inside = settings.Server(name="mx.example.test", trusted=["192.0.2.1"])
    found = {}
    for server_settings in (None, inside):
        sections = {"server": server_settings} if server_settings else {}
        with Receiving(**sections) as server:
            for sender in ("a@b.example", "a@example.test"):
                for recipient in ("jones@example.test", "eve@elsewhere.example"):
                    lines = ("EHLO x", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA")
                    if server.talk(*lines, b"x\r\n.\r\n")[4].startswith(b"354"):
                        found[bool(server_settings), sender, recipient] = server.mails[-1][0].direction
    assert found == {
        (False, "a@b.example", "jones@example.test"): "incoming",
        (False, "a@example.test", "jones@example.test"): "incoming",
        (True, "a@b.example", "jones@example.test"): "incoming",
        (True, "a@b.example", "eve@elsewhere.example"): "outgoing",
        (True, "a@example.test", "jones@example.test"): "internal",
        (True, "a@example.test", "eve@elsewhere.example"): "outgoing",
    }


def test_no_reply_waits_for_an_acknowledgement() -> None:
    """TCP_NODELAY comes with the listening socket; without it the end of a TLS handshake waits for 45 ms."""
    with Receiving() as server, server.connect():
        until(lambda: len(server.receiver.sessions) == 1)
        [session] = server.receiver.sessions
        assert session.stream._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
