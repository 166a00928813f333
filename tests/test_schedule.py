"""When mail is tried again."""

from __future__ import annotations

import pytest

from mta import settings
from mta.spool.schedule import Schedule

DAY = 86400.0
SCHEDULE = Schedule(settings.Queue())


def waits(schedule: Schedule, chance: float = 0.0) -> list[float]:
    """All waits of a mail that is tried in vain until it is given up, in seconds."""
    now, attempts, found = 1000.0, 1, []
    while (then := schedule.next_try(1000.0, attempts, now, chance)) is not None:
        found.append(then - now)
        now, attempts = then, attempts + 1
    return found


def test_the_default_waits_grow_and_the_last_one_repeats_for_five_days() -> None:
    found = waits(SCHEDULE)
    assert found[:8] == [60, 300, 900, 3600, 7200, 14400, 21600, 21600]
    assert sum(found) == 5 * DAY
    assert set(found[7:-1]) == {21600}


def test_a_little_chance_stretches_each_wait_by_a_tenth_at_most() -> None:
    assert SCHEDULE.next_try(0, 1, 0, 0.0) == 60
    assert SCHEDULE.next_try(0, 1, 0, 1.0) == pytest.approx(66)


def test_the_last_try_comes_when_the_mail_expires() -> None:
    assert SCHEDULE.next_try(0, 30, 5 * DAY - 10, 0.5) == 5 * DAY
    assert SCHEDULE.next_try(0, 31, 5 * DAY, 0.5) is None


def test_a_clock_set_back_gives_no_mail_up() -> None:
    assert SCHEDULE.next_try(arrived=1000, attempts=1, now=0, chance=0) == 60


def test_waits_are_checked() -> None:
    with pytest.raises(ValueError, match="duration"):
        Schedule(settings.Queue(retry=["soon"]))
    with pytest.raises(ValueError, match="at least one"):
        Schedule(settings.Queue(retry=[]))
