"""What all workers remember together: keys with a value, an expiry and atomic counters, and the buckets of rates.

`Store` is the seam. `MemoryStore` lives in one process (tests, the REPL, and inside the registry, which writes it to
disk: daemon/store.py); `SharedStore` is a worker's view of the registry's. A Redis can honour the same words: GET, SET
PX, SET NX, INCRBY, DEL, and a script for `take`.

A key is text of 1 to 512 characters, a value text of at most 64 KiB, a number or a boolean. `ttl` is in seconds, None
for ever. The time of expiry is that of the clock on the wall: it has to mean the same after a restart.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from mta.net.frames import CallFailed, Unavailable
from mta.rules.outside import rate as rates
from mta.rules.outside.rate import Grant, Rate

Value = str | int | float | bool

MAX_KEY = 512
MAX_VALUE = 65536
MAX_NUMBER = (1 << 63) - 1  # a Lua integer
MAX_TTL = 10 * 366 * 86400
_COST = 200  # bytes an entry takes beside its text: tuple, dict slot, heap entry, objects' heads


class StoreError(Exception):
    """The store says no: a key or value it cannot hold, a counter that holds text."""


class StoreFull(StoreError):
    """No room for another entry."""


class StoreUnavailable(StoreError):
    """Nobody answers, or nothing can be written: what was asked may or may not have happened."""


class Store(Protocol):
    """The words every store knows. Each is atomic, and kept when it returns. Raises StoreError."""

    def get(self, key: str) -> Value | None: ...

    def set(self, key: str, value: Value, ttl: float | None = None) -> None: ...

    def add(self, key: str, value: Value, ttl: float | None = None) -> bool:
        """Set the key only if it is absent; whether it was."""

    def increment(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        """Add to a counter (absent: 0) and return it. `ttl` counts from the counter's birth, and is not renewed."""

    def delete(self, key: str) -> bool:
        """Whether it was there."""

    def take(self, key: str, rate: str, need: int = 1, want: int = 0) -> Grant:
        """Take tokens from the bucket of this key and rate; see rate.take."""

    def give(self, key: str, rate: str, tokens: int) -> None:
        """Put back tokens that were taken and not used."""


class Entry(NamedTuple):
    value: Value
    expires: float  # epoch seconds; 0: never


def check_key(key: str | bytes) -> str:
    """A key as it is kept. Raises StoreError."""
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
        raise StoreError(f"a key is text of 1 to {MAX_KEY} characters, not {_told(key)}")
    return key


def check_value(value: Any) -> Value:
    if isinstance(value, str):
        if len(value) > MAX_VALUE:
            raise StoreError(f"a value may have {MAX_VALUE} characters, this one has {len(value)}")
    elif isinstance(value, float):
        if value - value != 0.0:
            raise StoreError(f"{value} cannot be kept: it is no finite number")
    elif not isinstance(value, int) or abs(value) > MAX_NUMBER:
        raise StoreError(f"a value is text, a number or a boolean, not {_told(value)}")
    return value


def check_ttl(ttl: float | None) -> float | None:
    if ttl is not None and not (isinstance(ttl, int | float) and 0 < ttl <= MAX_TTL):
        raise StoreError(f"a time to live is a number of seconds above 0 and below ten years, not {_told(ttl)}")
    return ttl


def _told(thing: object) -> str:
    if isinstance(thing, str):
        return f"one of {len(thing)}"
    return str(thing) if isinstance(thing, int | float) else f"a {type(thing).__name__}"


class MemoryStore:
    """A store in this process. `room` is the memory it may take, in bytes; beyond it new keys get StoreFull."""

    def __init__(self, room: int = 64 << 20, now: Callable[[], float] = time.time) -> None:
        self.room, self.now = room, now
        self.size = 0  # an estimate of the bytes in use
        self.buckets: dict[tuple[str, str], float] = {}  # (key, rate) -> when it is full again
        self._entries: dict[str, Entry] = {}
        self._ends: list[tuple[float, str]] = []  # a heap of expiries; may hold entries changed since
        self._rates: dict[str, Rate] = {}
        self._searched = 0.0  # when all that has expired was last looked for

    def __len__(self) -> int:
        return len(self._entries)

    # -- the words of Store ------------------------------------------------------------------------------------------

    def get(self, key: str) -> Value | None:
        entry = self.entry(check_key(key))
        return None if entry is None else entry.value

    def set(self, key: str, value: Value, ttl: float | None = None) -> None:
        self._put(check_key(key), Entry(check_value(value), self._end(ttl)))

    def add(self, key: str, value: Value, ttl: float | None = None) -> bool:
        key = check_key(key)
        if self.entry(key) is not None:
            return False
        self._put(key, Entry(check_value(value), self._end(ttl)))
        return True

    def increment(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        key = check_key(key)
        if not isinstance(by, int) or isinstance(by, bool):
            raise StoreError(f"a counter moves by whole numbers, not {_told(by)}")
        end = self._end(ttl)
        old = self.entry(key)
        if old is None:
            old = Entry(0, end)
        if isinstance(old.value, bool) or not isinstance(old.value, int):
            raise StoreError(f"{key!r} holds {old.value!r:.40}: that is no counter")
        value = old.value + by
        if abs(value) > MAX_NUMBER:
            raise StoreError(f"{key!r} would be {value}: no counter goes so far")
        self._put(key, Entry(value, old.expires))
        return value

    def delete(self, key: str) -> bool:
        there = self.entry(check_key(key)) is not None
        self._drop(key)
        return there

    def take(self, key: str, rate: str, need: int = 1, want: int = 0) -> Grant:
        bucket, limit = (check_key(key), rate), self._rate(rate)
        if not isinstance(need, int) or need < 0:
            raise StoreError(f"one takes 0 or more tokens, not {_told(need)}")
        now, full = self.now(), self.buckets.get(bucket)
        after, grant = rates.take(limit, now if full is None else full, now, need, want)
        if grant.tokens:
            if full is None:
                self._need(len(key) + _COST, key)
                self.size += len(key) + _COST
            self.buckets[bucket] = after
        return grant

    def give(self, key: str, rate: str, tokens: int) -> None:
        bucket = (check_key(key), rate)
        full = self.buckets.get(bucket)
        if full is not None:
            self.buckets[bucket] = rates.give(self._rate(rate), full, tokens)

    # -- for whoever keeps it on disk --------------------------------------------------------------------------------

    def entry(self, key: str) -> Entry | None:
        """What is kept under a key now."""
        entry = self._entries.get(key)
        if entry is not None and entry.expires and entry.expires <= self.now():
            self._drop(key)
            return None
        return entry

    def names(self) -> list[str]:
        return list(self._entries)

    def restore(self, key: str, entry: Entry | None) -> None:
        """Make a key what it once was, without asking for room."""
        self._drop(key)
        if entry is not None and not (entry.expires and entry.expires <= self.now()):
            self._write(key, entry)

    def restore_bucket(self, key: str, rate: str, full: float) -> None:
        if full > self.now():
            if (key, rate) not in self.buckets:
                self.size += len(key) + _COST
            self.buckets[key, rate] = full

    def sweep(self, limit: int = 10_000) -> int:
        """Forget what has expired, at most `limit` entries in a go; how many went."""
        now, gone = self.now(), 0
        while self._ends and self._ends[0][0] <= now and gone < limit:
            _, key = heapq.heappop(self._ends)
            entry = self._entries.get(key)
            if entry is not None and 0 < entry.expires <= now:
                self._drop(key)
            gone += 1
        if len(self._ends) > 2 * len(self._entries) + 1000:  # keys set again and again leave their old ends behind
            self._ends = [(e.expires, k) for k, e in self._entries.items() if e.expires]
            heapq.heapify(self._ends)
        return gone

    def sweep_buckets(self) -> int:
        """Forget the buckets that are full again: they are as good as never touched."""
        now = self.now()
        gone = [bucket for bucket, full in self.buckets.items() if full <= now]
        for bucket in gone:
            del self.buckets[bucket]
            self.size -= len(bucket[0]) + _COST
        return len(gone)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _end(self, ttl: float | None) -> float:
        return self.now() + ttl if check_ttl(ttl) is not None and ttl is not None else 0.0

    def _rate(self, text: str) -> Rate:
        rate = self._rates.get(text)
        if rate is None:
            try:
                rate = Rate.parse(text)
            except ValueError as error:
                raise StoreError(str(error)) from None
            if len(self._rates) < 1000:
                self._rates[text] = rate
        return rate

    def _need(self, size: int, key: str) -> None:
        if self.size + size <= self.room:
            return
        now = self.now()
        if abs(now - self._searched) >= 1.0:  # a full store is asked for room again and again: look once a second
            self._searched = now
            while self.sweep():
                pass
            self.sweep_buckets()
        if self.size + size > self.room:
            raise StoreFull(
                f"the store is full ({self.room} bytes, {len(self._entries)} keys, {len(self.buckets)} rates): "
                f"no room for {key[:60]!r}; see [store] memory"
            )

    def _put(self, key: str, entry: Entry) -> None:
        old = self._entries.get(key)
        grows = _size(key, entry) - (0 if old is None else _size(key, old))
        if grows > 0:
            self._need(grows, key)
        if old is not None and key in self._entries:
            self._drop(key)
        self._write(key, entry)

    def _write(self, key: str, entry: Entry) -> None:
        self._entries[key] = entry
        self.size += _size(key, entry)
        if entry.expires:
            heapq.heappush(self._ends, (entry.expires, key))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= _size(key, entry)

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """All that has not expired."""
        for key in self.names():
            entry = self.entry(key)
            if entry is not None:
                yield key, entry


def _size(key: str, entry: Entry) -> int:
    return len(key) + _COST + (len(entry.value) if isinstance(entry.value, str) else 32)


ERRORS: dict[str, type[StoreError]] = {c.__name__: c for c in (StoreError, StoreFull, StoreUnavailable)}


class SharedStore:
    """The registry's store, seen from a worker. `call` is net.calls.Caller.call: it parks the greenlet.

    It raises Unavailable when there is no answer, and CallFailed when the answer is an error.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def get(self, key: str) -> Value | None:
        value: Value | None = self._ask("get", check_key(key))
        return value

    def set(self, key: str, value: Value, ttl: float | None = None) -> None:
        self._ask("set", check_key(key), check_value(value), check_ttl(ttl))

    def add(self, key: str, value: Value, ttl: float | None = None) -> bool:
        return bool(self._ask("add", check_key(key), check_value(value), check_ttl(ttl)))

    def increment(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        return int(self._ask("increment", check_key(key), by, check_ttl(ttl)))

    def delete(self, key: str) -> bool:
        return bool(self._ask("delete", check_key(key)))

    def take(self, key: str, rate: str, need: int = 1, want: int = 0) -> Grant:
        tokens, left, wait = self._ask("take", check_key(key), rate, need, want)
        return Grant(tokens, left, float("inf") if wait is None else wait)

    def give(self, key: str, rate: str, tokens: int) -> None:
        self._ask("give", check_key(key), rate, tokens)

    def _ask(self, word: str, *arguments: Any) -> Any:
        try:
            return self._call("store." + word, *arguments, again=word in ("get", "set"))
        except Unavailable as error:
            raise StoreUnavailable(f"the store does not answer: {error}") from None
        except CallFailed as error:
            raise ERRORS.get(error.kind, StoreError)(error.text) from None
