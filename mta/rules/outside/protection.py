"""Signing, encrypting, decrypting and verifying a mail or one of its parts, for rules: S/MIME or OpenPGP by name.

What changes a part changes it in place. To sign and to encrypt either works or raises ValueError, so that no mail goes
out in clear because a rule did not look; decrypting and verifying depend on what a stranger sent and may come to
nothing: `Unanswered` says why. All of it parks the greenlet and stops nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mta.message.entity import Entity, gathered
from mta.message.mime import Part
from mta.message.sequoia import Signer
from mta.net import offload, openpgp, openssl, smime
from mta.rules.outside.keys import Keys
from mta.rules.outside.world import Unanswered

T = TypeVar("T")

Flat = str | int | float | bool | None

KINDS = ("smime", "pgp")


def sign(part: Part, keys: Keys, kind: str, name: str) -> bool:
    """Sign it with the key of that name."""
    _known(kind)
    content = _content(part)
    if kind == "smime":
        made = smime.sign(content, keys.identity(name))
    else:
        made = openpgp.sign(content, *keys.pgp(name))
    return _become(part, made)


def encrypt(part: Part, keys: Keys, kind: str, names: Sequence[str]) -> bool:
    """Encrypt it so that the owners of all these keys can open it, and nobody else."""
    _known(kind)
    if not names:
        raise ValueError("to whom? Encrypting needs at least one name of a key")
    names = list(dict.fromkeys(names))
    if kind == "pgp":
        made = openpgp.encrypt(_content(part), keys.ring(names))
    else:
        try:
            made = smime.encrypt(_content(part), keys.certificates(names))
        except openssl.Unavailable as error:
            raise ValueError(str(error)) from None
    return _become(part, made)


def can_encrypt(keys: Keys, kind: str, names: Sequence[str]) -> bool:
    """Is there a key for each of them?"""
    _known(kind)
    return bool(names) and all(keys.has(kind, name) for name in names)


def decrypt(part: Part, keys: Keys, kind: str, name: str, ring: str = "") -> dict[str, Flat]:
    """Open it with the key of that name: {signed, addresses, reason}, whether and by whom it is signed well inside, as
    far as the OpenPGP keyring called `ring` knows them, and why it is not said to be. An S/MIME signature inside is
    there to be verified afterwards."""
    _known(kind)
    if kind == "smime":
        _become(part, _unless(smime.decrypt, _content(part), keys.identity(name)))
        return {"signed": False, "addresses": "", "reason": "mail:verify tells of S/MIME"}
    found = _unless(openpgp.decrypt, _content(part), *keys.pgp(name), keys.ring([ring] if ring else []))
    _become(part, found.content)
    return {"signed": bool(found.signers), "addresses": _all(found.signers), "reason": found.reason}


def verify(part: Part, keys: Keys, kind: str, name: str = "") -> dict[str, Flat]:
    """Is its signature good? {ok, reason, signer, addresses, fingerprint}; `addresses` are separated by blanks.

    `name`: whose certificates are trusted (S/MIME; without it the system's), or the keyring that is asked (OpenPGP).
    """
    _known(kind)
    if kind == "smime":
        trusted = keys.authorities(name) if name else ()
        seal = _unless(smime.verify, _content(part), trusted)
        return _seal(seal.ok, seal.reason, seal.signer, " ".join(seal.addresses), seal.fingerprint)
    if not name:
        raise ValueError('to verify "pgp" needs the name of a keyring: keys/NAME.asc')
    ring = keys.ring([name])
    checked = _unless(openpgp.verify, _content(part), ring)
    if not checked.ok:
        return _seal(False, checked.reason, "", "", "")
    first = checked.signers[0]
    return _seal(True, "", next(iter(first.names), ""), _all(checked.signers), first.fingerprint)


def _all(signers: Sequence[Signer]) -> str:
    return " ".join(dict.fromkeys(address for one in signers for address in one.addresses))


def _seal(ok: bool, reason: str, signer: str, addresses: str, fingerprint: str) -> dict[str, Flat]:
    return {
        "ok": ok,
        "reason": reason,
        "signer": signer,
        "addresses": addresses,
        "fingerprint": fingerprint,
    }


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f'{kind!r} is no way to protect a mail; there are "smime" and "pgp"')


def _unless(work: Callable[..., T], *args: Any) -> T:
    """What is wrong with the mail is no mistake of the rule."""
    try:
        return work(*args)
    except (ValueError, openssl.Unavailable) as error:
        raise Unanswered(str(error)) from None


def _content(part: Part) -> bytes:
    return offload.run(lambda: gathered(part.entity()))


def _become(part: Part, made: Entity) -> bool:
    offload.run(lambda: part.become(bytes(made)))
    return True
