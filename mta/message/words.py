"""Encoded words (RFC 2047): text beyond ASCII in header values, read leniently in one pass and written strictly.

A word is `=?charset?q or b?text?=`. White space between two of them means nothing, and a character may be cut in two
by a sender that should not (RFC 2047 5): neighbours of one charset are joined before they are decoded. Whatever is no
encoded word stays as it is.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

from mta.message import charsets

MAX_WORDS = 4096  # in one value; further ones stay encoded

_WORD = re.compile(r"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?\r\n]*)\?=")  # RFC 2231 5: charset*language
_UNSAFE = re.compile(r"[\r\n\0]")
_Q = {octet: f"={octet:02X}" for octet in range(256)}  # RFC 2047 4.2, with the letters that are safe in a phrase (5.3)
_Q.update({ord(c): c for c in "!*+-/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"})
_Q[ord(" ")] = "_"

_T = TypeVar("_T", str, bytes)


def decode(value: str) -> str:
    """A header value (latin-1 text, unfolded) as the text it means. Never raises; CR, LF and NUL become blanks."""
    if "=?" not in value:
        return charsets.disguised(value)
    out: list[str] = []
    at = 0
    charset = ""
    pending: list[bytes] = []  # the words read last, not decoded yet
    for word in islice(_WORD.finditer(value), MAX_WORDS):
        between = value[at : word.start()]
        neighbour = pending and not between.strip(" \t")
        if not neighbour or word[1].lower() != charset:
            if pending:
                out.append(charsets.decode(b"".join(pending), charset))
            if not neighbour:
                out.append(charsets.disguised(between))
            pending = []
        charset = word[1].lower()
        pending.append(_bytes(word[2], word[3]))
        at = word.end()
    if pending:
        out.append(charsets.decode(b"".join(pending), charset))
    out.append(charsets.disguised(value[at:]))
    return _UNSAFE.sub(" ", "".join(out))


def _bytes(encoding: str, text: str) -> bytes:
    coded = text.encode("latin-1", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(coded, header=True)
    clean = re.sub(rb"[^A-Za-z0-9+/]", b"", coded)
    if len(clean) % 4 == 1:
        clean = clean[:-1]
    return binascii.a2b_base64(clean + b"=" * (-len(clean) % 4))


def encode(text: str, *, whole: bool = False) -> str:
    """Text as a header value in ASCII: plain where it can be, from the first to the last odd word as encoded words.

    `whole`: if any of it must be encoded, all of it is. Raises ValueError for CR, LF and NUL. `decode` gives it back.
    """
    if _UNSAFE.search(text):
        raise ValueError("the text must be one line without NUL")
    odd = [m for m in re.finditer(r"[^ ]+", text) if not _plain(m[0])]
    if not odd:
        return text
    start, stop = (0, len(text)) if whole else (odd[0].start(), odd[-1].end())
    return text[:start] + " ".join(_encoded(text[start:stop])) + text[stop:]


def _plain(word: str) -> bool:
    return word.isascii() and word.isprintable() and "=?" not in word


def _encoded(text: str) -> list[str]:
    """Encoded words of at most 75 characters, none of them ending inside a character (RFC 2047 5)."""
    octets = [character.encode("utf-8", "replace") for character in text]
    whole = b"".join(octets)
    quoted = ["".join(_Q[octet] for octet in character) for character in octets]
    if sum(map(len, quoted)) <= len(whole) * 4 // 3 + 4:
        return [f"=?utf-8?q?{''.join(line)}?=" for line in _lines(quoted, 63)]
    return [f"=?utf-8?b?{binascii.b2a_base64(b''.join(line), newline=False).decode()}?=" for line in _lines(octets, 45)]


def _lines(units: list[_T], room: int) -> Iterator[list[_T]]:
    """Units in order, in lines of at most `room` characters or bytes."""
    line: list[_T] = []
    length = 0
    for unit in units:
        if length + len(unit) > room:
            yield line
            line, length = [], 0
        line.append(unit)
        length += len(unit)
    if line:
        yield line
