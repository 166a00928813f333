"""When a mail that could not be delivered is tried again, and when that ends. Pure: no clock, no dice of its own."""

from __future__ import annotations

from mta import settings
from mta.config import seconds

JITTER = 0.1  # of a wait: mails that failed together do not come back together


class Schedule:
    """The waits of `settings.queue`."""

    def __init__(self, settings: settings.Queue) -> None:
        """Raises ValueError for a wait that is no duration, or no waits at all."""
        self.waits = [seconds(wait) for wait in settings.retry]
        if not self.waits:
            raise ValueError('queue.retry needs at least one wait, like ["5m"]')
        self.expire = settings.expire

    def next_try(self, arrived: float, attempts: int, now: float, chance: float) -> float | None:
        """When to try again after `attempts` failures (1 or more), or None: it is too old, give it up.

        Times are seconds since 1970; `chance` is 0..1 and stretches the wait by up to a tenth. The last wait repeats;
        the last try comes when the mail expires. A clock that was set back makes no mail older.
        """
        end = arrived + self.expire
        if now >= end:
            return None
        wait = self.waits[min(attempts, len(self.waits)) - 1] * (1 + JITTER * chance)
        return min(now + wait, end)
