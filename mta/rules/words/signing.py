"""The words that sign, encrypt, decrypt and verify a mail or one of its parts. outside/protection.py does the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mta.rules.outside.services.request import Flat
from mta.rules.outside.world import World
from mta.rules.transaction import Transaction
from mta.rules.words.inner import part_of, parts_of
from mta.rules.words.parts import MIXED
from mta.rules.words.waiting import Asker, OfMail, many
from mta.rules.words.word import Word, word


def _protection() -> Any:
    """Loaded late: most programs that know the words never protect a mail, and cryptography is slow to load."""
    from mta.rules.outside import protection

    return protection


def _sign(world: World, tx: Transaction, asker: Asker, kind: str, name: str) -> bool:
    return _protection().sign(parts_of(tx).message.root, world.keys, kind, name)


def _encrypt(world: World, tx: Transaction, asker: Asker, kind: str, names: str) -> bool:
    return _protection().encrypt(parts_of(tx).message.root, world.keys, kind, many(names))


def _can_encrypt(world: World, tx: Transaction, asker: Asker, kind: str, names: str) -> bool:
    return _protection().can_encrypt(world.keys, kind, many(names))


def _decrypt(world: World, tx: Transaction, asker: Asker, kind: str, name: str, ring: str = "") -> dict[str, Flat]:
    return _protection().decrypt(parts_of(tx).message.root, world.keys, kind, name, ring)


def _verify(world: World, tx: Transaction, asker: Asker, kind: str, name: str = "") -> dict[str, Flat]:
    return _protection().verify(parts_of(tx).message.root, world.keys, kind, name)


def _of_mail(signature: str, meaning: str, example: str, function: Callable[..., Any]) -> tuple[Word, OfMail]:
    return word(signature, meaning, example, "preq..", waits=True), OfMail(function)


OF_MAIL = [
    _of_mail(
        "mail:sign(kind: string, name: string) -> boolean",
        'Sign the mail with keys/NAME.pem (kind "smime") or keys/NAME.asc ("pgp"). Its Content-* fields and its body '
        "are signed; the other header fields stay outside. If it cannot be done the rule fails.",
        'mail:sign("smime", "you@example.test")\nassert(mail.headers:get("Content-Type"):find("multipart/signed"))',
        _sign,
    ),
    _of_mail(
        "mail:encrypt(kind: string, names: string[]) -> boolean",
        "Encrypt the mail so that the owners of these keys can open it and nobody else. If it cannot be done the rule "
        "fails, so that nothing goes out in clear.",
        'if mail:can_encrypt("smime", mail.recipients) then mail:encrypt("smime", mail.recipients) end\n'
        'assert(mail.headers:get("Content-Type"):find("pkcs7-mime", 1, true))',
        _encrypt,
    ),
    _of_mail(
        "mail:can_encrypt(kind: string, names: string[]) -> boolean",
        "Is there a key for each of these names?",
        'assert(mail:can_encrypt("smime", "you@example.test"))\n'
        'assert(not mail:can_encrypt("pgp", { "nobody@example.org" }))',
        _can_encrypt,
    ),
    _of_mail(
        "mail:decrypt(kind: string, name: string, ring?: string) -> table?, string?",
        "Open the mail with the key of that name; {signed, addresses, reason} tell by whom it is signed well inside, "
        "as far as the OpenPGP keyring `ring` knows them, or why nobody is said to have signed it. nil and why if it "
        "cannot be opened.",
        'mail:encrypt("smime", "you@example.test")\nassert(mail:decrypt("smime", "you@example.test"))\n'
        'local done, why = mail:decrypt("smime", "you@example.test")\nassert(not done and why)',
        _decrypt,
    ),
    _of_mail(
        "mail:verify(kind: string, name?: string) -> table?, string?",
        "Is the mail's signature good? {ok, reason, signer, addresses, fingerprint}, addresses separated by blanks. "
        "`name`: whose certificates are trusted (S/MIME; without it the system's), or the OpenPGP keyring that is "
        "asked. nil and why if the mail is not signed. That addresses holds the From is yours to compare.",
        'mail:sign("smime", "you@example.test")\nlocal seal = mail:verify("smime", "root")\n'
        'assert(seal.ok and seal.addresses == "you@example.test")',
        _verify,
    ),
]


def _of_part(signature: str, meaning: str, example: str, verb: str) -> tuple[Word, OfMail]:
    def answer(world: World, tx: Transaction, asker: Asker, number: int, kind: str, *rest: str) -> Any:
        arguments: list[Any] = list(rest)
        if verb == "encrypt":
            arguments[0] = many(rest[0])
        return getattr(_protection(), verb)(part_of(tx, number), world.keys, kind, *arguments)

    return word(signature, meaning, example, "preq..", waits=True), OfMail(answer)


OF_PARTS = [
    _of_part(
        "part:sign(kind: string, name: string) -> boolean",
        "Sign it alone, as mail:sign.",
        f'{MIXED}file:sign("smime", "you@example.test")\nassert(file.type == "multipart/signed")',
        "sign",
    ),
    _of_part(
        "part:encrypt(kind: string, names: string[]) -> boolean",
        "Encrypt it alone, as mail:encrypt.",
        f'{MIXED}file:encrypt("smime", mail.recipients)\nassert(file.type == "application/pkcs7-mime")',
        "encrypt",
    ),
    _of_part(
        "part:decrypt(kind: string, name: string, ring?: string) -> table?, string?",
        "Open it, as mail:decrypt.",
        f'{MIXED}file:encrypt("smime", "you@example.test")\nassert(file:decrypt("smime", "you@example.test"))\n'
        'assert(file:bytes() == "MZ\\0")',
        "decrypt",
    ),
    _of_part(
        "part:verify(kind: string, name?: string) -> table?, string?",
        "Is its signature good? As mail:verify.",
        f'{MIXED}file:sign("smime", "you@example.test")\nassert(file:verify("smime", "root").ok)',
        "verify",
    ),
]

MAIL_SIGNING: list[Word] = [declared for declared, _ in OF_MAIL]
PART_SIGNING: list[Word] = [declared for declared, _ in OF_PARTS]


def bound() -> dict[str, OfMail]:
    """The function behind each of them, by its name."""
    return {declared.name: function for declared, function in (*OF_MAIL, *OF_PARTS)}
