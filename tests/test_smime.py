"""S/MIME, with `openssl` as the other side of every conversation."""

import datetime
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from entities import content_of, with_content
from hypothesis import given
from hypothesis import strategies as st
from receiving import PATIENCE
from stalls import worst_stall

from mta.message import entity, smime
from mta.message.entity import Entity, canonical, parts, read, sturdy
from mta.message.smime import Identity
from mta.net import offload, openssl
from mta.net import smime as off_loop

pytestmark = pytest.mark.needs("openssl")

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)

MAIL = (
    b"Received: from x by y;\r\n Mon, 1 Jan 2026 00:00:00 +0000\r\n"
    b"From: alice@a.test\r\nTo: bob@b.test\r\nSubject: the plan\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b1"\r\n\r\n'
    b"--b1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"Gr\xc3\xbc\xc3\x9fe  \r\nFrom here on\r\n.\r\n"
    b"--b1\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--b1--\r\n"
)
OUTSIDE = MAIL[: MAIL.index(b"Content-Type")]  # the fields that stay outside of what is signed
PART = b"Content-Type: text/plain\r\nX-Kept: yes\r\n\r\nA part.\r\n"


def certified(
    subject: str,
    key,
    issuer: Identity | None = None,
    *,
    authority: bool = False,
    days: tuple[int, int] = (-10, 100),
    usage: str = "",
) -> Identity:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if not authority:
        made = made.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(f"{subject.title()}@a.test")]), False)
    uses = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    uses += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    if usage:
        made = made.add_extension(x509.KeyUsage(**{use: use == usage for use in uses}), critical=True)
    signer = issuer.key if issuer else key
    return Identity(made.sign(signer, hashes.SHA256()), key)


@pytest.fixture(scope="module")
def people() -> dict[str, Identity]:
    rsas = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
    root = certified("root", rsas[0], authority=True)
    between = certified("between", ec.generate_private_key(ec.SECP256R1()), root, authority=True)
    carol = certified("carol", ec.generate_private_key(ec.SECP256R1()), between)
    return {
        "root": root,
        "between": between,
        "alice": certified("alice", rsas[1], root),
        "bob": certified("bob", ec.generate_private_key(ec.SECP256R1()), root),
        "carol": Identity(carol.certificate, carol.key, (between.certificate,)),
        "late": certified("late", rsas[2], root, days=(-20, -5)),
        "early": certified("early", rsas[2], root, days=(5, 20)),
        "signs": certified("signs", rsas[2], root, usage="digital_signature"),
        "stranger": certified("alice", rsas[2]),
    }


@pytest.fixture
def other(tmp_path: Path) -> Callable[..., bytes]:
    """The openssl program: arguments, files by name for `@name`, stdin; its stdout."""

    def call(*arguments: str, given: bytes = b"", fails: bool = False, **files: bytes) -> bytes:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        command = [str(tmp_path / a[1:]) if a.startswith("@") else a for a in arguments]
        done = subprocess.run(
            ["openssl", *command], input=given, capture_output=True, timeout=2 * PATIENCE, check=False
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stdout

    return call


def both(one: Identity) -> bytes:
    return smime.pem(one.certificate, one.key)


# -- signing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["alice", "bob", "carol"])
@pytest.mark.parametrize("command", ["cms", "smime"])
def test_openssl_verifies_what_we_sign(people, other, who: str, command: str) -> None:
    mail = with_content(MAIL, smime.sign(content_of(MAIL), people[who]))
    assert mail.startswith(OUTSIDE) and b"Subject: the plan" not in mail[len(OUTSIDE) :]
    other(command, "-verify", "-CAfile", "@root", given=mail, root=smime.pem(people["root"].certificate))
    damaged = mail.replace(b"AAEC", b"AAED")
    other(command, "-verify", "-CAfile", "@root", given=damaged, fails=True)


def test_a_signed_mail_is_what_the_rfc_wants(people) -> None:
    made = smime.sign(PART, people["alice"])
    said = made.type
    assert said.main == "multipart/signed" and said.get("micalg") == "sha-256"
    assert said.get("protocol") == "application/pkcs7-signature"
    first, second = (made.body[slice(*span)] for span in parts(made.body, said.get("boundary")))
    assert first == PART
    assert read(second).main == "application/pkcs7-signature"
    assert made.body.isascii() and max(map(len, bytes(made).split(b"\r\n"))) < 998


def test_what_would_not_survive_the_way_is_encoded_before_signing(people, other) -> None:
    made = smime.sign(content_of(MAIL), people["alice"])
    assert made.body.isascii() and b" \r\n" not in made.body and b"\nFrom " not in made.body
    inner = read(made.body[slice(*parts(made.body, made.type.get("boundary"))[0])])
    text = read(inner.body[slice(*parts(inner.body, "b1")[0])])
    assert text.encoding == "quoted-printable" and text.decoded() == "Grüße  \r\nFrom here on\r\n.".encode()


def test_we_verify_what_openssl_signs(people, other) -> None:
    content = content_of(MAIL)
    for form in ([], ["-nodetach"]):
        made = other("cms", "-sign", "-signer", "@alice", "-binary", *form, given=content, alice=both(people["alice"]))
        found = off_loop.verify(canonical(made), [people["root"].certificate])
        assert found.ok and found.reason == "", found
        assert bytes(found.content) == content
        assert found.addresses == ("alice@a.test",) and found.signer == "CN=alice" and found.issuer == "CN=root"
        assert found.fingerprint == people["alice"].certificate.fingerprint(hashes.SHA256()).hex()
        assert abs(found.expires - (NOW + 100 * DAY).timestamp()) < 2


def test_we_verify_what_we_sign_with_a_chain(people) -> None:
    made = off_loop.sign(PART, people["carol"])
    found = off_loop.verify(bytes(made), [people["root"].certificate])
    assert found.ok and found.addresses == ("carol@a.test",) and bytes(found.content) == PART
    alone = off_loop.sign(PART, people["carol"]._replace(chain=()))
    found = off_loop.verify(bytes(alone), [people["root"].certificate])
    assert not found.ok and "unable to get local issuer" in found.reason


def test_the_program_signs_large_mails(people, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_loop, "LARGE", 0)
    for who in ("alice", "bob", "carol"):
        made = off_loop.sign(PART, people[who])
        found = off_loop.verify(bytes(made), [people["root"].certificate])
        assert found.ok and bytes(found.content) == PART, who
    with pytest.raises(ValueError, match="cannot be signed"):
        off_loop.sign(PART, people["carol"]._replace(key=people["alice"].key))


def test_bad_signatures(people) -> None:
    root = [people["root"].certificate]
    good = bytes(smime.sign(PART, people["alice"]))
    assert off_loop.verify(good, root).ok
    changed = off_loop.verify(good.replace(b"A part.", b"A trap."), root)
    assert not changed.ok and "signature is not good" in changed.reason and changed.signer == ""
    stranger = off_loop.verify(bytes(smime.sign(PART, people["stranger"])), root)
    assert not stranger.ok and "not trusted" in stranger.reason
    assert not off_loop.verify(good).ok  # the system's roots do not know ours
    assert not off_loop.verify(good, [people["between"].certificate]).ok
    broken = smime.signed(
        PART, Entity(b"Content-Type: application/pkcs7-signature\r\n", b"no"), smime.SIGNATURES[0], "x", b""
    )
    assert off_loop.verify(bytes(broken), root).reason


def test_dates(people) -> None:
    root = [people["root"].certificate]
    then = (NOW - 10 * DAY).timestamp()
    made = bytes(smime.sign(PART, people["late"], at=then))
    assert "expired" in off_loop.verify(made, root).reason
    assert off_loop.verify(made, root, at=(NOW - 8 * DAY).timestamp()).ok
    with pytest.raises(ValueError, match="expired on"):
        smime.sign(PART, people["late"])
    with pytest.raises(ValueError, match="not valid before"):
        smime.encrypt(PART, [people["early"].certificate])


def test_what_is_not_signed(people) -> None:
    for mail, said in [
        (PART, "it is text/plain and not multipart/signed"),
        (b"Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n--x--", "not multipart/signed with"),
        (
            b"Content-Type: multipart/signed; protocol=application/pkcs7-signature; boundary=x\r\n\r\n"
            b"--x\r\n\r\nA\r\n--x--",
            "2 parts",
        ),
        (
            b"Content-Type: multipart/signed; protocol=application/pkcs7-signature; boundary=x\r\n\r\n"
            b"--x\r\n\r\nA\r\n--x\r\n\r\nB\r\n--x--",
            "its second part is text/plain",
        ),
    ]:
        with pytest.raises(ValueError, match=said):
            off_loop.verify(mail)


# -- encrypting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [["alice"], ["bob"], ["alice", "bob"]])
def test_openssl_decrypts_what_we_encrypt(people, other, to: list[str]) -> None:
    content = content_of(MAIL)
    made = off_loop.encrypt(content, [people[name].certificate for name in to])
    mail = with_content(MAIL, made)
    assert made.main == "application/pkcs7-mime" and made.type.get("smime-type") == "enveloped-data"
    assert b"Gr\xc3\xbc" not in mail and b"\r\nAAEC\r\n" not in mail
    for name in to:
        out = other("cms", "-decrypt", "-recip", "@cert", "-inkey", "@key", given=mail,
                    cert=smime.pem(people[name].certificate), key=smime.pem(people[name].key))  # fmt: skip
        assert out == content
    other("cms", "-decrypt", "-recip", "@cert", "-inkey", "@key", given=mail, fails=True,
          cert=smime.pem(people["stranger"].certificate), key=smime.pem(people["stranger"].key))  # fmt: skip


@pytest.mark.parametrize("cipher", ["-aes256", "-aes128", "-des3", "-aes-256-gcm"])
def test_we_decrypt_what_openssl_encrypts(people, other, cipher: str) -> None:
    content = content_of(MAIL)
    for name in ("alice", "bob"):
        made = other("cms", "-encrypt", "-binary", cipher, "@cert", given=content,
                     cert=smime.pem(people[name].certificate))  # fmt: skip
        assert bytes(off_loop.decrypt(canonical(made), people[name])) == content


def test_a_whole_mail_comes_back_with_its_header(people) -> None:
    mail = with_content(MAIL, off_loop.encrypt(content_of(MAIL), [people["bob"].certificate]))
    assert with_content(mail, off_loop.decrypt(content_of(mail), people["bob"])) == MAIL


def test_signed_and_encrypted(people) -> None:
    sealed = off_loop.encrypt(bytes(off_loop.sign(PART, people["bob"])), [people["alice"].certificate])
    found = off_loop.verify(bytes(off_loop.decrypt(bytes(sealed), people["alice"])), [people["root"].certificate])
    assert found.ok and bytes(found.content) == PART


def test_who_cannot_open_it(people) -> None:
    sealed = bytes(off_loop.encrypt(PART, [people["alice"].certificate]))
    for name in ("stranger", "bob"):
        with pytest.raises(ValueError, match="cannot be decrypted with the key of CN="):
            off_loop.decrypt(sealed, people[name])
    with pytest.raises(ValueError, match="it is text/plain and not encrypted"):
        off_loop.decrypt(PART, people["alice"])
    with pytest.raises(ValueError, match="cannot be decrypted"):
        off_loop.decrypt(
            b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n\r\nno\r\n", people["alice"]
        )
    with pytest.raises(ValueError, match="at least one"):
        off_loop.encrypt(PART, [])
    with pytest.raises(ValueError, match="is not for key encipherment"):
        off_loop.encrypt(PART, [people["signs"].certificate])
    root = people["root"]
    modern = certified("modern", ed25519.Ed25519PrivateKey.generate(), root)
    with pytest.raises(ValueError, match="to RSA and EC keys; the certificate of CN=modern has another"):
        off_loop.encrypt(PART, [people["alice"].certificate, modern.certificate])


def test_large_mails_stop_nobody(people) -> None:
    attachment = b"".join(b"%076d\r\n" % n for n in range(320_000))
    content = b"Content-Type: text/plain\r\n\r\n" + attachment
    mine = people["alice"]

    def there_and_back() -> None:
        signed = offload.run(bytes, off_loop.sign(content, mine))
        sealed = offload.run(bytes, off_loop.encrypt(signed, [mine.certificate]))
        back = offload.run(bytes, off_loop.decrypt(sealed, mine))
        assert off_loop.verify(back, [people["root"].certificate]).ok

    assert worst_stall(there_and_back, 0.03) < 0.03  # 4 ms on a quiet machine; cryptography alone would take 60


def test_without_the_program(people, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "there", lambda: False)
    monkeypatch.setattr(off_loop, "LARGE", 0)
    sealed = bytes(off_loop.encrypt(PART, [people["alice"].certificate]))
    assert bytes(off_loop.decrypt(sealed, people["alice"])) == PART
    monkeypatch.setattr(openssl, "run", lambda *a, **k: openssl.Ended(failed="openssl: no such program"))
    with pytest.raises(openssl.Unavailable, match="no such program"):
        off_loop.encrypt(PART, [people["bob"].certificate])


# -- keys --------------------------------------------------------------------------------------------------------------


def test_pem_files(people, other) -> None:
    carol = people["carol"]
    text = (
        b"Bag Attributes\n"
        + smime.pem(people["between"].certificate)
        + smime.pem(carol.key)
        + smime.pem(carol.certificate)
    )
    found = smime.identity(text)
    assert found.certificate == carol.certificate and found.chain == (people["between"].certificate,)
    locked = other("pkey", "-aes256", "-passout", "pass:secret", given=smime.pem(carol.key))
    found = smime.identity(smime.pem(carol.certificate) + locked, b"secret")
    assert found.key.private_numbers() == carol.key.private_numbers()
    for pem, said in [
        (b"", "no certificate"),
        (smime.pem(carol.certificate), "no private key"),
        (smime.pem(carol.certificate) + locked, "no private key that can be read"),
        (smime.pem(people["bob"].certificate, carol.key), "belongs to none"),
    ]:
        with pytest.raises(ValueError, match=said):
            smime.identity(pem)
    assert smime.addresses(carol.certificate) == ("carol@a.test",)


# -- entities ----------------------------------------------------------------------------------------------------------


def test_a_decrypted_part_cannot_bring_fields_of_a_mail() -> None:
    inside = Entity(b"From: ceo@b.test\r\nContent-Type: text/html\r\n", b"x")
    assert b"ceo" not in with_content(b"From: a@b.test\r\n\r\n", inside)


@pytest.mark.parametrize(
    ("body", "boundary", "found"),
    [
        (b"--x\r\na\r\n--x\r\nb\r\n--x--\r\n", "x", [b"a", b"b"]),
        (b"pre\r\n--x \r\n\r\n--x--", "x", [b""]),
        (b"--x\r\n--x--\r\n", "x", [b""]),
        (b"--x\r\na--x\r\n --x\r\n--xy\r\n--x", "x", [b"a--x\r\n --x\r\n--xy", b""]),
        (b"--x\na\n--x--", "x", [b"a"]),
        (b"--x\r\nunfinished\r\n", "x", [b"unfinished\r\n"]),
        (b"nothing", "x", []),
        (b"--\r\n", "", []),
    ],
)
def test_parts(body: bytes, boundary: str, found: list[bytes]) -> None:
    assert [body[slice(*span)] for span in parts(body, boundary)] == found


@pytest.mark.parametrize("body", [b"plain\r\n", b"x" * 997 + b"\r\n", b"a\r\n.\r\n\r\n", b""])
def test_what_is_sturdy_keeps_its_bytes(body: bytes) -> None:
    one = Entity(b"Content-Type: text/plain\r\n", body)
    assert sturdy(one) is one


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        "Grüße".encode(),
        b"blank \r\n",
        b"From me\r\nFrom you\r\n",
        b"x" * 3000,
        b"bare\nlines\r",
        b"a\0b",
        b"tab\t",
        b"=\r\n" + b"\xe9" * 70 + b"From \r\nFrom x",
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
def test_sturdy_says_the_same(kind: str, body: bytes) -> None:
    whole = Entity(
        b"Content-Type: multipart/mixed; boundary=x\r\nContent-Transfer-Encoding: 8bit\r\n",
        b"--x\r\n\r\nuntouched \x20=\r\n--x\r\nContent-Type: %b\r\n\r\n%b\r\n--x--\r\n" % (kind.encode(), body),
    )
    made = sturdy(whole)
    assert made.body.isascii() and max(map(len, made.body.split(b"\r\n"))) <= 998
    assert b" \r\n" not in made.body and b"\nFrom " not in made.body and canonical(bytes(made)) is not None
    spans = parts(made.body, "x")
    second = read(made.body[slice(*spans[1])])
    wanted = canonical(body) if kind == "text/plain" else body
    assert second.decoded() == wanted
    assert made.encoding == "7bit"


def test_a_line_that_sturdy_cuts_in_two_makes_no_boundary() -> None:
    text = b"x" * 75 + b"--x\r\nContent-Type: application/x-exe\r\n\r\nblank \r\n" + b"--xy \r\n"
    whole = Entity(b"Content-Type: multipart/mixed; boundary=x\r\n", b"--x\r\n\r\n" + text + b"\r\n--x--\r\n")
    made = sturdy(whole)
    (only,) = parts(made.body, "x")
    assert read(made.body[slice(*only)]).decoded() == text


def test_what_is_signed_inside_is_not_touched() -> None:
    inner = b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\ngr\xc3\xbcn \r\n--s--"
    whole = Entity(b"Content-Type: multipart/mixed; boundary=x\r\n", b"--x\r\n" + inner + b"\r\n--x--")
    assert sturdy(whole) is whole


@given(st.binary(max_size=300))
def test_nothing_but_value_errors(noise: bytes) -> None:
    for head in (
        b"Content-Type: multipart/signed; protocol=application/pkcs7-signature; boundary=x\r\n\r\n--x\r\n",
        b"Content-Type: application/pkcs7-mime\r\n\r\n",
        b"",
    ):
        one = read(head + noise)
        content = content_of(bytes(one))
        assert read(with_content(bytes(one), read(content))).body == read(content).body
        assert sturdy(one).main == one.main
        try:
            smime.signature_of(bytes(one))
            smime.envelope_of(bytes(one))
        except ValueError:
            pass


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"bc"]), max_size=40))
def test_canonical(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    wanted = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    assert canonical(content) == wanted and canonical(wanted) is wanted
    entity.PIECE, kept = 3, entity.PIECE
    try:
        assert canonical(content) == wanted
    finally:
        entity.PIECE = kept
