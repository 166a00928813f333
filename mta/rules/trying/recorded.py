"""The world as a recorded session found it: it answers what was asked then, and knows nothing else.

Rules under trial ask other questions than those that were recorded, or in another order:

    dns, list, user     the answer of then, however often it is asked
    rate, service       the answers of then, one after the other for each question
    store               a store that holds what the answers show it held; what rules write they read again
    now                 the times of then; the last one again when there are no more
    random              the numbers of then; then others, the same in every replay

A question without an answer is noted in `unknown`. It is answered as if there were nothing: no record, no entry, within
the rate; a service fails as its setting `fault` says. Nobody outside is ever asked.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mta import settings
from mta.message.reply import Refused
from mta.rules.outside.facts import NOTHING, Facts
from mta.rules.outside.keys import Keys
from mta.rules.outside.lists import GivenLists
from mta.rules.outside.rate import Grant
from mta.rules.outside.recording import Note, question_of
from mta.rules.outside.services import Answer, Request, Services
from mta.rules.outside.store import MemoryStore, Store, StoreError
from mta.rules.outside.world import Unanswered


class RecordedWorld:
    """A World made of notes. `turn_to()` gives it those of the next session.

    `lists`: texts by name for the lists that are tried together with the rules; else lists answer from the notes too.
    `events` are what was logged, `unknown` what was asked and not recorded, in words.
    """

    def __init__(
        self,
        services: Mapping[str, settings.Service] | None = None,
        names: Iterable[str] = (),
        lists: Mapping[str, str] | None = None,
        facts: Facts = NOTHING,
        keys: str = "",
    ) -> None:
        known = dict(services or {})
        every = {name: known.get(name, settings.Service()) for name in [*names, *known]}
        self._settings = every
        self.facts, self.keys = facts, Keys(keys or {})
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.unknown: list[str] = []
        self.services: Services = _Services(self, every)
        self.lists: Any = GivenLists(lists) if lists is not None else _Lists(self)
        self.rates: Any = _Rates(self)
        self.turn_to([], 0.0)

    def turn_to(self, notes: Iterable[Note], began: float) -> None:
        """Be the world of another session, which began at `began` (seconds since 1970)."""
        self.events.clear()
        self.unknown.clear()
        self.always: dict[str, Any] = {}
        self.turns: dict[str, deque[Any]] = defaultdict(deque)
        self.time = began
        self._random = random.Random(1)
        self.store: Store = _Store(self)
        for kind, question, answer in notes:
            if kind in ("dns", "list", "user"):
                self.always.setdefault(_key(kind, _folded(kind, question)), answer)
            elif kind in ("now", "random"):
                self.turns[kind].append(answer)
            elif kind.startswith("store."):
                self.store.learn(kind[6:], question, answer)
            else:
                self.turns[_key(kind, question)].append(answer)

    def recorded(self, kind: str, question: list[Any]) -> Any:
        """The answer of then. Raises Unanswered with the error of then, KeyError for a question nobody asked."""
        answer = self.always[_key(kind, question)]
        if isinstance(answer, dict) and "error" in answer:
            raise Unanswered(answer["error"])
        return answer

    def next(self, kind: str, question: list[Any]) -> Any:
        """The next of the answers of then. Raises KeyError when there are no more."""
        answers = self.turns.get(_key(kind, question))
        if not answers:
            raise KeyError(kind)
        return answers.popleft()

    def miss(self, *words: Any) -> None:
        said = " ".join(str(word) for word in words)
        if said not in self.unknown:
            self.unknown.append(said)

    # -- what rules ask ------------------------------------------------------------------------------------------------

    def lookup(self, name: str, type: str) -> list[str]:
        if not type.isalnum():
            raise ValueError(f"{type} is not a type of DNS record")
        try:
            return list(self.recorded("dns", _folded("dns", [name, type])))
        except KeyError:
            self.miss("dns", name, type)
            return []

    def user_exists(self, name: str) -> bool:
        try:
            return bool(self.recorded("user", [name]))
        except KeyError:
            self.miss("account", name)
            return False

    def now(self) -> float:
        times = self.turns["now"]
        if times:
            self.time = max(self.time, times.popleft())
        return self.time

    def random(self) -> float:
        numbers = self.turns["random"]
        if numbers:
            return float(numbers.popleft())
        self.miss("a random number")
        return self._random.random()

    def log(self, event: str, **fields: Any) -> None:
        self.events.append((event, {name: value for name, value in fields.items() if value not in (None, "")}))

    def within(self, seconds: float, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    def keep(self, base: str, names: Sequence[str], name: str, pieces: Sequence[bytes | memoryview]) -> None:
        """A replay leaves no files."""

    def apart(self, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    def pause(self, seconds: float) -> None:
        self.time += seconds


def _folded(kind: str, question: list[Any]) -> list[Any]:
    if kind == "dns":
        return [question[0].lower().rstrip("."), question[1].upper()]
    return question


def _key(kind: str, question: Any) -> str:
    return f"{kind} {json.dumps(question, sort_keys=True)}"


class _Lists:
    """Lists that know what was found in them."""

    def __init__(self, world: RecordedWorld) -> None:
        self._world = world

    def find(self, name: str, asked: str) -> tuple[str, ...] | None:
        try:
            row = self._world.recorded("list", [name, asked])
        except KeyError:
            self._world.miss("list", name, asked)
            return None
        return None if row is None else tuple(row)

    def count(self, name: str) -> int:
        return 0


class _Rates:
    """Buckets that give what they gave."""

    def __init__(self, world: RecordedWorld) -> None:
        self._world = world

    def take(self, key: str, rate: str, need: int = 1) -> Grant:
        try:
            answer = self._world.next("rate", [key, rate, need])
        except KeyError:
            self._world.miss("rate", key, rate)
            return Grant(max(need, 1), 1, 0.0)
        if isinstance(answer, dict):
            raise StoreError(answer["error"])
        return Grant(*answer)


class _Store(MemoryStore):
    """A store that is what the first answer about each key shows, and empty where nothing shows it."""

    def __init__(self, world: RecordedWorld) -> None:
        super().__init__(now=lambda: world.time)
        self._world = world
        self._seen: set[str] = set()
        self._failing: dict[str, str] = {}

    def learn(self, word: str, question: list[Any], answer: Any) -> None:
        """One recorded answer: what it tells of the key as it was before."""
        key = question[0]
        if key in self._seen:
            return
        self._seen.add(key)
        if isinstance(answer, dict):
            self._failing[key] = answer["error"]
        elif word == "get" and answer is not None:
            super().set(key, answer)
        elif word == "increment" and answer != question[1]:
            super().set(key, answer - question[1])
        elif (word == "add" and answer is False) or (word == "delete" and answer is True):
            super().set(key, True)  # which value it had nobody asked

    def _look(self, key: str, reads: bool = True) -> None:
        if key in self._failing:
            raise StoreError(self._failing[key])
        if key not in self._seen:
            self._seen.add(key)
            if reads:
                self._world.miss("store", key)

    def get(self, key: str) -> Any:
        self._look(key)
        return super().get(key)

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self._look(key, reads=False)
        super().set(key, value, ttl)

    def add(self, key: str, value: Any, ttl: float | None = None) -> bool:
        self._look(key)
        return super().add(key, value, ttl)

    def increment(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        self._look(key)
        return super().increment(key, by, ttl)

    def delete(self, key: str) -> bool:
        self._look(key)
        return super().delete(key)


class _Service:
    """A service that gives the answers it gave."""

    def __init__(self, name: str, world: RecordedWorld) -> None:
        self.name, self._world = name, world

    def call(self, request: Request) -> Answer:
        part = None if request.part is None else sum(len(piece) for piece in request.part)
        try:
            answer = self._world.next("service", question_of(self.name, request, part))
        except KeyError:
            self._world.miss("service", self.name)
            return Answer(failed="the capture holds no answer of it")
        if "refused" in answer:
            raise Refused(answer["refused"])
        texts = {key: answer[key].encode("latin-1") for key in ("stdout", "stderr")}
        return Answer(**{**answer, **texts})


class _Services(Services):
    def __init__(self, world: RecordedWorld, every: Mapping[str, settings.Service]) -> None:
        super().__init__(every, {name: _Service(name, world) for name in every}, lambda *_, **__: None)
