"""Rates without a round trip for every question: a worker keeps a small stock of tokens and remembers a refusal.

    cold     asked now and then: every question goes to the store, and the limit is exact
    stocked  asked more than `HOT` times in a second: the store is asked for some more than needed (never more than an
             eighth of what is left there); the stock answers for `LEASE` seconds, then its rest goes back
    refused  the store said no: that holds until a token comes back, at most `LEASE` seconds

A limit is the server's, not a worker's. The stock of a worker that dies is put back by the registry; if it had used
some of it by then, that many more pass, once. While others hold stock, a refusal may come that much too early.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mta.rules.outside.rate import Grant
from mta.rules.outside.store import Store, StoreError

LEASE = 2.0  # seconds
HOT = 8  # questions in a second
_KNOWN = 10_000  # keys a worker remembers


class _Key:
    """What this worker knows of one key and rate."""

    __slots__ = ("asked", "free", "left", "refused", "second", "stock", "stocking")

    def __init__(self) -> None:
        self.stock = 0  # tokens in hand
        self.stocking = False  # some are being asked for
        self.left = 0  # tokens the store had at the last answer
        self.refused = 0.0  # until when a refusal holds
        self.free = 0.0  # and when the store said there would be a token again
        self.second, self.asked = 0, 0  # how often it was asked in this second


class Rates:
    """The rates of one process. `later(seconds, function)` calls a function once, in a greenlet of its own; without it
    no stock is kept. `generation()` changes when the store has forgotten what it lent (Caller.connections).
    """

    def __init__(
        self,
        store: Store,
        monotonic: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], Any] | None = None,
        generation: Callable[[], int] = lambda: 0,
    ) -> None:
        self.store, self.monotonic, self._later, self._generation = store, monotonic, later, generation
        self._keys: dict[tuple[str, str], _Key] = {}
        self._lent: dict[tuple[str, str], float] = {}  # where there is stock, and until when
        self._seen = generation()
        self._planned = False

    def take(self, key: str, rate: str, need: int = 1) -> Grant:
        """Whether `need` more are within the rate; takes them if so. need=0 only looks. Raises StoreError."""
        if self._generation() != self._seen:
            self._forget()
        now, bucket = self.monotonic(), (key, rate)
        known = self._keys.get(bucket) or self._know(bucket)
        if known.second != int(now):
            known.second, known.asked = int(now), 0
        known.asked += 1
        if 0 < need <= known.stock:
            known.stock -= need
            return Grant(need, known.left + known.stock, 0.0)
        if need > 0 and now < known.refused:
            return Grant(0, known.left, known.free - now)
        return self._ask(bucket, known, need)

    def _ask(self, bucket: tuple[str, str], known: _Key, need: int) -> Grant:
        stocks = known.asked > HOT and self._later is not None and not known.stocking
        if stocks:
            known.stocking = True
        try:  # other greenlets may ask for the same meanwhile: one eighth goes into stock, not one for each of them
            grant = self.store.take(*bucket, need, need + known.asked if stocks else 0)
        finally:
            if stocks:
                known.stocking = False
        now = self.monotonic()
        known.left = grant.left
        if grant.tokens < need <= known.stock:  # what one of them has brought is ours, too
            known.stock -= need
            return Grant(need, known.left + known.stock, 0.0)
        if need == 1 and not grant.tokens:
            known.free, known.refused = now + grant.wait, now + min(grant.wait, LEASE)
        if grant.tokens > need:
            known.stock += grant.tokens - need
            self._lent[bucket] = now + LEASE
            self._plan()
        return Grant(min(need, grant.tokens), grant.left + known.stock, grant.wait)

    def _know(self, bucket: tuple[str, str]) -> _Key:
        if len(self._keys) >= _KNOWN:
            self._keys = {b: k for b, k in self._keys.items() if k.stock}
        known = self._keys[bucket] = _Key()
        return known

    def _forget(self) -> None:
        self._seen = self._generation()
        self._keys.clear()
        self._lent.clear()

    def _plan(self) -> None:
        if not self._planned and self._later is not None:
            self._planned = True
            self._later(LEASE, self.give_back)

    def give_back(self) -> None:
        """Put back the stock whose time is over."""
        self._planned = False
        now = self.monotonic()
        for bucket in [b for b, ends in self._lent.items() if ends <= now]:
            del self._lent[bucket]
            rest, known = 0, self._keys.get(bucket)
            if known is not None:
                rest, known.stock = known.stock, 0
            try:
                self.store.give(*bucket, rest)  # also nothing: then all was used
            except StoreError:
                pass  # it comes back by itself, a token a step
        if self._lent:
            self._plan()
