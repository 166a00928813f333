"""How much longer the same work takes on a larger input: ratios, so that a slow or busy machine changes nothing."""

import time
from collections.abc import Callable
from typing import Any


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The shortest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def linear(work: Callable[[Any], object], small: Any, large: Any) -> bool:
    """Does work(large) take about as much longer than work(small) as `large` is longer?

    Four times that is granted for caches and noise, and 50 ms for what is too short to be measured. Quadratic work on
    ten times the input takes a hundred times as long and is found out.
    """
    times = len(large) / len(small)
    return seconds(lambda: work(large)) < 4 * times * seconds(lambda: work(small)) + 0.05
