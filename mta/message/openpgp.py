"""PGP/MIME (RFC 3156): what signing and encrypting make of an entity, and how such an entity is taken apart.

Functions take the bytes of a MIME entity and return a new one; entity.py says how a whole mail becomes one. What the
keys do is in sequoia.py. Everything raises ValueError with a reason a person can read.
"""

from __future__ import annotations

from typing import NamedTuple

from mta.message.entity import Entity, boundary_for, canonical, cut, parts, read, signed, signed_parts, sturdy
from mta.message.sequoia import Signer

SIGNATURES = ("application/pgp-signature",)
CONTROL = "application/pgp-encrypted"


class Verified(NamedTuple):
    """What a signature is worth: `reason` says why it is not `ok`; `signers` whose good signatures it bears.

    That one of their addresses is the From of the mail is for the asker to compare.
    """

    ok: bool
    reason: str
    content: Entity
    signers: tuple[Signer, ...] = ()


class Opened(NamedTuple):
    """What was encrypted, and who signed it well inside (RFC 3156 6.2), as far as the keyring knows them; `reason` says
    why that is nobody."""

    content: Entity
    signers: tuple[Signer, ...] = ()
    reason: str = ""


def content_to_sign(entity: bytes) -> bytes:
    return canonical(bytes(sturdy(read(entity))))


def with_signature(content: bytes, armored: bytes, hash: str) -> Entity:
    """A multipart/signed (RFC 3156 5) of the very bytes that were signed."""
    signature = Entity(
        b'Content-Type: application/pgp-signature; name="signature.asc"\r\nContent-Description: OpenPGP signature\r\n',
        canonical(armored).rstrip(b"\r\n"),
    )
    return signed(content, signature, SIGNATURES[0], f"pgp-{hash}", b"This is a signed mail (OpenPGP/MIME).\r\n")


def signature_of(entity: bytes) -> tuple[bytes, bytes]:
    """(the armored signature, the signed bytes)."""
    content, signature = signed_parts(read(entity), SIGNATURES)
    return signature.decoded(), canonical(content)


def encrypted(armored: bytes) -> Entity:
    """A multipart/encrypted (RFC 3156 4)."""
    armored = canonical(armored)
    boundary = boundary_for(armored)
    line = b"--" + boundary
    header = (
        b'Content-Type: multipart/encrypted; protocol="application/pgp-encrypted";\r\n boundary="%b"\r\n' % boundary
    )
    before = (
        b"This is an encrypted mail (OpenPGP/MIME).\r\n\r\n%b\r\n"
        b"Content-Type: application/pgp-encrypted\r\nContent-Description: PGP/MIME version identification\r\n\r\n"
        b"Version: 1\r\n\r\n%b\r\n"
        b'Content-Type: application/octet-stream; name="encrypted.asc"\r\n'
        b'Content-Disposition: inline; filename="encrypted.asc"\r\n\r\n' % (line, line)
    )
    return Entity(header, b"".join((before, armored, b"\r\n", line, b"--\r\n")))


def encrypted_of(entity: bytes) -> bytes:
    """The armored text of an encrypted entity. Raises ValueError if it is none."""
    whole = read(entity)
    said = whole.type
    if whole.main != "multipart/encrypted" or said.get("protocol").lower() != CONTROL:
        raise ValueError(f"it is {whole.main} and not multipart/encrypted with {CONTROL}")
    spans = parts(whole.body, said.get("boundary"))
    if len(spans) != 2:
        raise ValueError(f"a multipart/encrypted has 2 parts (RFC 1847 2.2), and this one has {len(spans)}")
    first, second = (read(cut(whole.body, *span)) for span in spans)
    if first.main != CONTROL:
        raise ValueError(f"its first part is {first.main} and not {CONTROL}")
    return second.decoded()


def opened(content: bytes, signers: list[Signer], reason: str = "") -> Opened:
    return Opened(read(canonical(content)), tuple(signers), reason)
