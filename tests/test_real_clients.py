"""The whole server as others meet it: real clients in front, a real server behind, a large mail all the way."""

from __future__ import annotations

import base64
import os
import random
import smtplib
import subprocess
from email.message import EmailMessage
from pathlib import Path

import pytest
from daemon import PATIENCE, Server, free_ports, until_open


def large(size: int) -> bytes:
    """A mail with attachments of about `size` bytes, as smtplib sends it."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "ann@client.test", "you@demo.test", "with attachments"
    mail.set_content("see there\n.\n..a line that begins with dots\n")
    dice = random.Random(1)
    for n in range(4):
        mail.add_attachment(
            dice.randbytes(size * 3 // 4 // 4), maintype="application", subtype="octet-stream", filename=f"part {n}.bin"
        )
    return mail.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def below_ours(stored: bytes) -> bytes:
    """What stands in a Maildir below the three fields that were put on top."""
    lines, at = stored.split(b"\n"), 0
    for name in (b"Delivered-To:", b"Return-Path:", b"Received:"):
        assert any(line.startswith(name) for line in lines[:8]), name
    while lines[at].startswith((b"Delivered-To:", b"Return-Path:", b"Received:", b"\t")):
        at += 1
    return b"\n".join(lines[at:])


def test_a_large_mail_passes_byte_for_byte(tmp_path: Path) -> None:
    mail = large(10_000_000)
    with Server(tmp_path) as server:
        with server.smtp() as client:
            client.sendmail("ann@client.test", ["you@demo.test"], mail)
        server.until(server.mails, "nothing was delivered")
        assert below_ours(server.mails()[0].read_bytes()) == mail.replace(b"\r\n", b"\n")
        server.until(lambda: server.waiting() == 0, "it is still in the spool")
        server.until(lambda: not list((tmp_path / "spool").rglob("*.body")), "its body file stayed")


@pytest.mark.needs("swaks")
def test_swaks_with_an_attachment(tmp_path: Path) -> None:
    attached = tmp_path / "attached.bin"
    attached.write_bytes(bytes(range(256)) * 20)
    with Server(tmp_path / "server") as server:
        words = ["swaks", "--server", f"127.0.0.1:{server.port}", "--from", "ann@client.test", "--to", "you@demo.test"]
        done = subprocess.run(
            [*words, "--attach", f"@{attached}", "--pipeline"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        server.until(server.mails, "nothing was delivered")
        stored = server.mails()[0].read_bytes()
        assert base64.b64encode(attached.read_bytes())[:60] in stored
        done = subprocess.run([*words, "--to", "nobody@"], capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode != 0


@pytest.mark.needs("smtp-source")
@pytest.mark.needs("smtp-sink")
def test_five_hundred_mails_from_smtp_source_to_smtp_sink(tmp_path: Path) -> None:
    port = next(free_ports(1))
    owner = ["-u", "nobody"] if os.geteuid() == 0 else []
    sink = subprocess.Popen(["/usr/sbin/smtp-sink", *owner, f"127.0.0.1:{port}", "100"])
    config = f'[domain."demo.test"]\npath = "Maildir"\n[route."*"]\ntransport = "smtp"\nhost = "127.0.0.1:{port}"\n'
    try:
        until_open(port, sink)
        with Server(tmp_path / "server", config) as server:
            words = ["/usr/sbin/smtp-source", "-s", "10", "-m", "500", "-l", "3000", "-f", "ann@client.test"]
            subprocess.run(
                [*words, "-t", "bob@away.test", f"inet:127.0.0.1:{server.port}"],
                check=True,
                timeout=2 * PATIENCE,
            )
            server.until(lambda: len(server.events("delivered")) >= 500, "not all are delivered")
            assert {line["transport"] for line in server.events("delivered")} == {"smtp"}
            assert not server.events("deferred")
            server.until(lambda: server.waiting() == 0, "the queue did not get empty")
    finally:
        sink.terminate()
        sink.wait()


def test_many_recipients_and_a_refused_one(tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("ann\nbob\n")
    config = '[domain."demo.test"]\nusers = "users.txt"\npath = "mail/{local_part}"\n'
    with Server(tmp_path, config) as server:
        with server.smtp() as client:
            to = ["ann@demo.test", "eve@demo.test", "bob@demo.test"]
            refused = client.sendmail("x@client.test", to, "Subject: hi\n\nx\n")
        assert refused["eve@demo.test"][0] == 550
        for name in ("ann", "bob"):
            server.until(lambda name=name: list((tmp_path / "mail" / name / "new").glob("*")), f"{name} got nothing")
        with server.smtp() as client, pytest.raises(smtplib.SMTPRecipientsRefused) as nobody:
            client.sendmail("x@client.test", ["eve@demo.test"], "Subject: hi\n\nx\n")
        [(code, text)] = nobody.value.recipients.values()
        assert code == 550 and b"5.1.1" in text
