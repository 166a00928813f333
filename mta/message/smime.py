"""S/MIME (RFC 8551) on bytes: sign and encrypt an entity, decrypt it, and take a signed one apart.

Functions take the bytes of a MIME entity and return a new one; entity.py says how a whole mail becomes one. Everything
raises ValueError with a reason a person can read. `cryptography` encrypts to RSA keys only and cannot verify: EC keys
and `verify` are in net/smime.py, which also keeps the heavy work off the loop.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from mta.message import encodings
from mta.message.entity import Entity, canonical, read, signed, signed_parts, sturdy

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

SIGNATURES = ("application/pkcs7-signature", "application/x-pkcs7-signature")
ENVELOPES = ("application/pkcs7-mime", "application/x-pkcs7-mime")
PREAMBLE = b"This is a signed mail (S/MIME).\r\n"

_Rust = (ValueError, TypeError, UnsupportedAlgorithm)  # what `cryptography` raises for what it does not like


class Identity(NamedTuple):
    """Who signs and decrypts: a certificate, its private key, and the certificates between it and a root."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()


class Verified(NamedTuple):
    """What a signature is worth. If not `ok`, `reason` says why and nothing else is filled in but `content`.

    `signer` and `issuer` are names as RFC 4514 writes them, `addresses` the mail addresses in the certificate (lower
    case), `fingerprint` its SHA-256 in hex, `expires` seconds since 1970. That `addresses` holds the From of the mail
    is for the asker to compare.
    """

    ok: bool
    reason: str
    content: Entity
    signer: str = ""
    addresses: tuple[str, ...] = ()
    issuer: str = ""
    fingerprint: str = ""
    expires: float = 0.0


# -- certificates and keys ---------------------------------------------------------------------------------------------


def certificates(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text. Raises ValueError if there is none."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError("there is no certificate (-----BEGIN CERTIFICATE-----) in it") from None


def identity(pem: bytes, password: bytes | None = None) -> Identity:
    """The private key of a PEM text, the certificate that belongs to it, and the others as its chain."""
    found = certificates(pem)
    try:
        key = serialization.load_pem_private_key(pem[max(0, _key_at(pem)) :], password)
    except _Rust as error:
        raise ValueError(f"there is no private key that can be read in it: {error}") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("S/MIME needs an RSA or EC key")
    own = [certificate for certificate in found if certificate.public_key() == key.public_key()]
    if not own:
        raise ValueError("the private key belongs to none of the certificates beside it")
    return Identity(own[0], key, tuple(certificate for certificate in found if certificate != own[0]))


def _key_at(pem: bytes) -> int:
    end = pem.find(b"PRIVATE KEY-----")
    return pem.rfind(b"-----BEGIN", 0, end)


def pem(*what: x509.Certificate | Key) -> bytes:
    """Certificates and keys as PEM, keys without a password."""
    return b"".join(
        one.public_bytes(serialization.Encoding.PEM)
        if isinstance(one, x509.Certificate)
        else one.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for one in what
    )


def name(certificate: x509.Certificate) -> str:
    """Its subject, or its first mail address where there is none."""
    return certificate.subject.rfc4514_string() or next(iter(addresses(certificate)), "a certificate without a name")


def addresses(certificate: x509.Certificate) -> tuple[str, ...]:
    """The mail addresses a certificate is for (RFC 8550 3), lower case."""
    found: list[str] = []
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found += names.get_values_for_type(x509.RFC822Name)
    except (x509.ExtensionNotFound, ValueError):
        pass
    try:
        found += [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)]
    except ValueError:
        pass
    return tuple(dict.fromkeys(address.lower() for address in found))


def _usable(certificate: x509.Certificate, *uses: str, at: float | None) -> None:
    """Raises ValueError unless the certificate is valid now and may be used for one of `uses` (RFC 5280 4.2.1.3)."""
    now = datetime.datetime.now(datetime.UTC) if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise ValueError(
            f"the certificate of {name(certificate)} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
    if now < certificate.not_valid_before_utc:
        begins = certificate.not_valid_before_utc
        raise ValueError(f"the certificate of {name(certificate)} is not valid before {begins:%Y-%m-%d}")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not any(getattr(usage, use) for use in uses):
        raise ValueError(f"the certificate of {name(certificate)} is not for {uses[0].replace('_', ' ')}")


# -- signing -----------------------------------------------------------------------------------------------------------


def sign(entity: bytes, who: Identity, at: float | None = None) -> Entity:
    """A multipart/signed of the entity (RFC 8551 3.5.3), the signature detached. `at`: the time, for the date check."""
    content = content_to_sign(entity, who, at)
    made = pkcs7.PKCS7SignatureBuilder().set_data(content).add_signer(who.certificate, who.key, hashes.SHA256())
    for certificate in who.chain:
        made = made.add_certificate(certificate)
    der = made.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary])
    return with_signature(content, der)


def content_to_sign(entity: bytes, who: Identity, at: float | None = None) -> bytes:
    """What is signed, in a form that survives its way. Raises ValueError if that certificate cannot sign."""
    _usable(who.certificate, "digital_signature", "content_commitment", at=at)
    return canonical(bytes(sturdy(read(entity))))


def with_signature(content: bytes, der: bytes) -> Entity:
    """The multipart/signed of a content and its detached signature."""
    return signed(content, _attached(der, SIGNATURES[0], "smime.p7s"), SIGNATURES[0], "sha-256", PREAMBLE)


def signature_of(entity: bytes) -> tuple[bytes, bytes | None]:
    """(the signature as DER, the signed bytes; None if they are inside the signature, RFC 8551 3.5.2)."""
    whole = read(entity)
    if whole.main in ENVELOPES and whole.type.get("smime-type").lower() in ("signed-data", ""):
        return whole.decoded(), None
    content, signature = signed_parts(whole, SIGNATURES)
    return signature.decoded(), canonical(content)


def verified(certificate: x509.Certificate, content: bytes) -> Verified:
    """The good outcome, with what the certificate says."""
    return Verified(
        True,
        "",
        read(content),
        signer=certificate.subject.rfc4514_string(),
        addresses=addresses(certificate),
        issuer=certificate.issuer.rfc4514_string(),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        expires=certificate.not_valid_after_utc.timestamp(),
    )


# -- encrypting --------------------------------------------------------------------------------------------------------


def content_to_encrypt(entity: bytes, recipients: Sequence[x509.Certificate], at: float | None = None) -> bytes:
    """The bytes that go into the envelope, once every certificate was found usable."""
    if not recipients:
        raise ValueError("a mail must be encrypted to at least one certificate")
    for certificate in recipients:
        if not isinstance(certificate.public_key(), rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise ValueError(f"S/MIME encrypts to RSA and EC keys; the certificate of {name(certificate)} has another")
        _usable(certificate, "key_encipherment", "key_agreement", at=at)
    return canonical(entity)


def encrypt(entity: bytes, recipients: Sequence[x509.Certificate], at: float | None = None) -> Entity:
    """An enveloped-data entity (RFC 8551 3.3) all of `recipients` can open: RSA, AES-256 in CBC mode."""
    made = pkcs7.PKCS7EnvelopeBuilder().set_data(content_to_encrypt(entity, recipients, at))
    for certificate in recipients:
        if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
            raise ValueError(f"the certificate of {name(certificate)} is not for RSA")
        made = made.add_recipient(certificate)
    made = made.set_content_encryption_algorithm(AES256)
    return enveloped(made.encrypt(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary]))


def enveloped(der: bytes) -> Entity:
    return _attached(der, f"{ENVELOPES[0]}; smime-type=enveloped-data", "smime.p7m")


def envelope_of(entity: bytes) -> bytes:
    """The DER of an encrypted entity. Raises ValueError if it is none."""
    whole = read(entity)
    said = whole.type.get("smime-type").lower()
    if whole.main not in ENVELOPES or said not in ("enveloped-data", "authenveloped-data", ""):
        raise ValueError(f"it is {whole.main}{said and '; smime-type=' + said} and not encrypted with S/MIME")
    return whole.decoded()


def decrypt(entity: bytes, who: Identity) -> Entity:
    """The entity inside an encrypted one. RSA keys only; see net/smime.py for others."""
    der = envelope_of(entity)
    if not isinstance(who.key, rsa.RSAPrivateKey):
        raise ValueError(f"the key of {name(who.certificate)} is not an RSA key")
    try:
        return read(canonical(pkcs7.pkcs7_decrypt_der(der, who.certificate, who.key, [])))
    except _Rust as error:
        raise ValueError(f"it cannot be decrypted with the key of {name(who.certificate)}: {error}") from None


def _attached(der: bytes, kind: str, filename: str) -> Entity:
    return Entity(
        b'Content-Type: %b; name="%b"\r\nContent-Transfer-Encoding: base64\r\n'
        b'Content-Disposition: attachment; filename="%b"\r\n' % (kind.encode(), filename.encode(), filename.encode()),
        b"".join(encodings.base64(der)),
    )
