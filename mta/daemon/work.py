"""The rooms of one worker, wired: rules, spool, queue and receiver, from their start to their end."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import gevent

from mta import log
from mta.daemon.desk import Desk
from mta.daemon.generation import Generation, contexts
from mta.daemon.registry import SOCKET
from mta.daemon.rulebook import Rulebook
from mta.daemon.waiting import Pages
from mta.deliver.queue import Queue
from mta.domains import Domains
from mta.message.ids import Ids
from mta.net.calls import Caller
from mta.net.dns import Resolver
from mta.receive.listener import Receiver
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.outside import facts
from mta.rules.outside.recording import RecordingWorld
from mta.rules.outside.world import LiveWorld, World
from mta.settings import Listener
from mta.spool.journal import JournalSpool


class Work:
    """Make it after the fork. `rules` is the folder to load them from; `owns(folder)` is told of our spool folder."""

    def __init__(self, generation: Generation, rules: str, owns: Callable[[str], Any]) -> None:
        self.generation = generation
        self.settings = settings = generation.config.settings
        self.ids = Ids()
        self.resolver = Resolver(settings.dns)
        self.domains = Domains(settings)
        self.registry = Caller(os.path.join(settings.server.run, SOCKET))
        self.world: World = LiveWorld(
            self.resolver, settings.rules, self.registry, settings.service, settings.keys.path, facts.of(settings)
        )
        if settings.capture.sample > 0:
            self.world = RecordingWorld(self.world)
        self.rules = self._load(rules)
        self._next: Rules | None = None  # loaded, not in force yet
        self._pages = Pages()
        self._watched: set[socket.socket] = set()
        owns(os.path.join(settings.spool.path, self.ids.writer))
        self.spool = JournalSpool(settings.spool, self.ids.writer)
        self.desk = Desk(self.spool)
        self.queue = Queue(settings, self.spool, self._rules_of_queue, self.resolver, self.ids, self.domains)
        self.receiver = Receiver(settings, self.domains, lambda: self.rules, self.spool, self.ids, self.context)

    def _rules_of_queue(self) -> Any:
        """The rules in force; while sessions are captured, they are heard in the queue too."""
        capture = self.receiver.capture
        return self.rules if capture is None else capture.queue.rules(self.rules)

    def start(self) -> None:
        self._tell_rules()
        self.queue.start()

    def _tell_rules(self) -> None:
        """Which rules decide from here on: the log's answer to "by what was this mail judged?"."""
        log.event("rules_loaded", pid=os.getpid(), version=self.rules.version, files=len(self.rules.files))

    def context(self, listener: Listener) -> ssl.SSLContext | None:
        return self.generation.contexts.get((listener.tls.certificate, listener.tls.key)) if listener.tls else None

    def listen(self, sock: socket.socket, listener: Listener) -> None:
        if sock not in self._watched:
            self._watched.add(sock)
            self.receiver.listen(sock, listener)

    def stop_listening(self, sock: socket.socket) -> None:
        if sock in self._watched:
            self._watched.discard(sock)
            self.receiver.stop_listening(sock)

    def adopt(self, folder: str, guilty: bool) -> bool:
        return self.spool.adopt(folder, guilty)

    # -- rules and certificates change under our feet --------------------------------------------------------------

    def _load(self, folder: str) -> Rules:
        return Rules.load(Rulebook.opened(self.settings.rules, folder), self.world, domains=self.settings.domain)

    def prepare(self, rules: str) -> str:
        """Load rules and certificates anew, beside those in force. What is wrong with them, or nothing."""
        try:
            contexts(self.settings, {})
            self._next = self._load(rules)
        except (RulesError, ValueError, OSError) as error:
            return Rulebook.named(self.settings.rules, rules, str(error) or type(error).__name__)
        except Exception as error:
            log.bug(error)
            return (
                f"our own mistake, {type(error).__name__}: {error} (if mta was upgraded meanwhile, restart the server)"
            )
        return ""

    def commit(self) -> None:
        """A mail under way keeps the rules it began with. Tickets stay good: the contexts are the same."""
        if self._next is not None:
            self.rules, self._next = self._next, None
            self._tell_rules()
        try:
            contexts(self.settings, self.generation.contexts)
        except (ValueError, OSError) as error:
            log.event("reload_failed", error=f"a certificate changed while it was loaded: {error}")

    def abort(self) -> None:
        self._next = None

    # -- what people ask -------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return {
            **self.receiver.status(),
            "queue": self.queue.status(),
            "spool": self.spool.counts(),
            "rules": self.rules.version,
        }

    def queue_first(self) -> dict[str, Any]:
        return self._pages.first(self.spool.find())

    def queue_next(self, cursor: int) -> dict[str, Any]:
        return self._pages.next(cursor)

    # -- the end ---------------------------------------------------------------------------------------------------

    def drain_in(self, seconds: float, gently: bool) -> None:
        until = time.monotonic() + seconds
        while gently and self.receiver.sessions and time.monotonic() < until - min(5.0, seconds / 2):
            gevent.sleep(0.05)
        self.receiver.drain(max(0.0, until - time.monotonic()))

    def drain_out(self, seconds: float) -> None:
        self.queue.drain(seconds)

    def close(self) -> None:
        if self.receiver.capture is not None:
            self.receiver.capture.end()
        self.spool.close()
