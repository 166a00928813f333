"""Bytes in the charset a stranger declares, as text, whatever the truth; and text back into bytes.

A declared charset may be unknown, wrong, or a Python codec that is no charset at all ("hex", "idna"). Decoding never
raises: what the declared charset cannot read is read as UTF-8, and failing that with replacement characters.
"""

from __future__ import annotations

import codecs
import functools

# Names in the wild, and supersets that read what is really sent under the smaller name (as browsers do).
_ALIASES = {
    "": "us-ascii",
    "ansi_x3.4-1968": "us-ascii",
    "unicode-1-1-utf-7": "utf-7",
    "unicode-1-1-utf-8": "utf-8",
    "utf8mb4": "utf-8",
    "x-utf-8": "utf-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "shift_jis": "cp932",
    "x-sjis": "cp932",
    "iso-8859-8-i": "iso-8859-8",
    "iso-8859-8-e": "iso-8859-8",
    "x-mac-roman": "mac-roman",
    "macintosh": "mac-roman",
}
_NOT_CHARSETS = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "mbcs", "oem"}


@functools.lru_cache(256)
def known(name: str) -> str:
    """Python's name for a charset, "" if there is none."""
    name = name.strip().lower()
    if len(name) > 40:
        return ""
    try:
        info = codecs.lookup(_ALIASES.get(name, name))
    except (LookupError, ValueError):  # ValueError: NUL in the name
        return ""
    if not getattr(info, "_is_text_encoding", True) or info.name.replace("_", "-") in _NOT_CHARSETS:
        return ""
    return info.name


def decode(content: bytes, charset: str, *, whole: bool = True) -> str:
    """`content` as text. `whole=False`: it was cut somewhere, and half a character at its end is dropped."""
    declared = known(charset)
    for name in dict.fromkeys((declared, "utf-8")):
        if not name:
            continue
        try:
            return codecs.getincrementaldecoder(name)("strict").decode(content, whole)
        except (UnicodeError, ValueError):
            continue
    if not declared or declared == "ascii":
        declared = "cp1252"  # what unlabelled 8-bit text most often is
    try:
        return content.decode(declared, "replace")
    except (UnicodeError, ValueError):
        return content.decode("latin-1")


def disguised(text: str) -> str:
    """Latin-1 text that is bytes in disguise (a header's value) as what it means: UTF-8, or else Windows-1252."""
    return text if text.isascii() else decode(text.encode("latin-1", "replace"), "")


def encode(text: str, charset: str) -> bytes | None:
    """`text` in that charset, or None if it cannot be said in it."""
    name = known(charset)
    if not name:
        return None
    try:
        return text.encode(name)
    except (UnicodeError, ValueError):
        return None


@functools.lru_cache(256)
def extends_ascii(charset: str) -> bool:
    """Do ASCII bytes mean ASCII characters in it, so that ASCII can be added without reading what stands there?"""
    name = known(charset)
    if not name or name in ("utf-7", "hz"):
        return False
    try:
        ascii_only = bytes(range(32, 127))
        return ascii_only.decode(name) == ascii_only.decode("ascii")
    except (UnicodeError, ValueError):
        return False
