"""The words about header fields beyond their plain values: what they mean as text, as addresses, and as they stand.

mail.headers has all of these; so has `part.headers`, and that gets the plain ones too (`PLAIN`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from mta.message import addresses, charsets, words
from mta.message.addresses import Mailbox
from mta.message.headers import Headers
from mta.rules.transaction import Transaction
from mta.rules.words.inner import Declared, Inner, declare, part_of, parts_of
from mta.rules.words.pure import Declared as Pure
from mta.rules.words.pure import Tree, lua
from mta.rules.words.pure import declare as pure
from mta.rules.words.waiting import many


def _headers(tx: Transaction, number: int) -> Headers:
    return part_of(tx, number).headers if number else parts_of(tx).message.headers


def _disguised(text: str) -> str:
    """Characters as Lua has them: the bytes of their UTF-8."""
    return text.encode("utf-8", "replace").decode("latin-1")


# -- text --------------------------------------------------------------------------------------------------------------


def _text(tx: Transaction, number: int, name: str) -> str | None:
    value = _headers(tx, number).get(name)
    return None if value is None else _disguised(words.decode(value))


def _set_text(tx: Transaction, number: int, name: str, text: str) -> None:
    _headers(tx, number).set(name, words.encode(charsets.disguised(text)))


def _raw(tx: Transaction, number: int, name: str | None = None) -> str | None:
    headers = _headers(tx, number)
    if name is None:
        return b"".join(headers.text(field) for field in headers.fields).decode("latin-1")
    return next((headers.text(f).decode("latin-1") for f in headers.fields if f.name == name.lower()), None)


def _names(tx: Transaction, number: int) -> list[str]:
    return [name for name, _ in _headers(tx, number)]


@lua
def _decode(value: str) -> str:
    return _disguised(words.decode(value.replace("\r\n", "")))


@lua
def _encode(text: str) -> str:
    return words.encode(charsets.disguised(text))


# -- addresses ---------------------------------------------------------------------------------------------------------


def _key(address: str) -> tuple[str, str]:
    """To compare addresses: without case. What has no @ is compared as it is."""
    local, _, domain = address.strip().rpartition("@")
    return local.lower(), domain.lower()


def _members(headers: Headers, name: str) -> list[Mailbox]:
    return [mailbox for value in headers.all(name) for mailbox in addresses.parse(value)]


def _addresses(tx: Transaction, number: int, name: str) -> Tree:
    found = []
    for mailbox in _members(_headers(tx, number), name):
        member = {"name": mailbox.name, "address": mailbox.address, "group": mailbox.group or None}
        if mailbox.address:
            member["local_part"], _, domain = mailbox.address.rpartition("@")
            member["domain"] = domain.lower()
        found.append({key: value for key, value in member.items() if value is not None})
    return Tree(json.dumps(found, separators=(",", ":")))


def _given(text: str) -> Mailbox:
    """One address from a rule: "Ann <ann@example.com>" in UTF-8. Raises ValueError."""
    found = addresses.parse(text)
    if len(found) != 1 or "@" not in found[0].address:
        raise ValueError(f"{charsets.disguised(text)!r} is not one mail address")
    return found[0]


def _put(headers: Headers, name: str, members: list[Mailbox]) -> None:
    """All fields of that name become one, with these members; with none, no field."""
    if not members:
        headers.remove(name)
        return
    value = addresses.write(members)
    if headers.count(name) > 1:
        first = next(n for n, field in enumerate(headers.fields) if field.name == name.lower())
        kept = [f for n, f in enumerate(headers.fields) if n <= first or f.name != name.lower()]
        headers._fields = kept
    headers.set(name, value)


def _set_addresses(tx: Transaction, number: int, name: str, texts: str) -> None:
    _put(_headers(tx, number), name, [_given(text) for text in many(texts)])


def _add_address(tx: Transaction, number: int, name: str, text: str) -> None:
    headers = _headers(tx, number)
    _put(headers, name, [*_members(headers, name), _given(text)])


def _remove_address(tx: Transaction, number: int, name: str, address: str) -> int:
    headers = _headers(tx, number)
    members, gone = _members(headers, name), _key(address)
    kept = [mailbox for mailbox in members if _key(mailbox.address) != gone]
    if len(kept) < len(members):
        _put(headers, name, kept)
    return len(members) - len(kept)


def _replace_address(tx: Transaction, number: int, name: str, old: str, new: str) -> int:
    headers, wanted = _headers(tx, number), _given(new)
    members, gone = _members(headers, name), _key(old)
    count = 0
    for n, mailbox in enumerate(members):
        if _key(mailbox.address) == gone:
            members[n] = Mailbox(wanted.name or mailbox.name, wanted.address, mailbox.group)
            count += 1
    if count:
        _put(headers, name, members)
    return count


# -- declarations ------------------------------------------------------------------------------------------------------

light = partial(declare, grows=False)

HEADER_WORDS: list[Declared] = [
    light(
        "mail.headers:text(name: string) -> string?",
        "The value of the first such field as the text it means, in UTF-8: encoded words are read (RFC 2047).",
        'mail.headers:set("Subject", "=?utf-8?q?Gr=C3=BC=C3=9Fe?=")\n'
        'assert(mail.headers:text("Subject") == "Gr\\u{FC}\\u{DF}e")',
        _text,
    ),
    light(
        "mail.headers:set_text(name: string, text: string)",
        "As set, with any text in UTF-8: what is not ASCII becomes encoded words.",
        'mail.headers:set_text("Subject", "Gr\\u{FC}\\u{DF}e")\nassert(mail.headers:get("Subject"):find("^=%?utf%-8"))',
        _set_text,
    ),
    light(
        "mail.headers:raw(name?: string) -> string?",
        "The first such field byte for byte, with its name, its folds and its CRLF; the whole header without a name.",
        'assert(mail.headers:raw("subject") == "Subject: Hello\\r\\n")\nassert(mail.headers:raw():find("^Received: "))',
        _raw,
    ),
    light(
        "mail.headers:names() -> string[]",
        "The names of all fields as they are written, top to bottom.",
        'assert(mail.headers:names()[3] == "From")',
        _names,
    ),
    light(
        "mail.headers:addresses(name: string) -> table[]",
        "The members of all such fields: each has name (UTF-8), address, local_part, domain, and group if it is in "
        "one. A member without an address has an empty one.",
        'local from = mail.headers:addresses("From")[1]\n'
        'assert(from.name == "Ann" and from.address == "ann@example.com" and from.domain == "example.com")',
        _addresses,
    ),
    light(
        "mail.headers:set_addresses(name: string, addresses: string[])",
        "Put one field with these members in the place of all such fields; names in UTF-8. Where a name comes from "
        "somebody else, mailbox.named quotes it.",
        'mail.headers:set_addresses("To", { "J\\u{FC}rgen <j@example.test>", "k@example.test" })\n'
        'assert(#mail.headers:addresses("To") == 2)',
        _set_addresses,
    ),
    light(
        "mail.headers:add_address(name: string, address: string)",
        "Add a member.",
        'mail.headers:add_address("Cc", "Bob <bob@example.test>")\n'
        'assert(mail.headers:get("Cc") == "Bob <bob@example.test>")',
        _add_address,
    ),
    light(
        "mail.headers:remove_address(name: string, address: string) -> integer",
        "Take members with that address out, and the field with the last of them; how many there were.",
        'assert(mail.headers:remove_address("To", "YOU@example.test") == 1 and not mail.headers:has("To"))',
        _remove_address,
    ),
    light(
        "mail.headers:replace_address(name: string, old: string, new: string) -> integer",
        "Give members another address; their names stay unless the new one has a name. How many there were.",
        'assert(mail.headers:replace_address("From", "ann@example.com", "office@example.com") == 1)\n'
        'assert(mail.headers:get("From") == "Ann <office@example.com>")',
        _replace_address,
    ),
]

HEADER_TEXT: list[Pure] = [
    pure(
        "encode.header(text: string) -> string?, string?",
        "Text (UTF-8) as a header value in ASCII, with encoded words where it needs them (RFC 2047).",
        'assert(encode.header("J\\u{FC}rgen Schmidt") == "=?utf-8?q?J=C3=BCrgen?= Schmidt")',
        _encode,
    ),
    pure(
        "decode.header(value: string) -> string?, string?",
        "A header value as the text it means, in UTF-8.",
        'assert(decode.header("=?iso-8859-1?q?=FC?=") == "\\u{FC}")',
        _decode,
    ),
]


def _plain(method: Callable[..., Any]) -> Inner:
    return Inner(lambda tx, number, *arguments: method(_headers(tx, number), *arguments), grows=False)


PLAIN: dict[str, Inner] = {
    f"mail.headers:{name}": _plain(getattr(Headers, name))
    for name in ("has", "get", "all", "count", "append", "prepend", "set", "rename", "remove")
}
