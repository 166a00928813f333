"""The daemon's parts one by one: pulses, channels, sockets, logs, privileges, saved files, pages of the queue."""

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from daemon import PATIENCE, free_ports
from gevent import monkey
from hands import Clock
from receiving import until

from mta import config, settings
from mta import log as log_module
from mta.daemon import channel, hearing, listening, logs, privileges, waiting
from mta.daemon.child import PLACES, Child, Pulses
from mta.daemon.control import Near
from mta.daemon.generation import Generation
from mta.daemon.master import LONG, REGISTRY, SHORT, Master
from mta.daemon.registry import worker_socket
from mta.daemon.reload import Change
from mta.daemon.watching import EVERY, Watch
from mta.daemon.worker import Worker
from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient
from mta.net.calls import Caller, Unavailable
from mta.settings import Listener

TREE = Path(__file__).parent.parent

# -- children --------------------------------------------------------------------------------------------------------


def test_pulses_are_seen_across_a_fork() -> None:
    pulses = Pulses()
    place = pulses.take()
    code = monkey.get_original("os", "fork")()
    if code == 0:
        for _ in range(3):
            pulses.beat(place)
        os._exit(0)
    os.waitpid(code, 0)
    assert pulses.read(place) == 3
    pulses.give_back(place)
    assert pulses.take() != place, "the places are used in turn"


def test_silence_is_counted_from_the_last_sign_of_life() -> None:
    pulses = Pulses()
    here, there = channel.pair()
    child = Child(1, 0, 1, here, pulses.take())
    now = child.started
    assert child.silent_for(pulses, now + 1) == 0  # the first look
    assert child.silent_for(pulses, now + 4) == 3
    pulses.beat(child.pulse)
    assert child.silent_for(pulses, now + 5) == 0
    child.forgive(now + 9)
    assert child.silent_for(pulses, now + 10) == 1
    here.close()
    there.close()


WAITS = """
import signal
from mta.daemon import signals
signal.pthread_sigmask(signal.SIG_BLOCK, signals.BLOCKED)
while True:
    print(signals.wait(0.05), flush=True)
"""


def test_who_was_stopped_while_it_waited_hears_no_signal_that_nobody_sent() -> None:
    """The server that is paused with its machine would end when that goes on."""
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        heard = [program.stdout.readline()]
        for _ in range(5):
            program.send_signal(signal.SIGSTOP)
            time.sleep(0.1)  # longer than it waits
            program.send_signal(signal.SIGCONT)
            heard += [program.stdout.readline() for _ in range(3)]
        assert set(heard) == {"0\n"}
        program.send_signal(signal.SIGTERM)
        while heard[-1] == "0\n":
            heard.append(program.stdout.readline())
        program.kill()
    assert heard[-1] == f"{signal.SIGTERM:d}\n"


def test_messages_keep_their_borders_and_an_end_is_noticed() -> None:
    here, there = channel.pair()
    assert here.take() is None
    there.send(say="one")
    there.send(say="two", more=["x" * 50_000])
    assert here.take() == {"say": "one"}
    assert here.take() == {"say": "two", "more": ["x" * 50_000]}
    there.close()
    with pytest.raises(channel.Ended):
        here.take()
    assert not here.send(do="anything")
    here.close()


def test_a_word_that_ends_in_a_mistake_of_ours_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker whose reload failed oddly would not hear that it should end."""
    said: list[str] = []
    bugs: list[BaseException] = []
    monkeypatch.setattr(hearing.log, "bug", bugs.append)

    def heard(words: dict[str, Any]) -> None:
        said.append(words["do"])
        if words["do"] == "prepare":
            raise LookupError("odd")

    here, there = channel.pair()
    hearing.hear(there, heard, lambda: said.append("gone"))
    for word in ("prepare", "drain"):
        here.send(do=word)
    with gevent.Timeout(PATIENCE):
        while said != ["prepare", "drain"]:
            gevent.sleep(0.01)
        here.close()
        while said != ["prepare", "drain", "gone"]:
            gevent.sleep(0.01)
    assert [type(one) for one in bugs] == [LookupError]
    there.close()


def test_a_child_that_does_not_read_never_blocks_the_master() -> None:
    here, there = channel.pair()
    sent = 0
    while here.send(do="adopt", folder="x" * 1000):
        sent += 1
        assert sent < 100_000
    assert sent > 10
    here.close()
    there.close()


# -- the master ------------------------------------------------------------------------------------------------------


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """One that serves, with a registry and no worker yet."""
    (tmp_path / "mta.toml").write_text("")
    made = Master(config.read(tmp_path / "mta.toml"))
    made.state, made.generation = "serving", Generation(1, made.config, [], {})
    forked(made, REGISTRY, 0)
    yield made
    for child in made.children.values():
        child.channel.close()


def forked(master: Master, slot: int, generation: int) -> channel.Channel:
    """As if the master had a child more; the child's end of its channel."""
    here, there = channel.pair()
    pid = 10_000_000 + len(master.children)  # no process ever has so high a number
    master.children[pid] = Child(pid, slot, generation, here, master.pulses.take())
    return there


def test_a_worker_that_is_ready_is_in_the_status_that_is_asked_for_then(master: Master) -> None:
    """Who sees a mail taken and asks for the queue must not miss it because the master hears the registry first."""
    (registry,) = master.children.values()
    here = forked(master, 0, 1)
    here.send(say="ready")
    told: list[dict[str, Any]] = []
    registry.send = lambda **words: bool(told.append(words)) or True  # type: ignore[method-assign]
    master._heard(registry, {"ask": "status", "id": 7})
    assert [(child["name"], child["state"]) for child in told[0]["children"]] == [
        ("registry", "starting"),
        ("worker 0", "ready"),
    ]
    here.close()


def test_a_new_worker_that_dies_before_all_are_ready_ends_the_reload(
    master: Master, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was ready itself: else nobody would ever have its place."""
    killed: list[str] = []
    monkeypatch.setattr(Child, "kill", lambda child: killed.append(child.name))
    ends = [forked(master, slot, 2) for slot in range(2)]
    first, second = (child for child in master.children.values() if child.slot >= 0)
    change = Change([None], Generation(2, master.config, [], {}), str(tmp_path / "rules"), {first.pid, second.pid})
    change.forked |= change.waiting
    master.reloads.change = change
    master._heard(first, {"say": "ready"})
    del master.children[first.pid]
    master._ended(first, signal.SIGKILL)
    assert master.reloads.change is None and killed == ["worker 1"]
    assert master.generation.number == 1
    for end in ends:
        end.close()


def test_a_change_that_is_in_force_is_not_taken_back(master: Master, tmp_path: Path) -> None:
    """A worker that does not say that it has switched will be killed; the rules are those of all others."""
    rules = tmp_path / "rules"
    rules.mkdir()
    end = forked(master, 0, 1)
    (worker,) = (child for child in master.children.values() if child.slot == 0)
    worker.state = "ready"
    master.rulebook._folder = str(tmp_path)
    master.reloads.change = Change([None], None, str(rules), {worker.pid})
    master._heard(worker, {"say": "prepared", "rules": str(rules), "error": ""})
    master.reloads.look(time.monotonic() + 3600)
    assert master.reloads.change is None
    assert master.rulebook.current == str(rules) and rules.exists()
    end.close()


@pytest.mark.parametrize("error", ["there is no such file", ""])
def test_what_a_worker_says_late_of_an_earlier_reload_is_not_about_this_one(master: Master, error: str) -> None:
    """One that was given up because another worker refused the rules: its copy is gone when this one looks for it."""
    end = forked(master, 0, 1)
    (worker,) = (child for child in master.children.values() if child.slot == 0)
    change = master.reloads.change = Change([None], None, "/rules/3", {worker.pid})
    master._heard(worker, {"say": "prepared", "rules": "/rules/2", "error": error})
    assert master.reloads.change is change and change.step == "prepared" and change.waiting == {worker.pid}
    end.close()


def given(master: Master, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the master says to its workers from now on."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(Child, "send", lambda child, **words: bool(told.append({"to": child.name, **words})) or True)
    return told


def test_a_worker_that_gets_ready_while_others_switch_has_the_new_rules(
    master: Master, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was forked with the old ones, and nobody would have told it of the new ones until the next reload."""
    master.rulebook._folder = str(tmp_path)
    new = tmp_path / "2"
    new.mkdir()
    ends = [forked(master, slot, 1) for slot in range(2)]
    ready, late = (child for child in master.children.values() if child.slot >= 0)
    ready.state, master.rulebook.current, late.rules = "ready", str(tmp_path / "1"), str(tmp_path / "1")
    told = given(master, monkeypatch)
    master.reloads.change = Change([None], None, str(new), {ready.pid})
    master._heard(ready, {"say": "prepared", "rules": str(new), "error": ""})
    assert master.reloads.change is not None and master.reloads.change.step == "in force"
    master._heard(late, {"say": "ready"})
    assert [words for words in told if words["to"] == "worker 1"][:2] == [
        {"to": "worker 1", "do": "prepare", "rules": str(new)},
        {"to": "worker 1", "do": "commit"},
    ]
    for end in ends:
        end.close()


def test_a_registry_that_waits_for_its_turn_comes_back_after_a_reload_too(
    master: Master, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(master, "fork", lambda slot, generation, rules: made.append(slot))
    monkeypatch.setattr(logs, "in_master", lambda wanted: None)
    (registry,) = master.children
    del master.children[registry]
    now = time.monotonic()
    master.respawn = {REGISTRY: (now + 30.0, 5), 0: (now + 30.0, 5)}
    master.reloads._replace(Generation(2, master.config, [], {}))
    master._respawn_due(now + 60.0)
    assert made == [REGISTRY]


@pytest.mark.parametrize("part", ["os.fork", "mta.daemon.channel._socket.socketpair"])
def test_a_process_that_cannot_be_made_is_tried_again_and_costs_nothing(
    master: Master, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """As long as a machine has no memory, or no room for processes: it may be hours."""
    told, tried = list[str](), list[int]()

    def fail(*_: object) -> None:
        tried.append(1)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("mta.daemon.master.log.bug", lambda error: told.append(str(error)))
    monkeypatch.setattr(os, "fork", lambda: 10_000_100)
    now = time.monotonic()
    master.respawn = {0: (now, 1)}
    free, files = len(master.pulses._free), len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as broken:
        broken.setattr(part, fail)
        for turn in range(100):
            master._do(lambda turn=turn: master._respawn_due(now + turn / 10))
    assert len(tried) == pytest.approx(10, abs=1) and len(told) == 1
    assert (len(master.pulses._free), len(os.listdir("/proc/self/fd"))) == (free, files)
    master._respawn_due(now + 60.0)
    assert [child.slot for child in master.children.values()] == [REGISTRY, 0]


def test_more_processes_than_there_are_pulses_for() -> None:
    """Reload upon reload, and sessions that may go on for hours: the next one is refused."""
    pulses = Pulses()
    places = [pulses.take() for _ in range(PLACES)]
    with pytest.raises(OSError, match="too many processes"):
        pulses.take()
    pulses.give_back(places[0])
    assert pulses.take() == places[0]


@pytest.mark.parametrize("what", ["the rules cannot be copied", "no process can be made"])
def test_a_reload_that_fails_at_once_is_told_at_once_and_leaves_no_address_open(
    master: Master, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Its clients would wait for somebody to take their connections."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No room", "somewhere")

    told = given(master, monkeypatch)
    if what == "no process can be made":
        monkeypatch.setattr(os, "fork", fail)
    else:
        monkeypatch.setattr(master.rulebook, "copy", fail)
    (port,) = free_ports(1)
    Path(master.config.path).write_text(f'[[listener]]\naddress = "127.0.0.1:{port}"\n')
    master.reloads.ask(7)
    assert told == [{"to": "registry", "answer": 7, "error": "somewhere: No room"}]
    assert master.reloads.change is None
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_a_worker_that_ends_already_is_quiet_when_it_is_told_to_be() -> None:
    """Somebody has ended it by hand: a reload must not wait for its sessions."""
    here, there = channel.pair()
    bound = Generation(1, SimpleNamespace(settings=settings.Settings()), [], {})  # type: ignore[arg-type]
    ending = Worker(bound, 0, "", there, waits=False)
    ending.work = SimpleNamespace(drain_in=lambda *_: None, drain_out=lambda *_: None)  # type: ignore[assignment]
    ending.drain(3600.0)
    assert here.take() == {"say": "quiet"}
    ending.drain(3600.0, gently=True)
    assert here.take() == {"say": "quiet"}
    here.close()
    there.close()


@pytest.mark.parametrize(("pid", "waited"), [(os.getpid(), LONG), (10_000_000, SHORT)])
def test_an_address_of_a_killed_masters_workers_is_waited_for(
    master: Master, monkeypatch: pytest.MonkeyPatch, pid: int, waited: float
) -> None:
    run, clock = Path(master.settings.server.run), Clock(100.0)
    run.mkdir()
    Path(worker_socket(str(run), pid)).touch()

    def taken(*_: object) -> None:
        raise listening.ListenError("127.0.0.1:25: taken")

    def pause(_: object, seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(master.listening, "take", taken)
    monkeypatch.setattr("mta.daemon.master.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(signal, "sigtimedwait", pause)
    with pytest.raises(listening.ListenError):
        master._first_generation()
    assert clock.now == pytest.approx(100.0 + waited, abs=0.2)


def test_who_is_not_there_is_not_waited_for_if_nobody_comes(tmp_path: Path) -> None:
    caller = Caller(str(tmp_path / "none.sock"), "worker 1", timeout=3600.0, waits=False)
    with gevent.Timeout(PATIENCE), pytest.raises(Unavailable, match="worker 1: No such file"):
        caller.call("status")


# -- sockets ---------------------------------------------------------------------------------------------------------


def addresses(*texts: str) -> list[Listener]:
    return [Listener(address=text) for text in texts]


def takes(made: socket.socket) -> bool:
    return bool(made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@pytest.fixture
def sockets() -> Iterator[listening.Listening]:
    made = listening.Listening({})
    yield made
    made.close()


def test_a_socket_for_each_slot_and_all_of_them_watched(sockets: listening.Listening) -> None:
    ((_, bound),) = sockets.take(addresses("127.0.0.1:0"), 3)
    assert len(bound.sockets) == 3
    assert len(bound.names()) == 1, "port 0 became one port for all"
    assert [bound.of(slot, 3) for slot in range(3)] == [[made] for made in bound.sockets]
    first, second = bound.of(0, 2), bound.of(1, 2)
    assert sorted(map(id, first + second)) == sorted(map(id, bound.sockets)), "fewer workers, the same sockets"


def test_sockets_stay_over_a_reload_and_grow_with_the_workers(sockets: listening.Listening) -> None:
    ((_, before),) = sockets.take(addresses("127.0.0.1:0"), 2)
    ((_, after),) = sockets.take(addresses("127.0.0.1:0"), 4)
    assert after.sockets[:2] == before.sockets
    assert len(after.sockets) == 4 and after.names() == before.names()
    assert [takes(made) for made in after.sockets] == [True, True, False, False], "nobody serves the new ones yet"
    sockets.open()
    assert all(map(takes, after.sockets))
    ((_, fewer),) = sockets.take(addresses("127.0.0.1:0"), 1)
    assert fewer.sockets == after.sockets


def test_a_reload_that_is_given_up_leaves_nothing_open(sockets: listening.Listening) -> None:
    (port,) = free_ports(1)
    before = sockets.take(addresses("127.0.0.1:0"), 2)
    ((_, grown), (_, other)) = sockets.take(addresses("127.0.0.1:0", f"127.0.0.1:{port}"), 3)
    sockets.back_to(before)
    assert [made.fileno() == -1 for made in grown.sockets] == [False, False, True]
    assert [made.fileno() for made in other.sockets] == [-1, -1, -1]


def test_all_addresses_or_none(sockets: listening.Listening) -> None:
    free, taken = free_ports(2)
    wanted = addresses(f"127.0.0.1:{free}", f"127.0.0.1:{taken}")
    with socket.create_server(("127.0.0.1", taken)), pytest.raises(listening.ListenError, match="another program has"):
        sockets.take(wanted, 2)
    socket.create_server(("127.0.0.1", free)).close()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.1:0", "Cannot assign requested address"),
        ("no-such-host.invalid:25", "no-such-host.invalid"),
        ("systemd:smtp", "systemd handed over no such socket"),
    ],
)
def test_an_address_that_cannot_be_had(address: str, why: str, sockets: listening.Listening) -> None:
    with pytest.raises(listening.ListenError, match=why) as error:
        sockets.take(addresses(address), 1)
    assert str(error.value).startswith(f"{address}: ")


@pytest.mark.needs(ipv6=True)
def test_both_families_by_one_address(sockets: listening.Listening) -> None:
    ((_, bound),) = sockets.take(addresses("[::]:0"), 1)
    port = bound.sockets[0].getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port), PATIENCE).close()


def test_systemds_sockets_by_address() -> None:
    four = socket.create_server(("0.0.0.0", 0))
    port = four.getsockname()[1]
    other = socket.create_server(("127.0.0.1", 0))
    sockets = listening.Listening({"mta": [four, other]})
    ((_, bound),) = sockets.take(addresses(f"[::]:{port}"), 2)
    assert bound.sockets == [four], "[::] stands for both families"
    assert bound.of(0, 2) == bound.of(1, 2) == [four], "one socket for all workers"
    assert sockets.unused() == [listening.name(other)]
    sockets.close()
    other.close()


def test_unix_sockets_in_deep_folders(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        with Near(str(deep / "control.sock")) as near:
            server.bind(near)
        server.listen()
        with Near(str(deep / "control.sock")) as near:
            client.connect(near)
        assert (deep / "control.sock").is_socket()


# -- logs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[log_module.Log]:
    made = log_module.Log()
    monkeypatch.setattr(logs, "log", made)
    before = list(logging.getLogger().handlers)
    level = logging.getLogger().level
    yield made
    logging.getLogger().handlers = before
    logging.getLogger().setLevel(level)


def lines(path: Path) -> list[dict[str, Any]]:
    """Those that are whole: a reader may see half of a write."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def test_lines_of_a_loop_turn_go_out_together(own_log: log_module.Log, tmp_path: Path) -> None:
    logs.in_child(settings.Log(to=[str(tmp_path / "a.log"), str(tmp_path / "b.log")]))
    own_log.event("started", pid=1)
    own_log.event("stopped", pid=1)
    assert not lines(tmp_path / "a.log")
    until(lambda: len(lines(tmp_path / "a.log")) == 2 and len(lines(tmp_path / "b.log")) == 2)


def test_what_a_line_leaves_out(own_log: log_module.Log, tmp_path: Path) -> None:
    """None and empty text; but nothing, no and nobody are said."""
    logs.in_child(settings.Log(to=[str(tmp_path / "a.log")]))
    own_log.event("started", pid=0, ms=0.0, ok=False, recipients=[], vars={}, reason="", rule=None)
    until(lambda: lines(tmp_path / "a.log"))
    (line,) = lines(tmp_path / "a.log")
    assert {name: line[name] for name in line.keys() - {"time", "level", "event"}} == {
        "pid": 0,
        "ms": 0.0,
        "ok": False,
        "recipients": [],
        "vars": {},
    }


def test_a_library_logs_into_the_same_file_with_the_same_fields(own_log: log_module.Log, tmp_path: Path) -> None:
    logs.in_child(settings.Log(to=[str(tmp_path / "a.log")]))
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("some.library").exception("it %s", "broke")
    logging.getLogger("some.library").debug("not this")
    until(lambda: lines(tmp_path / "a.log"))
    (line,) = lines(tmp_path / "a.log")
    assert {name: line[name] for name in ("level", "event", "logger", "message")} == {
        "level": "error",
        "event": "library",
        "logger": "some.library",
        "message": "it broke",
    }
    assert line["time"].endswith("Z") and "ValueError: why" in line["exc_info"]


def test_a_full_disk_blocks_nobody_and_what_is_lost_is_counted(
    own_log: log_module.Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "ROOM", 3000)
    monkeypatch.setattr(logs, "RETRY", 0.05)
    monkeypatch.setattr(logs, "SOON", 0.0)
    logs.in_child(settings.Log(to=[str(tmp_path / "a.log")]))
    sink = own_log.sink
    assert isinstance(sink, logs.Threaded)
    written, full = sink.files, [True]

    def files(text: bytes) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        written(text)

    monkeypatch.setattr(sink, "files", files)
    others: list[int] = []
    for n in range(50):
        gevent.spawn(others.append, n)
        own_log.event("stopped", pid=n)
        assert len(others) == n, "somebody else had a turn: it waited"
        gevent.sleep(0.002)
    assert own_log.lost > 10
    full[0] = False
    until(lambda: lines(tmp_path / "a.log") and not sink._busy)
    own_log.event("stopped", pid=99)
    until(lambda: any(line["event"] == "log_lost" for line in lines(tmp_path / "a.log")))
    told = lines(tmp_path / "a.log")
    (lost,) = [line["lines"] for line in told if line["event"] == "log_lost"]
    assert lost + len([line for line in told if line["event"] == "stopped"]) == 51
    assert "cannot be written" in capsys.readouterr().err


def test_a_disk_that_takes_half_a_line_tears_no_other_and_gets_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, fine = tmp_path / "full.log", tmp_path / "fine.log"
    files, write, room = log_module.Files([str(full), str(fine)]), os.write, [13]

    def limited(fd: int, text: bytes) -> int:
        if os.fstat(fd).st_ino != full.stat().st_ino:
            return write(fd, text)
        if not room[0]:
            raise OSError(28, "No space left on device")
        text = text[: room[0]]
        room[0] -= len(text)
        return write(fd, text)

    monkeypatch.setattr(os, "write", limited)
    first = b'{"n":1}\n{"n":2}\n'
    for text in (first, first, first + b'{"n":3}\n'):  # as who tries again does
        with pytest.raises(OSError, match="No space"):
            files(text)
    room[0] = 1000
    files(first + b'{"n":3}\n')
    assert full.read_bytes() == b'{"n":1}\n{"n":\n{"n":2}\n{"n":3}\n'
    assert fine.read_bytes() == b'{"n":1}\n{"n":2}\n{"n":3}\n'
    room[0] = 3
    with pytest.raises(OSError, match="No space"):
        files(b'{"n":4}\n')
    room[0] = 1000
    files(b'{"n":5}\n')  # as who has given those up does
    assert full.read_bytes().endswith(b'{"n":3}\n{"n\n{"n":5}\n')
    assert fine.read_bytes().endswith(b'{"n":3}\n{"n":4}\n{"n":5}\n')
    room[0] = 7
    with pytest.raises(OSError, match="No space"):
        files(b'{"n":6}\n')  # all but its end
    room[0] = 1000
    files(b'{"n":6}\n{"n":7}\n')
    assert full.read_bytes().endswith(b'{"n":5}\n{"n":6}\n{"n":7}\n')


def test_nothing_is_lost_at_the_end_of_a_process(own_log: log_module.Log, tmp_path: Path) -> None:
    logs.in_child(settings.Log(to=[str(tmp_path / "a.log")]))
    own_log.event("stopped", pid=1)
    logs.finish()
    assert len(lines(tmp_path / "a.log")) == 1


@pytest.mark.parametrize("broken", [False, True])
def test_a_process_ends_when_the_thread_has_written_what_it_has_in_hand(
    own_log: log_module.Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Else the last lines of a worker would depend on who is faster, its end or a thread."""
    logs.in_child(settings.Log(to=[str(tmp_path / "a.log")]))
    sink = own_log.sink
    assert isinstance(sink, logs.Threaded)
    written, first, disk = sink.files, iter([True]), monkey.get_original("_thread", "allocate_lock")()

    def slowly(text: bytes) -> None:
        for _ in first:
            disk.acquire()  # it holds up the thread, not a greenlet
            if broken:
                raise OSError(28, "No space left on device")
        written(text)

    monkeypatch.setattr(sink, "files", slowly)
    disk.acquire()
    own_log.event("stopped", pid=1)
    until(lambda: sink._writing)
    own_log.event("stopped", pid=2)
    gevent.spawn(disk.release)
    logs.finish()
    assert [line["pid"] for line in lines(tmp_path / "a.log")] == [1, 2]


def test_a_rotated_file_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = log_module.Files([str(tmp_path / "a.log")])
    files(b"one\n")
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    monkeypatch.setattr(files, "_looked", time.monotonic() - 2)
    files(b"two\n")
    assert (tmp_path / "a.log").read_bytes() == b"two\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"one\n"


# -- the rest --------------------------------------------------------------------------------------------------------


def test_a_saved_file_is_told_once_when_it_stands_still(tmp_path: Path) -> None:
    (tmp_path / "main.lua").write_text("-- 1")
    (tmp_path / "notes.txt").write_text("")
    watch = Watch(str(tmp_path))
    now = 100.0

    def look() -> bool:
        nonlocal now
        now += EVERY
        return watch.changed(now)

    assert not look()
    (tmp_path / "main.lua").write_text("-- two")
    assert [look(), look(), look()] == [False, True, False]
    (tmp_path / "notes.txt").write_text("more")
    (tmp_path / ".main.lua.swp").write_text("an editor's")
    assert [look(), look()] == [False, False]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "x.lua").write_text("")
    assert [look(), look()] == [False, True]
    (tmp_path / "main.lua").unlink()
    assert [look(), look()] == [False, True]


def test_pages_of_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAGE", 3)
    mails = [
        Envelope(f"id-{n}", recipients=[Recipient(Address("a", "b.test"), attempts=2, reply="451 later")], held="x" * n)
        for n in range(7)
    ]
    pages = waiting.Pages()
    page = pages.first(iter(mails))
    found = page["mails"]
    while page["cursor"]:
        page = pages.next(page["cursor"])
        found += page["mails"]
    assert [mail["id"] for mail in found] == [f"id-{n}" for n in range(7)]
    assert found[0]["recipients"] == [{"address": "a@b.test", "attempts": 2, "reply": "451 later"}]
    assert "held" not in found[0] and found[2]["held"] == "xx"
    assert pages.next(99) == {"mails": [], "cursor": 0}


def test_lists_nobody_reads_on_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAGE", 1)
    pages = waiting.Pages()
    mails = [Envelope(f"id-{n}") for n in range(3)]
    first = pages.first(iter(mails))["cursor"]
    for _ in range(waiting.OPEN):
        last = pages.first(iter(mails))["cursor"]
    assert pages.next(first)["mails"] == []
    assert pages.next(last)["mails"][0]["id"] == "id-1"


@pytest.mark.parametrize(
    ("user", "group", "why"),
    [
        ("nobody-here", "", "there is no user"),
        ("root", "", "root is what"),
        ("nobody", "no-group", "there is no group"),
    ],
)
def test_who_cannot_be_become(user: str, group: str, why: str) -> None:
    with pytest.raises(privileges.PrivilegeError, match=why):
        privileges.account(user, group)


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(privileges.PrivilegeError, match=r"none\.pem: No such file or directory as user"):
        privileges.readable([str(tmp_path / "none.pem")])


def test_a_folder_is_not_given_away_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(OSError):
        privileges.give(str(tmp_path / "link"), os.getuid(), os.getgid())


DROP = """
import sys
from mta.daemon import privileges
uid, gid = privileges.account("nobody")
privileges.drop(uid, gid)
try:
    open("/etc/shadow").close()
except PermissionError:
    print("dropped")
"""


@pytest.mark.needs(root=True)
def test_root_is_gone_for_good() -> None:
    done = subprocess.run([sys.executable, "-c", DROP], cwd=TREE, capture_output=True, text=True, check=False)
    assert done.stdout == "dropped\n", done.stderr


@pytest.mark.needs(root=True)
def test_a_way_back_is_noticed() -> None:
    with pytest.raises(privileges.PrivilegeError, match="did not change"):
        privileges.check(65534, 65534)
    half = DROP.replace(
        "privileges.drop(uid, gid)", "import os; os.setegid(gid); os.seteuid(uid); privileges.check(uid, gid)"
    )
    done = subprocess.run([sys.executable, "-c", half], cwd=TREE, capture_output=True, text=True, check=False)
    assert "user or groups did not change" in done.stderr
