"""What time it is. Everything that waits or writes a date asks `clock.now()` or `clock.monotonic()`, by these names:
so a test can move the hands, and asking costs no more than asking the standard library.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """`now()` is seconds since 1970 (it may jump); `monotonic()` only ever goes forward, for measuring waits."""

    def __init__(self, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.now, self.monotonic = now, monotonic


def replace(clock: Clock) -> Clock:
    """Put another clock in force; the one that was, to put it back."""
    global now, monotonic
    old = Clock(now, monotonic)
    now, monotonic = clock.now, clock.monotonic
    return old


now: Callable[[], float] = time.time
monotonic: Callable[[], float] = time.monotonic
