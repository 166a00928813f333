"""systemd's side: readiness, watchdog and handed-over sockets with a fake manager; units that are well and hardened."""

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import gevent
import pytest
from daemon import PATIENCE, Server, alive
from receiving import until

from mta.daemon import systemd

UNITS = Path(__file__).parent.parent / "systemd"

# What systemd does: the sockets become descriptors 3, 4, ... of the program, and LISTEN_PID is its own pid.
ACTIVATE = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
high = [os.dup2(os.dup(fd), 100 + n) for n, fd in enumerate(fds)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


class Manager:
    """The notify socket of a service manager. `heard`: everything so far, one NAME=value each.

    It listens always: the kernel holds few datagrams (net.unix.max_dgram_qlen), and who does not find room sends none.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + path[1:] if path[0] == "@" else path)
        self.heard: list[str] = []
        self._listener = gevent.spawn(self._listen)

    def _listen(self) -> None:
        while True:
            self.heard += self.socket.recv(4096).decode().split("\n")

    def until(self, *words: str, times: int = 1) -> None:
        until(lambda: all(self.heard.count(word) >= times for word in words))

    def close(self) -> None:
        self._listener.kill()
        self.socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.close()


def test_notify(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    assert systemd.notify(READY=1, STATUS="all well")
    manager.until("READY=1")
    assert manager.heard == ["READY=1", "STATUS=all well"]


def test_notify_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager(f"@mta-test-{os.getpid()}")
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    assert systemd.notify(STOPPING=1)
    manager.until("STOPPING=1")
    manager.close()


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not systemd.notify(READY=1)


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("3000000", "", 3.0), ("3000000", "me", 3.0), ("3000000", "1", None), ("0", "", None), ("x", "", None)],
)
def test_watchdog(usec: str, pid: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "me" else pid)
    assert systemd.watchdog() == seconds


def test_a_sign_of_life_three_times_an_interval(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setattr(systemd, "_alive_at", 0.0)
    for now, told in ((100.0, 1), (100.9, 1), (101.0, 2), (101.1, 2), (105.0, 3), (105.5, 3), (106.0, 4)):
        systemd.alive(now)
        assert systemd.notify(STATUS=now)
        manager.until(f"STATUS={now}")
        assert manager.heard.count("WATCHDOG=1") == told, now


def test_sockets_for_somebody_else_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "2")
    assert systemd.listen_fds() == {}
    assert "LISTEN_FDS" not in os.environ


def test_ready_reloading_watchdog_stopping(tmp_path: Path, manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "2000000"}
    with Server(tmp_path / "server", environment=environment) as server:
        manager.until("READY=1")
        assert any(word.startswith("STATUS=taking mail on 127.0.0.1:") for word in manager.heard)
        manager.until("WATCHDOG=1", times=3)
        manager.heard.clear()
        server.reload()
        manager.until("READY=1")
        assert manager.heard.index("RELOADING=1") < manager.heard.index("READY=1")
        assert any(word.startswith("MONOTONIC_USEC=") for word in manager.heard)
        server.stop()
        manager.until("STOPPING=1")


def test_sockets_are_taken_over_by_address_and_by_name(tmp_path: Path) -> None:
    first, second, unused = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
    addresses = [made.getsockname() for made in (first, second, unused)]
    config = f"""
        [[listener]]
        address = "127.0.0.1:{addresses[0][1]}"
        [[listener]]
        address = "systemd:mail:{addresses[1][1]}"
        kind = "submission"
    """
    server = Server(tmp_path / "server", config)
    serve = ["-m", "mta", "serve", "-c", str(server.file)]
    fds = [made.fileno() for made in (first, second, unused)]
    with (tmp_path / "server" / "output").open("wb") as output:
        server.program = subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), "mta:mail:mail", *serve],
            cwd=Path(__file__).parent.parent,
            pass_fds=fds,
            stdout=output,
            stderr=output,
        )
    try:
        server.until(lambda: server.status().get("state") == "serving", "it did not start")
        for address in addresses[:2]:
            with smtplib.SMTP(*address, timeout=PATIENCE) as client:
                assert client.noop()[0] == 250
        assert f"systemd hands over 127.0.0.1:{addresses[2][1]}" in server.told()
        pids = server.workers()
        server.signal(signal.SIGSTOP)  # so that nobody is there
        for name in ("worker 0", "worker 1"):
            os.kill(pids[name], signal.SIGKILL)
            server.until(lambda pid=pids[name]: not alive(pid), "it lives on")
        with socket.create_connection(addresses[0], timeout=PATIENCE) as client:  # the queue that nobody closed
            server.signal(signal.SIGCONT)
            assert client.recv(4) == b"220 "
    finally:
        with suppress(ProcessLookupError):
            server.signal(signal.SIGCONT)
        assert server.stop() == 0
    with socket.create_connection(addresses[0], timeout=PATIENCE):
        pass  # systemd keeps the port open while we are away
    for made in (first, second, unused):
        made.close()


def test_a_socket_systemd_does_not_have(tmp_path: Path) -> None:
    server = Server(tmp_path, '[[listener]]\naddress = "systemd:smtp"\n')
    assert "systemd handed over no such socket (but none)" in server.mta("serve", code=1)


@pytest.mark.needs("systemd-analyze")
def test_the_units_are_well_and_hardened(tmp_path: Path) -> None:
    program = tmp_path / "mta"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in ("mta.service", "mta.socket"):
        text = (UNITS / unit).read_text("utf-8")
        (tmp_path / unit).write_text(re.sub(r"/opt/mta/bin/mta\b", str(program), text) if "service" in unit else text)
    files = [str(tmp_path / "mta.service"), str(tmp_path / "mta.socket")]
    said = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    score = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", files[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert score.returncode == 0, score.stdout[-300:]  # 15: an exposure of 1.5


def test_the_service_waits_longer_than_the_drain() -> None:
    from mta.settings import Server as Setting

    limit = re.search(r"^TimeoutStopSec=(\d+)$", (UNITS / "mta.service").read_text("utf-8"), re.M)
    assert limit is not None
    assert int(limit[1]) > Setting().drain
