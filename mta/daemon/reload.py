"""Changes to a running server: rules and certificates inside the workers, everything else by a new generation of them.

==========================  ===========================================  ==========================================
what has changed            first                                        then
==========================  ===========================================  ==========================================
rules, certificates         every worker loads them ("prepared"); one    every worker switches ("in force")
                            that cannot ends it: all forget them
anything else               sockets are bound, new workers forked and    the new generation takes connections, the old
                            must get ready; one that fails ends it       one none any more ("quiet"), drains and ends
==========================  ===========================================  ==========================================

Until "then", what was in force stays in force; a reload that ends before it changes nothing and says why. It is
answered when it holds for every client that comes.
"""

from __future__ import annotations

import operator
import time
from typing import TYPE_CHECKING

from mta import config as configuration
from mta.daemon import logs, privileges, systemd
from mta.daemon.child import Child
from mta.daemon.generation import Generation, certificates, contexts
from mta.daemon.listening import ListenError
from mta.daemon.watching import Watch
from mta.log import log, tell
from mta.net import folders
from mta.settings import Settings

if TYPE_CHECKING:
    from mta.daemon.master import Master

PATIENCE = 30.0  # seconds for each step; who does not get ready in time ends it
FIXED = ("server.run", "server.user", "server.group", "store.path", "store.memory")  # what only a restart changes


class Change:
    """A reload in hand: who has still to agree to the step, and whom to tell. `new` is None for a change of rules."""

    def __init__(self, asked: list[int | None], new: Generation | None, rules: str, waiting: set[int]) -> None:
        self.asked, self.new, self.rules, self.waiting = asked, new, rules, waiting
        self.step = "prepared"
        self.forked: set[int] = set()
        self.until = time.monotonic() + PATIENCE

    @property
    def what(self) -> str:
        return "settings" if self.new else "rules"


class Reloads:
    """One change at a time. A question to answer is a number of the registry's; None: a signal, or a saved file."""

    def __init__(self, master: Master) -> None:
        self.master = master
        self.change: Change | None = None
        self._later: list[int | None] = []  # asked for while one was in hand

    # -- the beginning -----------------------------------------------------------------------------------------------

    def ask(self, asked: int | None, rules_only: bool = False) -> None:
        """Read everything again, or only the rules."""
        master = self.master
        if master.state != "serving":
            master.answer(asked, error=f"the server is {master.state}")
            return
        if self.change:
            self._later.append(asked)
            return
        systemd.reloading()
        try:
            config = master.config if rules_only else configuration.read(master.config.path)
            self._check(config.settings)
            if config.settings == master.settings:
                self._rules(asked)
            else:
                self._generation(asked, config)
        except (configuration.ConfigError, ListenError, privileges.PrivilegeError, OSError, ValueError) as error:
            if self.change:
                self._give_up(folders.why(error))
            else:
                master.listening.back_to(master.generation.bound)
                self._failed([asked], folders.why(error))

    def _check(self, wanted: Settings) -> None:
        master = self.master
        for name in FIXED:
            value = operator.attrgetter(name)
            if value(wanted) != value(master.settings):
                raise ValueError(f"{master.config.path}: {name} cannot change while the server runs; restart it")
        privileges.readable(certificates(wanted))
        contexts(wanted, {})  # a pair that does not fit is refused before any worker sees it
        logs.make(wanted.log)

    def _rules(self, asked: int | None) -> None:
        ready = list(self.master.workers(state="ready"))
        rules = self.master.rulebook.copy(self.master.settings.rules)
        self.change = Change([asked], None, rules, {child.pid for child in ready})
        for child in ready:
            child.prepare(rules)
        if not ready:
            self._step_done()

    def _generation(self, asked: int | None, config: configuration.Config) -> None:
        master, settings = self.master, config.settings
        bound = master.listening.take(settings.listener, settings.server.workers)
        new = Generation(master.generation.number + 1, config, bound, contexts(settings, master.generation.contexts))
        rules = master.rulebook.copy(settings.rules)
        self.change = Change([asked], new, rules, set())
        for slot in range(settings.server.workers):
            self.change.forked.add(master.fork(slot, new, rules).pid)
        self.change.waiting |= self.change.forked

    # -- what the workers say ----------------------------------------------------------------------------------------

    def prepared(self, child: Child, rules: str, error: str) -> None:
        """A worker has these rules, or says what is wrong. Of a reload that was given up it may come late."""
        if self.change is None or rules != self.change.rules:
            return
        if error and self.change.step == "prepared":
            self._give_up(error)
        else:
            self.heard(child, "prepared")

    def heard(self, child: Child, step: str) -> None:
        """A worker has come this far."""
        if self.change is None or step != self.change.step or child.pid not in self.change.waiting:
            return
        self.change.waiting.discard(child.pid)
        if not self.change.waiting:
            self._step_done()

    def died(self, child: Child, how: str) -> None:
        change = self.change
        if change and change.step == "prepared" and child.pid in change.forked:  # even one that was ready
            self._give_up(child.error or f"a new worker died at its start ({how})")
        elif change:
            self.heard(child, change.step)

    def stop(self) -> None:
        """The server ends: nothing new comes into force any more."""
        if self.change and self.change.step == "prepared":
            self._give_up("the server is stopping")

    def look(self, now: float) -> None:
        if self.change is None or now <= self.change.until:
            return
        if self.change.step == "prepared":
            self._give_up("the workers were not ready in time")
        else:  # who says nothing for so long is stuck, and will be killed for it
            self._done()

    def _step_done(self) -> None:
        change, master = self.change, self.master
        if change is None:
            return
        if change.step == "prepared":
            changing = self._replace(change.new) if change.new else self._switch(change)
            master.rulebook.keep(change.rules)
            change.step, change.waiting = "quiet" if change.new else "in force", {child.pid for child in changing}
            change.until = time.monotonic() + PATIENCE
        if not change.waiting:
            self._done()

    def _done(self) -> None:
        change, master, self.change = self.change, self.master, None
        if change is None:
            return
        self.forget_old()
        generation = master.generation.number
        log.event("reloaded", what=change.what, generation=generation)
        tell(f"in force: new {change.what}")
        systemd.notify(READY=1, STATUS=master.taking())
        for asked in change.asked:
            master.answer(asked, what=change.what, generation=generation)
        self._next()

    def _switch(self, change: Change) -> list[Child]:
        """All can have the new rules: they switch."""
        master = self.master
        contexts(master.settings, master.generation.contexts)  # for workers that are yet to be forked
        ready = list(master.workers(state="ready"))
        for child in ready:
            child.prepare(change.rules)  # one that got ready only meanwhile
            child.send(do="commit")
        return ready

    def _replace(self, new: Generation) -> list[Child]:
        """The new workers are ready: put them in force, let the old ones drain."""
        master = self.master
        master.listening.open()
        old = list(master.workers())
        master.generation, master.config = new, new.config
        master.respawn = {slot: due for slot, due in master.respawn.items() if slot < 0}  # the registry stays
        master.orphans.soon()
        settings = master.settings
        watched = (settings.rules.path, settings.rules.domains)
        master.watch = Watch(*watched) if settings.rules.watch else None
        logs.in_master(settings.log)
        for child in master.children.values():
            if child.slot < 0:
                child.send(do="log", to=settings.log.to, level=settings.log.level)
        for child in master.workers():
            child.send(do="watch", slot=child.slot)
        for child in old:
            child.drain(settings.server.drain, gently=True)
        return old

    def forget_old(self) -> None:
        """Close sockets of listeners that are no more, once nobody watches them."""
        master = self.master
        mine = master.generation.number
        if not self.change and all(c.slot < 0 or c.generation == mine for c in master.children.values()):
            master.listening.forget(master.settings.listener)

    # -- the end of one that failed ----------------------------------------------------------------------------------

    def _give_up(self, error: str) -> None:
        change, self.change = self.change, None
        if change is None:
            return
        self.master.rulebook.drop(change.rules)
        if change.new:
            for child in self.master.workers(change.new.number):
                child.state = "draining"
                child.kill()
            self.master.listening.back_to(self.master.generation.bound)
        else:
            for child in self.master.workers(state="ready"):
                child.rules = self.master.rulebook.current
                child.send(do="abort")
        self._failed(change.asked, error)

    def _failed(self, asked: list[int | None], error: str) -> None:
        log.event("reload_failed", error=error)
        tell(f"nothing has changed: {error}")
        systemd.notify(READY=1, STATUS="The last reload was refused; the log says why")
        for each in asked:
            self.master.answer(each, error=error)
        self._next()

    def _next(self) -> None:
        """One more reload answers all who asked while the last one was in hand."""
        later, self._later = self._later, []
        if not later:
            return
        self.ask(later[0])
        if self.change:
            self.change.asked += later[1:]
        else:
            self._later = later[1:]
            self._next()
