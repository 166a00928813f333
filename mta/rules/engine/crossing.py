"""What crosses between Python and Lua, and in which shape: only text, numbers and booleans do (see sandbox.py).

Text is bytes as Latin-1 characters on both sides. A list of text, or several values, cross as one text.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from mta import log
from mta.rules.outside.world import Unanswered
from mta.rules.words.pure import Tagged, Tree

LARGEST = 1 << 20  # bytes of one text shown to Lua


def shown(text: str) -> str:
    """Text as Lua gets it: bytes as Latin-1 characters, at most LARGEST of them."""
    if text.isascii() and len(text) <= LARGEST:
        return text
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text[:LARGEST]


def utf8(text: str) -> str:
    """A short text of characters, not of bytes, as Lua gets it: the bytes of its UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def said(text: str) -> str:
    """Text from Lua as people read it: its bytes as UTF-8, if that is what they are."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text


def flat(items: list[str]) -> str:
    """A list of text as one text: "5:hello3:you"; what would pass LARGEST is left out."""
    out, size = [], 0
    for item in items:
        text = shown(item)
        size += len(text) + 8
        if size > LARGEST:
            break
        out.append(f"{len(text)}:{text}")
    return "".join(out)


def several(values: tuple[Any, ...]) -> str:
    """Several values as one text, for answered.lua."""
    return flat(
        [
            "-"
            if value is None
            else f"b{int(value)}"
            if isinstance(value, bool)
            else f"n{value!r}"
            if isinstance(value, int | float)
            else f"s{shown(value)}"
            for value in values
        ]
    )


def answered(word: str, function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[str, Any]:
    """What a word's function says, and how answered.lua is to take it: (tag, value). Raises what is no answer.

    (None, message) stands for an answer nobody has, as does Unanswered; a ValueError says that the rule asked wrongly.
    """
    while arguments and arguments[-1] is None:  # what the rule left out
        arguments = arguments[:-1]
    try:
        found = function(*arguments)
    except Unanswered as why:
        return "none", str(why)
    except ValueError as wrong:
        return "wrong", f"{word}: {wrong}"
    if isinstance(found, Tagged):
        return found
    if isinstance(found, Tree):
        return "json", found.json
    if isinstance(found, tuple):
        return ("none", found[1]) if found[0] is None and len(found) == 2 else ("several", found)
    if isinstance(found, dict):
        return "record", tuple(itertools.chain.from_iterable(found.items()))
    return "list" if isinstance(found, list) else "value", found


def handed(value: Any) -> Any:
    """An answer as the one plain value that crosses to Lua."""
    if isinstance(value, str):
        return shown(value)
    return flat(value) if isinstance(value, list) else several(value) if isinstance(value, tuple) else value


def never_raises(function: Callable[..., Any]) -> Callable[..., Any]:
    """What Lua calls: an error becomes (None, message); one that is not about the rule's arguments is our bug."""

    @functools.wraps(function)
    def safe(*args: Any) -> Any:
        try:
            return function(*args)
        except ValueError as error:
            return None, shown(str(error))
        except Exception as error:
            log.bug(error)
            return None, f"the server failed: {type(error).__name__}"

    return safe


short = functools.lru_cache(4096)(shown)  # for what is short and comes again: names, parts of addresses
