"""The words that change the parts of a mail: replaced, renamed, taken out, put in. message/mime.py does the work.

A ValueError is the rule's own mistake: no type, no name, a part of a mail that is over.
"""

from __future__ import annotations

import re

from mta.message import build, charsets, footer
from mta.message.entity import gathered
from mta.rules.transaction import Transaction
from mta.rules.words.inner import Declared, declare, one, part_of, parts_of
from mta.rules.words.parts import MIXED
from mta.rules.words.pure import Tagged


def entity(type: str, content: str, filename: str | None = None) -> bytes:
    """A part from what a rule gave. Raises ValueError for what is no type."""
    octets, name = content.encode("latin-1"), charsets.disguised(filename or "")
    main, _, subtype = type.strip().lower().partition("/")
    if main == "text":
        try:
            return build.text(octets.decode("utf-8"), subtype, filename=name)
        except UnicodeDecodeError:
            return build.file(octets, type.strip(), name, "attachment" if name else "inline")
    if type.strip().lower() == "message/rfc822":
        return build.forward(octets, name)
    return build.file(octets, type.strip(), name)


def _replace(tx: Transaction, number: int, type: str, content: str, filename: str | None = None) -> None:
    part_of(tx, number).become(entity(type, content, filename))


def _set_text(tx: Transaction, number: int, content: str) -> None:
    part_of(tx, number).set_text(content.encode("latin-1").decode("utf-8", "replace"))


def _set_bytes(tx: Transaction, number: int, content: str) -> None:
    part_of(tx, number).set_bytes(content.encode("latin-1"))


def _rename(tx: Transaction, number: int, name: str) -> None:
    if not name or any(c in name for c in "\r\n\0"):
        raise ValueError("the name of a file is one line without NUL")
    part_of(tx, number).rename(charsets.disguised(name))


def _remove(tx: Transaction, number: int) -> None:
    part_of(tx, number).remove()


def _before(tx: Transaction, number: int, type: str, content: str, filename: str | None = None) -> Tagged | None:
    return one(tx, part_of(tx, number).before(entity(type, content, filename)))


def _after(tx: Transaction, number: int, type: str, content: str, filename: str | None = None) -> Tagged | None:
    return one(tx, part_of(tx, number).after(entity(type, content, filename)))


def _attach(tx: Transaction, number: int, type: str, content: str, filename: str | None = None) -> Tagged | None:
    return one(tx, part_of(tx, number).attach(entity(type, content, filename)))


_SUBTYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


def _wrap(tx: Transaction, number: int, subtype: str | None = None) -> Tagged | None:
    subtype = (subtype or "mixed").lower()
    if not _SUBTYPE.fullmatch(subtype):
        raise ValueError(f"multipart/{subtype} is no type")
    return one(tx, part_of(tx, number).wrap(subtype))


def _enclose(tx: Transaction, number: int, text: str) -> Tagged | None:
    """The mail as an attachment of a new text, in a mail with the same header."""
    message = parts_of(tx).message
    whole = gathered(message.pieces())
    message.root.become(build.text(text.encode("latin-1").decode("utf-8", "replace")))
    return one(tx, message.root.attach(build.forward(whole, "mail.eml")))


def _footer(tx: Transaction, number: int, text: str, html: str | None = None) -> int:
    return footer.add(part_of(tx, number), charsets.disguised(text), charsets.disguised(html or ""))


# -- declarations ------------------------------------------------------------------------------------------------------

_NEW = "Text is UTF-8; any other type is kept byte for byte."

CHANGING: list[Declared] = [
    declare(
        "mail:attach(type: string, content: string, filename?: string) -> part",
        f"Put a part at the end of the mail, which becomes a multipart/mixed if it is none. {_NEW}",
        'local part = mail:attach("text/csv", "a;b", "table.csv")\nassert(part.filename == "table.csv")',
        _attach,
    ),
    declare(
        "mail:wrap(subtype?: string) -> part",
        "Put the content of the mail into a new multipart (mixed unless given), which takes its place; the multipart.",
        'assert(mail:wrap().type == "multipart/mixed" and mail:part("1").type == "text/plain")',
        _wrap,
    ),
    declare(
        "mail:enclose(text: string) -> part",
        "Make the mail a new one with the same header and this text, and the old one, whole, as its attachment.",
        'local old = mail:enclose("Look at this with care.")\nassert(old.type == "message/rfc822")',
        _enclose,
    ),
    declare(
        "mail:footer(text: string, html?: string) -> integer",
        "Put a text under the text of the mail, and html (made from text unless given) into its HTML version; how many "
        "texts were changed. 0: it has none that may be changed, or is signed or encrypted.",
        'if mail:footer("-- \\nSent by us") == 0 then mail:attach("text/plain", "Sent by us") end\n'
        'assert(mail:part(""):text():find("Sent by us"))',
        _footer,
    ),
    declare(
        "part:replace(type: string, content: string, filename?: string)",
        f"Give it another type and content. {_NEW}",
        f'{MIXED}file:replace("text/plain", "A program was removed here.")\nassert(file:text():find("removed"))',
        _replace,
    ),
    declare(
        "part:set_text(text: string)",
        "Give a text another text (UTF-8); its type and name stay. An error if its type is not text.",
        'local text = mail:find("text/plain")\ntext:set_text("Gr\\u{FC}\\u{DF}e")\nassert(text.charset == "utf-8")',
        _set_text,
    ),
    declare(
        "part:set_bytes(content: string)",
        "Give it another content, byte for byte; its type and name stay. An error for what holds other parts.",
        f'{MIXED}file:set_bytes("PK")\nassert(file:bytes() == "PK" and file.filename == "tool.exe")',
        _set_bytes,
    ),
    declare(
        "part:rename(name: string)",
        "Give it another file name.",
        f'{MIXED}file:rename("tool.exe.txt")\nassert(file.filename == "tool.exe.txt")',
        _rename,
    ),
    declare(
        "part:remove()",
        "Take it out. The last part of a multipart, and the mail itself, becomes an empty text instead.",
        f'{MIXED}file:remove()\nassert(not mail:find("tool.exe"))',
        _remove,
    ),
    declare(
        "part:before(type: string, content: string, filename?: string) -> part",
        f"Put a new part before it. {_NEW}",
        f'{MIXED}local note = file:before("text/plain", "Careful:")\n'
        'assert(note.number == "2" and file.number == "3")',
        _before,
    ),
    declare(
        "part:after(type: string, content: string, filename?: string) -> part",
        f"Put a new part behind it. {_NEW}",
        f'{MIXED}assert(file:after("text/plain", "Did you look?").number == "3")',
        _after,
    ),
    declare(
        "part:wrap(subtype?: string) -> part",
        "Put it into a new multipart (mixed unless given), which takes its place; the multipart.",
        f'{MIXED}assert(file:wrap("related").number == "2" and file.number == "2.1")',
        _wrap,
    ),
]  # fmt: skip
