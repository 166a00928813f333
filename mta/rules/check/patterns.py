"""How long Lua's matcher may need for a pattern, in steps, on a text made to keep it busy.

Each item that repeats can multiply the work by the length of the text, but not when what must follow it cannot also be
one of the things it repeats: then there is one place to go on from. The sandbox stops a pattern that takes too long
(lua/patterns.lua), so what is told here is: this rule can be made to fail from outside.
"""

from __future__ import annotations

import string
from typing import NamedTuple

LENGTH = 200  # bytes of the text: a subject
WORST = 1e8  # steps: about a second

_ANY = frozenset(range(256))
_PRINTED = frozenset(range(33, 127))
_CLASS = {
    "a": frozenset(map(ord, string.ascii_letters)),
    "c": frozenset([*range(32), 127]),
    "d": frozenset(map(ord, string.digits)),
    "g": _PRINTED,
    "l": frozenset(map(ord, string.ascii_lowercase)),
    "p": frozenset(map(ord, string.punctuation)),
    "s": frozenset(b" \t\n\v\f\r"),
    "u": frozenset(map(ord, string.ascii_uppercase)),
    "w": frozenset(map(ord, string.ascii_letters + string.digits)),
    "x": frozenset(map(ord, string.hexdigits)),
}


class Item(NamedTuple):
    """`repeat` is "", "*", "+", "-" or "?"; `set` are the bytes it takes, none for what only looks."""

    set: frozenset[int]
    repeat: str
    whole: bool = False  # a %b or a %1: as long as it likes


def steps(pattern: str, *, anchors: bool = True) -> float:
    """Steps for LENGTH bytes. Raises ValueError for a malformed pattern, in Lua's words."""
    anchored, items = read(pattern, anchors)
    power, maybes, rest = 0, 0, _ANY
    ends = True  # nothing after this can fail
    for item in reversed(items):
        if item.repeat == "?":
            maybes += 0 if ends else 1
            rest |= item.set
        elif item.repeat or item.whole:
            apart = not item.set & rest and not item.whole
            power = max(1, power) if ends or apart else power + 1
            rest = item.set if item.repeat == "+" else rest | item.set
            ends = ends and item.repeat in ("*", "-")
        else:
            rest, ends = item.set, False
    return float((LENGTH + 1) ** (power + (not anchored)) * 2**maybes)


def read(pattern: str, anchors: bool) -> tuple[bool, list[Item]]:
    """Whether a pattern is anchored, and its items. Raises ValueError."""
    opened: list[int] = []
    closed: set[int] = set()
    items: list[Item] = []
    anchored = anchors and pattern.startswith("^")
    captures, at, stop = 0, int(anchored), len(pattern)
    while at < stop:
        c, d = pattern[at], pattern[at + 1 : at + 2]
        if c == "(":
            captures += 1
            if d == ")":
                closed.add(captures)
            else:
                opened.append(captures)
            at += 2 if d == ")" else 1
        elif c == ")":
            if not opened:
                raise ValueError("invalid pattern capture")
            closed.add(opened.pop())
            at += 1
        elif c == "$" and at == stop - 1:
            items.append(Item(frozenset(), ""))
            at += 1
        elif c == "%" and d == "b":
            if at + 3 >= stop:
                raise ValueError("malformed pattern (missing arguments to '%b')")
            items.append(Item(_ANY, "", True))
            at += 4
        elif c == "%" and d == "f":
            if pattern[at + 2 : at + 3] != "[":
                raise ValueError("missing '[' after '%f' in pattern")
            at = _set(pattern, at + 2)[1]
        elif c == "%" and d in tuple("0123456789"):
            if int(d) not in closed:
                raise ValueError(f"invalid capture index %{d} in pattern")
            items.append(Item(_ANY, "", True))
            at += 2
        else:
            taken, at = _item(pattern, at)
            repeat = pattern[at : at + 1]
            repeat = repeat if repeat in tuple("*+-?") else ""
            items.append(Item(taken, repeat))
            at += len(repeat)
    if opened:
        raise ValueError("unfinished capture")
    if captures > 32:
        raise ValueError("too many captures")
    return anchored, items


def _item(pattern: str, at: int) -> tuple[frozenset[int], int]:
    c, d = pattern[at], pattern[at + 1 : at + 2]
    if c == ".":
        return _ANY, at + 1
    if c == "[":
        return _set(pattern, at)
    if c == "%":
        if not d:
            raise ValueError("malformed pattern (ends with '%')")
        return _class(d), at + 2
    return frozenset([ord(c) & 255]), at + 1


def _class(letter: str) -> frozenset[int]:
    known = _CLASS.get(letter.lower())
    if known is None:
        return frozenset([ord(letter) & 255])
    return known if letter.islower() else _ANY - known


def _set(pattern: str, at: int) -> tuple[frozenset[int], int]:
    """ "[...]": the bytes it stands for, and where the pattern goes on."""
    found: set[int] = set()
    at += 1
    negated = pattern[at : at + 1] == "^"
    at += negated
    first = True
    while True:
        c, d, e = pattern[at : at + 1], pattern[at + 1 : at + 2], pattern[at + 2 : at + 3]
        if not c or (c == "%" and not d):
            raise ValueError("malformed pattern (missing ']')")
        if c == "]" and not first:
            break
        first = False
        if c == "%":
            found |= _class(d)
            at += 2
        elif d == "-" and e and e != "]":
            found.update(range(ord(c) & 255, (ord(e) & 255) + 1))
            at += 3
        else:
            found.add(ord(c) & 255)
            at += 1
    return (_ANY - found if negated else frozenset(found)), at + 1
