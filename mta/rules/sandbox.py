"""One Lua runtime with one set of rules in it, and the few Python functions it may call.

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

import functools
import itertools
import json
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from lupa import lua54

from mta import log, resources, settings
from mta.message.address import NULL, Address
from mta.message.headers import Headers
from mta.rules import api, folders, lines, verdict
from mta.rules.coverage import Coverage
from mta.rules.facts import NOTHING
from mta.rules.folders import MAIN
from mta.rules.inner import Inner, takes_long
from mta.rules.transaction import Asked, Step, Transaction
from mta.rules.verdict import STAGES
from mta.rules.words import Tagged, Tree
from mta.rules.world import INSIDE, Unanswered, World

HEADROOM = 32 << 20  # bytes between what rules may use and `max_memory`
LARGEST = 1 << 20  # bytes of one text shown to Lua
DONE, WAITS, BROKEN = 0, 1, 2
PLACE = {stage: number for number, stage in enumerate(STAGES)}
FILES = ("kernel", "patterns", "library", "json", "mail", "parts", "sandbox")

_quick = msgspec.json.Encoder().encode
_careful = json.JSONEncoder(separators=(",", ":")).encode  # in ASCII, so that one byte of Lua stays one character
_read = msgspec.json.Decoder().decode

Source = Callable[[str], tuple[str | None, str]]
Asks = Mapping[str, Any]  # functions, or what knows how to be asked: Inner, OfMail

FORGET = """
local loaded = package.loaded
for name in ("python io os package debug coroutine load loadfile dofile require collectgarbage warn"):gmatch("%a+") do
  loaded[name], _G[name] = nil, nil
end
"""


def deny(*_: Any) -> Any:
    raise AttributeError("Python's objects are not for Lua")


def shown(text: str) -> str:
    """Text as Lua gets it: bytes as Latin-1 characters, at most LARGEST of them."""
    if text.isascii() and len(text) <= LARGEST:
        return text
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text[:LARGEST]


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
    """Several values as one text, for sandbox.lua."""
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
    """What a word's function says, and how sandbox.lua is to take it: (tag, value). Raises what is no answer.

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


class Side:
    """What Lua knows of one transaction: its number there, and the facts as they were last shown.

    While a stage is under way: which, and of which transaction. `asked` and `mark` are for tracing.
    """

    __slots__ = (
        "asked", "book", "helo", "id", "ip", "mark", "name", "number", "over", "place", "recipient", "runtime",
        "sender", "stage", "tls", "tx", "user", "vars",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, tx: Transaction) -> None:
        self.runtime = runtime
        self.number = number = runtime.free.pop() if runtime.free else runtime.count()
        runtime.sides[number] = self
        client, sender = tx.client, tx.sender
        self.ip, self.name, self.tls, self.vars = client.ip, client.name, client.tls, tx.vars
        self.helo, self.user, self.id = tx.helo, tx.user, tx.mail_id or tx.session
        self.sender = sender
        self.recipient: Address | None = None
        self.tx: Transaction | None = None
        self.stage, self.place, self.over = "", 0, False
        self.book: int | None = None  # the domain's file that speaks after main.lua
        self.asked: list[Asked] = []
        self.mark = 0.0
        runtime.begin(
            number, self.id, tx.origin or None, client.ip, client.port, shown(client.name) or None, tx.server,
            tx.listener, shown(tx.helo) or None, client.tls or None, shown(tx.user) or None,
            None if sender is None else shown(sender.local_part),
            None if sender is None else shown(sender.domain), bool(tx.vars),
        )  # fmt: skip

    def show(self, tx: Transaction) -> None:
        """Tell Lua what has changed since the last stage."""
        number, runtime, client, recipient = self.number, self.runtime, tx.client, tx.recipient
        if recipient is not self.recipient:
            self.recipient = recipient
            if recipient is None:
                runtime.set_recipient(number, None, None)
            else:
                runtime.set_recipient(number, shown(recipient.local_part), shown(recipient.domain))
        if tx.helo is not self.helo:
            self.helo = tx.helo
            runtime.set(number, "helo", shown(tx.helo) or None)
        if client.tls is not self.tls:
            self.tls = client.tls
            runtime.set(number, "tls", client.tls or None)
        if tx.user is not self.user:
            self.user = tx.user
            runtime.set(number, "user", shown(tx.user) or None)
        if tx.sender is not self.sender:
            self.sender = tx.sender
            sender = tx.sender or NULL
            runtime.set_sender(number, shown(sender.local_part), shown(sender.domain))
        if (tx.mail_id or tx.session) is not self.id:
            self.id = tx.mail_id or tx.session
            runtime.set(number, "id", self.id)
        if client.ip is not self.ip or client.name is not self.name:
            self.ip, self.name = client.ip, client.name
            runtime.set_client(number, client.ip, client.port, shown(client.name) or None)
        if tx.vars is not self.vars:
            self.vars = tx.vars
            runtime.forget_vars(number, bool(tx.vars))

    def note(self, rule: str, where: str, kind: str, units: int) -> None:
        """A rule has spoken."""
        now = time.perf_counter()
        if self.tx is not None:
            self.tx.trace.append(Step(self.stage, rule, where, kind, (now - self.mark) * 1e6, units * 1000, self.asked))
        self.mark, self.asked = now, []

    def close(self) -> None:
        """The transaction is over; its number may be another's, once no stage of it is under way."""
        self.over = True
        if self.tx is None:
            self.runtime.free.append(self.number)


class Runtime:
    """Lua with the rules loaded. `source` finds a module's text by name.

    `rules[stage number]` are (name, where) of main.lua's rules; `books` number the files of the domains, by label.

    `load`, `start` and `step` answer as kernel.lua does: DONE alone, or a tuple whose first value is DONE, WAITS or
    BROKEN. Raises lupa's errors when even the trusted Lua runs out of memory.
    """

    def __init__(
        self, settings: settings.Rules, world: World, source: Source, words: dict[str, api.Word], asks: Asks
    ) -> None:
        self.world, self.source, self.asks = world, source, asks
        self.inner: dict[str, Inner] = {name: answer for name, answer in asks.items() if isinstance(answer, Inner)}
        self.ceiling = settings.memory + 2 * settings.growth
        self.rules: list[list[tuple[str, str]]] = [[] for _ in STAGES]
        self.books: dict[str, int] = {}
        self._books = [self.rules]  # by number; 0 is main.lua
        self.sides: dict[int, Side] = {}
        self.free: list[int] = []
        self._count = 0
        self._coverage: Coverage | None = None
        self._lua = lua = lua54.LuaRuntime(
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
            attribute_handlers=(deny, deny),
            max_memory=self.ceiling + HEADROOM,
            encoding="latin-1",
        )
        self.used: Callable[[], int] = lua.get_memory_used
        self._build(settings, words)

    def count(self) -> int:
        self._count += 1
        return self._count

    @property
    def live(self) -> int:
        """Transactions that are not over."""
        return self._count - len(self.free)

    def _build(self, settings: settings.Rules, words: dict[str, api.Word]) -> None:
        lua, folder = self._lua, resources.folder("lua")
        load = lua.execute(
            "local load, assert = load, assert"
            ' return function(text, ...) return assert(load(text, "=mta", "t"))(...) end'
        )
        text = {name: (folder / f"{name}.lua").read_bytes().decode("latin-1") for name in FILES}
        table = lua.eval("{}")
        for name, function in self._functions().items():
            table[name] = function
        units = max(settings.instructions // 1000, 1)
        kernel = load(text["kernel"], units, settings.growth // 1024, (self.ceiling) // 1024)
        raw = lua.eval("{string.find, string.match, string.gmatch, string.gsub, string.byte, string.sub, string.char}")
        patterns = load(text["patterns"], kernel, raw)
        library = load(text["library"], kernel, patterns, table["random"], table["now"])
        plain = load(text["json"], kernel)
        mail = load(text["mail"], kernel, plain, table)
        parts = load(text["parts"], kernel, mail, table)
        box = load(text["sandbox"], kernel, library, mail, table, plain, parts)
        self.begin, self.set, self.set_client = mail["begin"], mail["set"], mail["set_client"]
        self.set_sender, self.set_recipient = mail["set_sender"], mail["set_recipient"]
        self.forget_vars = mail["forget_vars"]
        self._load, self._loaded = box["load"], box["loaded"]
        self._tools: dict[str, Any] = {}
        self._tool = lambda text: load(text, kernel, mail, plain, box["inner"])
        self._cover = kernel["cover"]
        self.start, self.start_both = box["start"], box["start_both"]
        self.step, self._drop = kernel["step"], kernel["drop"]
        self.collect: Callable[[], None] = kernel["collect"]  # lupa's own needs the global that rules must not have
        box["facts"](*getattr(self.world, "facts", NOTHING).texts())
        for number, stage in enumerate(STAGES):
            box["stage"](stage, number)
        for one in words.values():
            kinds = " ".join(a.type + "?" * a.optional for a in one.arguments)
            inner = isinstance(self.asks.get(one.name), Inner)
            if inner and not one.asks:
                box["of_part_headers"](one.name, kinds)
            elif inner or (one.asks and one.name.startswith("part:")):
                box["of_mail"](one.name, kinds, one.waits, inner)
            elif one.asks:
                box["asked"](one.name, kinds, one.waits)
        missing = [one.name for one in words.values() if not box["word"](one.name, one.mask)]
        if missing:
            raise LookupError(f"declared, but nothing is behind them: {', '.join(missing)}")
        box["declared"]()
        lua.execute(FORGET)

    # -- into Lua ------------------------------------------------------------------------------------------------------

    def load(self, text: str, file: str) -> Any:
        """Run one file of rules: main.lua first, then those of the domains."""
        book = None
        if file != MAIN:
            book = self.books[file] = len(self._books)
            self._books.append([[] for _ in STAGES])
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
            text = (resources.folder("lua") / f"{name}.lua").read_bytes().decode("latin-1")
            self._tools[name] = self._tool(text)
        return self._tools[name]

    def cover(self, coverage: Coverage) -> None:
        """Tell `coverage` from now on which lines there are, and which of them run."""
        self._coverage = coverage
        coverage.ask(self._cover())

    def drop(self, number: int) -> tuple[str, int]:
        """End a stage that waits: (where it waited, the number of the rule)."""
        place, rule = self._drop(number)
        return place or "", rule

    # -- what Lua may call ---------------------------------------------------------------------------------------------

    def _functions(self) -> dict[str, Callable[..., Any]]:
        own: list[Callable[..., Any]] = [
            self.unknown, self.wrong_stage, self.check_reply, self.vars, self.keep_vars, self.recipients, self.size,
            self.relay, self.say, self.traced, self.rule, self.module, self.with_lines, self.ask, self.ask_mail,
        ]  # fmt: skip
        functions = {one.__name__: never_raises(one) for one in own} | self._header_functions()
        functions["source"] = functions.pop("module")
        functions["random"] = never_raises(self.world.random)
        functions["now"] = never_raises(self.world.now)
        return functions

    def _mail(self, number: int) -> Transaction:
        side = self.sides.get(number)
        if side is None or side.tx is None:
            raise ValueError("this mail is over")
        return side.tx

    def _header_functions(self) -> dict[str, Callable[..., Any]]:
        """One function for each method of mail.headers, with as little between Lua and the header as can be."""
        sides = self.sides

        def failed(number: int, error: Exception) -> tuple[None, str]:
            side = sides.get(number)
            if isinstance(error, ValueError):
                return None, shown(str(error))
            if side is None or side.tx is None:
                return None, "this mail is over"
            if side.tx.message is None:
                return None, "this mail has no content yet"
            log.bug(error)
            return None, f"the server failed: {type(error).__name__}"

        def made(method: Callable[..., Any], answer: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
            def call(number: int, *args: str) -> Any:
                try:
                    found = method(sides[number].tx.message.headers, *args)  # type: ignore[union-attr]
                    return answer(found) if answer else found
                except Exception as error:
                    return failed(number, error)

            return call

        def get(number: int, name: str) -> Any:
            try:
                found = sides[number].tx.message.headers.get(name)  # type: ignore[union-attr]
                return found if found is None else shown(found)
            except Exception as error:
                return failed(number, error)

        return {
            "header_has": made(Headers.has),
            "header_get": get,
            "header_all": made(Headers.all, flat),
            "header_count": made(Headers.count),
            "header_append": made(Headers.append),
            "header_prepend": made(Headers.prepend),
            "header_set": made(Headers.set),
            "header_rename": made(Headers.rename),
            "header_remove": made(Headers.remove),
        }

    def vars(self, number: int) -> str | None:
        found = self._mail(number).vars
        if not found:
            return None
        text = _quick(found).decode()
        return text if text.isascii() else _careful(found)

    def keep_vars(self, number: int, text: str) -> None:
        side = self.sides[number]
        if side.tx is not None:
            side.tx.vars = side.vars = _read(text)

    def recipients(self, number: int) -> str | tuple[str, str]:
        found = self._mail(number).recipients
        if len(found) == 1:
            return shown(found[0].local_part), shown(found[0].domain)
        return flat([part for a in found for part in (a.local_part, a.domain)])

    def size(self, number: int) -> int:
        message = self._mail(number).message
        return 0 if message is None else message.size

    def relay(self, number: int) -> None:
        self._mail(number).allow_relay(self.sides[number].stage)

    def check_reply(self, kind: str, text: str, close: bool) -> str | None:
        wrong = verdict.complaint(kind, said(text), close)
        return shown(wrong) if wrong else None

    def unknown(self, thing: str, key: str, stage: int) -> str:
        return shown(api.unknown(thing, key, STAGES[stage] if stage >= 0 else None))

    def wrong_stage(self, name: str, stage: int) -> str:
        return api.wrong_stage(name, STAGES[stage])

    def rule(self, stage: int, name: str, where: str) -> str | None:
        name, book = said(name), len(self._books) - 1
        wrong = folders.misplaced(STAGES[stage], list(self.books)[-1]) if book else None
        if wrong:
            return shown(wrong)
        for known, place in self._books[book][stage]:
            if known == name:
                return shown(f'there is a rule "{name}" at {STAGES[stage]} already, in {place}')
        self._books[book][stage].append((name, where))
        return None

    def named(self, side: Side, rule: int) -> tuple[str, str]:
        """(name, where) of a rule of the stage under way, counted as judge() in sandbox.lua does."""
        main = self.rules[side.place]
        if rule <= len(main):
            return main[rule - 1]
        return self._books[side.book or 0][side.place][rule - len(main) - 1]

    def listed(self, place: int, file: str) -> list[tuple[str, str]]:
        """The rules of a stage in the order they are asked, those of a domain's file behind main.lua's."""
        book = self.books.get(file) if file else None
        return [*self.rules[place], *(self._books[book][place] if book else ())]

    def stages(self, book: int) -> frozenset[str]:
        """The stages at which a file has rules."""
        return frozenset(stage for stage, found in zip(STAGES, self._books[book], strict=True) if found)

    def module(self, name: str) -> tuple[str | None, str]:
        text, file = self.source(name)
        return text, shown(file)

    def ask(self, word: str, *arguments: Any) -> tuple[str, Any]:
        try:
            tag, value = answered(word, self.asks[word], arguments)
        except Exception as error:
            log.bug(error)
            return "none", "the server failed"
        return tag, handed(value)

    def ask_mail(self, number: int, word: str, *arguments: Any) -> tuple[str, Any]:
        """A word about the mail; "later" if it would take long here."""
        tx, inner = self._mail(number), self.inner[word]
        if inner.grows and takes_long(tx, arguments):
            return "later", None
        try:
            tag, value = answered(word, functools.partial(inner.answer, tx), arguments)
        except Exception as error:
            log.bug(error)
            return "none", "the server failed"
        return tag, handed(value)

    def with_lines(self, code: str) -> str:
        if self._coverage is not None:
            self._coverage.compiled(code.encode("latin-1"))
        try:
            return lines.keep(code.encode("latin-1")).decode("latin-1")
        except (IndexError, struct.error) as error:  # another layout of Lua 5.4: errors say less, nothing else
            log.bug(error)
            return code

    def say(self, number: int, level: str, rule: int, where: str, message: str, topic: str | None) -> None:
        event = "rule_log" if level == "info" else f"rule_{level}"
        about = {"message": said(message)} if topic is None else {"topic": said(topic), "message": said(message)}
        side = self.sides.get(number)
        if side is None or side.tx is None:
            self.world.log(event, where=where, **about)
            return
        tx, name = side.tx, self.named(side, rule)[0]
        self.world.log(event, session=tx.session, mail=tx.mail_id, stage=side.stage, rule=name, where=where, **about)

    def traced(self, number: int, rule: int, kind: str, units: int) -> None:
        side = self.sides[number]
        side.note(*self.named(side, rule), kind, units)
