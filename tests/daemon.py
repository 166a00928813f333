"""The real server for tests: `with Server(tmp_path, config, rules) as server:`; its own folder, free ports.

The configuration given is added to a small one: workers = 2, a short drain, one relay listener on 127.0.0.1, mail for
any address into `server.folder / "Maildir"`. A table given replaces that table.

Nothing here or in its tests may depend on how fast the machine is: one waits for what must come (`until`), as long as
PATIENCE, and a limit on time stands only where the alternative takes longer than any patience (a drain of an hour).
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import smtplib
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TREE = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds until what must come is given up; no test that passes waits so long

TABLES = {
    "server": '[server]\nname = "mx.example.test"\nworkers = 2\ndrain = "5s"\n',
    "listener": '[[listener]]\naddress = "127.0.0.1:0"\n',
    "domain": '[domain."*"]\npath = "Maildir"\n',
}

MAIL = "Subject: hi\r\n\r\nhello\r\n"


class Server:
    """A running server. `.port` is its first listener's, `.ports` are all of them, `.folder` holds everything."""

    def __init__(
        self,
        folder: Path,
        config: str = "",
        rules: str | None = None,
        *,
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
        wait: float = PATIENCE,
    ) -> None:
        self.folder, self.wait, self.python = folder, wait, python
        self.environment = environment or {}
        self.file = folder / "mta.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.configure(config)
        if rules is not None or not (folder / "rules" / "main.lua").exists():
            self.rules(rules or "")
        self.program: subprocess.Popen[bytes] | None = None

    # -- before and while it runs ------------------------------------------------------------------------------------

    def configure(self, config: str) -> None:
        """Write mta.toml; `reload()` puts it in force."""
        given = tomllib.loads(config)
        parts = [text for name, text in TABLES.items() if name not in given]
        save(self.file, "\n".join([*parts, config]))

    def rules(self, text: str, name: str = "main.lua") -> None:
        """Write a file of rules; `reload()` puts it in force."""
        path = self.folder / "rules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, text)

    def start(self) -> Server:
        """Returns when it serves. Raises AssertionError with what it said when it ends instead."""
        self.launch()
        self.until(lambda: self.status().get("state") == "serving", "it did not start")
        return self

    def launch(self) -> None:
        """As `start`, but waits for nothing."""
        with (self.folder / "output").open("ab") as output:
            self.program = subprocess.Popen(
                [self.python, "-m", "mta", "serve", "-c", str(self.file)],
                cwd=TREE,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def mta(self, *words: str, code: int | None = 0) -> str:
        """Run a command of ours against this server; its output. `code`: the exit code it must have (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "mta", "-c", str(self.file), *words],
            cwd=TREE,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, f"mta {' '.join(words)} ended with {done.returncode}: {said}"
        return said

    def queue(self, *words: str) -> list[dict[str, Any]]:
        """What `mta queue list --json` tells, as soon as no spool folder waits for another worker to take it over."""

        def whole() -> list[list[str]]:
            lines = self.mta("queue", "list", "--json", *words).splitlines()
            return [lines] if all(line.startswith("{") for line in lines) else []

        (lines,) = self.until(whole, "a spool folder is never taken over")
        return [json.loads(line) for line in lines]

    def status(self) -> dict[str, Any]:
        """What `mta status --json` tells; empty while nobody answers."""
        from mta.daemon.control import Line
        from mta.net.frames import CallFailed, Unavailable

        self.alive()
        try:
            with Line(str(self.folder / "run"), self.wait) as line:
                answer: dict[str, Any] = line.ask("status")
                return answer
        except (Unavailable, CallFailed):
            return {}

    def reload(self, code: int = 0) -> str:
        return self.mta("reload", code=code)

    @property
    def ports(self) -> list[int]:
        told = self.until(self.status, "it does not tell its ports")
        return [int(name.rpartition(":")[2]) for each in told["listeners"] for name in each["address"]]

    @property
    def port(self) -> int:
        return self.ports[0]

    def workers(self) -> dict[str, int]:
        """{"worker 0": pid, ...} of those that are ready and of the generation in force, and "registry"."""
        status = self.status()
        return {
            child["name"]: child["pid"]
            for child in status.get("children", [])
            if child["state"] == "ready" and child["generation"] in (status["generation"], 0)
        }

    def replaced(self, *names: str) -> None:
        """Kill these workers ("worker 0") or the registry, and wait until others have taken their places.

        A process may go on for a moment after its SIGKILL, and the master may learn of it later: only another pid says
        that it is another process.
        """
        before = self.workers()
        for name in names:
            os.kill(before[name], signal.SIGKILL)
        self.until(
            lambda: (
                all((now := self.workers()).get(name, before[name]) != before[name] for name in names)
                and now.keys() >= before.keys()
            ),
            f"{' and '.join(names)} were not replaced",
        )

    def waiting(self) -> int:
        """Mails in the spools of the workers. As long as one of them does not tell, or a folder is not taken over yet
        or is being read, there is at least one more.

        The folders are counted before the workers are asked, so what is taken over meanwhile is seen by one of them.
        """
        told = self.until(self.status, "it does not tell its state")
        spools = [child.get("work", {}).get("spool") for child in told["children"] if child["name"] != "registry"]
        return int(told["orphans"]) + sum(spool["mails"] + spool["adopting"] if spool else 1 for spool in spools)

    # -- mail --------------------------------------------------------------------------------------------------------

    def smtp(self, port: int | None = None) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", port or self.port, timeout=self.wait)

    def send(self, text: str = MAIL, sender: str = "a@b.test", to: str = "you@demo.test") -> None:
        """One mail on a connection of its own. Raises smtplib's exceptions."""
        with self.smtp() as client:
            client.sendmail(sender, [to], text)

    def mails(self) -> list[Path]:
        """The mails in the Maildir."""
        return sorted((self.folder / "Maildir" / "new").glob("*"))

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """The log's lines, of one event if named. A worker's reach the file some time after what they tell of: wait for
        them with `until`; those of the master and of a server that has ended are there.

        A reader may see half of a write, so what has no end yet is left out.
        """
        path = self.folder / "mta.log"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        found = [json.loads(line) for line in whole.split(b"\n") if line]
        return [line for line in found if not event or line["event"] == event]

    # -- waiting and ending ------------------------------------------------------------------------------------------

    def until(self, true: Callable[[], Any], what: str, seconds: float | None = None) -> Any:
        """Wait until something holds, and return it; else fail, saying `what`."""
        end = time.monotonic() + (seconds or self.wait)
        while not (found := true()):
            assert time.monotonic() < end, f"{what}\n{self.told()}"
            time.sleep(0.05)
        return found

    def alive(self) -> None:
        assert self.program is not None and self.program.poll() is None, f"the server has ended\n{self.told()}"

    def told(self) -> str:
        """What the server said and logged, for a failure."""
        log = self.folder / "mta.log"
        output = (self.folder / "output").read_text("utf-8", "replace")
        tail = log.read_text("utf-8", "replace")[-4000:] if log.exists() else "no log"
        return f"{self.folder}\n{output[-4000:]}\n{tail}"

    def signal(self, number: int) -> None:
        assert self.program is not None
        self.program.send_signal(number)

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM, and wait; its exit code."""
        assert self.program is not None
        if self.program.poll() is None:
            self.signal(signal.SIGTERM)
        return self.ended(seconds)

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for the end; its exit code."""
        assert self.program is not None
        try:
            return self.program.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end\n{self.told()}") from None

    def kill(self) -> None:
        """The master dies at once; what is left of its workers ends by itself."""
        assert self.program is not None
        self.program.kill()
        self.program.wait()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.program is not None and self.program.poll() is None:
            pids = [child["pid"] for child in self.status().get("children", [])]
            try:
                self.stop()
            except AssertionError:
                self.kill()
                for pid in pids:
                    _kill(pid)
                raise


def save(path: Path, text: str) -> None:
    """Write a file whole, as editors do: a server that watches it never sees a half."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, "utf-8")
    new.replace(path)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def alive(pid: int) -> bool:
    """Does this process run? One that has ended may stay as a zombie for as long as nobody asks how it ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_open(port: int, program: subprocess.Popen[Any]) -> None:
    """Wait until a program that was just started listens there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            return
        except OSError as error:
            assert program.poll() is None and time.monotonic() < end, f"{program.args} does not listen: {error}"
        time.sleep(0.02)


def free_ports(count: int) -> Iterator[int]:
    """Ports nobody has, and nobody gets while this process lives; for a test that must know one beforehand.

    They are none of those the kernel gives away by itself, to a server on port 0 or to a client: one of these could
    take a port before it is bound, and a client that tries a port where nobody listens could even meet itself. Other
    runs of the tests on this machine see which are taken by names in the abstract namespace, which go with a process.
    """
    try:
        lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except OSError:  # some containers do not tell
        lowest, highest = 32_768, 60_999
    candidates = [*range(10_000, lowest), *range(highest + 1, 65_536)] or list(range(10_000, 65_536))
    random.SystemRandom().shuffle(candidates)
    found: list[int] = []
    while len(found) < count:
        port, name = candidates.pop(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0mta-test-port-{port}")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                datagrams.bind(("", port))
            for family, host in ((socket.AF_INET, ""), (socket.AF_INET6, "::"))[: 1 + socket.has_ipv6]:
                socket.create_server((host, port), family=family).close()
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # IPv6 is not here
                name.close()
                continue
        _taken.append(name)
        found.append(port)
    return iter(found)


_taken: list[socket.socket] = []
