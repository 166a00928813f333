"""A worker: takes mail on its sockets, keeps it, delivers it. One event loop, many of it side by side.

What it hears from the master, and says to it (`say`):

=================  =====================================================================================
watch, unwatch     a neighbour's slot: take its connections too, while it is dead
adopt              a spool folder whose owner is gone; says "not mine" if somebody holds it after all
prepare            load rules and certificates anew; says "prepared", which rules, and the error if there is one
commit, abort      put them in force ("in force"), or forget them
drain              finish what is open within so many seconds, then end; gently: clients may go on until it is nearly
                   time, else they are sent away after the mail in hand; said again, the last word counts. Says
                   "quiet": from now on it takes no connection
=================  =====================================================================================

It says "owns" for its spool folder before it makes it, "ready" when it takes mail (one of a new generation: when it
could; it is told to watch its own slot when all of them are), "failed" when it cannot start.
When the master dies it finishes its open work and ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from mta import log
from mta.daemon import hearing, logs
from mta.daemon.channel import Channel
from mta.daemon.generation import Generation
from mta.daemon.registry import worker_socket
from mta.daemon.rulebook import Rulebook
from mta.daemon.work import Work
from mta.net.calls import CallFailed
from mta.rules.engine.engine import RulesError


class Worker:
    def __init__(self, generation: Generation, slot: int, rules: str, channel: Channel, waits: bool) -> None:
        self.generation, self.slot, self.rules, self.channel = generation, slot, rules, channel
        self.waits = waits  # until it is told to watch its own slot
        self.settings = generation.config.settings
        self.workers = self.settings.server.workers
        self.work: Work
        self._told = Event()  # to drain
        self._end_at = 0.0
        self._in: gevent.Greenlet
        self._out: gevent.Greenlet

    def start(self) -> None:
        """Raises whatever keeps it from taking mail."""
        self.work = Work(self.generation, self.rules, lambda folder: self.channel.send(say="owns", folder=folder))
        self.work.start()
        if not self.waits:
            self.watch(self.slot)
        path = worker_socket(self.settings.server.run, os.getpid())
        hearing.serve(path, 0o600, self.answer)
        hearing.hear(self.channel, self.heard, self.orphaned)
        self.channel.send(say="ready")

    def watch(self, slot: int) -> None:
        for listener, bound in self.generation.bound:
            for sock in bound.of(slot, self.workers):
                if not bound.shared or slot == self.slot:
                    self.work.listen(sock, listener)

    def unwatch(self, slot: int) -> None:
        for _, bound in self.generation.bound:
            if not bound.shared:
                for sock in bound.of(slot, self.workers):
                    self.work.stop_listening(sock)

    def heard(self, words: dict[str, Any]) -> None:
        match words:
            case {"do": "watch", "slot": int(slot)}:
                self.watch(slot)
            case {"do": "unwatch", "slot": int(slot)}:
                self.unwatch(slot)
            case {"do": "adopt", "folder": str(folder), "guilty": bool(guilty)}:
                gevent.spawn(self.adopt, folder, guilty)
            case {"do": "prepare", "rules": str(rules)}:
                self.channel.send(say="prepared", rules=rules, error=self.work.prepare(rules))
            case {"do": "commit"}:
                self.work.commit()
                self.channel.send(say="in force")
            case {"do": "abort"}:
                self.work.abort()
            case {"do": "drain", "seconds": int(seconds) | float(seconds), "gently": bool(gently)}:
                self.drain(seconds, gently)

    def adopt(self, folder: str, guilty: bool) -> None:
        try:
            adopted = self.work.adopt(folder, guilty)
        except OSError as error:
            log.event("spool_failed", reason=f"{folder} cannot be taken over: {error}")
            adopted = False
        except Exception as error:  # the master has to hear that nobody has it
            log.bug(error)
            adopted = False
        if not adopted:
            self.channel.send(say="not mine", folder=folder)

    def answer(self, word: str, arguments: list[Any]) -> Any:
        """What the registry asks on our own socket."""
        match word, arguments:
            case "status", []:
                return self.work.status()
            case "queue", []:
                return self.work.queue_first()
            case "queue", [int(cursor)]:
                return self.work.queue_next(cursor)
            case "mail", [str(what), str(id), *more]:
                return self.work.desk.answer(what, id, *more)
        raise CallFailed("NoSuchWord", f"a worker has no word {word!r}")

    # -- the end -----------------------------------------------------------------------------------------------------

    def orphaned(self) -> None:
        log.event("stopping", pid=os.getpid(), reason="the master is dead")
        self.drain(self.settings.server.drain)

    def drain(self, seconds: float, gently: bool = False) -> None:
        self._end_at = time.monotonic() + seconds
        if not self._told.is_set():
            for _, bound in self.generation.bound:
                for sock in bound.sockets:
                    self.work.stop_listening(sock)
                    sock.close()
            self._out = gevent.spawn(self.work.drain_out, seconds)
        self.channel.send(say="quiet")
        self._in = gevent.spawn(self.work.drain_in, seconds, gently)
        self._told.set()

    def until_done(self) -> None:
        """Park until we were told to end and open work is finished, or out of time."""
        self._told.wait()
        while time.monotonic() < self._end_at and not (self._in.ready() and self._out.ready()):
            gevent.joinall([self._in, self._out], timeout=0.1)
        self.work.close()


def run(
    generation: Generation, slot: int, rules: str, channel: Channel, beat: Callable[[], None], *, waits: bool
) -> None:
    """The whole life of the process."""
    worker = Worker(generation, slot, rules, channel, waits)
    drain = generation.config.settings.server.drain
    hearing.begin(worker.settings.log, beat, lambda: worker.drain(drain))
    try:
        worker.start()
    except Exception as error:
        if not isinstance(error, OSError | ValueError | RulesError):
            log.bug(error)
        channel.send(say="failed", error=Rulebook.named(worker.settings.rules, rules, str(error)))
        logs.finish()
        raise SystemExit(1) from None
    try:
        worker.until_done()
    finally:
        try:
            os.unlink(worker_socket(worker.settings.server.run, os.getpid()))
        except OSError:
            pass
        logs.finish()
