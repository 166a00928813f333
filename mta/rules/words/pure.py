"""The pure words of the rule language, by meaning: text, numbers and booleans in, the same out.

These cross into Lua, so none of them raises: a function marked `@lua` that raises ValueError returns `(None, message)`
instead. Text is bytes as Latin-1 characters, as Lua hands it over; what has to be read as characters is UTF-8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeVar

from mta.rules.words.word import Word, word

P = ParamSpec("P")
R = TypeVar("R")

Failed = tuple[None, str]


class Tree(NamedTuple):
    """An answer that is a table, or any other value: as JSON, with all text beyond ASCII as UTF-8 bytes."""

    json: str


class Tagged(NamedTuple):
    """An answer that answered.lua takes as `tag` says."""

    tag: str
    value: Any


@dataclass(frozen=True)
class Heavy:
    """The function of a word that may have much to do: `much`, given the same arguments, tells. Then it is called in a
    thread, and so has to leave the interpreter to others while it works."""

    answer: Callable[..., Any]
    much: Callable[..., bool]

    def __call__(self, *arguments: Any) -> Any:
        return self.answer(*arguments)


Declared = tuple[Word, Callable[..., Any]]  # a word of the language, and the function that answers it

MAX_TEXT = 1 << 20  # bytes a word takes or returns


def lua(function: Callable[P, R]) -> Callable[P, R | Failed]:
    """The function, with a ValueError or TypeError (a wrong argument) turned into what Lua expects."""

    @functools.wraps(function)
    def safe(*args: P.args, **kwargs: P.kwargs) -> R | Failed:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            return None, str(error)
        except (TypeError, AttributeError):
            return None, f"{function.__name__}: a wrong kind of argument"

    return safe


def declare(
    signature: str, meaning: str, example: str, function: Callable[..., Any], *, waits: bool = False
) -> Declared:
    """A word Python answers; see word.py. One that does not wait may also be used while the rules are loaded."""
    return word(signature, meaning, example, asks=True, waits=waits), function


def checked(text: str) -> str:
    """Text that is not too long. Raises ValueError."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text of {len(text)} bytes is longer than {MAX_TEXT}")
    return text


def to_bytes(text: str) -> bytes:
    """The bytes Lua meant. Raises ValueError."""
    try:
        return checked(text).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("text beyond Latin-1: hand over UTF-8 bytes") from None


def to_text(raw: bytes) -> str:
    return checked(raw.decode("latin-1"))
