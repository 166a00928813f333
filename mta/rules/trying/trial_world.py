"""The world of a trial: what was made up for it, and, where somebody wants that, the real one behind it.

A name without a record is one that does not exist, a service without an answer is one that failed: both are noted in
`unknown`, so that nobody takes silence for an answer. Nothing that is asked here changes anything outside.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mta import settings
from mta.rules.outside.facts import NOTHING, Facts
from mta.rules.outside.keys import Keys
from mta.rules.outside.leases import Rates
from mta.rules.outside.lists import GivenLists, ListError, Lists
from mta.rules.outside.services import Service, Services
from mta.rules.outside.services.request import Answer, Request
from mta.rules.outside.store import MemoryStore, Store
from mta.rules.outside.world import Unanswered, World

NOW = 1_700_000_000.0  # when a trial takes place, unless somebody says otherwise
SEED = 1


class Texts(Mapping[str, str]):
    """Lists by name: those made up, and the files of a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder) if folder else None
        self.given: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name in self.given:
            return self.given[name]
        path = self.folder / name if self.folder else None
        if path is None or ".." in Path(name).parts or not path.is_file():
            raise KeyError(name)
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ListError(f"{name}: {error}") from None

    def __iter__(self) -> Iterator[str]:
        yield from self.given

    def __len__(self) -> int:
        return len(self.given)


class StandIn:
    """A service of a trial. It gives the answers it was given, else asks the real one if that is allowed."""

    def __init__(self, name: str, world: TrialWorld) -> None:
        self.name, self.world = name, world

    def call(self, request: Request) -> Answer:
        self.world.called.append((self.name, request))
        answer = self.world.answers.get(self.name)
        if answer is not None:
            return answer
        real = self.world.real_service(self.name)
        if real is not None:
            return real.call(request)
        self.world.unknown.append(f"service {self.name}")
        return Answer(failed=f"nobody made up an answer of {self.name}")


class State(NamedTuple):
    """What a trial's world remembers, to be put back."""

    store: MemoryStore
    time: float
    random: Any
    sizes: tuple[int, int, int]


class TrialWorld:
    """`dns` is {"name": {"TYPE": ["record"] or "why nobody can tell"}}, `answers` what services say, by name.

    `events` is what was logged, `called` which services were asked. `live` makes the real world: DNS, services, clock
    and accounts are then asked there unless something was made up; the store stays in memory. `named` are services that
    are not in the settings, but rules ask them.
    """

    def __init__(
        self,
        rules: settings.Rules | None = None,
        services: Mapping[str, settings.Service] | None = None,
        keys: str = "",
        live: Callable[[], World] | None = None,
        facts: Facts = NOTHING,
        named: Collection[str] = (),
    ) -> None:
        self.facts = facts
        self.dns: dict[str, dict[str, list[str] | str]] = {}
        self.answers: dict[str, Answer] = {}
        self.users: set[str] = set()
        self.texts = Texts(rules.lists if rules else "")
        self.lists: Lists | GivenLists = GivenLists(self.texts)
        self.keys = Keys(keys) if keys else Keys({})
        self._settings, self._named = dict(services or {}), frozenset(named)
        self._make_live, self._live = live, None if live is None else False
        self._real: World | None = None
        self.time: float | None = NOW  # None: that of the real clock
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.kept: dict[str, bytes] = {}  # files that rules wrote, by path: no trial writes one
        self.called: list[tuple[str, Request]] = []
        self.unknown: list[str] = []
        self._random = random.Random(SEED)
        self.random = self._random.random
        self.store: Store = MemoryStore(now=self.now)
        self.rates = Rates(self.store, self.now)
        self.services = self._services()

    def _services(self) -> Services:
        names = self._settings.keys() | self.answers.keys() | self._named
        given: dict[str, Service] = {name: StandIn(name, self) for name in names}
        return Services(self._settings, given, self.log)

    # -- what is made up ---------------------------------------------------------------------------------------------

    def record(self, name: str, kind: str, value: str | None) -> None:
        """Add a DNS record; None: nobody can tell now (a temporary failure)."""
        known = self.dns.setdefault(name.lower().rstrip("."), {})
        kind = kind.upper()
        if value is None:
            known[kind] = f"{name} {kind}: SERVFAIL"
        elif value == "none":
            known[kind] = []
        else:
            found = known.get(kind)
            known[kind] = [*found, value] if isinstance(found, list) else [value]

    def answer(self, name: str, answer: Answer) -> bool:
        """What a service says from now on; whether rules know the name only once they are loaded again."""
        new = name not in self.services.names()
        self.answers[name] = answer
        if new:
            self.services = self._services()
        return new

    @property
    def live(self) -> bool:
        return bool(self._live)

    @live.setter
    def live(self, on: bool) -> None:
        if on and self._make_live is None:
            raise ValueError("there is no real world to ask here")
        if on and self._real is None and self._make_live is not None:
            self._real = self._make_live()
        self._live = on

    @property
    def real(self) -> World | None:
        return self._real if self._live else None

    def real_service(self, name: str) -> Service | None:
        if not self.live or name not in self._settings:
            return None
        return Services({name: self._settings[name]}, None, self.log)._services[name]

    def state(self) -> State:
        assert isinstance(self.store, MemoryStore)
        sizes = len(self.events), len(self.called), len(self.unknown)
        return State(_copied(self.store), self.now(), self._random.getstate(), sizes)

    def put_back(self, state: State) -> None:
        self.store = _copied(state.store)
        self.rates = Rates(self.store, self.now)
        self._random.setstate(state.random)
        if self.time is not None:
            self.time = state.time
        events, called, unknown = state.sizes
        del self.events[events:], self.called[called:], self.unknown[unknown:]

    # -- what rules ask ----------------------------------------------------------------------------------------------

    def lookup(self, name: str, type: str) -> list[str]:
        if not type.isalnum():
            raise ValueError(f"{type} is not a type of DNS record")
        known = self.dns.get(name.lower().rstrip("."))
        found = None if known is None else known.get(type.upper())
        if found is None and known is None:
            if self.real is not None:
                return self.real.lookup(name, type)
            self.unknown.append(f"dns {name} {type}")
        if isinstance(found, str):
            raise Unanswered(found)
        return list(found or [])

    def now(self) -> float:
        if self.time is None:
            import time

            return time.time()
        return self.time

    def user_exists(self, name: str) -> bool:
        return name in self.users or (self.real is not None and self.real.user_exists(name))

    def log(self, event: str, **fields: Any) -> None:
        self.events.append((event, {name: value for name, value in fields.items() if value not in (None, "")}))

    def keep(self, base: str, names: Sequence[str], name: str, pieces: Sequence[bytes | memoryview]) -> None:
        self.kept["/".join((base.rstrip("/"), *names, name))] = b"".join(pieces)

    def within(self, seconds: float, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args) if self.real is None else self.real.within(seconds, work, *args)

    def pause(self, seconds: float) -> None:
        if self.time is not None:
            self.time += seconds
        elif self.real is not None:
            self.real.pause(seconds)


def _copied(store: MemoryStore) -> MemoryStore:
    other = copy.copy(store)
    for name, value in vars(store).items():
        if isinstance(value, dict | list):
            setattr(other, name, value.copy())
    return other
