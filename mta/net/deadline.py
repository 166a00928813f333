"""Who waits for the network, and until when: one table and one coarse timer for a whole process.

A timer object for every read costs 31 us; a deadline in this table costs nothing one can measure. A connection stands
in the table as long as it is open; its `greenlet` is set exactly while it waits: `Wait.until()` sets it, hands over to
the loop, and clears it in `finally`. A timer that fires therefore finds only waits that are still waits, and a deadline
can never reach a greenlet that is elsewhere, in `spool.commit` for one.

    waiting   `greenlet` set, parked in the loop -> ready (the watcher fires) | TimedOut | woken (`wake`)
    elsewhere `greenlet` None                    -> nothing can reach it; its deadline counts at its next wait
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import get_hub, getcurrent

from mta.net import clock


class TimedOut(Exception):
    """The other side took longer than we wait."""


class Wait:
    """One greenlet's wait for one socket. `deadline` is on the monotonic clock."""

    __slots__ = ("_hub_wait", "deadline", "greenlet")

    def __init__(self) -> None:
        self.deadline = float("inf")
        self.greenlet: Any = None
        self._hub_wait = get_hub().wait
        TABLE.add(self)

    def until(self, watcher: Any) -> None:
        """Park this greenlet until the watcher fires. Raises TimedOut, or what `wake` was given."""
        self.greenlet = getcurrent()
        try:
            self._hub_wait(watcher)
        finally:
            self.greenlet = None

    def close(self) -> None:
        """There will be no more waiting."""
        TABLE.waits.discard(self)

    @property
    def waiting(self) -> bool:
        return self.greenlet is not None

    def wake(self, error: BaseException, still: Callable[[], bool] | None = None) -> None:
        """Soon, if it then waits and `still()` holds, let it go on with an exception. Safe from any greenlet."""
        get_hub().loop.run_callback(self._throw, error, still)

    def _throw(self, error: BaseException, still: Callable[[], bool] | None = None) -> None:
        if self.greenlet is not None and (still is None or still()):  # it may have stopped waiting in this very turn
            self.greenlet.throw(error)


class Table:
    """All connections of a process. `tick`: seconds between two looks, so a deadline is late by that much at most."""

    def __init__(self) -> None:
        self.tick = 1.0
        self.waits: set[Wait] = set()
        self.timer: Any = None

    def add(self, wait: Wait) -> None:
        self.waits.add(wait)
        if self.timer is None:
            self._start()

    def _start(self) -> None:
        self.timer = get_hub().loop.timer(self.tick, self.tick, ref=False)
        self.timer.start(self.look, update=True)

    def finer(self, tick: float) -> float:
        """Look every `tick` seconds from now on; what it was."""
        old, self.tick = self.tick, tick
        if self.timer is not None:
            self.timer.close()
            self._start()
        return old

    def look(self) -> None:
        now = clock.monotonic()
        for wait in [wait for wait in self.waits if wait.deadline <= now]:
            if wait.deadline <= now:  # the one before may have ended this wait
                wait._throw(TimedOut())


TABLE = Table()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Whatever waits in this block gets TimedOut after `seconds`. For what rules wait for outside, never the spool."""
    with gevent.Timeout(seconds, TimedOut):
        yield
