"""The words that wait and know the mail: services asked about it, and its signing and encrypting.

Their functions get the World and the Transaction before what the rule gave. A service has a word of its own for each
`[service.NAME]` of the settings; `SERVICE` is the pattern of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from mta.message.message import Message
from mta.message.mime import Part
from mta.rules.services import Request
from mta.rules.services.request import Flat
from mta.rules.transaction import Transaction
from mta.rules.word import Word, word
from mta.rules.world import World

LARGE = 1 << 20  # bytes of a mail whose splitting is no work for the loop


class OfMail(NamedTuple):
    """A function that also wants the World, the Transaction and the stage; the engine gives them."""

    answer: Callable[..., Any]


def many(text: str) -> list[str]:
    """What sandbox.lua makes of a list of text, or of a table's keys and values: "5:hello3:you"."""
    out, at = [], 0
    while at < len(text):
        colon = text.index(":", at)
        stop = colon + 1 + int(text[at:colon])
        out.append(text[colon + 1 : stop])
        at = stop
    return out


# -- services ----------------------------------------------------------------------------------------------------------


def facts(tx: Transaction) -> dict[str, str | bytes]:
    """What `{name}` in a service's arguments and environment may stand for, known or not yet."""
    sender, recipient = tx.sender, tx.recipient or (tx.recipients[0] if tx.recipients else None)
    return {
        "id": tx.mail_id or tx.session,
        "session": tx.session,
        "client": tx.client.ip,
        "client_name": tx.client.name,
        "helo": tx.helo,
        "user": tx.user,
        "server": tx.server,
        "listener": tx.listener,
        "sender": str(sender or ""),
        "sender_domain": sender.domain if sender else "",
        "recipient": str(recipient or ""),
        "recipient_domain": recipient.domain if recipient else "",
        "size": str(tx.message.size if tx.message else 0),
    }


def _service(name: str) -> Callable[..., dict[str, Flat]]:
    def call(world: World, tx: Transaction, stage: str, given: str = "") -> dict[str, Flat]:
        items = many(given)
        values: dict[str, str] = dict(zip(items[::2], items[1::2], strict=True))
        text, part = values.pop("text", None), values.pop("part", None)
        own: dict[str, str | bytes] = {key: value.encode("latin-1") for key, value in values.items()}
        request = Request(
            values={**facts(tx), **own},
            mail=tx.message.pieces() if tx.message else None,
            part=None if part is None else _numbered(_message(tx), part).chunks(),
            text=None if text is None else text.encode("latin-1"),
            about={"session": tx.session, "mail": tx.mail_id, "stage": stage},
        )
        return world.services.call(name, request).flat()

    return call


def _numbered(message: Message, number: str) -> Part:
    from mta.net import offload  # brings gevent along

    parts = message.parts() if len(message.raw) < LARGE else offload.run(lambda: list(message.parts()))
    for part in parts:
        if part.number == number:
            return part
    raise ValueError(f"the mail has no part {number}")


SERVICE = word(
    "service.NAME(given?: table) -> answer",
    "Ask [service.NAME] of the settings. `given`: text or part (a part's number) for its stdin, and values for the "
    "{names} in its arguments. The answer has code or signal, stdout, stderr, cut, timed_out, ms, and failed, which is "
    'empty unless its fault is to be ignored: with fault = "defer" or "deny" a fault ends the stage.',
    'local scan = service.clamscan()\nif scan.code == 1 then return quarantine("virus") end\nassert(scan.code == 0)',
    waits=True,
)


def service_words(names: list[str]) -> dict[str, Word]:
    made = (dataclasses.replace(SERVICE, name=f"service.{name}") for name in names)
    return {one.name: one for one in made}


# -- signing and encrypting --------------------------------------------------------------------------------------------


def _message(tx: Transaction) -> Message:
    if tx.message is None:
        raise ValueError("the mail has no content yet")
    return tx.message


def _protection() -> Any:
    """Loaded late: most programs that know the words never protect a mail, and cryptography is slow to load."""
    from mta.rules import protection

    return protection


def protect(verb: str) -> Callable[..., Any]:
    """What signs, encrypts, decrypts or verifies a part."""

    def answer(*arguments: Any) -> Any:
        return getattr(_protection(), verb)(*arguments)

    return answer


def _sign(world: World, tx: Transaction, stage: str, kind: str, name: str) -> bool:
    return _protection().sign(_message(tx).root, world.keys, kind, name)


def _encrypt(world: World, tx: Transaction, stage: str, kind: str, names: str) -> bool:
    return _protection().encrypt(_message(tx).root, world.keys, kind, many(names))


def _can_encrypt(world: World, tx: Transaction, stage: str, kind: str, names: str) -> bool:
    return _protection().can_encrypt(world.keys, kind, many(names))


def _decrypt(world: World, tx: Transaction, stage: str, kind: str, name: str, ring: str = "") -> dict[str, Flat]:
    return _protection().decrypt(_message(tx).root, world.keys, kind, name, ring)


def _verify(world: World, tx: Transaction, stage: str, kind: str, name: str = "") -> dict[str, Flat]:
    return _protection().verify(_message(tx).root, world.keys, kind, name)


def _of_mail(signature: str, meaning: str, example: str, function: Callable[..., Any]) -> tuple[Word, OfMail]:
    return word(signature, meaning, example, "preq..", waits=True), OfMail(function)


_PROTECTING = [
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
        "Open the mail with the key of that name; {signed, addresses} tell by whom it is signed well inside, as far as "
        "the OpenPGP keyring `ring` knows them. nil and why if it cannot be opened.",
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

PROTECTION: list[Word] = [declared for declared, _ in _PROTECTING]


def bound(world: World) -> dict[str, OfMail]:
    """The function behind every such word of this world, by its name."""
    services = {f"service.{name}": OfMail(_service(name)) for name in world.services.names()}
    return {**{declared.name: function for declared, function in _PROTECTING}, **services}
