"""Everything a rule learns from outside the mail passes through one World: the real one, or one made up for a test."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mta import log, settings
from mta.net import folders
from mta.rules.outside import accounts, suffixes
from mta.rules.outside.facts import NOTHING, Facts
from mta.rules.outside.keys import Keys
from mta.rules.outside.leases import Rates
from mta.rules.outside.lists import GivenLists, Lists
from mta.rules.outside.services import Service, Services
from mta.rules.outside.store import MemoryStore, SharedStore, Store

if TYPE_CHECKING:
    from mta.net.calls import Caller


class Unanswered(Exception):
    """The world could not tell now. The rule gets nil and this text."""


class Slow(Exception):
    """The world took longer than it was given."""


class Inside:
    """`depth` is above 0 while Lua is on the C stack: no greenlet may switch then (see sandbox.py)."""

    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth = 0


INSIDE = Inside()


class World(Protocol):
    """What the engine asks of the outside. Only `now`, `random`, `lists` and `log` never park the greenlet."""

    def lookup(self, name: str, type: str) -> list[str]:
        """The records of a name; [] when there are none. Raises Unanswered, ValueError for a type that is none."""

    def now(self) -> float:
        """Seconds since 1970."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def log(self, event: str, **fields: Any) -> None:
        """An event of `events.EVENTS`."""

    def user_exists(self, name: str) -> bool:
        """Whether this machine has such an account; it may ask a directory."""

    services: Services
    keys: Keys
    facts: Facts
    store: Store
    rates: Rates
    lists: Lists | GivenLists

    def within(self, seconds: float, work: Callable[..., Any], *args: Any) -> Any:
        """Do work that may wait. Raises Slow after `seconds`, or whatever the work raises."""

    def keep(self, base: str, names: Sequence[str], name: str, pieces: Sequence[bytes | memoryview]) -> None:
        """Keep a file as net.folders.keep does. Raises OSError."""

    def pause(self, seconds: float) -> None:
        """Let time pass."""


class Resolver(Protocol):
    def lookup(self, name: str, type: str) -> list[str]: ...


class LiveWorld:
    """The real world of a worker. It needs the hub; make it after the fork.

    `caller` reaches the registry: without one the store and the rates are this process's own, and forgotten with it.
    """

    def __init__(
        self,
        resolver: Resolver,
        rules: settings.Rules | None = None,
        caller: Caller | None = None,
        services: Mapping[str, settings.Service] | None = None,
        keys: str = "keys",
        facts: Facts = NOTHING,
    ) -> None:
        from mta.net import deadline, dns, offload, patience

        def later(seconds: float, function: Callable[[], None]) -> None:
            def wait() -> None:
                offload.pause(seconds)
                function()

            offload.background(wait)

        from mta.rules.outside import protection  # noqa: F401  loaded now, so that no mail waits for it

        self.services, self.keys, self.facts = Services(services or {}), Keys(keys), facts
        self._resolver = resolver
        self._within, self._timed_out = deadline.within, deadline.TimedOut
        self._temporary = dns.DnsTemporary
        self._pause = patience.pause
        patience.guard(INSIDE)
        self.store: Store = SharedStore(caller.call) if caller else MemoryStore()
        generation = (lambda: caller.connections) if caller else (lambda: 0)
        self.rates = Rates(self.store, time.monotonic, later, generation)
        folders = [rules.lists] if rules else []
        self.lists: Lists | GivenLists = Lists(folders, offload.background, run=offload.run)
        self._run = offload.run
        offload.background(offload.run, suffixes.suffixes)  # reading it at the first question would hold up everybody
        self.random = random.random
        self.now = time.time
        self.log = log.event

    def lookup(self, name: str, type: str) -> list[str]:
        try:
            return self._resolver.lookup(name, type)
        except self._temporary as failed:
            raise Unanswered(str(failed)) from None

    def user_exists(self, name: str) -> bool:
        return self._run(accounts.exists, name)

    def keep(self, base: str, names: Sequence[str], name: str, pieces: Sequence[bytes | memoryview]) -> None:
        self._run(folders.keep, base, names, name, pieces)

    def within(self, seconds: float, work: Callable[..., Any], *args: Any) -> Any:
        try:
            with self._within(seconds):
                return work(*args)
        except self._timed_out:
            raise Slow from None

    def pause(self, seconds: float) -> None:
        self._pause(seconds)


Zone = Mapping[str, Mapping[str, list[str] | str]]


class FakeWorld:
    """A made-up world: answers at once, a clock that stands still, the same random numbers every time.

    `dns`: {"name": {"TYPE": ["record", ...] or "a text: why nobody can tell now"}}; `lists`: {"name": "its text"};
    `users`: accounts of the machine; `services`: fakes by name; `keys`: files. `events` collects what is logged.
    """

    def __init__(
        self,
        dns: Zone | None = None,
        *,
        lists: Mapping[str, str] | None = None,
        users: Container[str] = (),
        services: Mapping[str, Service] | None = None,
        keys: Mapping[str, bytes] | None = None,
    ) -> None:
        self.dns = {name.lower(): dict(types) for name, types in (dns or {}).items()}
        self.time = 1_700_000_000.0
        self.store: Store = MemoryStore(now=self.now)
        self.rates = Rates(self.store, self.now)
        self.lists: Lists | GivenLists = GivenLists(lists or {})
        self.users = users
        self.services, self.keys = Services({}, services, self.log), Keys(keys or {})
        self.facts = NOTHING
        self.random = random.Random(1).random
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.kept: dict[str, bytes] = {}  # files by path
        self.asked: list[tuple[str, str]] = []

    def lookup(self, name: str, type: str) -> list[str]:
        self.asked.append((name, type))
        if not type.isalnum():
            raise ValueError(f"{type} is not a type of DNS record")
        found = self.dns.get(name.lower().rstrip("."), {}).get(type.upper(), [])
        if isinstance(found, str):
            raise Unanswered(found)
        return list(found)

    def now(self) -> float:
        return self.time

    def user_exists(self, name: str) -> bool:
        return name in self.users

    def log(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def keep(self, base: str, names: Sequence[str], name: str, pieces: Sequence[bytes | memoryview]) -> None:
        self.kept["/".join((base.rstrip("/"), *names, name))] = b"".join(pieces)

    def within(self, seconds: float, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    def pause(self, seconds: float) -> None:
        self.time += seconds

    def said(self, event: str) -> list[dict[str, Any]]:
        """The fields of every such event."""
        return [fields for name, fields in self.events if name == event]
