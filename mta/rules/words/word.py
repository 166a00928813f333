"""How a word of the rule language is declared: one line of signature, its stages, its meaning, an example that runs.

A signature is written as LuaLS writes types:

    mail.sender: address                                                a field
    mail.headers:get(name: string) -> string?                           a method
    dns.lookup(name: string, type?: string) -> string[]?, string?       a function; "?" behind a name: may be left out

`stages` says where a word may be used: "" everywhere, "rcpt.." from rcpt on, "helo..data" from one to the other,
"rcpt delivery" at these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from mta.rules.verdict import STAGES

NUMBER = {name: number for number, name in enumerate(STAGES)}
ALL = frozenset(STAGES)


class Argument(NamedTuple):
    name: str  # "..." for any number of them
    type: str
    optional: bool


@dataclass(frozen=True)
class Word:
    """One word. `results` are LuaLS types; `asks`: Python answers it, parking the greenlet if `waits`."""

    name: str
    meaning: str
    example: str
    stages: frozenset[str]
    kind: str  # field, method, function, verdict, library
    arguments: tuple[Argument, ...]
    results: tuple[str, ...]
    asks: bool
    waits: bool

    @property
    def mask(self) -> int:
        """The stages as bits, as Lua keeps them."""
        return sum(1 << NUMBER[stage] for stage in self.stages)

    @property
    def signature(self) -> str:
        if self.kind == "field":
            return f"{self.name}: {self.results[0]}"
        inside = ", ".join(f"{a.name}{'?' if a.optional else ''}: {a.type}" for a in self.arguments)
        return f"{self.name}({inside})" + (f" -> {', '.join(self.results)}" if self.results else "")

    @property
    def example_stage(self) -> str:
        return "preq" if "preq" in self.stages else next(stage for stage in STAGES if stage in self.stages)


_CALL = re.compile(r"([\w.:]+)\((.*?)\)(?: -> (.+))?")
_FIELD = re.compile(r"([\w.]+): (.+)")
_ARGUMENT = re.compile(r"(\w+|\.\.\.)(\??): (.+)")


def stages_of(text: str) -> frozenset[str]:
    if not text:
        return ALL
    if ".." in text:
        first, _, last = text.partition("..")
        return frozenset(STAGES[NUMBER[first] : NUMBER[last or "delivery"] + 1])
    return frozenset(text.split())


def word(
    signature: str,
    meaning: str,
    example: str,
    stages: str = "",
    *,
    kind: str = "",
    asks: bool = False,
    waits: bool = False,
) -> Word:
    """Read a declaration. Raises ValueError for a signature that is none."""
    call, arguments = _CALL.fullmatch(signature), []
    if call:
        name, inside, results = call[1], call[2], call[3] or ""
        for one in filter(None, inside.split(", ")):
            read = _ARGUMENT.fullmatch(one)
            if not read:
                raise ValueError(f"{signature}: {one!r} is no argument")
            arguments.append(Argument(read[1], read[3], bool(read[2])))
        kind = kind or ("method" if ":" in name else "function")
    else:
        field = _FIELD.fullmatch(signature)
        if not field:
            raise ValueError(f"{signature!r} is no signature")
        name, results, kind = field[1], field[2], kind or "field"
    found = tuple(results.split(", ")) if results else ()
    return Word(name, meaning, example, stages_of(stages), kind, tuple(arguments), found, asks or waits, waits)
