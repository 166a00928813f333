"""Values with parameters (RFC 2045 5.1, RFC 2183, RFC 2231): `text/plain; charset=utf-8; name*0*=utf-8''gr%C3%BC`.

Read leniently and in one pass, because what a mail program shows, a rule must see: unclosed quotes reach to the end,
names may have blanks, backslashes that escape nothing stay, half a continuation counts for what is there.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from mta.message import charsets, words

MAX_LENGTH = 65_536  # of a value; the rest is not looked at
MAX_PARAMETERS = 64

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[^;"]+|;', re.S)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.S)
_NAME = re.compile(r"([^\s*'%=]+)(?:\*([0-9]{1,3}))?(\*)?")  # RFC 2231: name, name*, name*0, name*0*
_TOKEN = re.compile(r"[!#$&+.^_`{|}~0-9A-Za-z-]+")  # RFC 2045 5.1, without the characters RFC 2231 gave a meaning
_FREE_TEXT = ("name", "filename")  # values in which blanks are part of the name even where quotes are missing


class Segment(NamedTuple):
    """What stands between two semicolons: `text` as it came, and the parameter it is about ("" if none)."""

    parameter: str
    text: str


class Value(NamedTuple):
    """A value taken apart. Parameters have lower-case names, and the first of a name counts; `plain` ones are latin-1
    text as it stands there, `extended` ones (RFC 2231) are decoded; `again`: (name, value) of those said once more."""

    main: str
    plain: dict[str, str]
    extended: dict[str, str]
    segments: list[Segment]
    again: list[tuple[str, str]]

    def get(self, name: str) -> str:
        """A parameter's value, the extended form first (RFC 6266 4.3), or ""."""
        return self.extended.get(name) or charsets.disguised(self.plain.get(name, ""))

    def every(self, name: str) -> list[str]:
        """All values claimed for a parameter: mail programs disagree on which one counts."""
        found = [self.extended.get(name), charsets.disguised(self.plain.get(name, ""))]
        found += [value for said, value in self.again if said == name]
        return list(dict.fromkeys(value for value in found if value))


@functools.lru_cache(512)
def _short(value: str) -> Value:
    return _parse(value)


def parse(value: str) -> Value:
    """Take a header value (latin-1 text, unfolded) apart. Never raises. Do not change what it gives."""
    return _short(value) if len(value) < 1000 else _parse(value[:MAX_LENGTH])


def _parse(value: str) -> Value:
    main = ""
    plain: dict[str, str] = {}
    sections: dict[str, dict[int, tuple[bool, str]]] = {}
    segments: list[Segment] = []
    again: list[tuple[str, str]] = []
    last: dict[str, dict[int, tuple[bool, str]]] = {}  # sections that were there already
    for number, pieces in enumerate(_split(value)):
        text = "".join(pieces).strip()
        if number == 0:
            main = text
            segments.append(Segment("", text))
            continue
        name, equals, first = pieces[0].partition("=")
        shape = _NAME.fullmatch(name.strip().lower())
        if not text or not equals or not shape:
            if text:
                segments.append(Segment("", text))
            continue
        base = shape[1]
        segments.append(Segment(base, text))
        said = _said(base, first, pieces[1:])
        if shape[2] or shape[3]:
            section = int(shape[2] or 0), (bool(shape[3]), said)
            if section[0] in sections.setdefault(base, {}):
                again.append((base, _joined({0: section[1]})))
                last.setdefault(base, {}).update([section])
            else:
                sections[base].update([section])
        elif base in plain:
            again.append((base, charsets.disguised(said)))
        else:
            plain[base] = said
    again += [(base, _joined({**sections[base], **parts})) for base, parts in last.items()]  # as if the last counted
    return Value(main, plain, {name: _joined(parts) for name, parts in sections.items()}, segments, again)


def _split(value: str) -> list[list[str]]:
    """The pieces between semicolons, quoted strings kept apart from the text around them."""
    out: list[list[str]] = [[]]
    for piece in _PIECE.finditer(value):
        if piece[0] != ";":
            out[-1].append(piece[0])
            continue
        if len(out) > MAX_PARAMETERS:
            break
        out.append([])
    return [pieces or [""] for pieces in out]


def _said(name: str, first: str, rest: list[str]) -> str:
    """The value that `first` (unquoted) and the pieces behind it stand for."""
    if not first.strip() and rest:  # a quoted string; what follows it is a comment or noise
        inside = rest[0][1:-1] if len(rest[0]) > 1 and rest[0].endswith('"') else rest[0][1:]
        return re.sub(r'\\(["\\])', r"\1", inside)
    said = "".join([first, *rest]).strip()
    return said if name in _FREE_TEXT else re.split(r"[\s(]", said, maxsplit=1)[0]


def _joined(parts: dict[int, tuple[bool, str]]) -> str:
    """The sections of an extended parameter, from the first to the first that is missing."""
    charset, octets = "", []
    for number in range(len(parts)):
        if number not in parts:
            break
        encoded, text = parts[number]
        if number == 0 and encoded and text.count("'") >= 2:
            charset, _, text = text.split("'", 2)
        raw = text.encode("latin-1", "replace")
        octets.append(re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), raw) if encoded else raw)
    return charsets.decode(b"".join(octets), charset)


def write(name: str, value: str) -> str:
    """A parameter as text in ASCII: a token, a quoted string, or RFC 2231 sections. Control characters are dropped."""
    value = "".join(c for c in value if c.isprintable())
    if _TOKEN.fullmatch(value):
        return f"{name}={value}"
    if value.isascii() and len(value) < 200:
        return f'{name}="' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    coded = "".join(chr(o) if _TOKEN.fullmatch(chr(o)) else f"%{o:02X}" for o in value.encode("utf-8", "replace"))
    sections = re.findall(r"(?:%..|[^%]){1,20}", coded)
    if len(sections) <= 3:
        return f"{name}*=utf-8''{coded}"
    sections[0] = "utf-8''" + sections[0]
    return "; ".join(f"{name}*{n}*={section}" for n, section in enumerate(sections))


def change(value: str, name: str, new: str | None) -> str:
    """The same value with one parameter set anew (None: without it), every other segment as it came."""
    kept = [_closed(re.sub(r"[\r\n\0]", "", s.text)) for s in parse(value).segments if s.parameter != name]
    if new is not None:
        kept.append(write(name, new))
    return "; ".join(kept)


def _closed(text: str) -> str:
    """A segment with its last quote closed, so that something may follow it."""
    last = "".join(piece[0] for piece in list(_PIECE.finditer(text))[-1:])
    if not last.startswith('"') or _QUOTED.fullmatch(last):
        return text
    return (text[:-1] if re.search(r"(?<!\\)(?:\\\\)*\\\Z", last) else text) + '"'


def file_name(said: str) -> str:
    """A file name a stranger gave, made harmless: encoded words read, folders and control characters gone, 255 bytes.

    "" if nothing is left. `..\\..\\a.exe` is "a.exe", for a mail program would save it so. Windows drops dots
    and blanks at the end: "a.exe. ." is a program, too.
    """
    name = words.decode(said) if said.isascii() else said
    name = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in name)
    name = name.replace("\\", "/").rpartition("/")[2].lstrip(" ").rstrip(" .")
    if not name:
        return ""
    octets = name.encode("utf-8", "replace")
    if len(octets) > 255:  # keep the ending: it is what decides how the file is opened
        stem, dot, ending = name.rpartition(".")
        tail = (dot + ending).encode("utf-8", "replace")[-50:] if dot and len(ending) <= 40 else b""
        octets = (stem if tail else name).encode("utf-8", "replace")[: 255 - len(tail)] + tail
    return octets.decode("utf-8", "ignore")
