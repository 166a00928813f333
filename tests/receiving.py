"""A receiver in the test's own process: real sockets, a spool in memory, any client address."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent

from mta import log, settings
from mta.domains import Domains
from mta.message.envelope import Envelope
from mta.message.ids import Ids
from mta.message.message import Message
from mta.message.reply import Refused
from mta.net import deadline, tls
from mta.net.stream import Stream
from mta.receive.listener import Receiver
from mta.rules.engine.folders import Folders
from mta.rules.outside.world import FakeWorld
from mta.rules.verdict import NEXT, Verdict

PATIENCE = 60.0  # seconds until what must come is given up
STRANGER = "192.0.2.1"


class World(FakeWorld):
    """A made-up world whose log is the server's."""

    def log(self, event: str, **fields: Any) -> None:
        log.event(event, **fields)


class KeptInMemory:
    """As much of a spool as receiving needs. `before` runs inside every commit and may wait or raise."""

    def __init__(self) -> None:
        self.mails: list[tuple[Envelope, bytes]] = []
        self.bodies: list[BodyInMemory] = []
        self.before: Callable[[], Any] = lambda: None

    def commit(self, add: Sequence[Any] = (), settle: Sequence[Any] = (), drop: Sequence[str] = ()) -> None:
        self.before()
        self.mails += [(mail.envelope, bytes(mail.message)) for mail in add]
        for body in self.bodies:
            body.kept |= any(mail.message is body.message for mail in add)

    def body(self) -> BodyInMemory:
        self.bodies.append(BodyInMemory())
        return self.bodies[-1]


class BodyInMemory:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.message: Message | None = None
        self.state = "growing"
        self.kept = False  # by a commit: to discard it is too late

    def write(self, piece: bytes) -> None:
        assert self.state == "growing"
        gevent.sleep(0)
        self.pieces.append(piece)

    def finish(self) -> Message:
        self.state = "finished"
        self.message = Message(b"".join(self.pieces))
        return self.message

    def discard(self) -> None:
        if not self.kept:
            self.state = "discarded"


class PythonRules:
    """Rules as Python functions of a transaction, for tests about the session: stage=function."""

    def __init__(self, **stages: Callable[[Any], Verdict | None]) -> None:
        self._rules, self.stages = stages, frozenset(stages)
        self.folders = Folders(settings.Rules(path="/nowhere", domains="/nowhere"))

    def stages_of(self, file: str) -> frozenset[str]:
        return self.stages

    def run(self, stage: str, transaction: Any) -> Verdict:
        return self._rules[stage](transaction) or NEXT


class _Anywhere(Receiver):
    """Its clients seem to come from `client`."""

    client = ""

    def _begin(self, sock: Any, door: Any, address: tuple[Any, ...]) -> None:
        super()._begin(sock, door, (self.client or address[0], *address[1:]))


class Receiving:
    """`with Receiving(...) as server: server.connect()`. `log` are the events so far."""

    def __init__(
        self,
        *,
        rules: Any = None,
        client: str = STRANGER,
        certificate: tuple[str, str] | None = None,
        listener: settings.Listener | None = None,
        spool: Any = None,
        tick: float = 0.02,
        **sections: Any,
    ) -> None:
        sections.setdefault("server", settings.Server(name="mx.example.test", trusted=["192.0.2.99"]))
        sections.setdefault("domain", {"example.test": settings.Domain()})
        self.settings = settings.Settings(**sections)
        self.listener = listener or settings.Listener()
        self.spool = spool or KeptInMemory()
        self.rules = rules or PythonRules()
        self.context = tls.server_context(*certificate) if certificate else None
        self.receiver = _Anywhere(
            self.settings, Domains(self.settings), lambda: self.rules, self.spool, Ids(), lambda _: self.context
        )
        self.receiver.client = client
        self.tick = tick
        self.log: list[dict[str, Any]] = []
        self.socket = socket.socket()

    def __enter__(self) -> Receiving:
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(100)
        self.receiver.listen(self.socket, self.listener)  # may raise: only then is the log ours
        self._log = SimpleNamespace(sink=log.log.sink, level=log.log.level, schedule=log.log.schedule)
        log.log.schedule, log.log.level = None, log.LEVELS["debug"]
        log.log.sink = lambda lines: self.log.extend(map(json.loads, lines.splitlines()))
        self._tick = deadline.TABLE.finer(self.tick)
        return self

    def __exit__(self, *error: object) -> None:
        self.receiver.drain(0.5)
        self.socket.close()
        deadline.TABLE.finer(self._tick)
        log.log.sink, log.log.level, log.log.schedule = self._log.sink, self._log.level, self._log.schedule
        bugs = [event["traceback"] for event in self.log if event["event"] == "bug"]
        assert error[0] or not bugs, bugs[0]

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    @property
    def mails(self) -> list[tuple[Envelope, bytes]]:
        return list(self.spool.mails)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["event"] == name]

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def talk(self, *lines: str | bytes) -> list[bytes]:
        """Say lines one after the other, each after the reply to the one before; all replies, the greeting first."""
        with self.connect() as client, client.makefile("rb") as replies:
            heard = [reply(replies)]
            for line in lines:
                client.sendall(line if isinstance(line, bytes) else line.encode() + b"\r\n")
                heard.append(reply(replies))
            return heard

    def settle(self, seconds: float = PATIENCE) -> None:
        """Wait until no session is left."""
        until(lambda: not self.receiver.sessions, seconds)


def reply(file: Any) -> bytes:
    """One reply, all its lines; b"" at the end of the connection."""
    lines = b""
    while True:
        try:
            line = file.readline()
        except ConnectionError:
            return lines
        lines += line
        if line[3:4] != b"-":
            return lines


def until(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something is so."""
    with gevent.Timeout(seconds, AssertionError("it did not happen")):
        while not true():
            gevent.sleep(0.005)


def unread(stream: Stream) -> bool:
    """Something has come that was not looked at yet."""
    try:
        stream._sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


def self_signed(folder: Path, name: str = "mx.example.test") -> tuple[str, str]:
    """A certificate of our own making: (certificate, key)."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    if not key.exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
             "-subj", f"/CN={name}", "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )  # fmt: skip
    return str(certificate), str(key)


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def refusing(code: str) -> Callable[[], None]:
    def refuse() -> None:
        raise Refused(code)

    return refuse
