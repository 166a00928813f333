"""Send a mail, to try a server: every reply is shown, a refusal ends with 1."""

from __future__ import annotations

import argparse
import getpass
import smtplib
import socket
import sys
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path

from mta import config
from mta.cli import telling
from mta.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", action="append", required=True, metavar="ADDRESS", help="a recipient; may be repeated")
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", help='the sender; "" is the null sender')
    parser.add_argument("--subject", default="A mail to try the server")
    parser.add_argument("--body", default="Sent by mta send.", help='the text; "-" reads it')
    parser.add_argument("--eml", metavar="FILE", help='a whole mail instead; "-" reads it')
    parser.add_argument("--header", action="append", default=[], metavar='"Name: value"', help="may be repeated")
    parser.add_argument("--server", metavar="HOST:PORT", help="default: the first listener of the configuration")
    parser.add_argument("--helo", help="the name we give")
    parser.add_argument("--tls", action="store_true", help="STARTTLS first; any certificate will do")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def run(given: argparse.Namespace) -> int:
    sender = f"{getpass.getuser()}@{socket.gethostname()}" if given.sender is None else given.sender
    for address in (sender, *given.to):
        if not address.isascii():
            raise telling.Failed(f"{address}: only addresses in ASCII can be sent to and from", telling.USAGE)
    host, port = _server(given)
    content = _content(given, sender)
    try:
        with smtplib.SMTP(timeout=60, local_hostname=given.helo) as client:
            code, said = client.connect(host, port)
            if code != 220:  # smtplib looks at it only when its constructor connects
                return _refused("the connection", code, said)
            return _talk(client, given, sender, content)
    except smtplib.SMTPServerDisconnected as error:
        raise telling.Failed(f"{host}:{port} hung up: {error}", telling.FINDING) from None
    except smtplib.SMTPHeloError as error:
        return _refused("HELO", error.smtp_code, error.smtp_error)
    except OSError as error:
        raise telling.Failed(f"{host}:{port}: {error.strerror or error}", telling.NOT_REACHABLE) from None


def _server(given: argparse.Namespace) -> tuple[str, int]:
    try:
        if given.server:
            return config.address(given.server, port=25)
        settings = telling.configuration(given, quiet=given.quiet).settings
        if not settings.listener:
            raise telling.Failed("the configuration has no listener; give --server", telling.USAGE)
        host, port = config.address(settings.listener[0].address)
    except ValueError as error:
        raise telling.Failed(str(error), telling.USAGE) from None
    if host.startswith("systemd:") or port == 0:
        host, port = config.address(_bound(settings))
    return {"::": "localhost", "0.0.0.0": "127.0.0.1"}.get(host, host), port


def _bound(settings: Settings) -> str:
    listeners = telling.ask(settings.server.run, "status", timeout=10.0)["listeners"]
    address: str = listeners[0]["address"][0]
    return address


def _content(given: argparse.Namespace, sender: str) -> bytes:
    if given.eml:
        raw = sys.stdin.buffer.read() if given.eml == "-" else _read(given.eml)
        return raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    mail = EmailMessage()
    mail["Date"], mail["Message-ID"] = formatdate(localtime=True), make_msgid()
    mail["From"], mail["To"], mail["Subject"] = sender or "<>", ", ".join(given.to), given.subject
    for header in given.header:
        name, colon, value = header.partition(":")
        if not colon:
            raise telling.Failed(f'--header {header!r}: write "Name: value"', telling.USAGE)
        mail[name] = value.strip()
    mail.set_content(sys.stdin.read() if given.body == "-" else given.body)
    return mail.as_bytes().replace(b"\n", b"\r\n")


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise telling.Failed(f"{name}: {error.strerror}", telling.NOT_FOUND) from None


def _talk(client: smtplib.SMTP, given: argparse.Namespace, sender: str, content: bytes) -> int:
    client.ehlo_or_helo_if_needed()
    if given.tls:
        if not client.has_extn("starttls"):
            raise telling.Failed("the server offers no STARTTLS (a listener needs tls = { ... })", telling.FINDING)
        client.starttls()
        client.ehlo()
    options = [f"SIZE={len(content)}"] if client.has_extn("size") else []
    code, said = client.mail(sender, options)
    if code != 250:
        return _refused("MAIL", code, said)
    taken = 0
    for recipient in given.to:
        code, said = client.rcpt(recipient)
        if code in (250, 251):
            taken += 1
        else:
            _refused(f"RCPT {recipient}", code, said)
    if not taken:
        return telling.FINDING
    code, said = client.docmd("DATA")
    if code != 354:
        return _refused("DATA", code, said)
    client.send(smtplib._quote_periods(content).rstrip(b"\r\n") + b"\r\n.\r\n")  # type: ignore[attr-defined]
    code, said = client.getreply()
    if code != 250:
        return _refused("the mail", code, said)
    if not given.quiet:
        print(telling.paint(f"accepted: {_text(code, said)}", "green"))
    return telling.FINE if taken == len(given.to) else telling.FINDING


def _refused(what: str, code: int, said: bytes | str) -> int:
    print(telling.paint(f"{what} was refused: {_text(code, said)}", "red", sys.stderr), file=sys.stderr)
    return telling.FINDING


def _text(code: int, said: bytes | str) -> str:
    return f"{code} {said.decode('utf-8', 'replace') if isinstance(said, bytes) else said}"
