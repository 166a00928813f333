"""Real threads under the loop: one thread for many waiting greenlets, errors to whom they belong, no interruption."""

import io
import threading

import gevent
import pytest
from gevent import monkey
from receiving import PATIENCE, until

from mta.net.offload import Batch, run

sleep = monkey.get_original("time", "sleep")  # blocks the thread, not the greenlet
get_ident = monkey.get_original("_thread", "get_ident")


def test_run_leaves_the_loop_free() -> None:
    ticks = []
    ticker = gevent.spawn(lambda: [(ticks.append(1), gevent.sleep(0.005)) for _ in range(10_000)])

    def work(a: int, b: int) -> int:
        for _ in range(1000):
            if len(ticks) > 5:
                return a + b
            sleep(0.01)
        return 0

    assert run(work, 1, 2) == 3, "the loop stood still"
    ticker.kill()
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_batch_serves_all_that_wait_in_one_turn() -> None:
    turns: list[list[int]] = []
    threads = set()

    def work(items: list[int]) -> list[int]:
        threads.add(get_ident())
        turns.append(items)
        sleep(0.01)
        return [item * 2 for item in items]

    batch = Batch(work, "test")
    greenlets = [gevent.spawn(batch.do, n) for n in range(50)]
    gevent.joinall(greenlets)
    assert [g.value for g in greenlets] == [n * 2 for n in range(50)]
    assert len(turns) <= 2
    assert threads and get_ident() not in threads and len(threads) == 1
    batch.close()


def test_an_error_reaches_its_own_item_only_or_all_if_work_broke() -> None:
    def work(items: list[object]) -> list[object]:
        if "all" in items:
            raise OSError("broken")
        return [ValueError("mine") if item == "bad" else item for item in items]

    batch = Batch(work, "test")
    good, bad = gevent.spawn(batch.do, "good"), gevent.spawn(batch.do, "bad")
    gevent.joinall([good, bad])
    assert good.value == "good" and isinstance(bad.exception, ValueError)
    both = [gevent.spawn(batch.do, "all"), gevent.spawn(batch.do, "good")]
    gevent.joinall(both)
    assert all(isinstance(g.exception, OSError) for g in both)
    assert batch.do("still") == "still"
    batch.close()


def test_what_is_thrown_at_a_waiting_greenlet_is_raised_after_its_item_is_done() -> None:
    finished, thrown = [], gevent.Timeout(0.01)

    def work(items: list[str]) -> list[None]:
        while "mine" in items and thrown.pending:
            sleep(0.001)
        sleep(0.05)
        finished.extend(items)
        return [None] * len(items)

    batch = Batch(work, "test")
    greenlet = gevent.spawn(batch.do, "item")
    gevent.sleep(0.02)
    with pytest.raises(gevent.Timeout), thrown:
        batch.do("mine")
    assert finished == ["item", "mine"], "raised before it was done"
    greenlet.kill(block=False)
    greenlet.join()
    assert finished == ["item", "mine"]
    batch.close()


def test_a_greenlet_that_dies_of_its_result_does_not_stop_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(lambda items: [ValueError(item) for item in items], "test")
    seen = []

    def wait(name: str) -> None:
        try:
            batch.do(name)
        finally:
            seen.append(name)

    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "exception_stream", io.StringIO())
    for name in "abc":
        gevent.spawn_raw(wait, name)
    until(lambda: len(seen) == 3)
    assert seen == ["a", "b", "c"]
    batch.close()


def test_close_finishes_what_was_handed_over_and_ends_the_thread() -> None:
    done = []
    batch = Batch(lambda items: [done.append(item) for item in items], "test")
    greenlets = [gevent.spawn(batch.do, n) for n in range(3)]
    gevent.sleep(0)
    batch.close()
    gevent.joinall(greenlets)
    assert done == [0, 1, 2]
    with pytest.raises(RuntimeError):
        batch.do(3)
    assert threading.active_count() >= 1


def test_many_turns_lose_nothing() -> None:
    batch = Batch(list, "test")

    def ask(first: int) -> bool:
        return all(batch.do(n) == n for n in range(first, first + 300))

    greenlets = [gevent.spawn(ask, n * 1000) for n in range(20)]
    gevent.joinall(greenlets, timeout=PATIENCE)
    assert all(g.value for g in greenlets)
    batch.close()


def test_a_patient_item_rides_along_or_goes_by_itself_soon() -> None:
    turns: list[list[str]] = []

    def work(items: list[str]) -> list[str]:
        turns.append(items)
        return items

    batch = Batch(work, "test")
    try:
        waits = [gevent.spawn(batch.do, name, patient=True) for name in ("a", "b")]
        gevent.sleep(0)
        waits.append(gevent.spawn(batch.do, "c"))
        gevent.joinall(waits, timeout=PATIENCE, raise_error=True)
        assert turns == [["a", "b", "c"]]
        assert batch.do("d", patient=True) == "d"
        assert turns[1:] == [["d"]]
    finally:
        batch.close()


def test_who_adds_to_an_open_item_waits_along_and_hears_what_became_of_it() -> None:
    turns: list[list[list[str]]] = []
    order: list[str] = []

    def work(items: list[list[str]]) -> list[object]:
        turns.append([item.copy() for item in items])
        return [OSError("no") if "bad" in item else len(item) for item in items]

    batch = Batch(work, "test")

    def leave(name: str) -> object:
        known = batch.open
        if known is not None:
            known.append(name)
        try:
            return batch.do([name], patient=True) if known is None else batch.along()
        finally:
            order.append(name)

    try:
        assert batch.open is None
        for names, heard in ((["a", "b", "c"], 3), (["d", "bad"], None)):
            waits = [gevent.spawn(leave, name) for name in names]
            gevent.joinall(waits, timeout=PATIENCE)
            assert [wait.value for wait in waits] == [heard] * len(names)
            assert [type(wait.exception) for wait in waits] == [OSError if heard is None else type(None)] * len(names)
        assert turns == [[["a", "b", "c"]], [["d", "bad"]]] and order == ["a", "b", "c", "d", "bad"]
        assert batch.open is None
    finally:
        batch.close()
