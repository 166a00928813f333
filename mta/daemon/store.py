"""The registry's store: all in memory, every change durable in a log before it is answered, the log kept short.

    loop (registry's greenlets)                        the log's OS thread (net.offload.Batch)
    change memory · hand over the change · park  ->    one write and one fdatasync for all that came meanwhile
    answer                                       <-

A read never waits, so it may see a change whose sync is still under way. Buckets of rates are written lazily, every
few seconds: a crash gives back at most that much. A change that could not be written raises StoreUnavailable; memory
has it, and it goes to disk with the next change that succeeds.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gevent

from mta import log
from mta.daemon.storelog import Change, Damage, StoreLog
from mta.net import offload
from mta.net.frames import CallFailed
from mta.rules.outside.rate import Grant
from mta.rules.outside.store import ERRORS, Entry, MemoryStore, StoreError, StoreUnavailable, Value

_TIDY = 1.0  # seconds between looks at what has expired and whether the log has grown
_LAZY = 5.0  # seconds a bucket's state may be behind on disk
_PIECE = 1000  # entries of a snapshot handed over at once: about a millisecond of the loop
_CARRIED = 100  # keys in doubt that a change takes along
_GROWN = 8 << 20  # bytes of log at least, before a snapshot is worth it

_ROTATE: list[Change] = []  # the item that asks the thread for a new log


class DurableStore:
    """Implements rules.outside.store.Store for one process. Make it after the fork, on the loop. Raises OSError.

    `room` is the memory it may take, in bytes.
    """

    def __init__(self, folder: str, room: int, now: Callable[[], float] = time.time) -> None:
        self.memory = MemoryStore(room, now)
        self._files = StoreLog(folder)
        self._doubt: set[str] = set()  # keys whose last change may not be on disk
        self._buckets: set[tuple[str, str]] = set()  # buckets changed since they were last written
        self._saved = time.monotonic()
        self._snapshot_size = 0
        self._failing = False  # the last write failed
        self._recover()
        self._batch: offload.Batch[None] = offload.Batch(self._write, "store")
        self._tidying = gevent.spawn(self._tidy)

    def _recover(self) -> None:
        begun, changes = time.monotonic(), 0
        for change in self._files.recover(self._damaged):
            changes += 1
            if changes % 5000 == 0:
                gevent.sleep(0)  # the master wants to see that we live
            match change:
                case ["s", str(key), value, float() | int() as expires]:
                    self.memory.restore(key, Entry(value, expires))
                case ["d", str(key)]:
                    self.memory.restore(key, None)
                case ["r", str(key), str(rate), float() | int() as full]:
                    self.memory.restore_bucket(key, rate, full)
        if changes:
            ms = round((time.monotonic() - begun) * 1000)
            log.event("store_recovered", keys=len(self.memory), changes=changes, ms=ms)

    def _damaged(self, damage: Damage) -> None:
        if not damage.tail:  # a torn tail was never answered: that is how a sudden death looks
            log.event("store_damaged", file=damage.file, offset=damage.offset, size=damage.size)

    # -- the words of Store ------------------------------------------------------------------------------------------

    def get(self, key: str) -> Value | None:
        return self.memory.get(key)

    def set(self, key: str, value: Value, ttl: float | None = None) -> None:
        self.memory.set(key, value, ttl)
        self._keep(key)

    def add(self, key: str, value: Value, ttl: float | None = None) -> bool:
        if not self.memory.add(key, value, ttl):
            return False
        self._keep(key)
        return True

    def increment(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        value = self.memory.increment(key, by, ttl)
        self._keep(key)
        return value

    def delete(self, key: str) -> bool:
        if not self.memory.delete(key):
            return False
        self._keep(key)
        return True

    def take(self, key: str, rate: str, need: int = 1, want: int = 0) -> Grant:
        grant = self.memory.take(key, rate, need, want)
        if grant.tokens:
            self._buckets.add((key, rate))
        return grant

    def give(self, key: str, rate: str, tokens: int) -> None:
        self.memory.give(key, rate, tokens)
        self._buckets.add((key, rate))

    # -- on disk -----------------------------------------------------------------------------------------------------

    def _keep(self, key: str) -> None:
        keys = {key, *itertools.islice(self._doubt, _CARRIED)}
        self._doubt -= keys
        try:
            self._hand_over([self._change(k) for k in keys])
        except BaseException:
            self._doubt |= keys
            raise

    def _change(self, key: str) -> Change:
        entry = self.memory.entry(key)
        return ("d", key) if entry is None else ("s", key, entry.value, entry.expires)

    def _hand_over(self, changes: list[Change]) -> None:
        try:
            self._batch.do(changes)
        except OSError as error:
            if not self._failing:  # told once, not for every change
                log.event("store_failed", reason=error.strerror or str(error))
            self._failing = True
            raise StoreUnavailable(f"the store cannot be written: {error.strerror or error}") from None
        self._failing = False

    def _write(self, items: list[list[Change]]) -> list[BaseException | None]:
        """In the log's thread: all items together, or none of them."""
        try:
            if any(item is _ROTATE for item in items):
                self._files.begin()
            if any(items):
                self._files.write([item for item in items if item])
        except OSError as error:
            return [error] * len(items)
        return [None] * len(items)

    def _tidy(self) -> None:
        while True:
            gevent.sleep(_TIDY)
            try:
                self.memory.sweep()
                if time.monotonic() - self._saved >= _LAZY:
                    self.save_buckets()
                if self._files.written > max(_GROWN, 2 * self._snapshot_size) or len(self._doubt) > _CARRIED:
                    self.snapshot()
            except StoreUnavailable:
                pass  # it was told, and what is lazy is tried again
            except OSError as error:
                if not self._failing:
                    log.event("store_failed", reason=str(error))
                self._failing = True
            except Exception as error:
                log.bug(error, stage="store")

    def save_buckets(self) -> None:
        """Write the buckets that changed; the full ones are forgotten."""
        self._saved = time.monotonic()
        self.memory.sweep_buckets()
        changed, self._buckets = self._buckets, set()
        full = self.memory.buckets
        changes: list[Change] = [("r", key, rate, full[key, rate]) for key, rate in changed if (key, rate) in full]
        try:
            for at in range(0, len(changes), _PIECE):
                self._hand_over(changes[at : at + _PIECE])
        except StoreUnavailable:
            self._buckets |= changed
            raise

    def snapshot(self) -> None:
        """Write all there is into one file and drop the logs before it; changes go on meanwhile. Raises OSError."""
        self._hand_over(_ROTATE)
        number = offload.run(self._files.begin_snapshot)
        doubt = set(self._doubt)
        keys, buckets = [*self.memory.names(), *doubt], list(self.memory.buckets.items())
        for at in range(0, len(keys), _PIECE):
            offload.run(self._files.add_snapshot, number, [self._change(key) for key in keys[at : at + _PIECE]])
        for at in range(0, len(buckets), _PIECE):
            piece: list[Change] = [("r", key, rate, full) for (key, rate), full in buckets[at : at + _PIECE]]
            offload.run(self._files.add_snapshot, number, piece)
        size = self.memory.size
        offload.run(self._files.end_snapshot, number)
        self._snapshot_size, self._doubt = size, self._doubt - doubt

    def close(self) -> None:
        """Write what is still lazy and give the folder back."""
        self._tidying.kill()
        try:
            self.save_buckets()
        except StoreUnavailable:
            pass
        self._batch.close()
        self._files.close()


class StoreCalls:
    """Answers the workers' calls, and remembers what each worker holds in stock, to put it back when it dies."""

    WORDS = frozenset(f"store.{word}" for word in ("get", "set", "add", "increment", "delete", "take", "give"))
    AT_ONCE = frozenset(("store.get", "store.take", "store.give"))  # these never wait

    def __init__(self, store: DurableStore) -> None:
        self.store = store
        self._stock: dict[object, dict[tuple[str, str], int]] = defaultdict(dict)

    def answer(self, peer: object, word: str, arguments: list[Any]) -> Any:
        """One call of `peer` (any object that stands for its connection). Raises CallFailed."""
        try:
            if word == "store.take":
                return self._take(peer, *arguments)
            if word == "store.give":
                return self._give(peer, *arguments)
            if word not in self.WORDS:
                raise CallFailed("NoSuchWord", f"the store has no word {word!r}")
            return getattr(self.store, word.removeprefix("store."))(*arguments)
        except StoreError as error:
            kind = type(error).__name__
            raise CallFailed(kind if kind in ERRORS else "StoreError", str(error)) from None

    def _take(self, peer: object, key: str, rate: str, need: int = 1, want: int = 0) -> tuple[int, int, float]:
        """What is granted beyond need stays the peer's until it gives it back or wants more again: then it was used."""
        grant = self.store.take(key, rate, need, want)
        stock = self._stock[peer]
        if want:
            stock.pop((key, rate), None)
        if grant.tokens > need:
            stock[key, rate] = grant.tokens - need
        return grant

    def _give(self, peer: object, key: str, rate: str, tokens: int) -> None:
        tokens = min(tokens, self._stock[peer].pop((key, rate), 0))  # never more than it was lent
        if tokens > 0:
            self.store.give(key, rate, tokens)

    def close(self) -> None:
        self.store.close()

    def gone(self, peer: object) -> None:
        """The peer's connection ended: its stock returns."""
        for (key, rate), tokens in self._stock.pop(peer, {}).items():
            self.store.give(key, rate, tokens)
