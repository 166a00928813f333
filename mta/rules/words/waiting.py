"""Words that know the mail and wait for somebody outside: their functions, and lists as Lua hands them over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Asker(NamedTuple):
    """The rule that asks, and where: "main.lua:12"."""

    stage: str
    rule: str = ""
    where: str = ""


class OfMail(NamedTuple):
    """A function that also wants the World, the Transaction and the Asker; the engine gives them."""

    answer: Callable[..., Any]


def many(text: str) -> list[str]:
    """What answered.lua makes of a list of text, or of a table's keys and values: "5:hello3:you"."""
    out, at = [], 0
    while at < len(text):
        colon = text.index(":", at)
        stop = colon + 1 + int(text[at:colon])
        out.append(text[colon + 1 : stop])
        at = stop
    return out
