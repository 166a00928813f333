"""How long work takes, told so that a slow or busy machine changes nothing: ratios, and CPU instead of clocks."""

import functools
import resource
import time
from collections.abc import Callable
from typing import Any


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The CPU of the shortest of some rounds: what other programs do meanwhile does not count."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


@functools.cache
def slowness() -> float:
    """How many times slower this machine is than the one the limits in these tests were written on; 1 for a faster."""
    return max(1.0, seconds(lambda: sum(n * n for n in range(300_000)), 5) / 0.014)


def of_programs(work: Callable[[], object], rounds: int = 1) -> float:
    """Seconds of CPU of the programs `work` runs and waits for, and of what they wait for; the least of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        work()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def quickest(work: Callable[[], object], under: float, tries: int = 5) -> float:
    """Seconds of the quickest of some tries, of which the first below `under` is enough: for what must be over in time
    and waits for others, which a busy machine stops now and then, but not each time."""
    best = float("inf")
    while tries and best >= under:
        tries -= 1
        start = time.monotonic()
        work()
        best = min(best, time.monotonic() - start)
    return best


def linear(work: Callable[[Any], object], small: Any, large: Any) -> bool:
    """Does work(large) take about as much longer than work(small) as `large` is longer?

    Four times that is granted for caches and noise, and 50 ms for what is too short to be measured. Quadratic work on
    ten times the input takes a hundred times as long and is found out.
    """
    times = len(large) / len(small)
    return seconds(lambda: work(large)) < 4 * times * seconds(lambda: work(small)) + 0.05
