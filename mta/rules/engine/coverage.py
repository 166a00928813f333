"""Which lines of the rules a test reaches: those there are, from the compiled code, and those that ran, from a hook."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mta.rules.engine.lines import Chunk
from mta.rules.verdict import STAGES

if TYPE_CHECKING:
    from mta.rules.engine.engine import Rules

ABSOLUTE = -128  # a step of the line information that says: look it up (ldebug.h, ABSLINEINFO)
# What the compiler gives an instruction to although nobody decides anything there: `end`, `else`, closing brackets.
_NOTHING = re.compile(r"\s*(end|else|[)}\],;\s])*\s*(--.*)?")


class Lines(Chunk):
    """The lines of a compiled file that have an instruction; `source` is "@main.lua"."""

    def __init__(self, code: bytes) -> None:
        super().__init__(code)
        self.found: set[int] = set()
        self.source = ""

    def function(self) -> None:
        name = self.name()  # only the outermost has one
        self.source = self.source or name
        first, _ = self.size(), self.size()
        vararg = bool(self.code[self.at + 1])
        self.at += 3
        self.skip(4)  # instructions
        self.constants()
        self.skip(3)
        for _ in range(self.size()):
            self.function()
        self.lines(first, vararg)
        for _ in range(self.size()):  # local variables
            self.text()
            self.size(), self.size()
        for _ in range(self.size()):  # names of upvalues
            self.text()

    def name(self) -> str:
        length = max(self.size() - 1, 0)
        self.at += length
        return self.code[self.at - length : self.at].decode("utf-8", "replace")

    def lines(self, line: int, vararg: bool) -> None:
        """The steps from instruction to instruction, and lines of their own where a step does not fit."""
        steps = struct.unpack_from(f"{(number := self.size())}b", self.code, self.at)
        self.at += number
        absolute = {self.size(): self.size() for _ in range(self.size())}
        for place, step in enumerate(steps):
            line = absolute[place] if step == ABSOLUTE else line + step
            if place or not vararg:  # the first instruction of a vararg function only gathers its arguments
                self.found.add(line)


class File(NamedTuple):
    """One file: its `lines` that can run, and those of them that `ran`."""

    name: str
    lines: frozenset[int]
    ran: frozenset[int]

    @property
    def missed(self) -> list[int]:
        return sorted(self.lines - self.ran)


class Coverage:
    """Give it to `Rules.load`; then it knows what every generation so loaded has run."""

    def __init__(self) -> None:
        self._lines: dict[str, set[int]] = {}
        self._ran: set[str] = set()
        self._asks: list[Callable[[], str]] = []
        self.rules: dict[tuple[str, str], str] = {}  # (stage, name) -> where
        self.spoke: set[tuple[str, str]] = set()
        self.places: dict[str, Path] = {}  # where a file lies, by the name errors call it

    def ask(self, told: Callable[[], str]) -> None:
        self._asks.append(told)

    def compiled(self, code: bytes) -> None:
        """A file was compiled."""
        try:
            lines = Lines(code)
            lines.function()
        except (IndexError, struct.error):  # another layout of Lua 5.4
            return
        if lines.source.startswith("@"):
            self._lines.setdefault(lines.source[1:], set()).update(lines.found)

    def add(self, rules: Rules) -> None:
        """These are the rules that could speak. They run no more."""
        self._hear()
        for stage in STAGES:
            for file in ("", *rules.folders.files):
                self.rules.update(((stage, name), where) for name, where in rules.listed(stage, file))
        self.places.update({label: path for path, label in rules.labels.items()})

    def _hear(self) -> None:
        """What has run so far; a runtime that is asked is not kept."""
        while self._asks:
            self._ran.update(self._asks.pop()().split("\n"))

    @property
    def silent(self) -> list[tuple[str, str, str]]:
        """Rules that never were asked: (stage, name, where)."""
        return [(stage, name, where) for (stage, name), where in self.rules.items() if (stage, name) not in self.spoke]

    def files(self) -> list[File]:
        """The files of rules by name, without the lines on which nothing is decided."""
        self._hear()
        found = []
        for name, numbers in sorted(self._lines.items()):
            path = self.places.get(name)
            if path is None or not path.is_file():
                continue
            written = path.read_text("utf-8", "replace").splitlines()
            lines = frozenset(n for n in numbers if 0 < n <= len(written) and not _NOTHING.fullmatch(written[n - 1]))
            ran = frozenset(n for n in lines if f"{name}:{n}" in self._ran)
            found.append(File(name, lines, ran))
        return found
