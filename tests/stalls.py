"""How long the loop stood still while something large was done."""

import time
from collections.abc import Callable

import gevent
from timing import slowness


def worst_stall(work: Callable[[], object], under: float, tries: int = 5) -> float:
    """The longest stop of the loop while `work` runs, in seconds of this process's CPU on a fast machine: neither what
    other programs force upon us counts, nor a slow one. The best of some tries; the first `under` is enough."""
    best = 3600.0
    for _ in range(tries):
        worst = 0.0

        def ticks() -> None:
            nonlocal worst
            while True:
                began = time.process_time()
                gevent.sleep(0.001)
                worst = max(worst, time.process_time() - began)

        other = gevent.spawn(ticks)
        gevent.sleep(0.01)
        work()
        gevent.sleep(0.002)  # what never let go of the loop is told only now
        other.kill()
        best = min(best, worst / slowness())
        if best < under:
            break
    return best
