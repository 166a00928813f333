"""S/MIME with nothing heavy on the loop: a thread for what `cryptography` does, the `openssl` program for the rest.

`cryptography` keeps the interpreter to itself while it encrypts or signs (1.6 ms for each MB), so large mails go to the
program too, if it is there. Functions take and return what message/smime.py does; all park the greenlet, raise
ValueError for what is wrong with mail, key or certificate, and openssl.Unavailable.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from mta.message import smime
from mta.message.entity import Entity, canonical, read
from mta.message.smime import Identity, Verified
from mta.net import offload, openssl

LARGE = 2 << 20  # bytes


def sign(entity: bytes, who: Identity, at: float | None = None) -> Entity:
    if len(entity) <= LARGE or not openssl.there():
        return offload.run(smime.sign, entity, who, at)
    content = offload.run(smime.content_to_sign, entity, who, at)
    return offload.run(smime.with_signature, content, openssl.sign(content, who))


def encrypt(entity: bytes, recipients: Sequence[x509.Certificate], at: float | None = None) -> Entity:
    """An entity all of `recipients` can open, whatever their keys."""
    simple = all(isinstance(certificate.public_key(), rsa.RSAPublicKey) for certificate in recipients)
    if simple and (len(entity) <= LARGE or not openssl.there()):
        return offload.run(smime.encrypt, entity, recipients, at)
    content = offload.run(smime.content_to_encrypt, entity, recipients, at)
    return offload.run(smime.enveloped, openssl.encrypt(content, recipients))


def decrypt(entity: bytes, who: Identity) -> Entity:
    simple = isinstance(who.key, rsa.RSAPrivateKey)
    if simple and (len(entity) <= LARGE or not openssl.there()):
        try:
            return offload.run(smime.decrypt, entity, who)
        except ValueError:
            if not openssl.there():
                raise  # else it knows algorithms `cryptography` does not
    content = openssl.decrypt(offload.run(smime.envelope_of, entity), who)
    return offload.run(_read, content)


def verify(entity: bytes, authorities: Sequence[x509.Certificate] = (), at: float | None = None) -> Verified:
    """Signature, chain and dates. Raises ValueError if the entity is not signed at all."""
    signature, content = offload.run(smime.signature_of, entity)
    return openssl.verify(signature, content, authorities, at)


def _read(content: bytes) -> Entity:
    return read(canonical(content))
