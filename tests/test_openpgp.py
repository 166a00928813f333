"""OpenPGP/MIME, with `gpg` as the other side of every conversation."""

import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from entities import content_of, with_content
from receiving import PATIENCE
from stalls import worst_stall

from mta.message import openpgp, sequoia
from mta.message.entity import Entity, parts, read
from mta.message.sequoia import Order
from mta.net import offload
from mta.net import openpgp as off_loop

pysequoia = pytest.importorskip("pysequoia", reason="needs pysequoia: pip install mta[pgp]")

MAIL = (
    b"From: alice@a.test\r\nTo: bob@b.test\r\nSubject: the plan\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"Gr\xc3\xbc\xc3\x9fe  \r\nFrom here on\r\n-- \r\nA.\r\n"
)
PART = b"Content-Type: text/plain\r\n\r\nA part.\r\n"


class Keys:
    """A secret key and the public one, armored."""

    def __init__(self, secret: "pysequoia.Tsk") -> None:
        self.secret, self.public = str(secret).encode(), str(secret.extract_certificate()).encode()
        self.fingerprint = secret.extract_certificate().fingerprint


@pytest.fixture(scope="module")
def people() -> dict[str, Keys]:
    made = {name: Keys(pysequoia.Tsk.generate(f"{name.title()} <{name.title()}@a.test>")) for name in ("alice", "bob")}
    made["rsa"] = Keys(pysequoia.Tsk.generate("rsa@a.test", cipher_suite=pysequoia.CipherSuite.RSA2k))
    made["stranger"] = Keys(pysequoia.Tsk.generate("Alice <alice@a.test>"))
    return made


Gpg = Callable[..., bytes]


@pytest.fixture(scope="module")
def gpg(people: dict[str, Keys]) -> Iterator[Gpg]:
    """gpg with a home of its own that knows everyone; arguments, files by name for "@name", stdin; its stdout."""
    home = Path(tempfile.mkdtemp(prefix="gpg"))  # its agent's socket needs a short path
    home.chmod(0o700)

    def call(*arguments: str, given: bytes = b"", fails: bool = False, **files: bytes) -> bytes:
        for name, content in files.items():
            (home / name).write_bytes(content)
        command = [str(home / a[1:]) if a.startswith("@") else a for a in arguments]
        head = ["gpg", "--homedir", str(home), "--batch", "--trust-model", "always", "--pinentry-mode", "loopback"]
        done = subprocess.run([*head, *command], input=given, capture_output=True, timeout=2 * PATIENCE, check=False)
        assert (done.returncode != 0) == fails, done.stderr.decode()
        return done.stdout

    try:
        for one in ("alice", "bob", "rsa"):
            call("--import", given=people[one].secret)
        yield call
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def fingerprint(gpg: Gpg, address: str) -> str:
    lines = gpg("--with-colons", "--list-keys", address).decode().split("\n")
    return next(line.split(":")[9] for line in lines if line.startswith("fpr:"))


def split(entity: Entity) -> list[Entity]:
    return [read(entity.body[slice(*span)]) for span in parts(entity.body, entity.type.get("boundary"))]


# -- signing -----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("gpg")
@pytest.mark.parametrize("who", ["alice", "rsa"])
def test_gpg_verifies_what_we_sign(gpg: Gpg, people: dict[str, Keys], who: str) -> None:
    mail = with_content(MAIL, off_loop.sign(content_of(MAIL), people[who].secret))
    assert mail.startswith(MAIL[: MAIL.index(b"Content-Type")])
    made = read(mail)
    assert made.main == "multipart/signed" and made.type.get("protocol") == "application/pgp-signature"
    assert made.type.get("micalg") in ("pgp-sha256", "pgp-sha512")
    start, stop = parts(made.body, made.type.get("boundary"))[0]
    text, signature = made.body[start:stop], split(made)[1]
    assert signature.main == "application/pgp-signature"
    gpg("--verify", "@sig", "-", given=text, sig=signature.decoded())
    gpg("--verify", "@sig", "-", given=text + b"x", sig=signature.decoded(), fails=True)
    assert text.isascii() and b" \r\n" not in text and b"\nFrom " not in text  # RFC 3156 3, 5
    assert read(text).decoded() == "Grüße  \r\nFrom here on\r\n-- \r\nA.\r\n".encode()


@pytest.mark.needs("gpg")
def test_we_verify_what_gpg_signs(gpg: Gpg, people: dict[str, Keys]) -> None:
    armored = gpg("--armor", "--detach-sign", "--local-user", "bob@a.test", given=PART)
    mail = bytes(openpgp.with_signature(PART, armored, "sha512"))
    found = off_loop.verify(mail, people["alice"].public + people["bob"].public)
    assert found.ok and found.reason == "" and bytes(found.content) == PART
    (signer,) = found.signers
    assert signer.addresses == ("bob@a.test",) and signer.names == ("Bob <Bob@a.test>",)
    assert signer.fingerprint == people["bob"].fingerprint
    wrong = off_loop.verify(mail.replace(b"A part.", b"A trap."), people["bob"].public)
    assert not wrong.ok and wrong.reason == "the signature is not good" and wrong.signers == ()


def test_whose_signature_it_is(people: dict[str, Keys]) -> None:
    made = bytes(off_loop.sign(PART, people["alice"].secret))
    assert off_loop.verify(made, people["alice"].public).ok
    unknown = off_loop.verify(made, people["stranger"].public)  # the same name, another key
    assert not unknown.ok and unknown.reason == "the keyring does not hold the key that signed it"
    with pytest.raises(ValueError, match="no keyring"):
        off_loop.verify(made, b"")


def test_one_good_signature_of_several_is_enough(people: dict[str, Keys]) -> None:
    def packet(who: str) -> bytes:
        armored = sequoia.do(Order("sign", people[who].secret), PART).content
        return bytes(pysequoia.Sig.from_bytes(armored))

    both = base64.encodebytes(packet("stranger") + packet("bob"))
    armored = b"-----BEGIN PGP SIGNATURE-----\n\n%b-----END PGP SIGNATURE-----\n" % both
    mail = openpgp.with_signature(PART, armored, "sha512")
    found = off_loop.verify(bytes(mail), people["bob"].public)
    assert found.ok and [one.fingerprint for one in found.signers] == [people["bob"].fingerprint]


# -- encrypting --------------------------------------------------------------------------------------------------------


@pytest.mark.needs("gpg")
@pytest.mark.parametrize("kind", ["future-default", "rsa2048"])
def test_gpg_decrypts_what_we_encrypt(gpg: Gpg, people: dict[str, Keys], kind: str) -> None:
    """To a key of gpg's own: one made by Sequoia says it can read RFC 9580's newer format, which gpg cannot."""
    address = f"{kind}@g.test"
    gpg("--passphrase", "", "--quick-gen-key", address, *([kind] if kind != "rsa2048" else [kind, "default"]))
    if kind == "rsa2048":
        gpg("--passphrase", "", "--quick-add-key", fingerprint(gpg, address), "rsa2048", "encr")
    content = content_of(MAIL)
    ring = people["alice"].public + gpg("--armor", "--export", address)
    made = off_loop.encrypt(content, ring, [address])
    assert made.main == "multipart/encrypted" and made.type.get("protocol") == "application/pgp-encrypted"
    first, second = split(made)
    assert first.main == "application/pgp-encrypted" and first.body.startswith(b"Version: 1")
    assert gpg("--decrypt", given=second.decoded()) == content


@pytest.mark.needs("gpg")
def test_we_decrypt_what_gpg_encrypts(gpg: Gpg, people: dict[str, Keys]) -> None:
    armored = gpg("--armor", "--encrypt", "--recipient", "alice@a.test", given=PART)
    mail = bytes(openpgp.encrypted(armored))
    found = off_loop.decrypt(mail, people["alice"].secret)
    assert bytes(found.content) == PART and found.signers == ()
    signing = ["--armor", "--encrypt", "--sign", "--local-user", "bob@a.test", "--recipient", "alice@a.test"]
    ring = people["bob"].public + people["alice"].public
    mail = bytes(openpgp.encrypted(gpg(*signing, "--compress-algo", "none", given=PART)))
    found = off_loop.decrypt(mail, people["alice"].secret, "", ring)
    assert bytes(found.content) == PART and [one.addresses for one in found.signers] == [("bob@a.test",)]
    stranger = off_loop.decrypt(mail, people["alice"].secret, "", people["stranger"].public)
    assert bytes(stranger.content) == PART and stranger.signers == ()
    assert stranger.reason == "the keyring does not hold the key that signed it" and found.reason == ""
    mail = bytes(openpgp.encrypted(gpg(*signing, given=PART)))  # compressed: the library does not look that deep
    found = off_loop.decrypt(mail, people["alice"].secret, "", ring)
    assert bytes(found.content) == PART and found.signers == () and "compressed before (GnuPG" in found.reason
    for compressed in ("none", "zip"):
        alone = gpg(*signing[:2], "--recipient", "alice@a.test", "--compress-algo", compressed, given=PART)
        found = off_loop.decrypt(bytes(openpgp.encrypted(alone)), people["alice"].secret, "", ring)
        assert bytes(found.content) == PART and found.reason == "it is not signed"
    assert off_loop.decrypt(mail, people["alice"].secret).reason == "no keyring was given to look for its signer"


def test_a_whole_mail_comes_back_with_its_header(people: dict[str, Keys]) -> None:
    ring = people["alice"].public + people["bob"].public
    sealed = off_loop.encrypt(content_of(MAIL), ring, ["Bob@A.test"], key=people["alice"].secret)
    mail = with_content(MAIL, sealed)
    assert b"Gr\xc3\xbc" not in mail
    found = off_loop.decrypt(content_of(mail), people["bob"].secret, "", ring)
    assert with_content(mail, found.content) == MAIL
    assert [one.addresses for one in found.signers] == [("alice@a.test",)]


@pytest.mark.needs("gpg")
def test_keys_with_a_password(gpg: Gpg, people: dict[str, Keys]) -> None:
    gpg("--passphrase", "secret", "--quick-gen-key", "locked@a.test", "future-default")
    secret = gpg("--passphrase", "secret", "--armor", "--export-secret-keys", "locked@a.test")
    public = gpg("--armor", "--export", "locked@a.test")
    made = off_loop.sign(PART, secret, "secret")
    assert off_loop.verify(bytes(made), public).ok
    sealed = bytes(off_loop.encrypt(PART, public))
    assert bytes(off_loop.decrypt(sealed, secret, "secret").content) == PART
    for password in ("", "wrong"):
        with pytest.raises(ValueError, match=r"the key cannot sign|it cannot be signed"):
            off_loop.sign(PART, secret, password)
        with pytest.raises(ValueError, match="cannot"):
            off_loop.decrypt(sealed, secret, password)


def test_what_cannot_be_done_says_why(people: dict[str, Keys]) -> None:
    alice = people["alice"]
    sealed = bytes(off_loop.encrypt(PART, alice.public))
    old = pysequoia.Tsk.generate("old@a.test", validity_seconds=1)
    time.sleep(1.2)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("there is no key of x@a.test", lambda: off_loop.encrypt(PART, alice.public, ["x@a.test"])),
        ("at least one key", lambda: off_loop.encrypt(PART, b"")),
        ("keyring cannot be read", lambda: off_loop.encrypt(PART, b"no keys")),
        ("the key of old@a.test has expired", lambda: off_loop.encrypt(PART, Keys(old).public, ["old@a.test"])),
        ("cannot be decrypted", lambda: off_loop.decrypt(sealed, people["bob"].secret)),
        ("the secret key cannot be read", lambda: off_loop.decrypt(sealed, b"junk")),
        ("no secret key", lambda: off_loop.sign(PART, b"")),
        ("key", lambda: off_loop.sign(PART, alice.public)),
        ("it is text/plain and not multipart/encrypted", lambda: off_loop.decrypt(PART, alice.secret)),
        ("it is text/plain and not multipart/signed", lambda: off_loop.verify(PART, alice.public)),
        ("cannot be decrypted", lambda: off_loop.decrypt(bytes(openpgp.encrypted(b"junk")), alice.secret)),
    ]
    for said, work in cases:
        with pytest.raises(ValueError, match=said) as error:
            work()
        assert "\n" not in str(error.value)  # the library adds a backtrace of its own
    head = b"Content-Type: multipart/encrypted; protocol=application/pgp-encrypted; boundary=x\r\n\r\n"
    with pytest.raises(ValueError, match="2 parts"):
        off_loop.decrypt(head + b"--x\r\n\r\n--x--", alice.secret)
    with pytest.raises(ValueError, match="its first part is text/plain"):
        off_loop.decrypt(head + b"--x\r\n\r\n1\r\n--x\r\n\r\n2\r\n--x--", alice.secret)
    broken = openpgp.with_signature(PART, b"junk", "sha512")
    assert "cannot be read" in off_loop.verify(bytes(broken), alice.public).reason


def test_large_mails_stop_nobody(people: dict[str, Keys]) -> None:
    content = b"Content-Type: text/plain\r\n\r\n" + b"".join(b"%076d\r\n" % n for n in range(320_000))
    alice = people["alice"]
    sealed = b""

    def there_and_back() -> None:
        nonlocal sealed
        signed = offload.run(bytes, off_loop.sign(content, alice.secret))
        sealed = offload.run(bytes, off_loop.encrypt(signed, alice.public, key=alice.secret))
        back = off_loop.decrypt(sealed, alice.secret, "", alice.public)
        assert [one.addresses for one in back.signers] == [("alice@a.test",)]
        assert off_loop.verify(offload.run(bytes, back.content), alice.public).ok

    assert worst_stall(there_and_back, 0.03) < 0.03  # 6 ms on a quiet machine; the library alone would take 200
    with pytest.raises(ValueError, match="cannot be decrypted"):
        off_loop.decrypt(sealed, people["bob"].secret)


def test_without_the_library(people: dict[str, Keys], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pysequoia", None)
    with pytest.raises(ValueError, match=r"pip install mta\[pgp\]"):
        off_loop.sign(PART, people["alice"].secret)


def test_line_ends_of_the_other_side() -> None:
    assert b"MESSAGE-----\r\n\r\nabc\r\n" in bytes(openpgp.encrypted(b"-----BEGIN PGP MESSAGE-----\n\nabc\n"))
