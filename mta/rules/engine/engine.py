"""Loads the rules and lets them speak: `Rules.load(settings, world)`, then `rules.run(stage, transaction)`.

Lua never waits. A rule that asks the outside (dns.lookup) yields its question, we wait for the answer here, with no Lua
on the stack, and step it on:

    run(stage) -> start --DONE-----------------------------------------------> a Verdict
                    |----BROKEN-> log rule_failed -> what rules.on_error says ----^
                    '----WAITS--> ask the World (at most rules.wall seconds) -> step -> as start

One loaded set of files is a generation; a reload makes another one, and transactions keep the one they began with. In
a generation there is one runtime of Lua. When its memory passes rules.memory although the garbage is gone, the same
files are loaded into a fresh one: transactions finish in the old, which goes with the last of them. While an old one
is still in use no third one is made: new transactions wait, then get a 451.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from lupa import lua54

from mta import log, settings
from mta.message.reply import Refused
from mta.rules import verdict
from mta.rules.engine.coverage import Coverage
from mta.rules.engine.crossing import answered, handed, said
from mta.rules.engine.files import Files
from mta.rules.engine.folders import FolderError
from mta.rules.engine.hearer import Hearer
from mta.rules.engine.sandbox import BROKEN, DONE, PLACE, Runtime
from mta.rules.engine.side import Side
from mta.rules.outside.facts import NOTHING
from mta.rules.outside.world import INSIDE, Slow, World
from mta.rules.transaction import Asked, Transaction
from mta.rules.verdict import BUSY, NEXT, Verdict
from mta.rules.words import answers, api, content, exporting, routing, services
from mta.rules.words.inner import Inner, apart, in_thread
from mta.rules.words.pure import Heavy
from mta.rules.words.waiting import Asker, OfMail

DEBUG = log.LEVELS["debug"]
PATIENCE = 5.0  # seconds a new transaction waits for memory
TURN = 0.01  # seconds a stage may go on before others have theirs
_PLACE = re.compile(r"(\S+?\.lua|\S+):([0-9]+): (.*)", re.S)
_NIL_CALL = re.compile(r"attempt to (?:call|index) a nil value \(global '(\w+)'\)")


class RulesError(Exception):
    """Rules that cannot be loaded. `file` and `line` (0 if unknown) say where, `what` says what."""

    def __init__(self, file: str, line: int, what: str) -> None:
        self.file, self.line, self.what = file, line, what
        super().__init__(f"{file}:{line}: {what}" if line else f"{file}: {what}")


class Rules:
    """One generation of rules. `stages` are those with a rule; `folders` choose the file of a domain for a mail."""

    def __init__(
        self,
        settings: settings.Rules,
        world: World,
        *,
        domains: Collection[str] | None = None,
        coverage: Coverage | None = None,
    ) -> None:
        self.settings, self.world, self.coverage = settings, world, coverage
        try:
            self._files = Files(settings, domains)
        except FolderError as error:
            raise RulesError(error.where, 0, error.what) from None
        self.folders = self._files.folders
        self.stages: frozenset[str] = frozenset()
        self._main: frozenset[str] = frozenset()  # the stages of main.lua
        self._stages: dict[str, frozenset[str]] = {}  # with those of a domain's file, by its label
        self._words = {**api.WORDS, **services.service_words(list(world.services.names()))}
        self._asks: dict[str, Any] = {  # functions, those that know the mail as OfMail
            **answers.bound(world, settings),
            **services.bound(world),
            **content.bound(),
            **routing.bound(settings),
            **exporting.bound(settings),
        }
        self._unsaid = getattr(world, "facts", NOTHING).unsaid()  # a verdict -> its words, if it has none of its own
        self._runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
        self._runtime: Runtime

    @classmethod
    def load(
        cls,
        settings: settings.Rules,
        world: World,
        *,
        checked: bool = True,
        domains: Collection[str] | None = None,
        coverage: Coverage | None = None,
    ) -> Rules:
        """Read main.lua in `settings.path`, the domains' files, and what they require. Raises RulesError.

        `domains` are the names of ours; without them a folder may have any name.
        Unless told otherwise, what the files' text shows to be wrong is an error too (see check/).
        """
        rules = cls(settings, world, domains=domains, coverage=coverage)
        rules._runtime = rules._fresh()
        if checked:
            rules._look()
        rules._main = main = rules._runtime.listing.stages(0)
        rules._stages = {label: main | rules._runtime.listing.stages(n) for label, n in rules._runtime.books.items()}
        rules.stages = main.union(*rules._stages.values())
        rules._files.complete()
        return rules

    @property
    def version(self) -> str:
        """A hash over all that was read."""
        return self._files.version

    @property
    def files(self) -> list[Path]:
        """What was read."""
        return sorted(self._files.labels)

    @property
    def labels(self) -> dict[Path, str]:
        """What errors call each file that was read."""
        return dict(self._files.labels)

    def changed(self) -> bool:
        """Whether other rules would be loaded now. Costs a stat for each file, and a read where that differs."""
        return self._files.changed()

    @property
    def runtime(self) -> Runtime:
        """The Lua that transactions begin in now."""
        return self._runtime

    def listed(self, stage: str, file: str = "") -> list[tuple[str, str]]:
        """The rules of a stage in order, each as (name, where): main.lua's, then those of a domain's file."""
        return self._runtime.listing.listed(PLACE[stage], file)

    def stages_of(self, file: str) -> frozenset[str]:
        """The stages at which main.lua or this file of a domain has a rule; `file` as `folders` names it."""
        return self._stages.get(file, self._main)

    # -- loading -------------------------------------------------------------------------------------------------------

    def _fresh(self) -> Runtime:
        """A new runtime with these rules in it. Raises RulesError."""
        runtime = Runtime(self.settings, self.world, self._files.module, self._words, self._asks)
        if self.coverage is not None:
            runtime.cover(self.coverage)
        for label, path in self._files.rules():
            try:
                answer = runtime.load(self._files.read(path, label), label)
            except FileNotFoundError:
                raise RulesError(
                    str(path), 0, "there is no such file; rules.path says where, an empty one will do"
                ) from None
            except (OSError, ValueError) as error:
                raise RulesError(str(path), 0, getattr(error, "strerror", None) or str(error)) from None
            except lua54.LuaError as error:
                raise RulesError(label, 0, f"the rules cannot be loaded: {error}") from None
            if answer != DONE:
                _, message, place, _, _ = answer
                where, what = _explain(message, place)
                file, _, line = where.rpartition(":")
                raise RulesError(file or label, int(line or 0), what)
        runtime.loaded()
        runtime.collect()
        if runtime.used() > self.settings.memory // 2:
            raise RulesError("main.lua", 0, f"the rules alone take {runtime.used()} bytes; see rules.memory")
        self._runtimes.add(runtime)
        return runtime

    def _look(self) -> None:
        """Look for what is certain to fail, before any mail meets it. Raises RulesError for the first such thing."""
        from mta.rules import check  # only here is the syntax tree of Lua needed

        sources = [check.Source(label, text, check.is_rules(path)) for label, path, text in self._files.written_here()]
        errors = check.errors(sources, {**self._words, **check.named(getattr(self.world, "facts", NOTHING))})
        if errors:
            first, more = errors[0], len(errors) - 1
            what = f"{first.what} ({first.advice})" + f'; "mta lua check" shows {more} more' * (more > 0)
            raise RulesError(first.file, first.line, what)

    # -- stages --------------------------------------------------------------------------------------------------------

    def run(self, stage: str, transaction: Transaction) -> Verdict:
        """Let the rules of a stage speak. Parks the greenlet while one waits; no rule can make it raise."""
        tx = transaction
        if tx.rules is not self:
            if tx.rules is not None:
                return tx.rules.run(stage, tx)
            tx.rules = self
        if stage == "rcpt":
            tx.relay = tx._standing
        file = tx.file
        if stage not in (self.stages_of(file) if file else self._main) and not tx.alone:
            return NEXT
        side = tx.side
        if side is None:
            runtime = self._room()
            if runtime is None:
                self._failed(tx, stage, "", "", "the rules need more memory than rules.memory allows", "")
                return Verdict("defer", BUSY, failed=True, stage=stage)
            side = tx.side = Side(runtime, tx)
        elif side.tx is not None:
            raise RuntimeError(f"{tx.mail_id or tx.session}: {side.stage} is still under way")
        elif side.runtime.used() > side.runtime.ceiling:  # nothing may be pushed near the limit of Lua's memory
            side.runtime.collect()
        side.tx, side.stage, side.place = tx, stage, PLACE[stage]
        if file or side.book:
            side.book = side.runtime.books.get(file)
        hearer = Hearer(tx) if log.log.level <= DEBUG else None
        try:
            side.show(tx)
            answer = self._start(side, tx, 1)
            if answer == DONE:
                return NEXT
            spoken = self._hear(side, tx, answer)
            if spoken.kind != "next":
                tx.decided = (*tx.decided, (stage, spoken))
            return spoken
        except lua54.LuaError as error:  # not even the kernel had memory
            side.runtime.collect()
            self._failed(tx, stage, "", "", str(error), "")
            return verdict.failure(stage, self.settings.on_error, "", "")
        finally:
            side.tx = None
            if hearer is not None:
                self.world.log("judged", **hearer.heard(stage))
            if side.over:
                side.close()

    def _start(self, side: Side, tx: Transaction, first: int) -> Any:
        """Let the rules from `first` on speak; the kernel's answer."""
        last = None
        if tx.tracing:
            side.mark, side.asked = time.perf_counter(), []
            if tx.alone:
                first = last = tx.alone
        INSIDE.depth += 1
        try:
            if first == 1 and not side.book and not tx.tracing:  # nearly always
                return side.runtime.start(side.number, side.place)
            if side.book:
                return side.runtime.start_both(side.number, side.place, first, tx.tracing, last, side.book)
            return side.runtime.start(side.number, side.place, first, tx.tracing, last)
        finally:
            INSIDE.depth -= 1

    def _hear(self, side: Side, tx: Transaction, answer: Any) -> Verdict:
        """The verdict of a stage whose rules answered with more than DONE."""
        runtime, number = side.runtime, side.number
        ends = turn = 0.0
        while answer != DONE:
            if answer[0] == DONE:
                _, kind, text, extra, rule = answer
                name, where = runtime.listing.named(side, rule)
                words = said(text) if text else side.stage != "authenticate" and self._unsaid.get(kind, False)
                return verdict.read(side.stage, kind, words, extra, name, where)
            if answer[0] == BROKEN:
                failed, rule = self._broken(side, tx, answer), answer[4]
                if failed is not None:
                    return failed
                answer = self._start(side, tx, rule + 1)
                continue
            _, word, *arguments = answer
            now = time.monotonic()
            if not ends:
                ends, turn = now + self.settings.wall, now + TURN
            try:
                if now > turn:  # an answer that is here already is no wait, and a rule may ask for ever
                    self.world.pause(0.0)
                    turn = time.monotonic() + TURN
                if now < ends:
                    tag, value = self._outside(side, tx, word, arguments, ends - now)
                else:
                    tag, value = "slow", None
            except BaseException:  # who waits here is wanted no more: the client has gone, or the worker ends
                runtime.drop(number)
                raise
            if tag in ("refused", "slow"):
                name, where, rule = runtime.waiter(side)
                runtime.drop(number)
                if tag == "refused":
                    return self._refused(side, tx, value, name, where)
                why = f"the stage took longer than {self.settings.wall:g} s (rules.wall)"
                answer = (BROKEN, why, where, "", rule)
                continue
            if runtime.used() > runtime.ceiling:  # as above
                runtime.collect()
            INSIDE.depth += 1
            try:
                answer = runtime.step(number, tag, value)
            finally:
                INSIDE.depth -= 1
        return NEXT

    def _broken(self, side: Side, tx: Transaction, answer: Any) -> Verdict | None:
        """A rule failed: tell the log. The verdict `rules.on_error` makes of it; None to go on with the next rule."""
        _, message, at, trace, rule = answer
        runtime = side.runtime
        runtime.forget_vars(side.number, bool(tx.vars))
        if runtime.used() > self.settings.memory // 2:
            runtime.collect()
        name, where = runtime.listing.named(side, rule)
        at, what = _explain(message, at)
        where = at or where
        self._failed(tx, side.stage, name, where, what, said(trace))
        if tx.tracing:
            side.note(name, where, "failed", 0)
        if self.settings.on_error == "continue":
            return NEXT if tx.alone else None
        return verdict.failure(side.stage, self.settings.on_error, name, where)

    def _refused(self, side: Side, tx: Transaction, reply: str, rule: str, where: str) -> Verdict:
        """What a rule waited for said no in its place."""
        kind = "deny" if reply.startswith("5") else "defer"
        if tx.tracing:
            side.note(rule, where, kind, 0)
        return verdict.read(side.stage, kind, reply, False, rule, where)

    def _failed(self, tx: Transaction, stage: str, rule: str, where: str, error: str, trace: str) -> None:
        if tx.credentials is not None:
            error, trace = tx.credentials.hide([error, trace])
        self.world.log(
            "rule_failed",
            session=tx.session,
            mail=tx.mail_id,
            stage=stage,
            rule=rule,
            where=where,
            error=error,
            traceback=trace,
        )

    def _room(self) -> Runtime | None:
        """A runtime with room for one more transaction; None if there is none in time."""
        until = 0.0
        while True:
            runtime, limit = self._runtime, self.settings.memory
            if runtime.used() <= limit:
                return runtime
            runtime.collect()
            if runtime.used() <= limit * 9 // 10:  # else the next few mails would bring us here again
                return runtime
            if not any(old.live for old in self._runtimes if old is not runtime):
                try:
                    self._runtime = self._fresh()
                except RulesError as error:  # they were loaded before: the files say something else by the day
                    log.bug(error)
                    return None
                return self._runtime
            now = self.world.now()
            until = until or now + min(PATIENCE, self.settings.wall)
            if now >= until:
                return None
            self.world.pause(0.05)

    # -- the outside ---------------------------------------------------------------------------------------------------

    def _outside(self, side: Side, tx: Transaction, word: str, arguments: list[Any], seconds: float) -> tuple[str, Any]:
        """Ask for what a rule waits for: (tag, value) as answered.lua reads them, or "slow"."""
        began = time.perf_counter()
        found: Any
        try:
            asked = self._asks[word]
            if isinstance(asked, OfMail):
                rule, where, _ = side.runtime.waiter(side)
                asked = partial(asked.answer, self.world, tx, Asker(side.stage, rule, where))
            elif isinstance(asked, Inner):
                asked = partial(in_thread, asked, tx)
            elif isinstance(asked, Heavy):
                asked = partial(apart, asked.answer)
            tag, found = self.world.within(max(seconds, 0.001), answered, word, asked, arguments)
        except Slow:
            tag, found = "slow", None
        except Refused as refused:  # a service with fault = "defer" or "deny" could not be asked
            tag, found = "refused", str(refused.reply)
        except Exception as error:
            log.bug(error)
            tag, found = "none", "the server failed"
        if tx.tracing and not isinstance(self._asks.get(word), Inner | Heavy):  # else it is nobody's answer
            took = (time.perf_counter() - began) * 1e6
            told: Any = [word, routing.shown(word, arguments), found, took]
            side.asked.append(Asked(*(told if tx.credentials is None else tx.credentials.hide(told))))
        return tag, handed(found)


def _explain(message: str, place: str | bool) -> tuple[str, str]:
    """(file:line, what) of an error: the place it names itself, or the innermost line of a rule."""
    at, what = str(place or ""), message
    named = _PLACE.fullmatch(message)
    if named and (named[1].endswith(".lua")):
        at, what = f"{named[1]}:{named[2]}", named[3]
    missing = _NIL_CALL.search(what)
    near = api.nearest(missing[1]) if missing else None
    if missing and near and near != missing[1]:
        what += f"; did you mean {near}?"
    return said(at), said(what)
