"""A world whose answers are written down: the real one, and for stages that are recorded a note of all it was asked.

`RecordingWorld(world)` is `world` to whoever asks it. While `noting(notes)` is in force in this greenlet, every answer
is added to `notes` as [kind, question, answer], in the order they were given:

    ["dns", [name, type], ["record", ...]]          ["dns", [name, type], {"error": why}]
    ["store.get", [key], value]                     store.set, store.add, store.increment, store.delete likewise
    ["rate", [key, rate, number], [tokens, left, wait]]
    ["list", [list, thing], ["column", ...] or null]
    ["service", [name, values, text, part], {code, signal, stdout, ...}]      ... or {"refused": reply}
    ["user", [name], true]                          ["now", [], seconds]      ["random", [], number]

Text of services is latin-1: bytes in disguise, as rules see it. `recorded.py` reads these notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mta.message.reply import Refused
from mta.rules.outside.services import Answer, Request
from mta.rules.outside.store import StoreError
from mta.rules.outside.world import Unanswered, World

Note = list[Any]  # [kind, question, answer]

_NOTES: ContextVar[list[Note] | None] = ContextVar("notes", default=None)  # a greenlet has a context of its own


@contextmanager
def noting(notes: list[Note]) -> Iterator[None]:
    """What this greenlet asks in here is added to `notes`."""
    before = _NOTES.set(notes)
    try:
        yield
    finally:
        _NOTES.reset(before)


class _Ear:
    """A part of the world. `heard` tells which of its methods are written down, and as what."""

    def __init__(self, real: Any, heard: Mapping[str, str]) -> None:
        self._real = real
        for method, kind in heard.items():
            setattr(self, method, _hearing(kind, getattr(real, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _hearing(kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def ask(*question: Any) -> Any:
        notes = _NOTES.get()
        if notes is None:
            return method(*question)
        try:
            answer = method(*question)
        except (Unanswered, StoreError) as error:
            notes.append([kind, list(question), {"error": str(error)}])
            raise
        notes.append([kind, list(question), answer])
        return answer

    return ask


class _Services:
    """The services, and what they said."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def call(self, name: str, request: Request) -> Answer:
        notes = _NOTES.get()
        if notes is None:
            plain: Answer = self._real.call(name, request)
            return plain
        part = None
        if request.part is not None:  # it can be read only once
            pieces = [bytes(piece) for piece in request.part]
            request, part = request._replace(part=pieces), sum(map(len, pieces))
        question = question_of(name, request, part)
        try:
            answer: Answer = self._real.call(name, request)
        except Refused as refused:
            notes.append(["service", question, {"refused": str(refused.reply)}])
            raise
        notes.append(["service", question, answer.flat()])
        return answer


def question_of(name: str, request: Request, part: int | None) -> list[Any]:
    """What a service was asked, without what changes from session to session anyway."""
    values = {
        key: value.decode("latin-1") if isinstance(value, bytes) else value
        for key, value in request.values.items()
        if key not in ("id", "session", "size")
    }
    return [name, values, None if request.text is None else request.text.decode("latin-1"), part]


class RecordingWorld:
    """`real`, heard."""

    def __init__(self, real: World) -> None:
        self._real = real
        self.lookup = _hearing("dns", real.lookup)
        self.user_exists = _hearing("user", real.user_exists)
        self.now, self.random = _hearing("now", real.now), _hearing("random", real.random)
        self.store: Any = _Ear(
            real.store, {word: f"store.{word}" for word in ("get", "set", "add", "increment", "delete")}
        )
        self.rates: Any = _Ear(real.rates, {"take": "rate"})
        self.lists: Any = _Ear(real.lists, {"find": "list"})
        self.services: Any = _Services(real.services)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
