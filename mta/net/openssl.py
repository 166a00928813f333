"""What only the `openssl` program does for S/MIME: verify a signature with its chain, encrypt to EC keys, decrypt them.

Keys and certificates reach it as files in memory, the content through stdin; nothing is written to a disk.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from mta.message import smime
from mta.message.entity import read
from mta.message.smime import Identity, Verified
from mta.net import offload
from mta.net.program import PATH, Ended, File, Places, run

TIMEOUT = 60.0  # seconds
PLACES = Places(8)
_ROOM = 1 << 20  # how much longer than its input an output may be, besides doubling

_REASON = re.compile(rb"Verify error: ?([^\n]+)")
_TROUBLE = re.compile(rb"error:[0-9A-F]+:[^:\n]*:[^:\n]*:([^:\n]+)")


class Unavailable(Exception):
    """The program is not there, or did not do what it does: not the mail's fault."""


def there() -> bool:
    return shutil.which("openssl", path=PATH) is not None


def verify(
    signature: bytes, content: bytes | None, authorities: Sequence[x509.Certificate] = (), at: float | None = None
) -> Verified:
    """Check a signature (DER), the signed bytes, and the signer's chain at a time (now).

    Only `authorities` are trusted, or those of the system if none are given. Revocation is not looked at. Raises
    Unavailable.
    """
    signer = File()
    command: list[str | File] = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-signer", signer]
    if content is None:
        command += ["-in", "/dev/stdin", "-out", "/dev/stdout"]
    else:
        command += ["-in", File(signature), "-content", "/dev/stdin", "-out", "/dev/null"]
    if authorities:
        command += ["-CAfile", File(smime.pem(*authorities)), "-no-CApath", "-no-CAstore"]
    command += ["-attime", str(int(time.time() if at is None else at))]
    given = signature if content is None else content
    ended = _run(command, given)
    inside = ended.stdout if content is None else content
    if ended.code == 0:
        return offload.run(smime.verified, smime.certificates(signer.content)[0], inside)
    reason = _REASON.search(ended.stderr)
    trouble = _TROUBLE.findall(ended.stderr)
    if reason:
        why = f"its certificate is not trusted: {_text(reason[1])}"
    elif trouble:
        why = f"the signature is not good: {_text(trouble[-1])}"
    else:
        why = "the signature cannot be read"
    return Verified(False, why, offload.run(read, content or b""))


def sign(content: bytes, who: Identity) -> bytes:
    """A detached signature as DER. Raises ValueError, Unavailable."""
    command: list[str | File] = ["openssl", "cms", "-sign", "-binary", "-md", "sha256", "-outform", "DER"]
    command += ["-signer", File(smime.pem(who.certificate)), "-inkey", File(smime.pem(who.key))]
    if who.chain:
        command += ["-certfile", File(smime.pem(*who.chain))]
    ended = _run(command, content)
    if ended.code != 0:
        raise ValueError(f"it cannot be signed with the key of {smime.name(who.certificate)}: {_why(ended)}")
    return ended.stdout


def encrypt(content: bytes, recipients: Sequence[x509.Certificate]) -> bytes:
    """The enveloped content as DER, for RSA and EC keys. Raises ValueError, Unavailable."""
    command: list[str | File] = ["openssl", "cms", "-encrypt", "-binary", "-aes256", "-outform", "DER"]
    for certificate in recipients:
        command += ["-recip", File(smime.pem(certificate))]
        if isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
            command += ["-keyopt", "ecdh_kdf_md:sha256"]  # RFC 8551 2.3; SHA-1 otherwise
    ended = _run(command, content)
    if ended.code != 0:
        raise ValueError(f"it cannot be encrypted: {_why(ended)}")
    return ended.stdout


def decrypt(envelope: bytes, who: Identity) -> bytes:
    """The content of an envelope (DER). Raises ValueError, Unavailable."""
    command: list[str | File] = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER"]
    command += ["-recip", File(smime.pem(who.certificate)), "-inkey", File(smime.pem(who.key))]
    ended = _run(command, envelope)
    if ended.code != 0:
        raise ValueError(f"it cannot be decrypted with the key of {smime.name(who.certificate)}: {_why(ended)}")
    return ended.stdout


def _run(command: list[str | File], content: bytes) -> Ended:
    ended = run(command, stdin=(content,), timeout=TIMEOUT, keep=2 * len(content) + _ROOM, places=PLACES)
    if ended.failed:
        raise Unavailable(f"openssl: {ended.failed}")
    return ended


def _why(ended: Ended) -> str:
    trouble = _TROUBLE.findall(ended.stderr)
    return _text(trouble[-1]) if trouble else f"openssl ended with {ended.code}"


def _text(said: bytes) -> str:
    return said.decode("utf-8", "replace").strip()
