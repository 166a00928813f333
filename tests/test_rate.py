"""Rates: how they are written, what a bucket grants over time, and the stocks workers take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from hands import Clock
from hypothesis import given
from hypothesis import strategies as st

from mta.rules.outside.leases import HOT, LEASE, Rates
from mta.rules.outside.rate import Rate, available, give, take
from mta.rules.outside.store import MemoryStore, StoreError


@pytest.mark.parametrize(
    "text, tokens, period",
    [("60/1h", 60, 3600), ("5/30s", 5, 30), ("100/d", 100, 86400), (" 1 / 1.5 m ", 1, 90), ("3/0.5s", 3, 0.5)],
)
def test_a_rate_is_read(text: str, tokens: int, period: float) -> None:
    assert Rate.parse(text) == Rate(tokens, period)


@pytest.mark.parametrize("text", ["", "60", "60/", "60/1w", "0/1h", "-1/1h", "60/0s", "1/400d", "a/1h", "60/1h burst"])
def test_what_is_no_rate_is_said_so(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        Rate.parse(text)


def test_a_bucket_grants_its_tokens_then_one_a_step() -> None:
    rate, full, now = Rate(3, 30), 0.0, 1000.0
    for left in (2, 1, 0):
        full, grant = take(rate, full, now)
        assert (grant.tokens, grant.left) == (1, left)
    full, grant = take(rate, full, now)
    assert grant.tokens == 0 and grant.wait == pytest.approx(10)
    full, grant = take(rate, full, now + 9.99)
    assert grant.tokens == 0
    full, grant = take(rate, full, now + 10)
    assert grant == (1, 0, 0.0)
    assert available(rate, full, now + 1000) == 3


def test_all_or_nothing_and_more_than_the_bucket_holds() -> None:
    rate = Rate(10, 10)
    full, grant = take(rate, 0.0, 100.0, need=8)
    assert grant.tokens == 8
    full, grant = take(rate, full, 100.0, need=3)
    assert (grant.tokens, grant.left) == (0, 2) and grant.wait == pytest.approx(1)
    assert take(rate, full, 100.0, need=11)[1].wait == float("inf")


def test_a_stock_is_at_most_an_eighth_of_what_is_left() -> None:
    rate = Rate(100, 100)
    full, grant = take(rate, 0.0, 50.0, need=1, want=1000)
    assert grant.tokens == 1 + 99 // 8
    full = give(rate, full, grant.tokens)
    assert available(rate, full, 50.0) == 100
    _, grant = take(Rate(4, 1), 0.0, 50.0, need=1, want=1000)
    assert grant.tokens == 1


@given(
    st.integers(1, 50),
    st.floats(0.1, 1000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5)), max_size=60),
)
def test_no_window_ever_sees_more_than_twice_its_tokens_and_never_at_once_more_than_one_bucket(
    tokens: int, period: float, calls: list[tuple[float, int]]
) -> None:
    rate, full, now = Rate(tokens, period), 0.0, 0.0
    granted: list[tuple[float, int]] = []
    for wait, need in calls:
        now += wait
        full, grant = take(rate, full, now, need)
        granted.append((now, grant.tokens))
    for start, _ in granted:
        for length in (0.0, period / 2, period):
            seen = sum(n for at, n in granted if start <= at <= start + length)
            assert seen <= tokens * (1 + length / period) + 1


# -- leases ----------------------------------------------------------------------------------------------------------


class Counted:
    """A store that counts the questions it gets, with the stocks the registry would remember."""

    def __init__(self, clock: Clock) -> None:
        self.inner, self.trips, self.given = MemoryStore(now=clock), 0, 0

    def take(self, key: str, rate: str, need: int = 1, want: int = 0) -> Any:
        self.trips += 1
        return self.inner.take(key, rate, need, want)

    def give(self, key: str, rate: str, tokens: int) -> None:
        self.given += tokens
        self.inner.give(key, rate, tokens)


class Later:
    def __init__(self) -> None:
        self.planned: list[Any] = []

    def __call__(self, seconds: float, function: Any) -> None:
        self.planned.append(function)

    def run(self) -> None:
        planned, self.planned = self.planned, []
        for function in planned:
            function()


def test_few_questions_are_exact_for_all_workers_together() -> None:
    clock = Clock(1_000_000.0)
    store: Any = Counted(clock)
    workers = [Rates(store, clock, Later()) for _ in range(2)]
    passed = 0
    for n in range(20):
        clock.now += 0.5
        passed += workers[n % 2].take("client", "10/1h").tokens
    assert passed == 10


def test_a_hot_key_rarely_goes_to_the_store_and_stays_within_the_limit() -> None:
    clock = Clock(1_000_000.0)
    store: Any = Counted(clock)
    later = [Later(), Later()]
    workers = [Rates(store, clock, one) for one in later]
    passed = 0
    for n in range(20_000):
        clock.now += 0.0001
        passed += workers[n % 2].take("client", "10000/1h").tokens
        if n % 10_000 == 9_999:
            clock.now += LEASE
            for one in later:
                one.run()
    assert passed <= 10_000 + 10_000 / 3600 * 10 + 1
    assert passed >= 9_900
    assert store.trips < 1500, "20,000 questions should not be as many round trips"


def test_many_who_ask_at_once_get_all_there_is_and_keep_one_eighth_at_most() -> None:
    """Each answer takes a while: nobody is refused because of what another greenlet holds, nor takes an eighth more."""
    store: Any = Counted(Clock(1_000_000.0))
    lent: list[int] = []

    def take(*asked: Any) -> Any:
        gevent.sleep(0)  # all the others ask before the first answer comes
        grant = store.inner.take(*asked)
        lent.append(grant.tokens - asked[2])
        return grant

    rates = Rates(SimpleNamespace(take=take), Clock(5.0), Later())  # type: ignore[arg-type]
    asking = [gevent.spawn(rates.take, "client", "100/1h") for _ in range(300)]
    gevent.joinall(asking, raise_error=True)
    assert sum(one.value.tokens for one in asking) == 100
    assert max(lent) <= 100 // 8 and sum(tokens > 0 for tokens in lent) == 1


def test_a_stock_goes_back_when_its_time_is_over() -> None:
    clock, later = Clock(1_000_000.0), Later()
    store: Any = Counted(clock)
    rates = Rates(store, clock, later)
    for _ in range(HOT + 2):
        assert rates.take("k", "1000/1h").tokens == 1
    assert store.inner.take("k", "1000/1h", need=0).left < 1000 - (HOT + 2)
    clock.now += LEASE
    later.run()
    assert store.inner.take("k", "1000/1h", need=0).left == 1000 - (HOT + 2)


def test_a_refusal_is_remembered_until_a_token_is_back() -> None:
    clock = Clock(1_000_000.0)
    store: Any = Counted(clock)
    rates = Rates(store, clock, Later())
    assert [rates.take("k", "1/10s").tokens for _ in range(2)] == [1, 0]
    trips = store.trips
    assert all(rates.take("k", "1/10s").tokens == 0 for _ in range(100))
    assert store.trips == trips
    clock.now += 10
    assert rates.take("k", "1/10s").tokens == 1


def test_when_the_store_was_away_stocks_are_forgotten() -> None:
    clock, generation = Clock(1_000_000.0), [1]
    store: Any = Counted(clock)
    rates = Rates(store, clock, Later(), lambda: generation[0])
    for _ in range(HOT + 2):
        rates.take("k", "1000/1h")
    trips = store.trips
    rates.take("k", "1000/1h")
    assert store.trips == trips
    generation[0] = 2
    rates.take("k", "1000/1h")
    assert store.trips == trips + 1


def test_a_wrong_rate_is_an_error() -> None:
    with pytest.raises(StoreError, match="is not a rate"):
        Rates(MemoryStore()).take("k", "lots")


def test_many_keys_do_not_stay_in_memory() -> None:
    rates = Rates(MemoryStore())
    for n in range(25_000):
        rates.take(f"k{n}", "1/1h")
    assert len(rates._keys) <= 10_000
