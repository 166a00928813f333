"""TLS on the way in, spoken by openssl and by Python, and contexts whose errors name the file."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
import time
from pathlib import Path

import gevent
import pytest
from receiving import PATIENCE, Receiving, reply, self_signed, trusting, until

from mta import settings
from mta.daemon.generation import Ages
from mta.net import tls

MAIL = "EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<jones@example.test>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return self_signed(tmp_path_factory.mktemp("tls"))


def listener(pair: tuple[str, str], kind: str = "relay", policy: str = "optional") -> settings.Listener:
    return settings.Listener(kind=kind, tls=settings.ListenerTls(*pair, policy=policy))


def s_client(server: Receiving, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", *options]
    return subprocess.run(command, check=False, input="", capture_output=True, text=True, timeout=PATIENCE)


def test_smtplib_starttls(pair: tuple[str, str]) -> None:
    with Receiving(certificate=pair, listener=listener(pair)) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.starttls(context=trusting())
            assert "starttls" not in (client.ehlo(), client.esmtp_features)[1]
            client.sendmail("a@b.example", "jones@example.test", "Subject: x\n\n" + "x" * 300_000)
        envelope, mail = server.mails[0]
        assert b"with ESMTPS (TLSv1." in mail and envelope.client is not None
        assert envelope.client.tls.startswith("TLSv1.") and envelope.client.protocol == "ESMTPS"
        assert mail.count(b"x" * 300_000) == 1


def test_smtplib_implicit_tls(pair: tuple[str, str]) -> None:
    trusted = settings.Server(name="mx.example.test", trusted=["192.0.2.1"])
    with Receiving(certificate=pair, listener=listener(pair, "submissions"), server=trusted) as server:
        with smtplib.SMTP_SSL("127.0.0.1", server.port, context=trusting()) as client:
            client.sendmail("a@example.test", "eve@elsewhere.example", "Subject: x\n\nhello")
        assert server.mails[0][0].direction == "outgoing"


@pytest.mark.needs("openssl")
@pytest.mark.parametrize(("option", "works"), [("-tls1_2", True), ("-tls1_3", True), ("-tls1_1", False)])
def test_openssl_versions(pair: tuple[str, str], option: str, works: bool) -> None:
    with Receiving(certificate=pair, listener=listener(pair)) as server:
        done = s_client(server, "-starttls", "smtp", option, "-cipher", "ALL:@SECLEVEL=0")
        assert ("Cipher is (NONE)" not in done.stdout) is works, done.stdout


def test_a_client_cannot_renegotiate(pair: tuple[str, str]) -> None:
    assert tls.server_context(*pair).options & ssl.OP_NO_RENEGOTIATION


def test_garbage_instead_of_a_handshake_ends_the_session(pair: tuple[str, str]) -> None:
    with Receiving(certificate=pair, listener=listener(pair)) as server:
        with server.connect() as client, client.makefile("rb") as replies:
            reply(replies)
            client.sendall(b"STARTTLS\r\n")
            assert reply(replies).startswith(b"220 2.0.0")
            client.sendall(b"MAIL FROM:<a@b.example>\r\n")
            server.settle()
        assert server.events("lost")[0]["reason"].startswith("TLS: ")


def test_a_silent_handshake_has_a_deadline(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mta.receive.session.TLS_TIMEOUT", 0.2)
    with Receiving(certificate=pair, listener=listener(pair, "submissions")) as server, server.connect():
        until(lambda: server.events("lost"))
        assert server.events("lost")[0]["reason"] == "timed out"


def test_injected_commands_do_not_run_behind_the_handshake(pair: tuple[str, str]) -> None:
    """What arrives in clear after our 220 is taken for TLS, and is none."""
    with Receiving(certificate=pair, listener=listener(pair)) as server:
        with server.connect() as client, client.makefile("rb") as replies:
            reply(replies)
            client.sendall(b"STARTTLS\r\nNOOP\r\nMAIL FROM:<inj@evil.example>\r\n")
            assert reply(replies).startswith(b"554 5.5.1 ")
            assert replies.read() == b""
        server.settle()
        assert server.events("refused")[0]["reply"].startswith("554 5.5.1")


def test_a_pipelined_mail_over_tls_byte_by_byte(pair: tuple[str, str]) -> None:
    with Receiving(certificate=pair, listener=listener(pair)) as server:
        with server.connect() as client:
            assert client.recv(1000).startswith(b"220 mx")
            client.sendall(b"STARTTLS\r\n")
            assert client.recv(1000).startswith(b"220 2.0.0")
            safe = trusting().wrap_socket(client)
            replies = safe.makefile("rb")
            for line in MAIL.splitlines(keepends=True):
                for byte in line.encode():
                    safe.sendall(bytes([byte]))
                if line not in ("hello\r\n",):
                    assert reply(replies)[:1] in b"23"
        server.settle()
        assert len(server.mails) == 1


def test_a_submissions_listener_needs_a_certificate() -> None:
    with (
        pytest.raises(ValueError, match="submissions needs a certificate"),
        Receiving(listener=settings.Listener(kind="submissions")),
    ):
        gevent.sleep(0)


def test_errors_name_the_file(pair: tuple[str, str], tmp_path: Path) -> None:
    certificate, key = pair
    missing, rubbish = str(tmp_path / "none.pem"), tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    (tmp_path / "other").mkdir()
    other = self_signed(tmp_path / "other")[1]
    locked = str(tmp_path / "locked.pem")
    locking = ["openssl", "pkey", "-in", key, "-out", locked, "-aes128", "-passout", "pass:x"]
    subprocess.run(locking, check=True, stdin=subprocess.DEVNULL)
    for told, complaint in {
        (missing, key): f"{missing}: the certificate cannot be read: No such file",
        (certificate, missing): f"{missing}: the key cannot be read: No such file",
        (str(rubbish), key): f"{rubbish}: not a PEM certificate",
        (certificate, str(rubbish)): f"{rubbish}: not a PEM private key",
        (certificate, locked): f"{locked}: the key has a passphrase",
        (certificate, other): f"{other}: this key does not belong to {certificate}",
    }.items():
        with pytest.raises(ValueError) as caught:
            tls.server_context(*told)
        assert str(caught.value).startswith(complaint)


def test_a_certificate_tells_its_age(pair: tuple[str, str]) -> None:
    since, until = tls.dates(pair[0])
    assert since < time.time() < until
    assert tls.ageing(pair[0], until - tls.SOON - 1) is None
    assert str(tls.ageing(pair[0], until - 60)).startswith("expires on 20")
    assert str(tls.ageing(pair[0], until)).startswith("expired on 20")
    assert str(tls.ageing(pair[0], since - 1)).startswith("is good only from 20")


def test_the_log_tells_of_an_old_certificate_once_a_day(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr("mta.log.event", lambda event, **fields: told.append({"event": event, **fields}))
    monkeypatch.setattr(tls, "SOON", 1e12)
    mine = settings.Settings(listener=[listener(pair), listener(pair, "submissions"), settings.Listener()])
    ages = Ages()
    for now in (1.0, 86400.0, 86402.0):
        ages.look(mine, now)
    assert [(one["event"], one["certificate"]) for one in told] == [("certificate_ages", pair[0])] * 2
