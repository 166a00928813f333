"""Clients that write down which mails were acknowledged, and the reckoning against what was delivered.

Every mail carries a token in its Subject and its body a digest of itself. `lost` = acknowledged but nowhere;
`duplicates` = copies beyond the first; `torn` = a copy whose body is not what was sent.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections import Counter
from pathlib import Path

import gevent


def mail(token: str, size: int) -> bytes:
    """A mail of about `size` bytes whose body can be checked."""
    body = (f"{token} " * (size // (len(token) + 1) + 1))[:size]
    text = "\r\n".join(body[i : i + 76] for i in range(0, len(body), 76)) + "\r\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"Subject: {token}\r\nX-Digest: {digest}\r\n\r\n{text}".encode()


class Ledger:
    """`mails` sent by `sessions` clients to a port, each again until it is acknowledged (under a new token)."""

    def __init__(
        self,
        port: int,
        *,
        sessions: int,
        mails: int,
        size: int = 1000,
        recipient: str = "bob@demo.test",
        per_connection: int = 50,
    ) -> None:
        self.port, self.sessions, self.mails, self.size, self.recipient = port, sessions, mails, size, recipient
        self.per_connection = per_connection
        self.acknowledged: set[str] = set()
        self.unanswered: set[str] = set()
        self.broken = 0  # connections that ended without our doing
        self.reasons: Counter[str] = Counter()
        self._started = 0
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        self._greenlets = [gevent.spawn(self._client, n) for n in range(self.sessions)]

    def wait(self, seconds: float = 900.0) -> None:
        gevent.joinall(self._greenlets, timeout=seconds, raise_error=True)
        alive = sum(not g.dead for g in self._greenlets)
        gevent.killall(self._greenlets)
        if alive:
            raise TimeoutError(f"{alive} clients are not done; {len(self.acknowledged)} of {self.mails} acknowledged")

    def stop(self) -> None:
        gevent.killall(self._greenlets)

    def _client(self, number: int) -> None:
        tries = 0
        while len(self.acknowledged) < self.mails:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
                    connection.settimeout(60)
                    self._converse(connection, number)
            except OSError as error:
                self.broken += 1
                self.reasons[str(error)] += 1
                tries += 1
                gevent.sleep(min(0.5, 0.01 * tries))

    def _converse(self, connection: socket.socket, number: int) -> None:
        answers = connection.makefile("rb")

        def ask(command: bytes, code: bytes) -> None:
            connection.sendall(command)
            while True:
                line = answers.readline()
                if not line:
                    raise ConnectionError("the server hung up")
                if line[3:4] != b"-":
                    break
            if line[:3] != code:
                raise ConnectionError(f"{command[:40]!r} was answered {line!r}")

        ask(b"", b"220")
        ask(b"EHLO client.test\r\n", b"250")
        for _ in range(self.per_connection):
            if len(self.acknowledged) >= self.mails:
                break
            self._started += 1
            token = f"t{number}n{self._started}x{time.monotonic_ns()}"
            ask(b"MAIL FROM:<ann@client.test>\r\n", b"250")
            ask(f"RCPT TO:<{self.recipient}>\r\n".encode(), b"250")
            ask(b"DATA\r\n", b"354")
            self.unanswered.add(token)
            ask(mail(token, self.size) + b".\r\n", b"250")
            self.unanswered.discard(token)
            self.acknowledged.add(token)
        ask(b"QUIT\r\n", b"221")


def delivered(maildir: Path) -> tuple[Counter[str], list[str]]:
    """(how many copies of each token lie in the Maildir, tokens whose body is not whole)."""
    copies: Counter[str] = Counter()
    torn = []
    for file in (maildir / "new").iterdir():
        header, _, body = file.read_bytes().partition(b"\n\n")
        fields = dict(line.split(b": ", 1) for line in header.split(b"\n") if b": " in line and line[:1] not in b" \t")
        token = fields[b"Subject"].decode()
        copies[token] += 1
        if hashlib.sha256(body.replace(b"\n", b"\r\n")).hexdigest() != fields[b"X-Digest"].decode():
            torn.append(token)
    return copies, torn
