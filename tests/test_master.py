"""The master and its children, with real processes: deaths, stuck workers, reloads without a lost connection, drain."""

import os
import re
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from daemon import PATIENCE, TREE, Server, alive, free_ports

from mta import config
from mta.daemon.master import Master


def text(n: int) -> str:
    return f"Subject: number {n}\r\nMessage-ID: <{n}@test>\r\n\r\nhello\r\n"


class Load:
    """Clients that connect, say NOOP and leave, again and again. `.done`, and `.failed` with what went wrong."""

    def __init__(self, port: int, clients: int = 10) -> None:
        self.port, self.done, self.failed = port, 0, list[str]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as client:
                    lines = client.makefile("rb")
                    for said in (None, b"NOOP\r\n", b"QUIT\r\n"):
                        if said:
                            client.sendall(said)
                        answer = lines.readline()
                        if answer[:1] != b"2":
                            raise OSError(f"{said!r} was answered {answer!r}")
                self.done += 1
            except OSError as error:
                self.failed.append(repr(error))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_it_starts_and_stops(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert set(server.workers()) == {"registry", "worker 0", "worker 1"}
        status = server.status()
        assert status["generation"] == 1
        with server.smtp() as client:
            assert client.noop()[0] == 250
        assert server.stop() == 0
    events = [line["event"] for line in server.events()]
    assert events.index("started") < events.index("stopping") < events.index("stopped")
    assert server.mta("status", code=4).startswith("mta status: no server answers")


@pytest.mark.needs(ipv6=True)
def test_several_listeners_on_both_families(tmp_path: Path) -> None:
    both, four = free_ports(2)
    config = f"""
        [[listener]]
        address = "[::]:{both}"
        [[listener]]
        address = "127.0.0.1:{four}"
        [[listener]]
        address = "[::1]:{four}"
        kind = "submission"
    """
    with Server(tmp_path, config) as server:
        for host, port in (("127.0.0.1", both), ("::1", both), ("127.0.0.1", four), ("::1", four)):
            with socket.create_connection((host, port), timeout=PATIENCE) as client:
                assert client.recv(4) == b"220 ", (host, port)
        assert [each["address"] for each in server.status()["listeners"]] == [
            [f"[::]:{both}"],
            [f"127.0.0.1:{four}"],
            [f"[::1]:{four}"],
        ]


@pytest.mark.needs(ipv6=True)
def test_ipv6_leaves_ipv4_to_a_listener_that_names_it(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = f"""
        [[listener]]
        address = "[::]:{port}"
        [[listener]]
        address = "0.0.0.0:{port}"
    """
    with Server(tmp_path, config) as server:
        assert [each["address"] for each in server.status()["listeners"]] == [[f"[::]:{port}"], [f"0.0.0.0:{port}"]]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=PATIENCE) as client:
                assert client.recv(4) == b"220 "


def test_an_address_somebody_has(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(tmp_path, f'[[listener]]\naddress = "127.0.0.1:{port}"\n')
        assert f"127.0.0.1:{port}: another program has this address" in server.mta("serve", code=1)


def test_two_servers_do_not_share_an_address_or_a_configuration(tmp_path: Path) -> None:
    with Server(tmp_path / "one") as server:
        second = Server(tmp_path / "two", f'[[listener]]\naddress = "127.0.0.1:{server.port}"\n')
        assert "another program has this address" in second.mta("serve", code=1)
        assert f"runs on this configuration already (pid {server.status()['pid']})" in server.mta("serve", code=1)


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path, '[rules]\npath = "none"\n')
    assert f"{tmp_path}/none/main.lua: there is no such file" in server.mta("serve", code=1)
    server = Server(tmp_path, rules="on.rcpt(")
    assert "main.lua" in server.mta("serve", code=1)
    assert server.mta("status", code=4)


@pytest.mark.parametrize(("section", "key"), [("spool", "path"), ("store", "path"), ("server", "run")])
def test_a_folder_that_is_none_is_told_by_name(section: str, key: str, tmp_path: Path) -> None:
    name = 'name = "mx.example.test"\n' * (section == "server")
    server = Server(tmp_path, f'[{section}]\n{name}{key} = "file"\n')
    (tmp_path / "file").write_text("")
    said = server.mta("serve", code=1)
    assert f"{tmp_path}/file" in said and "Errno" not in said and "Traceback" not in said


def test_a_registry_that_fails_late_ends_the_start_too(tmp_path: Path) -> None:
    """It waits here for somebody to write its log of changes; workers are quicker, and the server must not serve."""
    server, changes = Server(tmp_path), tmp_path / "store" / "00000001.log"
    changes.parent.mkdir()
    os.mkfifo(changes)
    (tmp_path / "run" / "registry.sock").mkdir(parents=True)
    server.launch()
    try:
        server.until(lambda: started(server, 1) == 2, "the workers did not start")
        os.close(server.until(lambda: to_reader(changes), "nobody reads its changes"))
        assert server.ended() == 1
    finally:
        os.close(os.open(changes, os.O_RDWR))  # should it wait there yet
        server.kill()
    assert not server.events("started")


def to_reader(fifo: Path) -> int | None:
    """A descriptor to write there, once somebody wants to read."""
    with suppress(OSError):
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    return None


def test_a_killed_worker_and_a_killed_registry_are_replaced(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        before = server.workers()
        server.replaced("worker 0", "registry")
        after = server.workers()
        assert after["worker 1"] == before["worker 1"]
        assert after["worker 0"] != before["worker 0"]
        died = {line["worker"]: line["status"] for line in server.events("worker_died")}
        assert died == {0: "SIGKILL", "registry": "SIGKILL"}


def test_no_connection_waits_for_a_worker_that_dies_again_and_again(tmp_path: Path) -> None:
    with Server(tmp_path) as server, Load(server.port, 4) as load:
        for _ in range(4):
            server.replaced("worker 0")
        before = load.done
        server.until(lambda: load.done > before + 50, "nobody was served")
    # those whose connection the killed worker held are cut off; nobody else
    assert len(load.failed) <= 4 * 4
    assert not [why for why in load.failed if "timed out" in why]


@pytest.mark.parametrize("how", ["stopped", "busy"])
def test_a_stuck_worker_is_killed_and_replaced(tmp_path: Path, how: str) -> None:
    stuck = 5.0  # seconds; nobody else is stopped for so long
    config = f'[server]\nname = "mx.example.test"\nworkers = 2\nstuck = "{stuck:g}s"\n'
    config += '[rules]\ninstructions = 1000000000000\non_error = "continue"\n'
    rule = 'on.helo("for ever %d", function(mail) if mail.helo == "stick" then while true do end end end)\n'
    rules = "".join(rule % n for n in range(99))  # each is stopped after a second or two of CPU, and the next begins
    with Server(tmp_path, config, rules) as server:
        before = server.workers()
        if how == "stopped":
            os.kill(before["worker 0"], signal.SIGSTOP)
        else:
            client = socket.create_connection(("127.0.0.1", server.port))
            client.recv(100)
            client.sendall(b"HELO stick\r\n")
        server.until(lambda: server.events("worker_stuck"), "nobody noticed")
        (event,) = server.events("worker_stuck")
        assert event["pid"] == before[f"worker {event['worker']}"]
        # however busy the machine is: a master that was away for longer than half of it begins to count anew
        assert stuck <= event["seconds"] <= stuck * 1.5 + 0.25
        server.until(
            lambda: len(now := server.workers()) == 3 and event["pid"] not in now.values(), "it was not replaced"
        )
        assert set(server.workers().values()) & set(before.values()) == set(before.values()) - {event["pid"]}
        with server.smtp() as client:
            assert client.noop()[0] == 250


def test_ten_reloads_under_load_lose_no_connection(tmp_path: Path) -> None:
    with Server(tmp_path) as server, Load(server.port, 20) as load:
        for n in range(10):
            workers = 1 + n % 3
            server.configure(f'[server]\nname = "mx.example.test"\ndrain = "1h"\nworkers = {workers}\n')
            assert f"generation {n + 2}" in server.reload()
            if n % 3 == 0:
                assert "rules and certificates" in server.reload()
            before = load.done
            server.until(lambda before=before: load.done > before + 50, "nobody was served")
        assert server.status()["generation"] == 11
    assert load.failed == []


def test_an_open_session_outlives_reloads(tmp_path: Path) -> None:
    with Server(tmp_path, '[server]\nname = "mx.example.test"\ndrain = "1h"\nworkers = 1\n') as server:
        with server.smtp() as client:
            client.ehlo()
            client.mail("a@b.test")
            for n in range(2):
                server.configure(f'[server]\nname = "mx{n}.example.test"\ndrain = "1h"\nworkers = 1\n')
                server.reload()
            assert client.rcpt("you@demo.test")[0] == 250
            assert client.data(text(1))[0] == 250
        with server.smtp() as client:
            assert client.ehlo()[1].startswith(b"mx1.example.test")
        server.until(lambda: len(server.status()["children"]) == 2, "the old workers did not end")


def test_a_bad_file_keeps_the_old_one_and_says_why(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        before = server.workers()
        server.file.write_text(server.file.read_text() + "\n[smtp]\nmax_sise = 4\n")
        said = server.reload(code=1)
        assert "[smtp] there is no setting max_sise; did you mean max_size?" in said
        server.configure('[store]\npath = "elsewhere"\n')
        assert "store.path cannot change while the server runs; restart it" in server.reload(code=1)
        assert ["max_sise" in event["error"] for event in server.events("reload_failed")] == [True, False]
        assert server.workers() == before


def test_rules_that_do_not_load_keep_the_old_ones(tmp_path: Path) -> None:
    with Server(tmp_path, rules='on.rcpt("no", function() return deny("550 5.7.1 Old rules") end)\n') as server:
        server.rules("on.rcpt(")
        assert "main.lua:" in server.reload(code=1)
        with server.smtp() as client:
            client.ehlo()
            client.mail("a@b.test")
            assert client.rcpt("you@demo.test")[1].startswith(b"5.7.1 Old rules")
            server.rules('on.rcpt("no", function() return deny("550 5.7.1 New rules") end)\n')
            assert "rules and certificates" in server.reload()
        with server.smtp() as client:
            client.ehlo()
            client.mail("a@b.test")
            assert client.rcpt("you@demo.test")[1].startswith(b"5.7.1 New rules")


def test_a_new_generation_that_cannot_start_keeps_the_old_one(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        before = server.workers()
        server.rules("on.rcpt(")
        server.configure('[server]\nname = "mx.example.test"\nworkers = 3\n')
        assert "main.lua" in server.reload(code=1)
        assert server.workers() == before
        with Load(server.port, 8) as load:
            server.until(lambda: load.done > 100, "nobody was served")
        assert load.failed == []


def test_reloads_that_fail_lose_no_connection_either(tmp_path: Path) -> None:
    """Sockets for more workers take none before there are workers to serve them."""
    with Server(tmp_path) as server, Load(server.port, 20) as load:
        server.rules("on.rcpt(")
        server.configure('[server]\nname = "mx.example.test"\ndrain = "1h"\nworkers = 8\n')
        for _ in range(3):
            assert "main.lua" in server.reload(code=1)
        before = load.done
        server.until(lambda: load.done > before + 50, "nobody was served")
    assert load.failed == []


def started(server: Server, generation: int) -> int:
    return len([line for line in server.events("worker_started") if line["generation"] == generation])


def test_a_reload_is_answered_when_nobody_serves_by_the_old_settings(tmp_path: Path) -> None:
    config = '[server]\nname = "{}"\nworkers = 2\nstuck = "1h"\n'
    with Server(tmp_path, config.format("mx.example.test")) as server:
        old = server.workers()["worker 0"]
        os.kill(old, signal.SIGSTOP)
        try:
            server.configure(config.format("other.example.test"))
            with subprocess.Popen([sys.executable, "-m", "mta", "-c", server.file, "reload"], cwd=TREE) as reload:
                server.until(lambda: started(server, 2) == 2, "there is no new generation")
                assert not server.events("reloaded"), "the old worker may still take connections"
                os.kill(old, signal.SIGCONT)
                assert reload.wait(PATIENCE) == 0
        finally:
            with suppress(ProcessLookupError):
                os.kill(old, signal.SIGCONT)
        assert server.events("reloaded")


def test_sighup_reloads(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.configure('[server]\nname = "mx.example.test"\nworkers = 1\n')
        server.signal(signal.SIGHUP)
        server.until(lambda: server.status().get("generation") == 2, "it did not reload")
        server.file.write_text("[server\n")
        server.signal(signal.SIGHUP)
        server.until(lambda: server.events("reload_failed"), "it did not say what is wrong")
        assert server.status()["generation"] == 2


def test_a_reload_that_nobody_hears_of_ends_no_server(tmp_path: Path) -> None:
    """What it says on the terminal goes nowhere when whoever started it has closed that."""
    python, ends = tmp_path / "python", tmp_path / "said"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" 2> {ends}\n', "utf-8")
    python.chmod(0o755)
    os.mkfifo(ends)
    heard = os.open(ends, os.O_RDONLY | os.O_NONBLOCK)
    with Server(tmp_path, python=str(python)) as server:
        os.close(heard)
        server.reload()
        server.rules("on(")
        assert "main.lua" in server.reload(code=1)
        assert server.status()["state"] == "serving"
        assert server.stop() == 0


def test_a_listener_comes_and_goes(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    one = '[[listener]]\naddress = "127.0.0.1:0"\n'
    with Server(tmp_path, one) as server:
        server.configure(f'{one}[[listener]]\naddress = "127.0.0.1:{port}"\n')
        server.reload()
        with server.smtp(port) as client:
            assert client.noop()[0] == 250
        server.configure(one)
        server.reload()
        server.until(lambda: refused(port), "the port is still open")


def refused(port: int) -> bool:
    """Nobody listens there. A socket that is closed in the very moment resets whom its queue had just let in."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def test_a_stop_lets_an_open_session_finish_its_mail(tmp_path: Path) -> None:
    with Server(tmp_path, '[server]\nname = "mx.example.test"\ndrain = "1h"\n') as server:
        client = server.smtp()
        client.ehlo()
        client.mail("a@b.test")
        port = server.port
        server.signal(signal.SIGTERM)
        server.until(lambda: refused(port), "it still listens")
        assert client.rcpt("you@demo.test")[0] == 250
        told = server.status()
        assert (told["state"], told["listeners"]) == ("stopping", [])
        assert "stopping" in server.mta("status")
        assert client.data(text(1))[0] == 250
        assert server.ended() == 0
    assert server.events("accepted")


def test_a_stop_ends_idle_sessions_at_once(tmp_path: Path) -> None:
    with Server(tmp_path, '[server]\nname = "mx.example.test"\ndrain = "1h"\n') as server:
        client = server.smtp()
        client.ehlo()
        assert server.stop() == 0


def test_a_mistake_of_the_masters_own_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mta.toml").write_text("")
    master, told = Master(config.read(tmp_path / "mta.toml")), list[str]()
    monkeypatch.setattr("mta.daemon.master.log.bug", lambda error: told.append(str(error)))

    def step(what: str) -> None:
        raise ValueError(what)

    for what in ("one", "one", "one", "two"):
        master._do(lambda what=what: step(what))
    assert told == ["one", "two"]


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    with Server(tmp_path, '[server]\nname = "mx.example.test"\ndrain = "1h"\n') as server:
        client = server.smtp()
        client.ehlo()
        client.mail("a@b.test")
        port = server.port
        server.signal(signal.SIGTERM)
        server.until(lambda: refused(port), "it still listens")
        server.signal(signal.SIGINT)
        assert server.ended() == 0


def test_workers_end_when_the_master_is_killed(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        pids = [child["pid"] for child in server.status()["children"]]
        server.kill()
        server.until(lambda: not any(map(alive, pids)), "orphans")
        with Server(tmp_path) as again:
            assert len(again.workers()) == 3


def laden(server: Server) -> int:
    """The worker with the most mail."""
    spools = {c["pid"]: c.get("work", {}).get("spool", {}).get("mails", 0) for c in server.status()["children"]}
    return max(spools, key=lambda pid: spools[pid]) if any(spools.values()) else 0


def taken_over(server: Server) -> float:
    """Seconds from the death of the worker with the most mail until somebody else has it."""
    taken = len(server.events("spool_recovered"))
    gone, died = server.until(lambda: laden(server), "nobody has mail"), time.monotonic()
    os.kill(gone, signal.SIGKILL)
    server.until(lambda: len(server.events("spool_recovered")) > taken, "nobody took its mail")
    took = time.monotonic() - died
    server.until(lambda: len(now := server.workers()) == 3 and gone not in now.values(), "it was not replaced")
    return took


def subjects(server: Server) -> set[str]:
    """Of the mails in the Maildir."""
    return {line for mail in server.mails() for line in mail.read_text().split("\n") if line.startswith("Subject")}


def test_mail_of_a_killed_worker_goes_on_within_two_seconds(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = f'[queue]\nretry = ["1s"]\n[domain."demo.test"]\ntransport = "smtp"\nhost = "127.0.0.1:{port}"\n'
    with Server(tmp_path, config) as server:
        for n in range(20):
            server.send(text(n))
        took: list[float] = []
        while sum(seconds < 2 for seconds in took) < 2 and len(took) < 8:  # other programs stop us, but not each time
            took.append(taken_over(server))
        assert sorted(took)[1] < 2, took
        with Server(tmp_path / "next", f'[[listener]]\naddress = "127.0.0.1:{port}"\n') as following:
            server.until(lambda: len(subjects(following)) == 20, "mail is missing")


def all_or_told(server: Server, many: int) -> bool:
    """Whether all mail is in the list. As long as it is not, the list must say that it may not be whole."""
    lines = server.mta("queue", "list").splitlines()
    doubts = [line for line in lines if "may be missing here" in line]
    assert doubts or len(lines) == many, lines
    return len(lines) - len(doubts) == many


def test_a_spool_with_a_file_system_of_its_own(tmp_path: Path) -> None:
    """What fsck finds there is nobody's mail, and nobody may take it over."""
    found = tmp_path / "spool" / "lost+found" / "#12"
    found.parent.mkdir(parents=True)
    found.write_text("half a file")
    with Server(tmp_path) as server:
        server.replaced("worker 0")
        server.until(lambda: server.status()["orphans"] == 0, "something is never taken over")
        assert found.read_text() == "half a file"


def test_fewer_workers_deliver_the_queue_of_many(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = '[server]\nname = "mx.example.test"\nworkers = {workers}\ndrain = "3s"\n' + (
        f'[queue]\nretry = ["1s"]\n[domain."demo.test"]\ntransport = "smtp"\nhost = "127.0.0.1:{port}"\n'
    )
    with Server(tmp_path, config.replace("{workers}", "8")) as server:
        for n in range(60):
            server.send(text(n))
        assert len(server.queue()) == 60
        server.configure(config.replace("{workers}", "2"))
        server.reload()
        server.until(lambda: len(server.status()["children"]) == 3, "the old workers did not end")
        server.until(lambda: all_or_told(server, 60), "mail is missing in the list")
        with Server(tmp_path / "next", f'[[listener]]\naddress = "127.0.0.1:{port}"\n') as following:
            server.until(lambda: len(subjects(following)) == 60, "mail is missing")
            server.until(lambda: server.mta("queue", "list") == "", "the queue is not empty")


def test_a_log_in_a_new_folder_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.configure('[log]\nto = ["mta.log", "logs/new.log"]\n')
        server.reload()
        assert "reloaded" in (tmp_path / "logs" / "new.log").read_text()
        server.configure('[log]\nto = ["mta.log", "mta.toml/new.log"]\n')
        assert "mta.toml: " in server.reload(code=1)
        assert not server.events("bug")


def test_the_log_is_opened_again_after_a_rotation(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.send(text(1))
        server.until(lambda: server.events("accepted"), "no line")
        server.folder.joinpath("mta.log").rename(tmp_path / "mta.log.1")
        server.until(lambda: server.send(text(2)) or server.events("accepted"), "no line in the new file")


def test_saved_rules_are_in_force_when_watched(tmp_path: Path) -> None:
    config = "[rules]\nwatch = true\nexplain = true\n"
    with Server(tmp_path, config, 'on.rcpt("yes", function() end)\n') as server:
        server.send(text(1))
        server.rules('on.rcpt("no hi", function() return deny("550 5.7.1 No hi") end)\n')
        server.until(lambda: server.events("reloaded"), "it did not notice")
        with server.smtp() as client:
            client.ehlo()
            client.mail("a@b.test")
            code, said = client.rcpt("you@demo.test")
        assert code == 550
        assert b"no hi" in said and b"main.lua:1" in said
        server.rules("on.rcpt(")
        server.until(lambda: server.events("reload_failed"), "it did not say what is wrong")
        server.rules("")
        server.until(lambda: len(server.events("reloaded")) == 2, "it did not notice")
        server.send(text(2))
    told = (tmp_path / "output").read_text()
    said = re.findall("^mta: (in force: new rules|nothing has changed: main.lua:1)", told, re.M)
    assert said == ["in force: new rules", "nothing has changed: main.lua:1", "in force: new rules"]


def for_everybody() -> tuple[str, dict[str, str]]:
    """A Python that a stranger can start too, and what its environment needs: not one in /root."""
    places = [path for path in sys.path if path.endswith("site-packages")]
    for python, environment in ((sys.executable, {}), ("/usr/bin/python3", {"PYTHONPATH": ":".join(places)})):
        try:
            said = subprocess.run(
                [python, "-c", "import sys, pprint, gevent, lupa; print(*sys.version_info[:2])"],
                env={**os.environ, **environment},
                cwd="/",
                user="nobody",
                group="nogroup",
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
            ).stdout
        except OSError:
            continue
        if said.split() == [str(number) for number in sys.version_info[:2]]:
            return python, environment
    pytest.skip("the user nobody can start no Python with our libraries: move it out of /root")


@pytest.mark.needs(root=True)
def test_started_as_root_it_becomes_somebody_else_for_good() -> None:
    before = os.umask(0o022)  # else it could not read the configuration we write
    try:
        with tempfile.TemporaryDirectory(prefix="mta-test-", dir="/var/tmp") as name:
            os.chmod(name, 0o755)
            becomes_nobody(Path(name))
    finally:
        os.umask(before)


def becomes_nobody(tmp_path: Path) -> None:
    config = '[server]\nname = "mx.example.test"\nworkers = 1\nuser = "nobody"\n'
    python, environment = for_everybody()
    with Server(tmp_path, config, python=python, environment=environment) as server:
        for pid in [server.status()["pid"], *server.workers().values()]:
            with open(f"/proc/{pid}/status") as file:
                held = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            assert "0" not in held["Uid"].split() + held["Gid"].split()
            assert held["Groups"].split() in ([], held["Gid"].split()[:1])
            assert {held[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
            assert held["NoNewPrivs"] == "1"
        with server.smtp() as client:
            assert client.noop()[0] == 250
        server.configure(config + "[smtp]\nmax_errors = 3\n")
        server.reload()


def certificate(folder: Path, name: str) -> None:
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-days", "2", "-keyout", folder / "key.pem", "-out", folder / "chain.pem"]
    subprocess.run([*words, *files, "-subj", f"/CN={name}"], check=True, capture_output=True)


def shown(port: int) -> bytes:
    """The certificate a client is shown, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.starttls(context=context)
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert(True) or b""


@pytest.mark.needs("openssl")
def test_a_renewed_certificate_is_shown_after_a_reload_by_every_worker(tmp_path: Path) -> None:
    certificate(tmp_path, "one.test")
    config = '[[listener]]\naddress = "127.0.0.1:0"\ntls = { certificate = "chain.pem", key = "key.pem" }\n'
    with Server(tmp_path, config) as server:
        port = server.port
        assert b"one.test" in shown(port)
        certificate(tmp_path, "two.test")
        assert b"one.test" in shown(port)
        server.reload()
        assert all(b"two.test" in shown(port) for _ in range(6))
        for name in ("worker 0", "worker 1"):  # what is forked later shows it too
            server.replaced(name)
        assert all(b"two.test" in shown(port) for _ in range(6))
        (tmp_path / "key.pem").write_text("no key\n")
        assert "key.pem" in server.reload(code=1)
        assert b"two.test" in shown(port)


def test_a_worker_is_replaced_while_somebody_edits_the_rules(tmp_path: Path) -> None:
    with Server(tmp_path, rules='on.rcpt("no", function() return deny("550 5.7.1 In force") end)\n') as server:
        server.rules("on.rcpt(")  # half saved
        for name in ("worker 0", "worker 1"):
            server.replaced(name)
        with server.smtp() as client:
            client.ehlo()
            client.mail("a@b.test")
            assert client.rcpt("you@demo.test")[1].startswith(b"5.7.1 In force")
        assert "main.lua:" in server.reload(code=1)
        (tmp_path / "rules" / "main.lua").unlink()
        assert f"{tmp_path}/rules/main.lua" in server.reload(code=1)
        assert len(os.listdir(tmp_path / "run" / "rules")) == 1


def test_an_upgrade_under_a_running_server_breaks_nothing(tmp_path: Path) -> None:
    """What lies on the disk is new, what runs is old until a restart: reloads work, and workers are replaced."""
    tree = tmp_path / "tree"
    for part in ("mta", "lua"):
        shutil.copytree(TREE / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    with Server(tmp_path / "it", environment={"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}) as server:
        for file in tree.glob("lua/*.lua"):
            file.write_text('error("another version")\n')
        server.rules('on.rcpt("no", function() return deny("550 5.7.1 New") end)\n')
        assert "in force" in server.reload()
        server.replaced("worker 0")
        for _ in range(4):
            with server.smtp() as client:
                client.ehlo()
                client.mail("a@b.test")
                assert client.rcpt("you@demo.test")[1].startswith(b"5.7.1 New")
    assert not server.events("bug")
