"""What time it is. Everything that waits or writes a date asks here, so that a test can move the hands."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """`now()` is seconds since 1970 (it may jump); `monotonic()` only ever goes forward, for measuring waits."""

    def __init__(self, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.now, self.monotonic = now, monotonic


_clock = Clock()


def now() -> float:
    return _clock.now()


def monotonic() -> float:
    return _clock.monotonic()


def replace(clock: Clock) -> Clock:
    """Put another clock in force; the one that was, to put it back."""
    global _clock
    old, _clock = _clock, clock
    return old
