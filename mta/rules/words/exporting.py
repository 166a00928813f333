"""The words that leave a copy of a mail in a folder: `mail:write`, raw, and `mail:dump`, what is known of it as JSON.

Folders lie below those of the setting rules.export; what rules name there is encoded, so that no name leads out of it,
and no link is followed. A file is called after the mail's id. It is durable when the word returns; the same mail
written there again, after another edit or at another attempt, replaces its file. What cannot be kept is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from mta import settings
from mta.message import words
from mta.message.address import Address
from mta.message.charsets import disguised
from mta.message.message import Message
from mta.message.mime import Part
from mta.net import folders
from mta.rules.outside.world import World
from mta.rules.transaction import Transaction
from mta.rules.words.routing import Ways
from mta.rules.words.waiting import Asker, OfMail
from mta.rules.words.word import Word, word

SCHEMA = 1  # of what dump writes: docs/dump.schema.json
LARGE = 64 << 10  # bytes of a mail from which on its parts are looked for beside the loop

WRITE = word(
    "mail:write(folder?: string) -> string",
    "Keep the mail as it is now in FOLDER/ID.eml, byte for byte; its name. FOLDER lies below rules.export. The file is "
    "durable when this returns; if it cannot be kept the rule fails.",
    'local file = mail:write("incoming/" .. mail.sender.domain)\nassert(file:find(mail.id .. ".eml", 1, true))',
    "preq..",
    waits=True,
)

DUMP = word(
    "mail:dump(folder?: string) -> string",
    "Keep what is known of the mail as JSON in FOLDER/ID.json: envelope, header, parts, what rules decided so far, but "
    "no content. docs/export.rst tells its shape. Durable as mail:write is.",
    'local file = mail:dump("suspicious")\nassert(file:find(mail.id .. ".json", 1, true))',
    "preq..",
    waits=True,
)

EXPORTING: list[Word] = [WRITE, DUMP]


def place(folder: str, allowed: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """(a folder of the settings, the names below it). Raises ValueError."""
    if not allowed:
        raise ValueError("no folder is set to export mail to (rules.export)")
    base, below = allowed[0], folder
    if folder.startswith("/"):
        for base in allowed:
            top = os.path.normpath(base)
            if folder == top or folder.startswith(top.rstrip("/") + "/"):
                below = folder[len(top) :]
                break
        else:
            raise ValueError(f"{folder} is not below a folder to export mail to (rules.export)")
    names = [name for name in below.split("/") if name not in ("", ".")]
    if ".." in names:
        raise ValueError(f"{folder}: no way leads upwards with ..")
    return base, tuple(map(folders.encoded, names))


def describe(tx: Transaction, stage: str, now: float) -> dict[str, Any]:
    """What is known of a mail at this moment, as docs/dump.schema.json has it."""
    client, message = tx.client, tx.message
    assert message is not None
    parts = _large_parts(message) if message.size > LARGE else _parts(message)
    return {
        "schema": SCHEMA,
        "id": tx.mail_id,
        "session": tx.session,
        "origin": tx.origin,
        "stage": stage,
        "time": now,
        "server": tx.server,
        "client": {
            "ip": client.ip,
            "port": client.port,
            "name": client.name,
            "helo": tx.helo,
            "protocol": client.protocol,
            "tls": client.tls,
            "user": tx.user,
            "trusted": tx.trusted,
            "listener": tx.listener,
        },
        "sender": str(tx.sender or ""),
        "recipients": [_recipient(address, tx.ways) for address in tx.recipients],
        "vars": tx.vars,
        "until": min((_until(address, tx.ways) for address in tx.recipients), default=0.0),
        "size": message.size,
        "headers": [_field(name, value) for name, value in message.headers],
        "parts": parts,
        "verdicts": [
            {
                "stage": at,
                "verdict": said.kind,
                "reply": str(said.reply or ""),
                "folder": said.folder,
                "rule": said.rule,
                "where": said.where,
            }
            for at, said in tx.decided
        ],
    }


def _recipient(address: Address, ways: Ways | None) -> dict[str, Any]:
    told: dict[str, Any] = {"address": str(address)}
    route, until = ways.of_address(address) if ways is not None else None, _until(address, ways)
    if route is not None:
        told["route"] = str(route)
    if until:
        told["until"] = until
    return told


def _until(address: Address, ways: Ways | None) -> float:
    return ways.until_of(address) if ways is not None else 0.0


def _field(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": disguised(value), "text": words.decode(value)}


def _large_parts(message: Message) -> list[dict[str, Any]]:
    from mta.net import offload  # programs that know the words run without a loop

    return offload.run(_parts, message)


def _parts(message: Message) -> list[dict[str, Any]]:
    return [_part(part) for part in message.parts()]


def _part(part: Part) -> dict[str, Any]:
    return {
        "number": part.number,
        "type": part.type,
        "charset": part.charset,
        "disposition": part.disposition,
        "encoding": part.encoding,
        "filename": part.filename,
        "attachment": part.attachment,
        "size": part.size,
        "flaw": part.flaw,
    }


def bound(settings: settings.Rules) -> dict[str, OfMail]:
    """The function behind each of these words."""

    def kept(world: World, tx: Transaction, folder: str, end: str, pieces: Sequence[bytes | memoryview]) -> str:
        base, names = place(disguised(folder), settings.export)
        name = folders.encoded(tx.mail_id) + end
        path = "/".join((base.rstrip("/"), *names, name))
        try:
            world.keep(base, names, name, pieces)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror or error}{_advice(error)}") from None
        return path

    def write(world: World, tx: Transaction, asker: Asker, folder: str = "") -> str:
        return kept(world, tx, folder, ".eml", _message(tx).pieces())

    def dump(world: World, tx: Transaction, asker: Asker, folder: str = "") -> str:
        _message(tx)
        told = json.dumps(describe(tx, asker.stage, world.now()), ensure_ascii=False, indent=1)
        return kept(world, tx, folder, ".json", [told.encode("utf-8", "replace"), b"\n"])

    both: dict[str, Callable[..., str]] = {WRITE.name: write, DUMP.name: dump}
    return {name: OfMail(function) for name, function in both.items()}


def _message(tx: Transaction) -> Message:
    if tx.message is None:
        raise ValueError("the mail has no content yet")
    return tx.message


def _advice(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"; let the user of uid {os.geteuid()} make files there"
    if isinstance(error, NotADirectoryError) or "symbolic" in (error.strerror or ""):
        return "; below rules.export there must be folders only, no symbolic links"
    return ""
