"""What names mean: Lua's scopes, and the declared words behind locals and fields.

A meaning is found by following plain assignments: `local h = mail.headers` makes h mail.headers, a loop over
mail.recipients makes its variable an address. A local that is assigned again means nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from tree_sitter import Node

from mta.rules.outside.facts import Facts
from mta.rules.words.word import Word, word

PLAIN = {"_G", "_VERSION"}


class Means(NamedTuple):
    """`word`: the declared word it is. `home`: where its members are declared: "mail.headers" for headers:get.

    `sure`: not only guessed from a parameter's name.
    """

    word: Word | None = None
    home: str = ""
    sure: bool = True


UNKNOWN = Means()


class Local:
    """A local name, as far as it stands for something."""

    __slots__ = ("function", "means", "node")

    def __init__(self, node: Node, means: Means = UNKNOWN, function: Node | None = None) -> None:
        self.node, self.means, self.function = node, means, function


class Scopes:
    """The blocks around the place that is looked at, innermost last."""

    def __init__(self) -> None:
        self._blocks: list[dict[str, Local]] = [{}]

    def enter(self) -> None:
        self._blocks.append({})

    def leave(self) -> None:
        self._blocks.pop()

    def add(self, name: str, local: Local) -> None:
        self._blocks[-1][name] = local

    def find(self, name: str) -> Local | None:
        return next((block[name] for block in reversed(self._blocks) if name in block), None)


def named(known: Facts) -> dict[str, Word]:
    """The members of `replies` and `config`, which the settings name; none where one could not be declared."""
    made: dict[str, Word] = {}
    for home, names, type in (("replies", known.replies, "string"), ("config", known.config, "table")):
        if all(name.isidentifier() for name in names):
            made |= {f"{home}.{name}": word(f"{home}.{name}: {type}", "Of the settings.", "") for name in names}
    return made


class Words:
    """The declared words, by what they belong to. `services`: any service may exist, the settings are not known."""

    def __init__(self, words: Mapping[str, Word], *, services: bool = False) -> None:
        self.words, self.services = words, services
        self.members: dict[str, dict[str, Word]] = {}
        for name, one in words.items():
            for mark in ".:":
                home, found, last = name.rpartition(mark)
                if found and not set(last) & set(".:"):
                    self.members.setdefault(home, {})[last] = one
        mails = {home for home, own in self.members.items() if all(w.kind in ("field", "method") for w in own.values())}
        roots = {name.partition(".")[0] for name in words if ":" not in name or "." in name.partition(":")[0]}
        tables = {name for name, one in words.items() if one.kind == "field" and name.isidentifier() and name != "mail"}
        self.types = mails - {""} - tables
        self.roots = (roots | {"service"}) - self.types
        self.types |= {"string"} & set(self.members)
        luas = {home for home, own in self.members.items() if any(w.kind == "library" for w in own.values())}
        self.open = {home for home in luas if all(w.kind in ("library", "field") for w in self.members[home].values())}
        fields = [one for one in words.values() if one.kind == "field" and one.name in self.members]
        self.alias = {one.results[0]: one.name for one in fields}  # "headers" -> "mail.headers"

    def global_(self, name: str) -> Means:
        """What a global is, of those there are."""
        closed = name in self.members or name == "service"  # a table with the members we know, and no others
        return Means(self.words.get(name), name if closed and not (name == "service" and self.services) else "")

    def member(self, home: str, key: str) -> Means | None:
        """What `home.key` is; None if there is no such thing."""
        element = home.removesuffix("[]")
        if element != home:
            return UNKNOWN
        one = self.members.get(home, {}).get(key)
        return None if one is None else Means(one, self.home(one))

    def near(self, home: str, key: str) -> list[str]:
        """The member that was meant, if there is one like it."""
        found = get_close_matches(key, self.members.get(home, {}), 1, 0.5)
        return found if home == "on" else [self.members[home][one].name for one in found]

    def home(self, one: Word) -> str:
        """Where the members of a field's value are declared."""
        if one.name in self.members and one.kind == "field":
            return one.name
        return self.of_type(one.results[0]) if one.kind == "field" and one.results else ""

    def of_type(self, type: str) -> str:
        """The same for a type: "address", "string"; "address[]" for several, as for "addresses"."""
        plain = self.alias.get(type.removesuffix("?"), type.removesuffix("?"))
        if plain.removesuffix("s") in self.types and plain not in self.types:
            plain = plain.removesuffix("s") + "[]"
        return plain if plain.removesuffix("[]") in self.types else ""

    def result(self, means: Means) -> Means:
        """What a call gives first."""
        if means.word is None or not means.word.results or means.word.kind in ("field", "stage"):
            return UNKNOWN
        return Means(None, self.of_type(means.word.results[0]), means.sure)
