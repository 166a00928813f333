"""Signing, encrypting, decrypting and verifying as rules do it: any part or the whole mail, with keys from a folder."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from test_smime import certified

from mta.message import smime
from mta.message.message import Message
from mta.message.mime import Part
from mta.rules.outside import protection
from mta.rules.outside.keys import Keys, NoKey
from mta.rules.outside.world import Unanswered

MAIL = (
    b"From: alice@a.test\r\nTo: bob@b.test\r\nSubject: the plan\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b1"\r\n\r\n'
    b"--b1\r\nContent-Type: text/plain\r\n\r\nA letter.\r\n"
    b'--b1\r\nContent-Type: application/octet-stream; name="plan"\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n'
    b"--b1--\r\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("keys")
    root = certified("root", ec.generate_private_key(ec.SECP256R1()), authority=True)
    (place / "root.pem").write_bytes(smime.pem(root.certificate))
    for name in ("alice", "bob"):
        one = certified(name, ec.generate_private_key(ec.SECP256R1()), root)
        (place / f"{name}@a.test.pem").write_bytes(smime.pem(one.certificate, one.key))
    return place


@pytest.fixture(scope="module")
def pgp(folder: Path) -> Path:
    pysequoia = pytest.importorskip("pysequoia", reason="needs pysequoia: pip install mta[pgp]")
    for name in ("alice", "bob"):
        (folder / f"{name}@a.test.asc").write_text(str(pysequoia.Tsk.generate(f"{name}@a.test")))
    return folder


@pytest.fixture
def keys(folder: Path) -> Keys:
    return Keys(folder)


def plan(mail: Message) -> Part:
    return next(part for part in mail.parts() if part.filename == "plan")


@pytest.mark.needs("openssl")
def test_smime_of_a_whole_mail(keys: Keys) -> None:
    mail = Message(MAIL)
    mail.headers.prepend("X-Seen", "yes")
    assert protection.sign(mail.root, keys, "smime", "alice@a.test")
    assert protection.encrypt(mail.root, keys, "smime", ["bob@a.test", "alice@a.test", "bob@a.test"])
    sent = Message(bytes(mail))
    assert sent.headers.get("X-Seen") == "yes" and sent.headers.get("Subject") == "the plan"
    assert sent.root.type == "application/pkcs7-mime" and b"A letter" not in sent.raw and b"AAEC" not in sent.raw
    protection.decrypt(sent.root, keys, "smime", "bob@a.test")
    assert sent.root.type == "multipart/signed"
    seal = protection.verify(sent.root, keys, "smime", "root")
    assert seal["ok"] and seal["addresses"] == "alice@a.test" and seal["signer"] == "CN=alice"
    assert not protection.verify(sent.root, keys, "smime")["ok"]  # the system does not know our root
    assert plan(sent).decoded() == b"\0\1\2"


@pytest.mark.needs("openssl")
def test_smime_of_one_part(keys: Keys) -> None:
    mail = Message(MAIL)
    protection.encrypt(plan(mail), keys, "smime", ["bob@a.test"])
    sent = Message(bytes(mail))
    letter, sealed = sent.root.parts
    assert letter.text() == "A letter." and sealed.type == "application/pkcs7-mime" and b"AAEC" not in sent.raw
    assert sent.raw.startswith(MAIL[: MAIL.index(b"A letter.")])  # untouched up to there
    protection.decrypt(sealed, keys, "smime", "bob@a.test")
    assert bytes(sent) == MAIL


def test_pgp_of_a_whole_mail_and_of_one_part(keys: Keys, pgp: Path) -> None:
    mail = Message(MAIL)
    protection.encrypt(plan(mail), keys, "pgp", ["bob@a.test"])
    protection.sign(mail.root, keys, "pgp", "alice@a.test")
    sent = Message(bytes(mail))
    seal = protection.verify(sent.root, keys, "pgp", "alice@a.test")
    assert seal["ok"] and seal["addresses"] == "alice@a.test" and seal["signer"] == "alice@a.test"
    unknown = protection.verify(sent.root, keys, "pgp", "bob@a.test")
    assert not unknown["ok"] and "does not hold the key" in str(unknown["reason"])
    sealed = next(part for part in sent.parts() if part.type == "multipart/encrypted")
    opened = protection.decrypt(sealed, keys, "pgp", "bob@a.test", "alice@a.test")
    assert opened == {"signed": False, "addresses": "", "reason": "it is not signed"}
    assert plan(sent).decoded() == b"\0\1\2"


def test_what_a_stranger_sent_is_no_mistake_of_the_rule(keys: Keys, pgp: Path) -> None:
    for kind in protection.KINDS:
        with pytest.raises(Unanswered, match="it is multipart/mixed"):
            protection.verify(Message(MAIL).root, keys, kind, "alice@a.test")
        with pytest.raises(Unanswered, match="it is multipart/mixed"):
            protection.decrypt(Message(MAIL).root, keys, kind, "alice@a.test")
    mail = Message(MAIL)
    protection.encrypt(mail.root, keys, "pgp", ["alice@a.test"])
    before = bytes(mail)
    with pytest.raises(Unanswered, match="cannot be decrypted"):
        protection.decrypt(mail.root, keys, "pgp", "bob@a.test")
    assert bytes(mail) == before


def test_a_mail_that_cannot_be_protected_is_an_error(keys: Keys, pgp: Path) -> None:
    mail = Message(MAIL)
    for kind in protection.KINDS:
        with pytest.raises(NoKey, match="there is no key"):
            protection.encrypt(mail.root, keys, kind, ["alice@a.test", "carol@a.test"])
        with pytest.raises(NoKey, match="there is no key"):
            protection.sign(mail.root, keys, kind, "carol@a.test")
        with pytest.raises(ValueError, match="to whom"):
            protection.encrypt(mail.root, keys, kind, [])
        assert protection.can_encrypt(keys, kind, ["alice@a.test", "bob@a.test"])
        assert not protection.can_encrypt(keys, kind, ["alice@a.test", "carol@a.test"])
        assert not protection.can_encrypt(keys, kind, [])
    with pytest.raises(ValueError, match=r"root\.pem: there is no private key"):
        protection.sign(mail.root, keys, "smime", "root")
    with pytest.raises(ValueError, match="needs the name of a keyring"):
        protection.verify(mail.root, keys, "pgp")
    with pytest.raises(ValueError, match="'rot13' is no way"):
        protection.sign(mail.root, keys, "rot13", "alice@a.test")
    assert bytes(mail) == MAIL


@pytest.mark.parametrize(
    "name", ["../alice@a.test", "/etc/passwd", ".", "..", "", "a/b", "a\0b", "a\n", ".hidden", "x" * 300]
)
def test_no_name_leads_out_of_the_folder(keys: Keys, folder: Path, name: str) -> None:
    with pytest.raises(NoKey, match="is not the name of a key"):
        keys.identity(name)
    assert not keys.has("smime", name)


def test_a_sender_may_write_capitals_and_odd_marks_in_an_address(tmp_path: Path, folder: Path) -> None:
    pem = (folder / "alice@a.test.pem").read_bytes()
    for name in ("o'neil&sons@a.test.pem", "Box@a.test.pem"):
        (tmp_path / name).write_bytes(pem)
    mine = Keys(tmp_path)
    for name in ("o'neil&sons@a.test", "O'Neil&Sons@a.test", "Box@a.test"):
        assert mine.has("smime", name) and mine.certificates([name]) == Keys(folder).certificates(["alice@a.test"])
    assert not mine.has("smime", "BOX@a.test")
    with pytest.raises(NoKey, match=r"there is no key .*BOX@a\.test\.pem"):
        mine.certificates(["BOX@a.test"])
    assert Keys({"box@a.test.pem": pem}).has("smime", "BOX@a.test")
    assert Keys({"box@a.test.pem": pem}).authorities("BOX@a.test")


def test_keys_are_read_again_when_they_change(tmp_path: Path, folder: Path) -> None:
    mine = Keys(tmp_path)
    with pytest.raises(NoKey):
        mine.identity("me")
    for stamp, name in enumerate(("alice", "bob")):
        (tmp_path / "me.pem").write_bytes((folder / f"{name}@a.test.pem").read_bytes())
        os.utime(tmp_path / "me.pem", (stamp + 1, stamp + 1))
        found = mine.identity("me")
        assert smime.addresses(found.certificate) == (f"{name}@a.test",)
        assert mine.identity("me") is found
    (tmp_path / "me.pem").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"me.pem: there is no certificate"):
        mine.identity("me")
    (tmp_path / "big.pem").write_bytes(b"")
    os.truncate(tmp_path / "big.pem", 20 << 20)
    with pytest.raises(ValueError, match="larger than"):
        mine.identity("big")


@pytest.mark.needs("openssl")
def test_a_password_beside_the_key(tmp_path: Path, folder: Path) -> None:
    found = Keys(folder).identity("alice@a.test")
    locked = found.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "me.pem").write_bytes(smime.pem(found.certificate) + locked)
    with pytest.raises(ValueError, match="no private key that can be read"):
        Keys(tmp_path).identity("me")
    (tmp_path / "me.password").write_text("secret\n")
    assert Keys(tmp_path).identity("me").certificate == found.certificate
