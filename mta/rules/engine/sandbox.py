"""One Lua runtime with one set of rules in it.

lupa 2.8 has memory-safety bugs; these laws keep clear of them:

    law                                                     because
    only text, numbers and booleans cross, both ways        a Lua value outliving its coroutine crashes; so does an
                                                            object pushed again while Lua collects its old shell
    functions are registered once, when the runtime is made the same
    a function called by Lua never raises: (None, message)  an exception in a coroutine loses its text
    nothing is pushed unless memory is well below the limit a push at `max_memory` ends the process
    Lua hands over a fixed number of values                 many values are moved without a look at the stack
    no greenlet switches while Lua runs (`INSIDE`)          two greenlets would share one C stack of Lua

`max_memory` is the last line; the budgets in kernel.lua stay below it by HEADROOM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lupa import lua54

from mta import resources, settings
from mta.rules.engine.called import Asks, Called, Source
from mta.rules.engine.coverage import Coverage
from mta.rules.engine.crossing import said
from mta.rules.engine.folders import MAIN
from mta.rules.engine.listing import Listing
from mta.rules.engine.side import Side
from mta.rules.outside.facts import NOTHING
from mta.rules.outside.world import INSIDE, World
from mta.rules.verdict import STAGES
from mta.rules.words import api
from mta.rules.words.inner import Inner

HEADROOM = 32 << 20  # bytes between what rules may use and `max_memory`
DONE, WAITS, BROKEN = 0, 1, 2
PLACE = {stage: number for number, stage in enumerate(STAGES)}
FORGET = """
local loaded = package.loaded
for name in ("python io os package debug coroutine load loadfile dofile require collectgarbage warn"):gmatch("%a+") do
  loaded[name], _G[name] = nil, nil
end
"""


def deny(*_: Any) -> Any:
    raise AttributeError("Python's objects are not for Lua")


# Read once, before the server forks: a runtime is made anew while it runs, when the files may be those of an upgrade.
TRUSTED = {file.stem: file.read_bytes().decode("latin-1") for file in resources.folder("lua").glob("*.lua")}


class Runtime:
    """Lua with the rules loaded. `source` finds a module's text by name.

    `listing` tells which rules there are; `books` numbers the files of the domains, by label. `sides` are the
    transactions Lua knows, by number.

    `load`, `start` and `step` answer as kernel.lua does: DONE alone, or a tuple whose first value is DONE, WAITS or
    BROKEN. Raises lupa's errors when even the trusted Lua runs out of memory.
    """

    def __init__(
        self, settings: settings.Rules, world: World, source: Source, words: dict[str, api.Word], asks: Asks
    ) -> None:
        self.inner: dict[str, Inner] = {name: answer for name, answer in asks.items() if isinstance(answer, Inner)}
        self.ceiling = settings.memory + 2 * settings.growth
        self.listing = Listing()
        self.books = self.listing.books
        self.sides: dict[int, Side] = {}
        self.free: list[int] = []
        self._count = 0
        self._called = Called(world, source, asks, self.inner, self.sides, self.listing)
        self._lua = lua = lua54.LuaRuntime(
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
            attribute_handlers=(deny, deny),
            max_memory=self.ceiling + HEADROOM,
            encoding="latin-1",
        )
        self.used: Callable[[], int] = lua.get_memory_used
        self._build(settings, world, words)

    def count(self) -> int:
        self._count += 1
        return self._count

    @property
    def live(self) -> int:
        """Transactions that are not over."""
        return self._count - len(self.free)

    def _build(self, settings: settings.Rules, world: World, words: dict[str, api.Word]) -> None:
        lua = self._lua
        compiled = lua.execute(
            "local load, assert = load, assert"
            ' return function(text, ...) return assert(load(text, "=mta", "t"))(...) end'
        )

        def load(name: str, *given: Any) -> Any:
            """What a trusted file of lua/ returns."""
            return compiled(TRUSTED[name], *given)

        python = lua.eval("{}")
        for name, function in self._called.functions().items():
            python[name] = function
        units = max(settings.instructions // 1000, 1)
        kernel = load("kernel", units, settings.growth // 1024, self.ceiling // 1024)
        raw = lua.eval("{string.find, string.match, string.gmatch, string.gsub, string.byte, string.sub, string.char}")
        patterns = load("patterns", kernel, load("matcher", kernel, raw), raw)
        library = load("library", kernel, patterns, python["random"], python["now"])
        json, crossing, objects = load("json", kernel), load("crossing"), load("objects", kernel, python)
        address = load("address", objects, json)
        headers = load("headers", kernel, objects, crossing, python)
        vars = load("vars", kernel, objects, json, python)
        mail = load("mail", kernel, objects, crossing, address, headers, vars, python)
        parts = load("parts", kernel, objects, crossing, python)
        verdicts = load("verdicts", kernel, python)
        answered = load("answered", kernel, crossing, mail, headers, parts, json, verdicts, python)
        box = load("sandbox", kernel, library, address, mail, vars, parts, json, verdicts, python)
        self.begin, self.set, self.set_client = mail["begin"], mail["set"], mail["set_client"]
        self.set_sender, self.set_recipient = mail["set_sender"], mail["set_recipient"]
        self.forget_vars = mail["forget_vars"]
        self.start, self.start_both = box["start"], box["start_both"]
        self.step, self.drop, self._waiter = kernel["step"], kernel["drop"], kernel["waiter"]
        self.collect: Callable[[], None] = kernel["collect"]  # lupa's own needs the global that rules must not have
        self._load, self._loaded, self._cover = box["load"], box["loaded"], kernel["cover"]
        self._tools: dict[str, Any] = {}
        self._tool = lambda name: load(name, kernel, json, box["inner"])
        box["facts"](*getattr(world, "facts", NOTHING).texts())
        self._declare(words, box, answered)
        lua.execute(FORGET)

    def _declare(self, words: dict[str, api.Word], box: Any, answered: Any) -> None:
        """Only what is declared exists for rules. Raises LookupError for what is declared and does not exist."""
        for number, stage in enumerate(STAGES):
            box["stage"](stage, number)
        for one in words.values():
            kinds = " ".join(a.type + "?" * a.optional for a in one.arguments)
            inner = one.name in self.inner
            if inner and not one.asks:
                answered["of_part_headers"](one.name, kinds)
            elif inner or (one.asks and one.name.startswith("part:")):
                answered["of_mail"](one.name, kinds, one.waits, inner)
            elif one.asks:
                answered["asked"](one.name, kinds, one.waits)
        missing = [one.name for one in words.values() if not box["word"](one.name, one.mask)]
        if missing:
            raise LookupError(f"declared, but nothing is behind them: {', '.join(missing)}")
        box["declared"]()

    # -- into Lua ------------------------------------------------------------------------------------------------------

    def load(self, text: str, file: str) -> Any:
        """Run one file of rules: main.lua first, then those of the domains."""
        book = None if file == MAIN else self.listing.open(file)
        INSIDE.depth += 1
        try:
            return self._load(text, file, book)
        finally:
            INSIDE.depth -= 1

    def loaded(self) -> None:
        """No more files: from now on globals cannot be assigned."""
        self._loaded()

    def tool(self, name: str) -> Any:
        """What a trusted file of lua/ returns that only a trial needs: the prompt, the tests written in Lua."""
        if name not in self._tools:
            self._tools[name] = self._tool(name)
        return self._tools[name]

    def cover(self, coverage: Coverage) -> None:
        """Tell `coverage` from now on which lines there are, and which of them run."""
        self._called.coverage = coverage
        coverage.ask(self._cover())

    def waiter(self, side: Side) -> tuple[str, str, int]:
        """Who waits for an answer: its rule, file:line, and the rule's number."""
        place, number = self._waiter(side.number)
        rule, where = self.listing.named(side, number)
        return rule, said(place) if place else where, number
