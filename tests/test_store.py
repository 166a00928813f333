"""The store: one contract over memory, disk and the way through the registry; deaths, damage, full disks."""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
from daemon import Server
from gevent.event import Event
from gevent.server import StreamServer
from hands import Clock
from receiving import PATIENCE, until

from mta.daemon.store import DurableStore, StoreCalls
from mta.daemon.storelog import Damage, StoreLog, read, record
from mta.net import calls
from mta.net.calls import Caller
from mta.rules.outside.leases import Rates
from mta.rules.outside.store import (
    MAX_KEY,
    MAX_VALUE,
    MemoryStore,
    SharedStore,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

ROOM = 8 << 20


class Registry:
    """What the registry process does with a store, in this process."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.path = str(folder / "registry.sock")
        self.store = DurableStore(str(folder / "store"), ROOM, clock)
        self.calls = StoreCalls(self.store)
        self.sockets: list[Any] = []
        self.serve()

    def serve(self) -> None:
        listening = gevent.socket.socket(gevent.socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen(16)
        self.server = StreamServer(listening, self._one)
        self.server.start()

    def _one(self, sock: Any, _: object) -> None:
        peer = object()
        self.sockets.append(sock)
        calls.answer_all(sock, lambda word, args: self.calls.answer(peer, word, args), StoreCalls.AT_ONCE)
        self.calls.gone(peer)

    def hang_up(self) -> None:
        """As a death looks to the workers."""
        self.server.stop()
        os.unlink(self.path)
        for sock in self.sockets:
            try:
                sock.shutdown(gevent.socket.SHUT_RDWR)
            except OSError:
                pass
        gevent.sleep(0.01)


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    made = Registry(tmp_path, clock)
    yield made
    made.server.stop()
    made.store.close()


@pytest.fixture(params=["memory", "durable", "shared"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryStore(ROOM, clock)
    elif request.param == "durable":
        durable = DurableStore(str(tmp_path / "store"), ROOM, clock)
        yield durable
        durable.close()
    else:
        registry = request.getfixturevalue("registry")
        caller = Caller(registry.path, timeout=PATIENCE)
        yield SharedStore(caller.call)
        caller.close()


# -- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["", "text", "caf\xe9 \x00\xff\r\n", 0, -5, (1 << 63) - 1, 1.5, True, False, "x" * MAX_VALUE]
)
def test_what_is_set_is_got(store: Any, value: Any) -> None:
    assert store.get("key") is None
    store.set("key", value)
    assert store.get("key") == value and type(store.get("key")) is type(value)
    store.set("key", "other")
    assert store.get("key") == "other"
    assert store.delete("key") is True
    assert store.delete("key") is False
    assert store.get("key") is None


def test_only_the_first_adds(store: Any) -> None:
    assert store.add("key", 1) is True
    assert store.add("key", 2) is False
    assert store.get("key") == 1
    store.delete("key")
    assert store.add("key", 3) is True


def test_counters(store: Any) -> None:
    assert store.increment("n") == 1
    assert store.increment("n", 10) == 11
    assert store.increment("n", -12) == -1
    assert store.get("n") == -1
    store.set("n", "text")
    with pytest.raises(StoreError, match="no counter"):
        store.increment("n")
    store.set("n", (1 << 63) - 1)
    with pytest.raises(StoreError):
        store.increment("n")


def test_keys_expire(store: Any, clock: Clock) -> None:
    store.set("brief", 1, 10)
    store.set("long", 1, 1000)
    assert store.add("added", 1, 10)
    assert store.increment("count", 1, 10) == 1
    clock.now += 5
    assert store.increment("count", 1, 10) == 2, "an expiry counts from the counter's birth"
    assert store.get("brief") == 1
    clock.now += 5.1
    assert store.get("brief") is None and store.get("added") is None and store.get("count") is None
    assert store.get("long") == 1
    assert store.add("added", 2) and store.increment("count") == 1
    store.set("long", 2)  # without a time to live now
    clock.now += 10_000
    assert store.get("long") == 2


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY + 1), 5, None])
def test_keys_have_a_size(store: Any, key: Any) -> None:
    with pytest.raises(StoreError, match="a key is text"):
        store.set(key, 1)


@pytest.mark.parametrize(
    "value", ["x" * (MAX_VALUE + 1), None, float("nan"), float("inf"), 1 << 63, ["list"], {"a": 1}, b"b"]
)
def test_values_are_plain_and_small(store: Any, value: Any) -> None:
    with pytest.raises(StoreError):
        store.set("key", value)
    assert store.get("key") is None


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), 1e12, "10"])
def test_a_time_to_live_is_a_sane_number(store: Any, ttl: Any) -> None:
    with pytest.raises(StoreError, match="time to live"):
        store.set("key", 1, ttl)


def test_buckets(store: Any, clock: Clock) -> None:
    assert [store.take("k", "2/10s").tokens for _ in range(3)] == [1, 1, 0]
    assert store.take("k", "5/10s").tokens == 1, "another rate is another bucket"
    assert store.take("k", "2/10s", need=3).wait == float("inf")
    clock.now += 5
    assert store.take("k", "2/10s").tokens == 1
    with pytest.raises(StoreError, match="is not a rate"):
        store.take("k", "nonsense")


def test_a_full_store_says_so_and_goes_on(tmp_path: Path, clock: Clock) -> None:
    store = MemoryStore(100_000, clock)
    n = 0
    with pytest.raises(StoreFull, match=r"the store is full \(100000 bytes, \d+ keys.*\[store\] memory"):
        for n in range(1000):
            store.set(f"key{n}", "x" * 100, 60)
    assert store.get("key0") == "x" * 100
    store.set("key0", "y" * 100)  # no growth
    clock.now += 61
    store.set("new", 1)
    assert len(store) == 2 and store.get("key0") == "y" * 100
    with pytest.raises(StoreFull):
        for n in range(1000):
            store.take(f"rate{n}", "1/1h")
    assert n > 300


def test_sizes_come_back_to_nothing(clock: Clock) -> None:
    store = MemoryStore(ROOM, clock)
    for n in range(500):
        store.set(f"k{n}", "x" * n, 10)
        store.set(f"k{n}", n, 20)
        store.take(f"k{n}", "1/5s")
    clock.now += 30
    store.sweep()
    store.sweep_buckets()
    assert (store.size, len(store), store.buckets) == (0, 0, {})


def test_keys_set_again_and_again_do_not_grow_the_heap(clock: Clock) -> None:
    store = MemoryStore(ROOM, clock)
    for n in range(10_000):
        store.set("k", n, 1000)
    store.sweep()
    assert len(store._ends) == 1


# -- on disk ---------------------------------------------------------------------------------------------------------


def test_a_restart_finds_everything(tmp_path: Path, clock: Clock) -> None:
    store = DurableStore(str(tmp_path), ROOM, clock)
    store.set("a", "caf\xe9")
    store.set("gone", 1)
    store.delete("gone")
    store.set("brief", 1, 10)
    store.set("long", 2.5, 1000)
    for _ in range(5):
        store.increment("n")
    store.take("k", "2/1h", need=2)
    store.close()
    clock.now += 60
    again = DurableStore(str(tmp_path), ROOM, clock)
    assert {k: e.value for k, e in again.memory} == {"a": "caf\xe9", "long": 2.5, "n": 5}
    assert again.take("k", "2/1h").tokens == 0
    clock.now += 1000
    assert again.get("long") is None
    again.close()


def test_a_snapshot_replaces_the_logs_and_loses_nothing_that_changes_meanwhile(tmp_path: Path, clock: Clock) -> None:
    store = DurableStore(str(tmp_path), ROOM, clock)
    gevent.joinall([gevent.spawn(store.set, f"k{n}", n) for n in range(5000)], raise_error=True)
    for n in range(0, 5000, 10):
        store.memory.take(f"r{n}", "1/1h")

    def change() -> None:
        for n in range(0, 5000, 7):
            store.increment(f"k{n}", 1_000_000)
            store.delete(f"k{n + 1}")
            store.set(f"new{n}", n)

    changing = gevent.spawn(change)
    for _ in range(3):
        store.snapshot()
        gevent.sleep(0.001)
    changing.get()
    wanted = dict(store.memory)
    store.close()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len([n for n in names if n.endswith(".snapshot")]) == 1 and not [n for n in names if n.endswith(".new")]
    again = DurableStore(str(tmp_path), ROOM, clock)
    assert dict(again.memory) == wanted
    assert len(again.memory.buckets) == 500
    again.close()


def test_the_log_is_kept_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mta.daemon.store._GROWN", 50_000)
    monkeypatch.setattr("mta.daemon.store._TIDY", 0.02)
    store = DurableStore(str(tmp_path), ROOM)
    for n in range(300):
        store.set("the one key", str(n) * 500)

    def size() -> int:
        with contextlib.suppress(FileNotFoundError):  # what was listed goes just now
            return sum(p.stat().st_size for p in tmp_path.iterdir())
        return 1 << 30

    until(lambda: size() < 150_000)
    store.close()
    again = DurableStore(str(tmp_path), ROOM)
    assert again.get("the one key") == "299" * 500
    again.close()


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    log_ = StoreLog(tmp_path)
    with pytest.raises(TimeoutError, match="another process holds the store"):
        StoreLog(tmp_path, patience=0.05)
    log_.close()
    StoreLog(tmp_path, patience=0.05).close()


def test_many_writers_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DurableStore(str(tmp_path), ROOM)
    syncs = []
    real = os.fdatasync
    monkeypatch.setattr("os.fdatasync", lambda fd: (syncs.append(fd), real(fd)))
    gevent.joinall([gevent.spawn(store.increment, "n") for _ in range(500)], raise_error=True)
    assert store.get("n") == 500 and len(syncs) < 50
    store.close()


@pytest.mark.parametrize("number", [28, 5])  # ENOSPC, EIO
def test_a_failing_disk_is_told_and_what_failed_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, logged: list[tuple[str, dict[str, Any]]]
) -> None:
    store = DurableStore(str(tmp_path), ROOM)
    store.set("before", 1)
    real = os.fdatasync

    def broken(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fdatasync", broken)
    for name in ("lost1", "lost2"):
        with pytest.raises(StoreUnavailable, match=os.strerror(number)):
            store.set(name, 2)
    assert store.get("before") == 1
    assert logged == [("store_failed", {"reason": os.strerror(number)})], "told once"
    monkeypatch.setattr("os.fdatasync", real)
    store.set("after", 3)
    store.close()
    again = DurableStore(str(tmp_path), ROOM)
    assert {k: e.value for k, e in again.memory} == {"before": 1, "lost1": 2, "lost2": 2, "after": 3}
    again.close()


def test_damage_is_stepped_over_and_told(tmp_path: Path, logged: list[tuple[str, dict[str, Any]]]) -> None:
    store = DurableStore(str(tmp_path), ROOM)
    for n in range(100):
        store.set(f"k{n}", n)
    store.close()
    (path,) = tmp_path.glob("*.log")
    blob = bytearray(path.read_bytes())
    middle = len(blob) // 2
    blob[middle : middle + 5] = b"\0\0\0\0\0"
    path.write_bytes(blob + b"mtaK torn")
    again = DurableStore(str(tmp_path), ROOM)
    assert len(again.memory) == 99
    damage = [fields for event, fields in logged if event == "store_damaged"]
    assert len(damage) == 1 and damage[0]["file"] == path.name and 0 < damage[0]["offset"] < middle
    again.close()


def test_every_prefix_and_every_flipped_byte_of_a_log_is_recovered() -> None:
    records = [record(7, [("s", f"k{n}", n, 0)]) for n in range(6)]
    blob = b"".join(records)
    ends = [sum(map(len, records[: n + 1])) for n in range(6)]
    damage: list[Damage] = []
    for cut in range(len(blob) + 1):
        found = [c[2] for c in read(blob[:cut], 7, "x", damage.append)]
        assert found == list(range(sum(end <= cut for end in ends)))
    for at in range(len(blob)):
        flipped = bytearray(blob)
        flipped[at] ^= 0x41
        found = [c[2] for c in read(bytes(flipped), 7, "x", damage.append)]
        hurt = sum(end <= at for end in ends)
        assert found == [n for n in range(6) if n != hurt]
    assert list(read(blob, 8, "x", damage.append)) == [], "records of another file are not ours"


_CHILD = """
import sys
from gevent import monkey; monkey.patch_all()
import gevent
from mta.daemon import store as module
module._GROWN, module._TIDY = 20_000, 0.01
store = module.DurableStore(sys.argv[1], 8 << 20)
def work(name):
    n = 0
    while True:
        n = store.increment(f"count-{name}")
        store.set(f"{name}.{n}", n)
        if n > 3:
            store.delete(f"{name}.{n - 3}")
        sys.stdout.write(f"{name} {n}\\n"); sys.stdout.flush()
gevent.joinall([gevent.spawn(work, name) for name in "abcdefgh"])
"""


def test_killed_in_the_middle_of_everything_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    told: dict[str, int] = {}
    for turn in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None and child.stderr is not None
            heard = [child.stdout.readline() for _ in range(50 + 50 * turn)]
            assert all(heard), child.stderr.read()
        finally:
            child.kill()
        for line in [*heard, *child.stdout.read().splitlines(keepends=True)]:
            if line.endswith("\n"):
                name, _, number = line.strip().partition(" ")
                if number and (name not in told or int(number) > told[name]):
                    told[name] = int(number)
        child.wait()
        assert child.returncode == -signal.SIGKILL
        store = DurableStore(str(tmp_path), ROOM)
        for name, number in told.items():
            assert store.get(f"count-{name}") in (number, number + 1)
            assert store.get(f"{name}.{number}") == number
            assert store.get(f"{name}.{number - 3}") is None
        store.close()
    assert sum(told.values()) > 100


# -- over the socket -------------------------------------------------------------------------------------------------


def test_a_thousand_greenlets_share_one_connection(registry: Registry) -> None:
    caller = Caller(registry.path, timeout=PATIENCE)
    store = SharedStore(caller.call)
    done = [gevent.spawn(store.increment, f"n{n % 10}") for n in range(1000)]
    gevent.joinall(done, raise_error=True)
    assert sorted(g.value for g in done) == sorted(list(range(1, 101)) * 10)
    assert caller.connections == 1
    caller.close()


def test_without_a_registry_the_error_is_clear_and_in_time(tmp_path: Path) -> None:
    caller = Caller(str(tmp_path / "none.sock"), timeout=0.2)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"the store does not answer: the registry gave no answer within 0\.2 s"):
        SharedStore(caller.call).get("k")
    assert 0.1 < time.monotonic() - begun < 50


def test_a_registry_that_comes_back_is_found(registry: Registry) -> None:
    caller = Caller(registry.path, timeout=PATIENCE)
    store = SharedStore(caller.call)
    store.set("k", 1)
    registry.hang_up()
    waiting = gevent.spawn(store.get, "k")
    gevent.sleep(0.1)
    registry.serve()
    assert waiting.get() == 1
    assert caller.connections == 2
    caller.close()


def test_a_call_under_way_when_the_registry_dies_is_not_repeated(registry: Registry, monkeypatch: Any) -> None:
    caller = Caller(registry.path, timeout=PATIENCE)
    store = SharedStore(caller.call)
    store.set("n", 1)
    held: Callable[..., Any] = registry.store.increment
    counted, dead = Event(), Event()

    def slow(*args: Any) -> Any:
        result = held(*args)
        counted.set()
        dead.wait()
        return result

    monkeypatch.setattr(registry.store, "increment", slow)
    waiting = gevent.spawn(store.increment, "n")
    counted.wait()
    registry.hang_up()
    dead.set()
    with pytest.raises(StoreUnavailable, match="the connection was lost"):
        waiting.get()
    assert registry.store.get("n") == 2
    caller.close()


def test_what_does_no_harm_twice_is_asked_again_when_the_registry_died_under_it(registry: Registry) -> None:
    caller = Caller(registry.path, timeout=PATIENCE)
    store = SharedStore(caller.call)
    store.set("k", 5)
    answer, dying = registry.calls.answer, [3]

    def die(*asked: Any) -> Any:
        if dying[0]:
            dying[0] -= 1
            registry.sockets[-1].shutdown(gevent.socket.SHUT_RDWR)
            gevent.sleep(0.01)
        return answer(*asked)

    registry.calls.answer = die  # type: ignore[method-assign]
    assert store.get("k") == 5 and dying == [0]
    dying[0] = 1
    with pytest.raises(StoreUnavailable, match="the connection was lost"):
        store.increment("k")
    caller.close()


def test_errors_cross_the_socket_as_what_they_are(registry: Registry) -> None:
    caller = Caller(registry.path, timeout=PATIENCE)
    store = SharedStore(caller.call)
    registry.store.memory.room = 1000
    with pytest.raises(StoreFull, match="the store is full"):
        store.set("k", "x" * 2000)
    with pytest.raises(StoreError, match=r"no word 'store\.nonsense'"):
        store._ask("nonsense")
    caller.close()


def test_an_interrupted_call_leaves_the_connection_in_order(registry: Registry) -> None:
    caller = Caller(registry.path, timeout=PATIENCE)
    store = SharedStore(caller.call)
    store.set("k", 0)
    for n in range(50):
        one = gevent.spawn(store.set, "k", n)
        gevent.sleep(0)
        one.kill()
        assert store.increment("n") == n + 1
    assert caller._wire is not None and not caller._wire.waiting
    caller.close()


def test_the_stock_of_a_dead_worker_returns(registry: Registry, clock: Clock) -> None:
    dying = Caller(registry.path, timeout=PATIENCE)
    rates = Rates(SharedStore(dying.call), clock, later=lambda seconds, function: None)  # all in one second
    for _ in range(20):
        assert rates.take("client", "1000/1h").tokens == 1
    left = registry.store.take("client", "1000/1h", need=0).left
    assert left < 980
    dying.close()
    until(lambda: registry.store.take("client", "1000/1h", need=0).left > left)
    assert registry.store.take("client", "1000/1h", need=0).left <= 990


def test_one_more_question_leaves_the_stock_to_be_given_back(registry: Registry) -> None:
    caller = Caller(registry.path, timeout=PATIENCE)
    store = SharedStore(caller.call)
    assert store.take("k", "100/1h", want=9).tokens == 9
    assert store.take("k", "100/1h").left == 90
    store.give("k", "100/1h", 8)
    assert store.take("k", "100/1h", need=0).left == 98
    caller.close()


def test_nobody_gives_back_more_than_was_lent(registry: Registry) -> None:
    caller = Caller(registry.path, timeout=PATIENCE)
    store = SharedStore(caller.call)
    store.take("k", "10/1h", need=10)
    store.give("k", "10/1h", 10)
    assert store.take("k", "10/1h").tokens == 0
    caller.close()


def test_nonsense_on_the_socket_ends_only_that_connection(registry: Registry) -> None:
    for junk in (b"\xff\xff\xff\xff", b"\0\0\0\x05{oops", b"\0\0\0\x02[]", b"\0\0\0\x03123"):
        sock = gevent.socket.socket(gevent.socket.AF_UNIX)
        sock.connect(registry.path)
        sock.sendall(junk)
        sock.settimeout(PATIENCE)
        assert sock.recv(100) == b""
        sock.close()
    caller = Caller(registry.path, timeout=PATIENCE)
    assert SharedStore(caller.call).get("k") is None
    caller.close()


# -- the real server -------------------------------------------------------------------------------------------------


def test_the_registry_is_killed_and_the_server_stopped_nothing_is_lost(tmp_path: Path) -> None:
    def connected() -> SharedStore:
        return SharedStore(Caller(str(tmp_path / "run" / "registry.sock"), timeout=PATIENCE).call)

    with Server(tmp_path) as server:
        store = connected()
        assert [store.increment("n") for _ in range(5)] == [1, 2, 3, 4, 5]
        store.set("k", "v", 3600)
        (registry,) = (child["pid"] for child in server.status()["children"] if child["name"] == "registry")
        os.kill(registry, signal.SIGKILL)
        assert store.get("n") == 5 and store.get("k") == "v"
        assert store.increment("n") == 6
    with Server(tmp_path):
        assert connected().get("n") == 6


def test_a_limit_is_the_servers_not_a_workers_and_greylisting_survives_a_restart(tmp_path: Path) -> None:
    rules = """
local greylist = require "greylist"
on.mail("eight a day", function(mail)  -- so few that no worker keeps a stock
  if mail.sender.domain == "b.test" and not rate("all", "8/1d") then return defer("450 4.7.1 Too many") end
end)
on.rcpt("greylist", function(mail)
  if mail.recipient.local_part == "grey" then return greylist(mail, { delay = "1s" }) end
end)
"""

    def sent(**envelope: str) -> bool:
        try:
            server.send(**envelope)
        except smtplib.SMTPException:
            return False
        return True

    def workers() -> set[str]:
        return {event["session"].partition("-")[0] for event in server.events() if "session" in event}

    config = '[server]\nname = "mx.example.test"\nworkers = 2\ntrusted = []\n'
    with Server(tmp_path, config, rules) as server:
        assert [sent() for _ in range(40)] == [True] * 8 + [False] * 32
        server.until(lambda: len(workers()) == 2, "both workers should have been asked")
        assert not sent(sender="c@c.test", to="grey@demo.test")
    time.sleep(1.0)
    with Server(tmp_path, config, rules) as server:
        assert sent(sender="c@c.test", to="grey@demo.test")
        assert not sent(), "rates too are remembered over a stop"
