"""OpenPGP with nothing heavy on the loop: a thread for small contents, a process of its own for large ones.

Keys are the bytes of key files, armored or not; nothing is ever read from anyone's ~/.gnupg. All functions park the
greenlet and raise ValueError for what is wrong with mail, key or keyring.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

import mta
from mta.message import openpgp, sequoia
from mta.message.entity import Entity
from mta.message.openpgp import Opened, Verified
from mta.message.sequoia import Done, Order
from mta.net import offload
from mta.net.program import File, Places, run

LARGE = 512 << 10  # bytes
TIMEOUT = 120.0  # seconds
PLACES = Places(4)

_HOME = str(Path(mta.__file__).parent.parent)
_PROGRAM = f"import sys; sys.path.insert(0, {_HOME!r}); from mta.message.sequoia import main; main()"


def sign(entity: bytes, key: bytes, password: str = "") -> Entity:
    """A multipart/signed of the entity."""
    content = offload.run(openpgp.content_to_sign, entity)
    done = _good(_do(Order("sign", key, password), content))
    return offload.run(openpgp.with_signature, content, done.content, done.hash)


def encrypt(
    entity: bytes, keyring: bytes, addresses: Sequence[str] = (), *, key: bytes = b"", password: str = ""
) -> Entity:
    """A multipart/encrypted which the owners of `addresses` can open, or all of the keyring. `key` signs it inside."""
    order = Order("encrypt", key, password, keyring, list(addresses))
    done = _good(_do(order, entity))
    made = offload.run(openpgp.encrypted, done.content)
    done.content = b""
    offload.pause(0)  # to give 25 MB back takes 3 ms: one by one, with turns for others between
    return made


def decrypt(entity: bytes, key: bytes, password: str = "", keyring: bytes = b"") -> Opened:
    """The entity inside, and who of the keyring signed it, or why that is nobody."""
    armored = offload.run(openpgp.encrypted_of, entity)
    done = _good(_do(Order("decrypt", key, password, keyring), armored))
    made = offload.run(openpgp.opened, done.content, done.signers, done.reason)
    done.content = armored = b""
    offload.pause(0)  # as in encrypt
    return made


def verify(entity: bytes, keyring: bytes) -> Verified:
    """Who of the keyring signed it. Raises ValueError if it is not signed at all, or the keyring cannot be read."""
    signature, content = offload.run(openpgp.signature_of, entity)
    if not keyring:
        raise ValueError("there is no keyring to verify it with")
    done = _do(Order("verify", keyring=keyring, signature=signature), content)
    inside = offload.run(openpgp.opened, content, done.signers)
    return Verified(not done.failed, done.failed, inside.content, inside.signers)


def _good(done: Done) -> Done:
    if done.failed:
        raise ValueError(done.failed)
    return done


def _do(order: Order, content: bytes) -> Done:
    if len(content) <= LARGE:
        return offload.run(sequoia.do, order, content)
    told = File()
    ended = run(
        [sys.executable, "-I", "-c", _PROGRAM, File(msgspec.msgpack.encode(order)), told],
        stdin=(content,),
        timeout=TIMEOUT,
        keep=2 * len(content) + (1 << 20),
        places=PLACES,
    )
    if ended.failed or ended.code != 0 or ended.cut:
        why = ended.failed or ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ValueError(f"OpenPGP failed: {why or 'it made too much of it'}")
    done = msgspec.msgpack.decode(told.content, type=Done)
    done.content = ended.stdout
    return done
