"""OpenPGP on plain bytes: one order, one content, one result. The work is done by Sequoia (the extra mta[pgp]).

The library keeps the interpreter to itself while it works (7 ms for each MB), so net/openpgp.py has large contents
done by this file as a program of its own: `main` reads the order from a file, the content from stdin.
"""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from pysequoia import Cert

T = TypeVar("T")

_ADDRESS = re.compile(r"<([^<>\s]+@[^<>\s]+)>\s*$|^([^<>\s]+@[^<>\s]+)$")


class Order(msgspec.Struct):
    """What to do: sign, encrypt, decrypt or verify.

    `key` is a secret key with its `password`; for encrypt it signs too, if given. `keyring` holds the keys of others,
    armored or not. `addresses`: to whom to encrypt; all of the keyring if empty. `signature`: what to verify.
    """

    what: str
    key: bytes = b""
    password: str = ""
    keyring: bytes = b""
    addresses: list[str] = []
    signature: bytes = b""


class Signer(msgspec.Struct, frozen=True):
    """Whose key made a good signature: its fingerprint (hex), its names, and the addresses in them (lower case)."""

    fingerprint: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]


class Done(msgspec.Struct):
    """`content`: the signature, the encrypted or the decrypted text. `hash`: of a signature, as in "sha512". `signers`:
    who signed it well. `reason`: why nobody is said to have signed what was encrypted. `failed`: why nothing could be
    done."""

    content: bytes = b""
    hash: str = ""
    signers: list[Signer] = []
    reason: str = ""
    failed: str = ""


def do(order: Order, content: bytes) -> Done:
    """Never raises; see `Done.failed`."""
    try:
        return {"sign": _sign, "encrypt": _encrypt, "decrypt": _decrypt, "verify": _verify}[order.what](order, content)
    except ImportError:
        return Done(failed="OpenPGP is not installed here: pip install mta[pgp]")
    except ValueError as error:
        return Done(failed=str(error))


def _trying(why: str, work: Callable[..., T], *args: Any, **named: Any) -> T:
    """What the library says, as a ValueError. It raises RuntimeError, and a BaseException of its own for its bugs."""
    try:
        return work(*args, **named)
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ValueError(f"{why}: {str(error).partition(chr(10))[0]}") from None
        raise


def certificates(keyring: bytes) -> list[Cert]:
    """All keys of a keyring: binary, or one or more armored blocks. Raises ValueError."""
    from pysequoia import Cert

    blocks = re.findall(rb"-----BEGIN PGP.*?-----END PGP[^\r\n]*", keyring, re.S) or ([keyring] if keyring else [])
    found = [one for block in blocks for one in _trying("the keyring cannot be read", Cert.split_bytes, bytes(block))]
    if keyring and not found:
        raise ValueError("there is no key in the keyring")
    return found


def addresses(certificate: Cert) -> tuple[str, ...]:
    """The mail addresses a key is for, lower case."""
    found = (_ADDRESS.search(str(name)) for name in certificate.user_ids)
    return tuple(dict.fromkeys((one[1] or one[2]).lower() for one in found if one))


def _usable(certificate: Cert) -> bool:
    ends = certificate.expiration
    return not certificate.is_revoked and (ends is None or ends > datetime.datetime.now(datetime.UTC))


def _secret(order: Order) -> Any:
    from pysequoia import Tsk

    if not order.key:
        raise ValueError("there is no secret key to do it with")
    return _trying("the secret key cannot be read", Tsk.from_bytes, order.key)


def _signer(order: Order) -> Any:
    return _trying("the key cannot sign", _secret(order).signer, order.password or None)


def _sign(order: Order, content: bytes) -> Done:
    from pysequoia import Sig, SignatureMode, sign

    made = _trying("it cannot be signed", sign, _signer(order), content, mode=SignatureMode.DETACHED)
    return Done(made, hash=str(Sig.from_bytes(made).hash_algorithm).rpartition(".")[2].lower())


def _encrypt(order: Order, content: bytes) -> Done:
    from pysequoia import encrypt

    found = certificates(order.keyring)
    if order.addresses:
        found = [_for(address, found) for address in order.addresses]
    if not found:
        raise ValueError("a mail must be encrypted to at least one key")
    signer = _signer(order) if order.key else None
    made = _trying("it cannot be encrypted", encrypt, recipients=found, signer=signer, bytes=content)
    return Done(made)


def _for(address: str, found: list[Cert]) -> Cert:
    its = [one for one in found if address.lower() in addresses(one)]
    for one in its:
        if _usable(one):
            return one
    raise ValueError(f"the key of {address} has expired or was revoked" if its else f"there is no key of {address}")


def _decrypt(order: Order, content: bytes) -> Done:
    from pysequoia import decrypt

    opener = _trying("the key cannot decrypt", _secret(order).decryptor, order.password or None)
    reason = "no keyring was given to look for its signer"
    if order.keyring:
        found, named = certificates(order.keyring), list[str]()

        def store(ids: list[str]) -> list[Cert]:
            named.extend(ids)
            return found

        try:  # with a keyring, the library refuses what nobody in it has signed
            made = decrypt(decryptor=opener, bytes=content, store=store)
            return Done(made.bytes or b"", signers=_signers(made.valid_sigs, found))
        except RuntimeError as error:
            reason = _unsigned(named, found, str(error))
    made = _trying("it cannot be decrypted", decrypt, decryptor=opener, bytes=content)
    return Done(made.bytes or b"", reason=reason)


def _unsigned(named: list[str], found: list[Cert], error: str) -> str:
    """Why nobody is said to have signed it. `named`: the keys its signatures name, by fingerprint or the end of it."""
    if not named:
        return "it is not signed"
    known = {mark for one in found for mark in _fingerprints(one) if mark}
    if not any(mark.endswith(name.lower()) for mark in known for name in named):
        return "the keyring does not hold the key that signed it"
    if "message structure" in error:  # the library's binding does not look that deep
        return "its signature cannot be read, for it was compressed before (GnuPG: --compress-algo none)"
    return "the signature is not good"


def _verify(order: Order, content: bytes) -> Done:
    from pysequoia import verify

    found = [one for one in certificates(order.keyring) if _usable(one)]
    why = "there is no signature"
    signers: list[Signer] = []
    for signature in _trying("the signature cannot be read", lambda: list(_signatures(order.signature))):
        try:
            made = _trying("", verify, bytes=content, store=lambda ids: found, signature=signature)
        except ValueError:
            known = any(signature.issuer_fingerprint in _fingerprints(one) for one in found)
            why = "the signature is not good" if known else "the keyring does not hold the key that signed it"
            continue
        signers += _signers(made.valid_sigs, found)
    return Done(signers=signers, failed="" if signers else why)


def _signatures(armored: bytes) -> Iterator[Any]:
    from pysequoia import Sig
    from pysequoia.packet import PacketPile, Tag

    for packet in PacketPile.from_bytes(armored):
        if packet.tag == Tag.Signature:
            yield Sig.from_bytes(bytes(packet))


def _fingerprints(certificate: Cert) -> set[str | None]:
    """Of a key and its subkeys."""
    from pysequoia.packet import PacketPile

    return {packet.fingerprint for packet in PacketPile.from_bytes(bytes(certificate))} - {None}


def _signers(valid: list[Any], found: list[Cert]) -> list[Signer]:
    by_fingerprint = {one.fingerprint: one for one in found}
    made = []
    for one in valid:
        its = by_fingerprint[one.certificate]
        made.append(Signer(its.fingerprint, tuple(str(name) for name in its.user_ids), addresses(its)))
    return made


def main() -> None:
    """sys.argv: the file with the order, and the file for what is told besides the content (both MessagePack)."""
    with open(sys.argv[1], "rb") as file:
        order = msgspec.msgpack.decode(file.read(), type=Order)
    done = do(order, sys.stdin.buffer.read())
    sys.stdout.buffer.write(done.content)
    sys.stdout.buffer.flush()
    done.content = b""
    with open(sys.argv[2], "wb") as file:
        file.write(msgspec.msgpack.encode(done))
