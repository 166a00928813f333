"""How long the loop stood still while something large was done."""

import time
from collections.abc import Callable

import gevent


def worst_stall(work: Callable[[], object], under: float, tries: int = 5) -> float:
    """The longest stop of the loop in seconds while `work` runs; the best of some tries, for other processes stop us
    too. The first that stays `under` is enough."""
    best = 3600.0
    for _ in range(tries):
        worst = 0.0

        def ticks() -> None:
            nonlocal worst
            while True:
                began = time.perf_counter()
                gevent.sleep(0.001)
                worst = max(worst, time.perf_counter() - began)

        other = gevent.spawn(ticks)
        gevent.sleep(0.01)
        work()
        other.kill()
        best = min(best, worst)
        if best < under:
            break
    return best
