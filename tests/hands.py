"""A clock whose hands a test moves: what is limited in time ends at once, and a busy machine ends nothing too early.

with moved() as hands: hands.forward(3600)
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mta.net import clock
from mta.net.deadline import TABLE


class Hands:
    """The time of the machine, and what was added."""

    def __init__(self) -> None:
        self.ahead = 0.0  # seconds

    def now(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def forward(self, seconds: float) -> None:
        self.ahead += seconds


@contextmanager
def moved(tick: float = 0.02) -> Iterator[Hands]:
    """In force in this block; deadlines are looked at every `tick` seconds of the machine's time."""
    hands = Hands()
    before, old = clock.replace(clock.Clock(hands.now, hands.monotonic)), TABLE.finer(tick)
    try:
        yield hands
    finally:
        clock.replace(before)
        TABLE.finer(old)


class Clock:
    """One that stands still until a test moves it: `clock.now += 60`. For what is given its clock."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
