"""Lists of addresses in header fields (RFC 5322 3.4): read leniently in one pass, written so that they read back.

Made for what is really sent: unclosed quotes and brackets, empty members, names that look like addresses, source
routes (RFC 5322 4.4), groups, comments, encoded words inside quotes. What has no "@" is a name without an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from mta.message import charsets, words

MAX_ADDRESSES = 10_000  # in one field; the rest is not looked at
MAX_LENGTH = 1 << 17  # of a field; the rest is not looked at

_TOKEN = re.compile(
    r'"(?P<quoted>(?:[^"\\]|\\.)*)(?:"|\\?\Z)|\[(?P<literal>[^\[\],;<>"]*)\]|(?P<special>[(),:;<>])|[^\s"(),:;<>\[]+|\[',
    re.S,
)
_ENCODED = re.compile(r"=\?[^?\s]{1,80}\?[bBqQ]\?[^?\s]*\?=")  # in a name many leave a comma as it is
_COMMENT = re.compile(r"[()\\]")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")


class Mailbox(NamedTuple):
    """One member of a list: `name` as text, `address` as "local@domain" ("" if there is none), `group` it stands in.

    A group without members (`undisclosed-recipients:;`) is one without name and address.
    """

    name: str
    address: str
    group: str = ""

    def __str__(self) -> str:
        """As it is written in a field, in ASCII but for the address itself."""
        name = phrase(self.name)
        if not self.address:
            return name
        return f"{name} <{self.address}>" if name else self.address


def phrase(name: str) -> str:
    """A name as RFC 5322 writes it: words, a quoted string, or encoded words. Control characters become blanks."""
    name = re.sub(r"[\0-\x1f\x7f]", " ", name).strip()
    if not name.isascii() or "=?" in name:
        return words.encode(name, whole=True)
    if _PHRASE.fullmatch(name) and "  " not in name:
        return name
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def write(mailboxes: Iterable[Mailbox]) -> str:
    """A field value (latin-1 text) that reads back as the same list."""
    out: list[str] = []
    group = ""
    for mailbox in mailboxes:
        if mailbox.group != group:
            if group:
                out[-1] += ";"
            group = mailbox.group
            if group:
                out.append(f"{phrase(group)}: {mailbox}".rstrip())
                continue
        out.append(str(mailbox))
    if group:
        out[-1] += ";"
    return ", ".join(out).encode("utf-8", "replace").decode("latin-1")


def parse(value: str) -> list[Mailbox]:
    """The members of an address list (latin-1 text, unfolded), in order. Never raises; empty members are left out."""
    return _Reader(re.sub(r"[\r\n\0]", " ", value[:MAX_LENGTH])).read()


class _Word(NamedTuple):
    """A token: what it means, how it stands there, whether white space stands before it."""

    text: str
    raw: str
    space: bool


class _Reader:
    """Goes through a list once, gathering the words of a member and, between brackets, its address."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.found: list[Mailbox] = []
        self.group = ""
        self.empty_group = False
        self._next()

    def _next(self) -> None:
        self.words: list[_Word] = []
        self.angle: list[str] | None = None
        self.inside = False  # the brackets
        self.comment = ""

    def read(self) -> list[Mailbox]:
        at, space = 0, False
        while len(self.found) < MAX_ADDRESSES:
            token = _TOKEN.search(self.value, at)
            if token is None:
                break
            space = space or token.start() > at
            encoded = None if self.inside else _ENCODED.match(self.value, token.start())
            quoted, special = (None, None) if encoded else (token["quoted"], token["special"])
            raw, at = (encoded or token)[0], (encoded or token).end()
            if quoted is not None and (len(raw) < 2 or not raw.endswith('"')):  # never closed
                at = token.start()
                self.value = self.value[:at] + self.value[at:].replace('"', " ")
            elif special == "(":
                at = self._comment(at)
            else:
                if special:
                    self._special(special)
                elif self.inside and self.angle is not None:
                    self.angle.append(raw)
                else:
                    self.words.append(_Word(raw if quoted is None else _unescaped(quoted), raw, space))
                space = False
        self._end()
        return self.found

    def _comment(self, at: int) -> int:
        """Take a comment, nested ones too; where it ends."""
        depth, start = 1, at
        while depth:
            mark = _COMMENT.search(self.value, at)
            if mark is None:
                self.comment = self.value[start:]
                return len(self.value)
            at = mark.end() + (mark[0] == "\\")
            depth += {"(": 1, ")": -1}.get(mark[0], 0)
        self.comment = _unescaped(self.value[start : at - 1])
        return at

    def _special(self, special: str) -> None:
        if special == "<":
            if self.angle is not None:  # a second one: the comma between them is missing
                self._end()
            self.angle, self.inside = [], True
        elif special == ">":
            self.inside = False
        elif self.inside and self.angle is not None and special in ",:" and (not self.angle or self.angle[0][0] == "@"):
            if special == ":":
                self.angle = []  # behind the route
        elif special == ":" and not self.inside and self.angle is None:
            self.group = self._phrase()
            self.empty_group = True
            self._next()
        elif special in ",;":
            self._end()
            if special == ";":
                if self.empty_group:
                    self.found.append(Mailbox("", "", self.group))
                self.group, self.empty_group = "", False

    def _phrase(self) -> str:
        """The words as a name, encoded words read."""
        return words.decode("".join(" " * word.space + word.text for word in self.words)).strip()

    def _end(self) -> None:
        """The member is complete."""
        if self.angle is not None:
            name, address = self._phrase(), "".join(self.angle)
        else:
            name, address = "", "".join(word.raw for word in self.words)
            if "@" not in address or any(word.space for word in self.words[1:]):  # words, perhaps an address among them
                name = self._phrase()
                address = next((word.raw for word in reversed(self.words) if "@" in word.raw[1:-1]), "")
        name = name or words.decode(self.comment).strip()
        if name or address:
            self.found.append(Mailbox(name, charsets.disguised(address), self.group))
            self.empty_group = False
        self._next()


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.S)
