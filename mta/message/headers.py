"""The header of a mail as a list of fields, each either a span of the raw mail or bytes written anew.

Only what is changed is written anew; every other byte of the mail stays as it came (DKIM lives on that). The index is
made on first use, by `find` alone: 8 us for 15 fields, whatever the size of the mail. Most mails never need one: what
is put on top or at the bottom is kept apart, and a field or two is looked for in the text as it stands (1 us each).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from mta.message.layout import Layout, Raw

NAME = re.compile("[!-9;-~]+")  # RFC 5322 2.2: printable ASCII but the colon
_START = re.compile(rb"([!-9;-~]+)[ \t]*:")  # RFC 5322 4.5 allowed white space before the colon
_BREAK = re.compile(r"(?<=[^ \t]) (?=[ \t]*[^ \t])")
MAX_FIELDS = 10_000
LONGEST = 1 << 20  # bytes of a header in which fields are looked for
STEP = 1 << 20  # bytes searched at once: a thread that does it lets others run in between
SHORT = 3 * MAX_FIELDS  # bytes of a header that is looked through, not indexed, for one field: it has no more than that


class Field(NamedTuple):
    """One field: its lower-case name, and where it is: `text` (with CRLF at its end), or raw[start:stop] if None."""

    name: str
    start: int
    stop: int
    text: bytes | None


def index(raw: Raw, end: int) -> list[Field]:
    """The fields of raw[:end], `end` being where the last field's CRLF ends. A line that is no field is named ""."""
    fields: list[Field] = []
    head = bytes(raw[: min(end, LONGEST)])
    find, match, at = head.find, _START.match, 0
    while at < end:
        stop = find(b"\r\n", at)
        stop = end if stop < 0 else stop + 2
        while head[stop : stop + 1] in (b" ", b"\t"):
            stop = find(b"\r\n", stop)
            stop = end if stop < 0 else stop + 2
        if len(head) <= stop and len(head) < end:  # another bomb, passed on in the same way
            fields.append(Field("", at, end, None))
            break
        start = match(head, at, stop)
        fields.append(Field(start[1].decode("ascii").lower() if start else "", at, stop, None))
        at = stop
        if len(fields) >= MAX_FIELDS:  # a bomb: the rest is one nameless field, passed on untouched
            if at < end:
                fields.append(Field("", at, end, None))
            break
    return fields


def written(text: bytes) -> list[Field]:
    """Ready fields, as fields."""
    return [Field(field.name, 0, 0, text[field.start : field.stop]) for field in index(text, len(text))]


def _search(low: bytes, name: bytes) -> tuple[int, int, int]:
    """Where the first field of that name is: (start, colon, stop), or three times -1.

    `low` is CRLF and a header in lower case, so what is found lies two bytes further left in the header itself.
    """
    mark = b"\r\n" + name
    at = low.find(mark)
    while at >= 0:
        colon = at + len(mark)
        if low[colon : colon + 1] != b":":  # perhaps there is white space before it
            start = _START.match(low, at + 2)
            colon = start.end() - 1 if start and start[1] == name else -1
        if colon > 0:
            stop = low.find(b"\r\n", colon)
            while stop >= 0 and low[stop + 2 : stop + 3] in (b" ", b"\t"):
                stop = low.find(b"\r\n", stop + 2)
            return at, colon - 2, stop if stop >= 0 else len(low) - 2
        at = low.find(mark, at + 2)
    return -1, -1, -1


def _find_empty(raw: Raw, start: int, stop: int) -> int:
    """Where the CRLF before the first empty line stands, or -1."""
    for at in range(start, stop, STEP):
        found = raw.find(b"\r\n\r\n", at, min(at + STEP + 3, stop))
        if found >= 0:
            return found
    return -1


def edges(raw: Raw, start: int, stop: int) -> tuple[int, int]:
    """(where the header ends, where the body begins) in raw[start:stop].

    The empty line parts them. Where it is missing, the first line that is no field begins the body; and lines before an
    empty line none of which is a field are no header. So a rule sees as body what a mail program shows as body.
    """
    if raw[start : min(start + 2, stop)] == b"\r\n":
        return start, start + 2
    empty = _find_empty(raw, start, stop)
    end = stop if empty < 0 else empty + 2
    at, count = start, 0
    while at < end and count < MAX_FIELDS:
        count += 1
        if _START.match(raw, at, end):
            if empty >= 0:
                return end, end + 2
        elif empty < 0 and not (count > 1 and raw[at : at + 1] in (b" ", b"\t")):
            return at, at
        at = raw.find(b"\r\n", at, end) + 2
        if at < 2:
            break
    return (stop, stop) if empty < 0 else (start, start)


def end_of(raw: Raw) -> tuple[int, int]:
    """(where the header ends, where the body begins) in a whole mail."""
    return edges(raw, 0, len(raw))


def unfold(text: bytes) -> str:
    """The value of a field as latin-1 text, unfolded (RFC 5322 2.2.3), without the white space around it."""
    return _unfolded(text.partition(b":")[2])


def _unfolded(value: bytes) -> str:
    return value.replace(b"\r\n", b"").strip(b" \t").decode("latin-1")


def write(name: str, value: str) -> bytes:
    """A field ready for the mail, folded at 78 where white space allows it. Raises ValueError for what cannot be one.

    `value` is latin-1 text (bytes in disguise). CR, LF and NUL are refused, so no value can become a second field.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name")
    if any(c in value for c in "\r\n\0"):
        raise ValueError(f"the value of {name} must be one line without NUL")
    line = f"{name}: {value}"
    if len(line) > 78:
        line = _fold(line, len(name) + 2)
    return line.encode("latin-1") + b"\r\n"


def _fold(line: str, at_least: int) -> str:
    """RFC 5322 2.2.3: break before white space, so that unfolding gives the same value again.

    No line may be white space alone (RFC 5322 3.2.2), so each break has words before and after it.
    """
    folded, start = [], 0
    breaks = [m.start() for m in _BREAK.finditer(line, at_least)]
    for cut, after in pairwise([*breaks, len(line)]):
        if after - start > 78:  # the next break would come too late
            folded.append(line[start:cut])
            start = cut
    return "\r\n".join([*folded, line[start:]])


class Headers:
    """The fields of one mail, top to bottom. Names compare without case. Values are latin-1 text, unfolded."""

    __slots__ = ("_before", "_bottom", "_end", "_fields", "_low", "_plain", "_raw", "_text", "_top", "changed")

    def __init__(self, raw: Raw, end: int) -> None:
        self._raw, self._end = raw, end
        self._plain = end <= SHORT and raw[:1] not in (b" ", b"\t")  # what is put on top cannot flow into it
        self._top: list[bytes] = []  # put there before anyone needed the index; newest last
        self._bottom: list[bytes] = []  # the same
        self._fields: list[Field] | None = None
        self._text, self._low = b"", b""  # the header as it stands, for `_search`; while somebody looks for fields
        self._before: tuple[list[bytes], list[bytes], list[Field] | None] | None = None  # what a copy began with
        self.changed = False

    def copy(self) -> Headers:
        """The same fields, to be changed apart from these; what was made to find them is shared."""
        other = Headers(self._raw, self._end)
        other._text, other._low, other.changed = self._text, self._low, self.changed
        top, bottom, fields = self._top.copy(), self._bottom.copy(), self._fields
        other._top, other._bottom, other._fields = top.copy(), bottom.copy(), None if fields is None else fields.copy()
        other._before = top, bottom, None if fields is None else fields.copy()
        return other

    @property
    def edited(self) -> bool:
        """For a copy: its fields are no longer those it began with."""
        if self._before is None:
            return self.changed
        top, bottom, fields = self._before
        if self._fields is None:
            return self._top != top or self._bottom != bottom
        if fields is None:
            began = Headers(self._raw, self._end)
            began._top, began._bottom = top, bottom
            fields = began.fields
        return self._fields != fields

    @property
    def fields(self) -> list[Field]:
        if self._fields is None:
            top, bottom = b"".join(reversed(self._top)), b"".join(self._bottom)
            self._fields = [*written(top), *index(self._raw, self._end), *written(bottom)]
        return self._fields

    def write(self, out: Layout, source: Raw, base: int) -> None:
        """Write the fields; the raw header stands in `source`, from `base` on."""
        if self._fields is None:
            for text in reversed(self._top):
                out.new(text)
            out.old(source, base, base + self._end)
            for text in self._bottom:
                out.end_line()  # as below
                out.new(text)
            return
        for field in self._fields:
            if field.text is None:
                out.old(source, base + field.start, base + field.stop)
            else:
                out.end_line()  # the mail may have ended inside its last field
                out.new(field.text)

    def text(self, field: Field) -> bytes:
        """The bytes of a field as they stand in the mail, CRLF included."""
        return bytes(self._raw[field.start : field.stop]) if field.text is None else field.text

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for field in self.fields:
            if not field.name:
                continue
            text = self.text(field)
            yield text.partition(b":")[0].rstrip(b" \t").decode("latin-1"), unfold(text)

    def _look(self, name: str) -> tuple[int, int, int]:
        """Where in `_text` the first field called `name` (lower case) is, as `_search` says it; without an index."""
        if not self._low:
            text = self._raw[: self._end]
            if self._bottom and not text.endswith(b"\r\n"):
                text += b"\r\n"
            self._text = b"".join([*reversed(self._top), text, *self._bottom])
            self._low = b"\r\n" + self._text.lower()
        return _search(self._low, name.encode("utf-8", "replace")) if NAME.fullmatch(name) else (-1, -1, -1)

    def has(self, name: str) -> bool:
        name = name.lower()
        if self._fields is None and name and self._plain:
            return self._look(name)[0] >= 0
        return any(f.name == name for f in self.fields)

    def count(self, name: str) -> int:
        name = name.lower()
        return sum(f.name == name for f in self.fields)

    def get(self, name: str) -> str | None:
        """The value of the first such field, or None."""
        name = name.lower()
        if self._fields is None and name and self._plain:
            _, colon, stop = self._look(name)
            return None if stop < 0 else _unfolded(self._text[colon + 1 : stop])
        for field in self.fields:
            if field.name == name:
                return unfold(self.text(field))
        return None

    def all(self, name: str) -> list[str]:
        name = name.lower()
        return [unfold(self.text(f)) for f in self.fields if f.name == name]

    # -- changes; each refuses what would not be a field -------------------------------------------------------------

    def prepend(self, name: str, value: str) -> None:
        """Put a field on top of the header."""
        self.prepend_raw(write(name, value))

    def prepend_raw(self, text: bytes) -> None:
        """Put a ready field (or several) on top; `text` ends with CRLF and is trusted."""
        if self._fields is None:
            self._top.append(text)
            self._low = b""
        else:
            self._fields[:0] = written(text)
        self.changed = True

    def append(self, name: str, value: str) -> None:
        """Put a field at the bottom of the header."""
        text = write(name, value)
        if self._fields is None:
            self._bottom.append(text)
            self._low = b""
        else:
            self._fields.append(Field(name.lower(), 0, 0, text))
        self.changed = True

    def set(self, name: str, value: str) -> None:
        """Replace the first such field where it stands, or append one."""
        text, lower = write(name, value), name.lower()
        for n, field in enumerate(self.fields):
            if field.name == lower:
                self.fields[n] = Field(lower, 0, 0, text)
                self.changed = True
                return
        self.fields.append(Field(lower, 0, 0, text))
        self.changed = True

    def rename(self, old: str, new: str) -> bool:
        """Give the first field called `old` another name, its value untouched byte for byte."""
        if not NAME.fullmatch(new):
            raise ValueError(f"{new!r} is not a header name")
        lower = old.lower()
        for n, field in enumerate(self.fields):
            if field.name == lower:
                value = self.text(field).partition(b":")[2]
                end = b"" if value.endswith(b"\r\n") else b"\r\n"
                self.fields[n] = Field(new.lower(), 0, 0, new.encode("latin-1") + b":" + value + end)
                self.changed = True
                return True
        return False

    def exchange(self, prefix: str, texts: list[bytes]) -> list[bytes]:
        """Put ready fields in the place of all whose name begins with `prefix`; the ones taken out."""
        fresh = [Field(text.partition(b":")[0].decode("ascii").lower(), 0, 0, text) for text in texts]
        gone = [field for field in self.fields if field.name.startswith(prefix)]
        at = self.fields.index(gone[0]) if gone else len(self.fields)
        kept = [field for field in self.fields if not field.name.startswith(prefix)]
        self._fields, self.changed = kept[:at] + fresh + kept[at:], True
        return [self.text(field) for field in gone]

    def remove(self, name: str) -> int:
        """Take every such field out; how many there were."""
        lower = name.lower()
        kept = [f for f in self.fields if f.name != lower]
        gone = len(self.fields) - len(kept)
        if gone:
            self._fields, self.changed = kept, True
        return gone
