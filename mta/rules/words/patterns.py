"""Regular expressions in linear time (RE2): no text a client sends can make them slow.

Linear in the text, that is, times the pattern at worst: a counted repetition such as x.{0,500}y has thousands of
instructions, and a text made for it meets them all at each byte. What might take more than some milliseconds is
therefore done in a thread (`much`), and what might take more than some seconds is an error.

A pattern and a text that are UTF-8 are matched by characters; a text that is not UTF-8 is matched byte by byte, so that
a stray byte cannot hide what follows it. Positions count bytes from 1, as Lua's do. Syntax: google/re2, doc/syntax.txt;
no look-around and no back-references, for there is no linear way to find them.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from typing import Any

import re2

from mta.rules.words.pure import MAX_TEXT, Declared, Failed, Heavy, declare, lua, to_bytes, to_text

MAX_PATTERN = 4096
MAX_MATCHES = 10_000  # replaced in one call: what stops the loop for some 20 ms
LARGEST = 500_000  # instructions of a pattern, in _MEMORY
SHORT = 40  # bytes with which no pattern takes long
QUICK = 4_000_000  # bytes of text times instructions of the pattern: some milliseconds at worst
MOST = 2_000_000_000  # some seconds
PATIENCE = 5.0  # seconds for one replace
_MEMORY = 8 << 20  # bytes for a compiled pattern and its automata
_PART = re.compile(r"%(.)", re.S)


@functools.lru_cache(maxsize=500)
def _compiled(pattern: str, utf8: bool) -> Any:
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} bytes is longer than {MAX_PATTERN}")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    raw = to_bytes(pattern)  # a lone byte above ASCII is looked for as that byte
    options.encoding = re2.Options.Encoding.UTF8 if utf8 and _is_utf8(raw) else re2.Options.Encoding.LATIN1
    try:
        return re2.compile(raw, options)
    except re2.error as error:
        why = error.args[0] if error.args else "it cannot be read"
        why = why.decode("latin-1") if isinstance(why, bytes) else str(why)
        raise ValueError(f"the pattern {pattern[:60]!r}: {why}") from None


def _for(pattern: str, text: str) -> tuple[Any, bytes]:
    """The compiled pattern that fits the text, and the text's bytes."""
    raw = to_bytes(text)
    return _compiled(pattern, _is_utf8(raw)), raw


def _is_utf8(raw: bytes) -> bool:
    if raw.isascii():
        return True
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _effort(pattern: str, text: str) -> int:
    """At worst, in bytes times instructions. Raises ValueError."""
    compiled = _compiled(pattern, True) if text.isascii() else _for(pattern, text)[0]
    return len(text) * int(compiled.programsize)


def _much(text: str, pattern: str, *_: Any) -> bool:
    """Whether others would notice."""
    try:
        return len(text) >= SHORT and _effort(pattern, text) > QUICK
    except (ValueError, TypeError):
        return False  # the answer tells what is wrong


def _much_to_replace(text: str, pattern: str, *_: Any) -> bool:
    """The same; there each occurrence may mean to look through all that follows."""
    return _much(text, pattern) or len(text) * min(len(text), MAX_MATCHES) > QUICK


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Raises ValueError for what is no work for a mail server: not to be mistaken for "it does not occur"."""

    @functools.wraps(function)
    def bounded(pattern: str, text: str, *more: Any) -> Any:
        try:
            too_much = len(text) > MOST // LARGEST and _effort(pattern, text) > MOST
        except (ValueError, TypeError):
            too_much = False  # as above
        if too_much:
            raise ValueError(f"the pattern {pattern[:60]!r} is too large for a text of {len(text)} bytes")
        return function(pattern, text, *more)

    return bounded


def _start(text: bytes, init: int) -> int:
    """Lua's init (from 1; negative: from the end) as an offset."""
    return min(max(init - 1 if init > 0 else len(text) + init if init < 0 else 0, 0), len(text))


@lua
def matches(pattern: str, text: str) -> bool:
    """Whether the pattern occurs in the text."""
    compiled, raw = _for(pattern, text)
    return compiled.search(raw) is not None


def find(pattern: str, text: str, init: int = 1) -> tuple[int, int] | Failed | None:
    """First and last position of the first occurrence, from `init` on; None if there is none."""
    return _find(pattern, text, init)


@lua
def _find(pattern: str, text: str, init: int) -> tuple[int, int] | None:
    compiled, raw = _for(pattern, text)
    found = compiled.search(raw, _start(raw, init))
    return None if found is None else (found.start() + 1, found.end())


@lua
def match(pattern: str, text: str, init: int = 1) -> tuple[str | bool, ...] | None:
    """The captures of the first occurrence (without any: the whole of it); one that took no part is false."""
    compiled, raw = _for(pattern, text)
    found = compiled.search(raw, _start(raw, init))
    if found is None:
        return None
    groups = found.groups() or (found.group(),)
    return tuple(False if group is None else to_text(group) for group in groups)


@lua
def replace(pattern: str, text: str, by: str, limit: int = 0) -> tuple[str, int]:
    """The text with occurrences replaced, and how many; limit 0: all. `by`: %0 all of it, %1-%9 captures, %% is %."""
    compiled, raw = _for(pattern, text)
    parts = _template(by, compiled.groups)
    out: list[bytes] = []
    at = count = size = 0
    until = time.monotonic() + PATIENCE
    for found in compiled.finditer(raw):
        if count == limit > 0:
            break
        if time.monotonic() > until:
            raise ValueError(f"the pattern {pattern[:60]!r} takes too long with a text of {len(text)} bytes")
        if count >= MAX_MATCHES:
            raise ValueError(f"more than {MAX_MATCHES} occurrences; give a limit")
        piece = b"".join([found.group(p) or b"" if isinstance(p, int) else p for p in parts])
        out += (raw[at : found.start()], piece)
        size += found.start() - at + len(piece)
        if size > MAX_TEXT:
            raise ValueError(f"the result is longer than {MAX_TEXT} bytes")
        at, count = found.end(), count + 1
    return to_text(b"".join([*out, raw[at:]])), count


def _template(by: str, groups: int) -> list[bytes | int]:
    parts: list[bytes | int] = []
    for n, piece in enumerate(_PART.split(by)):
        if n % 2 == 0:
            parts.append(to_bytes(piece))
        elif piece == "%":
            parts.append(b"%")
        elif piece.isdigit() and int(piece) <= groups:
            parts.append(int(piece))
        else:
            raise ValueError(f"%{piece} in the replacement: the pattern has {groups} captures (a % is written %%)")
    return parts


@lua
def escape(text: str) -> str:
    """The pattern that matches exactly this text."""
    if len(text) > MAX_PATTERN:
        raise ValueError(f"a text of {len(text)} bytes is longer than a pattern may be ({MAX_PATTERN})")
    return re.sub(r"([^A-Za-z0-9_\x80-\xff])", lambda m: "\\x00" if m[1] == "\0" else "\\" + m[1], text)


@lua
def check(pattern: str) -> bool:
    """True, or nothing and what is wrong with the pattern."""
    return _compiled(pattern, True) is not None


def _turned(function: Callable[..., Any], much: Callable[..., bool] = _much) -> Heavy:
    """In Lua's order: the text first."""
    bounded = _bounded(function)
    return Heavy(lambda text, pattern, *more: bounded(pattern, text, *more), much)


WORDS: list[Declared] = [
    declare(
        "regex.matches(text: string, pattern: string) -> boolean?, string?",
        "Whether a regular expression (RE2) occurs in a text. No text can make it slow, "
        "and while a long one is looked through the other mails of the server go on.",
        'assert(regex.matches("Cheap PILLS", "(?i)pills?\\\\b"))',
        _turned(matches),
    ),
    declare(
        "regex.find(text: string, pattern: string, init?: integer) -> integer?, integer?",
        "First and last byte of the first occurrence; nil if there is none.",
        'local first, last = regex.find("say hello", "l+")\nassert(first == 7 and last == 8)',
        _turned(find),
    ),
    declare(
        "regex.match(text: string, pattern: string, init?: integer) -> string|boolean?, string|boolean?",
        "The captures of the first occurrence, or all of it without any; one that took no part is false.",
        'local name, host = regex.match("ann@example.com", "(\\\\w+)@(\\\\S+)")\n'
        'assert(name == "ann" and host == "example.com")',
        _turned(match),
    ),
    declare(
        "regex.replace(text: string, pattern: string, by: string) -> string?, integer|string",
        "The text with all occurrences replaced, and how many. In `by`: %0 all of it, %1 to %9 captures, %% is %.",
        'assert(regex.replace("a1b22", "[0-9]+", "<%0>") == "a<1>b<22>")',
        _turned(replace, _much_to_replace),
    ),
    declare(
        "regex.escape(text: string) -> string?, string?",
        "The pattern that matches exactly this text.",
        'assert(regex.escape("a.b") == "a\\\\.b")',
        escape,
    ),
]
