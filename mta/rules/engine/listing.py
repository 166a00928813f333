"""Which rules there are in one runtime: name and place of each, by the numbers Lua knows it by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mta.rules.engine import folders
from mta.rules.verdict import STAGES

if TYPE_CHECKING:
    from mta.rules.engine.side import Side

Book = list[list[tuple[str, str]]]  # the rules of one file as (name, where), by the number of their stage


class Listing:
    """Book 0 is `main`, that of main.lua; `books` are the numbers of the domains' files, by label."""

    def __init__(self) -> None:
        self.main: Book = [[] for _ in STAGES]
        self.books: dict[str, int] = {}
        self._all = [self.main]

    def open(self, file: str) -> int:
        """The number of the next file: rules added from now on are its."""
        number = self.books[file] = len(self._all)
        self._all.append([[] for _ in STAGES])
        return number

    def add(self, place: int, name: str, where: str) -> str | None:
        """One more rule of a stage; or why it cannot be."""
        wrong = folders.misplaced(STAGES[place], list(self.books)[-1]) if self.books else None
        if wrong:
            return wrong
        rules = self._all[-1][place]
        for known, there in rules:
            if known == name:
                return f'there is a rule "{name}" at {STAGES[place]} already, in {there}'
        rules.append((name, where))
        return None

    def named(self, side: Side, rule: int) -> tuple[str, str]:
        """(name, where) of a rule of the stage under way, counted as judge() in sandbox.lua does."""
        main = self.main[side.place]
        if rule <= len(main):
            return main[rule - 1]
        return self._all[side.book or 0][side.place][rule - len(main) - 1]

    def listed(self, place: int, file: str) -> list[tuple[str, str]]:
        """The rules of a stage in the order they are asked, those of a domain's file behind main.lua's."""
        book = self.books.get(file) if file else None
        return [*self.main[place], *(self._all[book][place] if book else ())]

    def stages(self, book: int) -> frozenset[str]:
        """The stages at which a file has rules."""
        return frozenset(stage for stage, found in zip(STAGES, self._all[book], strict=True) if found)
