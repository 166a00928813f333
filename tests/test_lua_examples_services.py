"""Examples (lua/examples) that ask services or protect mails: each loaded as it is shipped, and asked."""

import json
import smtplib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from daemon import Server
from rules_kit import Bench, shipped
from test_services import CLAMSCAN, EICAR
from test_smime import certified

from mta import config
from mta.message import smime
from mta.message.address import Address
from mta.message.message import Message
from mta.net import smime as smime_off_loop
from mta.rules.outside.services import Services
from mta.rules.outside.world import FakeWorld
from mta.rules.transaction import Transaction
from mta.rules.trying import example


@pytest.fixture
def antivirus(tmp_path: Path) -> Bench:
    """With the settings the example shows, and a stand-in for the scanner."""
    lines = [line.removeprefix("--").strip() for line in shipped("antivirus").split("\n") if line.startswith("--   ")]
    scanner = tmp_path / "clamscan"
    scanner.write_text(CLAMSCAN)
    scanner.chmod(0o755)
    (tmp_path / "mta.toml").write_text("\n".join(lines).replace('"clamscan"', json.dumps(str(scanner))))
    world = FakeWorld()
    world.services = Services(config.read(tmp_path / "mta.toml").settings.service, say=world.log)
    return Bench(tmp_path, shipped("antivirus"), world)


def preq(body: bytes) -> Transaction:
    tx = example.transaction("preq")
    tx.message = Message(b"Subject: look\r\n\r\n" + body + b"\r\n")
    return tx


def test_antivirus(antivirus: Bench) -> None:
    assert antivirus.run("preq", preq(b"a letter")).kind == "next"
    infected = antivirus.run("preq", preq(EICAR))
    assert infected.kind == "quarantine" and infected.folder == "virus" and infected.rule == "no viruses"
    assert antivirus.tx.message is not None
    assert antivirus.tx.message.headers.get("X-Virus") == "Eicar-Test-Signature"
    assert antivirus.messages == ["virus Eicar-Test-Signature from 192.0.2.7"]
    broken = antivirus.run("preq", preq(b"BROKEN-DATABASE"))
    assert broken.kind == "defer" and broken.reply is not None and broken.reply.code == 451
    assert antivirus.world.said("service_failed")[0]["reason"] == "exit code 2"
    assert antivirus.failures == []


def test_antivirus_in_the_running_server(tmp_path: Path, antivirus: Bench) -> None:
    settings = (tmp_path / "mta.toml").read_text()
    with Server(tmp_path / "server", settings, shipped("antivirus")) as server:
        server.send("Subject: one\r\n\r\na letter\r\n")
        server.send(f"Subject: two\r\n\r\n{EICAR.decode()}\r\n")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            server.send("Subject: three\r\n\r\nBROKEN-DATABASE\r\n")
        assert refused.value.smtp_code == 451
        server.until(lambda: len(server.mails()) == 1, "the letter was not delivered")
        assert b"a letter" in server.mails()[0].read_bytes()
        server.until(lambda: server.waiting() == 1, "more than the virus, held for a person, is in the spool")
        server.until(lambda: server.events("service_failed"), "the log says nothing of the broken database")
        (failed,) = server.events("service_failed")
        assert failed["service"] == "clamscan" and failed["reason"] == "exit code 2" and failed["mail"]


@pytest.mark.needs("openssl")
def test_protected(tmp_path: Path) -> None:
    root = example.KEYS["root.pem"]
    partner = certified("ann", ec.generate_private_key(ec.SECP256R1()))
    files = {**example.KEYS, "ann@example.com.pem": smime.pem(partner.certificate, partner.key)}
    ours = Bench(tmp_path, shipped("protected"), FakeWorld(keys=files))

    out = example.transaction("postq")
    out.recipients = [Address("ann", "example.com")]
    assert ours.run("postq", out).kind == "next" and ours.failures == []
    assert out.message is not None
    assert out.message.root.type == "application/pkcs7-mime" and b"How are you?" not in bytes(out.message)
    opened = smime_off_loop.decrypt(bytes(out.message), partner)
    seal = smime_off_loop.verify(bytes(opened), smime.certificates(root))
    assert seal.ok and seal.addresses == ("you@example.test",)

    elsewhere = example.transaction("postq")
    elsewhere.recipients = [Address("ann", "example.com"), Address("bob", "example.org")]
    ours.run("postq", elsewhere)
    assert elsewhere.message is not None and bytes(elsewhere.message) == example.MAIL

    unknown = example.transaction("postq")  # signed, though there is no key to encrypt to
    unknown.recipients = [Address("eve", "example.com")]
    ours.run("postq", unknown)
    assert unknown.message is not None and unknown.message.root.type == "multipart/signed"

    back = example.transaction("preq")
    back.message = Message(b"X-Signed-By: ceo@example.com\r\n" + bytes(unknown.message))
    assert ours.run("preq", back).kind == "next"
    assert back.message.headers.all("X-Signed-By") == ["you@example.test"]

    forged = example.transaction("preq")
    forged.message = Message(bytes(unknown.message).replace(b"How are you?", b"Send me money"))
    assert ours.run("preq", forged).kind == "deny"
    plain = example.transaction("preq")
    assert ours.run("preq", plain).kind == "next"
    assert ours.failures == []
