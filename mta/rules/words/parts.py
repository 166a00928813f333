"""The words that find the parts of a mail and read them. message/mime.py does the work.

Content is handed to rules at most 1,000,000 bytes at a time; what is longer is read in ranges, counted in bytes from 1
as Lua's own string.sub does. Nothing a stranger sent makes these raise; a ValueError is the rule's own mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import translate
from typing import Any

from mta.message import charsets
from mta.message.mime import Part
from mta.rules.transaction import Transaction
from mta.rules.words.inner import Declared, Inner, declare, one, part_of, parts_of, several
from mta.rules.words.pure import Tagged
from mta.rules.words.word import Word, word

MOST = 1_000_000  # bytes a rule gets at once

# -- finding -----------------------------------------------------------------------------------------------------------


def wanted(what: str | None) -> Callable[[Part], bool]:
    """What a filter asks for: a type ("image/*"), or else the name of a file ("*.exe"). Without case."""
    if not what:
        return lambda part: True
    fits = re.compile(translate(said(what).lower().replace("[", "[[]"))).match
    if "/" in what:
        return lambda part: fits(part.type) is not None
    return lambda part: any(fits(name.lower()) for name in part.filenames)


def said(text: str) -> str:
    """Text from Lua (bytes in disguise) as the characters it means."""
    return charsets.disguised(text)


def _found(part: Part, what: str | None) -> Iterator[Part]:
    fits = wanted(what)
    return (below for below in part.walk() if fits(below))


def _parts(tx: Transaction, number: int, what: str | None = None) -> Tagged:
    return several(tx, _found(part_of(tx, number), what))


def _find(tx: Transaction, number: int, what: str) -> Tagged | None:
    return one(tx, next(_found(part_of(tx, number), what), None))


def _part(tx: Transaction, number: int, place: str) -> Tagged | None:
    return one(tx, next((part for part in part_of(tx, 0).walk() if part.number == place), None))


# -- what a part says about itself -------------------------------------------------------------------------------------

FIELDS: dict[str, Callable[[Part], Any]] = {
    "type": lambda part: part.type,
    "filename": lambda part: part.filename or None,
    "filenames": lambda part: part.filenames,
    "charset": lambda part: part.charset or None,
    "disposition": lambda part: part.disposition or None,
    "encoding": lambda part: part.encoding or None,
    "size": lambda part: part.size,
    "id": lambda part: part.id or None,
    "number": lambda part: part.number,
    "depth": lambda part: part.depth,
    "multipart": lambda part: part.multipart,
    "attachment": lambda part: part.attachment,
    "flaw": lambda part: part.flaw or None,
}


def _field(tx: Transaction, number: int, name: str) -> Any:
    part = part_of(tx, number)
    if name == "parent":
        return one(tx, part.parent)
    if name == "present":  # asked by parts.lua only
        return part.number != "-" and part.outermost is parts_of(tx).message.root
    return FIELDS[name](part)


# -- reading -----------------------------------------------------------------------------------------------------------


def _range(first: int | None, last: int | None, most: int = MOST) -> tuple[int, int]:
    """(start, stop) from what a rule asks for."""
    start = 0 if first is None else first - 1
    if start < 0 or (last is not None and last < start):
        raise ValueError("a range goes from 1 on, its first byte before its last")
    stop = start + most
    return start, stop if last is None else min(last, stop)


def _slice(pieces: Iterator[Any], start: int, stop: int) -> tuple[bytes, bool]:
    """Bytes start:stop of what the pieces are together, and whether there are more."""
    out: list[bytes] = []
    at = 0
    for piece in pieces:
        if at >= stop:
            return b"".join(out), len(piece) > 0 or any(len(rest) for rest in pieces)
        if at + len(piece) > start:
            out.append(bytes(piece[max(0, start - at) : stop - at]))
        at += len(piece)
    return b"".join(out), at > stop


def _answer(content: str, start: int, length: int, more: bool) -> tuple[str, int | None]:
    """What a rule gets, and where it may go on reading."""
    return content, start + length + 1 if more else None


def _bytes(tx: Transaction, number: int, first: int | None = None, last: int | None = None) -> tuple[str, int | None]:
    start, stop = _range(first, last)
    octets, more = _slice(part_of(tx, number).chunks(), start, stop)
    return _answer(octets.decode("latin-1"), start, len(octets), more)


def _text(tx: Transaction, number: int, first: int | None = None, last: int | None = None) -> tuple[str, int | None]:
    part = part_of(tx, number)
    start, stop = _range(first, last)
    for most in (stop, min(stop, start + MOST // 3)):  # a byte of any charset is at most three of UTF-8
        octets, more = _slice(part.chunks(), start, most)
        text = charsets.decode(octets, part.charset, whole=not more).encode("utf-8", "replace")
        if len(text) <= MOST:
            break
    if more and charsets.known(part.charset) in ("utf-8", "ascii", ""):  # half a character comes with the next range
        octets = octets[: len(octets) - _half(octets)]
    return _answer(text.decode("latin-1"), start, len(octets), more)


def _half(octets: bytes) -> int:
    """How many bytes at the end are the beginning of a UTF-8 character."""
    for back in range(1, min(4, len(octets)) + 1):
        byte = octets[-back]
        if byte & 0xC0 == 0xC0:
            return back if back < (4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2) else 0
        if byte < 0x80:
            return 0
    return 0


def _raw(tx: Transaction, number: int, first: int | None = None, last: int | None = None) -> tuple[str, int | None]:
    """Of the mail all of it, as it would be written now; of a part its body, still encoded."""
    start, stop = _range(first, last)
    if number:
        octets, more = _slice(iter([memoryview(part_of(tx, number).content)]), start, stop)
    else:
        octets, more = _slice(map(memoryview, parts_of(tx).message.pieces()), start, stop)
    return _answer(octets.decode("latin-1"), start, len(octets), more)


# -- declarations ------------------------------------------------------------------------------------------------------

MIXED = 'local file = mail:attach("application/x-program", "MZ\\0", "tool.exe")\n'
_RANGE = (
    "At most 1,000,000 bytes at once: the second value is where to go on reading, nil at the end; first and last are "
    "counted in bytes from 1."
)

READING: list[Declared] = [
    declare(
        "mail:parts(what?: string) -> parts",
        "The parts of the mail: the mail itself first, a multipart before what is in it; or those of a type "
        '("image/*") or with a file name ("*.exe"). To be walked with `for part in mail:parts() do`, or as a list.',
        f'{MIXED}for part in mail:parts("*.EXE") do part:remove() end\n'
        'assert(#mail:parts() == 2 and mail:parts()[1].type == "multipart/mixed")',
        _parts,
    ),
    declare(
        "mail:find(what: string) -> part?",
        "The first part of a type or with a file name, as mail:parts has them; nil if there is none.",
        f'{MIXED}assert(mail:find("tool.*") == file and not mail:find("image/*"))',
        _find,
    ),
    declare(
        "mail:part(number: string) -> part?",
        'A part by its number: "1.2" is the second part of the first, "" the mail itself; nil if there is none.',
        f'{MIXED}assert(mail:part("2") == file and mail:part("7") == nil)',
        _part,
    ),
    declare(
        "mail:raw(first?: integer, last?: integer) -> string, integer?",
        f"The mail as it would be delivered now. {_RANGE}",
        'assert(mail:raw():find("Subject: Hello", 1, true) and mail:raw(1, 8) == "Received")',
        _raw,
    ),
    declare(
        "part:parts(what?: string) -> parts",
        "This part and those below it, as mail:parts.",
        f'{MIXED}assert(#mail:part(""):parts() == 3 and #file:parts("text/*") == 0)',
        _parts,
    ),
    declare(
        "part:text(first?: integer, last?: integer) -> string, integer?",
        f"What is in it, decoded, as UTF-8, whatever its charset is worth. {_RANGE} They count before the charset is "
        "read.",
        'assert(mail:part(""):text() == "How are you?\\r\\n")',
        _text,
    ),
    declare(
        "part:bytes(first?: integer, last?: integer) -> string, integer?",
        f"What is in it, decoded, byte for byte. {_RANGE}",
        f'{MIXED}assert(file:bytes() == "MZ\\0" and file:bytes(1, 2) == "MZ")',
        _bytes,
    ),
    declare(
        "part:raw(first?: integer, last?: integer) -> string, integer?",
        f"What is in it as it stands in the mail, still encoded. {_RANGE}",
        f'{MIXED}assert(file:raw():find("TVoA"))',
        _raw,
    ),
]


# Answered by parts.lua through one function, `_field`.
PART_FIELDS: list[Word] = [
    word(f"part.{signature}", meaning, f"{MIXED}{example}", "preq..")
    for signature, meaning, example in [
        ("type: string", "Type and subtype in lower case.", 'assert(file.type == "application/x-program")'),
        (
            "filename: string?",
            "The name it would be saved under, without folders and other tricks; nil if it has none.",
            'assert(file.filename == "tool.exe")',
        ),
        (
            "filenames: string[]",
            "Every name it may be saved under: mail programs disagree when it gives several.",
            "assert(#file.filenames == 1)",
        ),
        ("charset: string?", "The charset it declares.", "assert(file.charset == nil)"),
        (
            "disposition: string?",
            "attachment, inline, or what else it says.",
            'assert(file.disposition == "attachment")',
        ),
        ("encoding: string?", "How it is encoded: base64, quoted-printable ...", 'assert(file.encoding == "base64")'),
        ("size: integer", "Bytes of its content, still encoded.", "assert(file.size > 3)"),
        ("id: string?", "Its Content-ID, without the brackets.", "assert(file.id == nil)"),
        (
            "number: string",
            'Its place now: "1.2" is the second part of the first; "" the mail itself; "-" once it is taken out.',
            'assert(file.number == "2" and tostring(file) == "2")',
        ),
        ("depth: integer", "How many parts it is inside of.", "assert(file.depth == 1)"),
        ("multipart: boolean", "Does it hold other parts?", "assert(not file.multipart)"),
        ("attachment: boolean", "Is it a file rather than the text of the mail?", "assert(file.attachment)"),
        (
            "flaw: string?",
            "Why it was not taken apart although it says it holds parts, or what is missing or forbidden in it.",
            "assert(file.flaw == nil)",
        ),
        ("parent: part?", "The part it is in; nil for the mail itself.", 'assert(file.parent == mail:part(""))'),
        (
            "headers: headers",
            "Its own header fields, with all words of mail.headers.",
            'assert(file.headers:get("Content-Transfer-Encoding") == "base64")\nfile.headers:set("X-Looked-At", "yes")',
        ),
    ]
]

FIELD = Inner(_field, grows=False)
