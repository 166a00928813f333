"""A mail server for tests that does what its script says, right or wrong.

    with FakeSmtp({"RCPT TO:<bob@far.test>": "550 5.1.1 No", "dot": "reset"}) as server: ...

A script maps what the client does to a reply, or to a deed. Looked up, in this order: the whole command, its verb;
"greeting" and "dot" (the end of a mail) are no commands. Replies may have several lines, split by CRLF. Deeds: "close",
"reset", "hang" (silence until the client leaves, also after a 220 to STARTTLS; `silence` is called again and again
meanwhile), "tls" (say 220, then shake hands), a list (one after the other, the last one repeats) or a function of the
number of this connection (1, 2, ...) that returns one of these.
`mails` holds (sender, recipients, raw) of what was answered 250, `commands` all that was said, `connections` counts.
"""

from __future__ import annotations

import datetime
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gevent
import gevent.server
from gevent import socket

Deed = str | list[str] | Callable[[int], str]

EXTENSIONS = ("PIPELINING", "SIZE 10000000", "8BITMIME", "ENHANCEDSTATUSCODES")


class FakeSmtp:
    def __init__(
        self,
        script: dict[str, Deed] | None = None,
        *,
        extensions: tuple[str, ...] = EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        at_once: bool = False,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.script, self.tls = dict(script or {}), tls
        self.at_once = at_once  # TLS from the first byte
        self.extensions = (*extensions, "STARTTLS") if tls and not at_once else extensions
        self.mails: list[tuple[str, list[str], bytes]] = []
        self.commands: list[str] = []
        self.batches: list[bytes] = []  # as they were read
        self.connections = 0
        self.secure = 0  # connections that spoke TLS
        self.silence: Callable[[], object] = lambda: None
        self._server = gevent.server.StreamServer((address, port), self._serve)
        self._server.start()
        self.address, self.port = address, int(self._server.server_port)

    def __enter__(self) -> FakeSmtp:
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.stop(timeout=0.1)

    @property
    def host(self) -> str:
        """What stands in a route."""
        return f"{self.address}:{self.port}"

    def _serve(self, sock: Any, _: Any) -> None:
        self.connections += 1
        try:
            _Session(self, sock, self.connections).run()
        except (OSError, _Over):
            pass


class _Over(Exception):
    """This conversation has ended."""


class _Session:
    def __init__(self, server: FakeSmtp, sock: Any, number: int) -> None:
        self.server, self.sock, self.number = server, sock, number
        self.buffer = b""
        self.sender, self.recipients = "", []

    def run(self) -> None:
        if self.server.at_once:
            assert self.server.tls is not None
            self.sock = self.server.tls.wrap_socket(self.sock, True)
            self.server.secure += 1
        self.do("220 fake.test ESMTP", "greeting")
        while True:
            line = self.until(b"\r\n").decode("ascii", "replace")
            self.server.commands.append(line)
            verb = line.partition(" ")[0].upper()
            if verb == "EHLO":
                self.do(
                    "\r\n".join(["250-fake.test", *(f"250-{e}" for e in self.server.extensions), "250 HELP"]),
                    line,
                    verb,
                )
            elif verb == "MAIL":
                if self.do("250 2.1.0 Ok", line, verb):
                    self.sender, self.recipients = line[line.index("<") + 1 : line.index(">")], []
            elif verb == "RCPT":
                if self.do("250 2.1.5 Ok", line, verb):
                    self.recipients.append(line[line.index("<") + 1 : line.index(">")])
            elif verb == "DATA":
                if self.do("354 Go", line, verb):
                    raw = self.until(b"\r\n.\r\n", b"\r\n")
                    mail = (self.sender, self.recipients, raw.replace(b"\r\n..", b"\r\n."))
                    if self.do("250 2.0.0 Kept", "dot"):
                        self.server.mails.append(mail)
            elif verb == "STARTTLS":
                if self.do("tls", line, verb) and not isinstance(self.sock, ssl.SSLSocket):
                    self.hang()  # no handshake follows
            elif verb == "QUIT":
                self.do("221 2.0.0 Bye", line, verb)
                raise _Over
            else:
                self.do("250 2.0.0 Ok", line, verb)

    def do(self, otherwise: str, *what: str) -> bool:
        """Act by the script; whether it was a yes."""
        script = self.server.script
        deed = next((script[name] for name in what if name in script), otherwise)
        if isinstance(deed, list):
            deed = deed.pop(0) if len(deed) > 1 else deed[0]
        if callable(deed):
            deed = deed(self.number)
        if deed == "close":
            self.sock.close()
            raise _Over
        if deed == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
            raise _Over
        if deed == "hang":
            self.hang()
        if deed == "tls":
            self.sock.sendall(b"220 2.0.0 Go\r\n")
            assert self.server.tls is not None
            self.sock = self.server.tls.wrap_socket(self.sock, True)
            self.server.secure += 1
            return True
        self.sock.sendall(deed.encode("latin-1") + b"\r\n")
        return deed[0] in "23"

    def hang(self) -> NoReturn:
        self.sock.settimeout(0)
        while True:
            gevent.sleep(0.01)
            try:
                if not self.sock.recv(65536):
                    raise _Over
            except (BlockingIOError, ssl.SSLWantReadError):  # whoever has just left is not one who waits
                self.server.silence()

    def until(self, end: bytes, before: bytes = b"") -> bytes:
        """What comes before `end`; `before` is thought to stand in front of it all."""
        while (at := (before + self.buffer).find(end)) < 0:
            data = self.sock.recv(65536)
            self.server.batches.append(data)
            if not data:
                raise _Over
            self.buffer += data
        found = (before + self.buffer)[len(before) : at + len(before)]
        self.buffer = self.buffer[at + len(end) - len(before) :]
        return found


def certificate(folder: Path, name: str = "fake.test") -> tuple[str, str]:
    """A self-signed certificate and its key, as PEM files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(paths[0]), str(paths[1])
