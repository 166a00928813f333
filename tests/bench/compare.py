"""Puts us beside Postfix in one run, round by round in turn: `python tests/bench/compare.py`.

4 KB mails, 20 sessions, a Lua rule at every stage, recipients discarded, every removal recorded; once with a connection
for each mail (c20) and once on kept connections (d20). Both servers are durable as installed. Rates are until the last
250 and until the queue is empty; CPU is the server's own, for each mail. Only the ratios within a run mean something.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import Round, measure
from postfix import Postfix, missing

from mta.daemon.control import Line

TREE = Path(__file__).parents[2]

CONFIG = """
[server]
name = "bench.test"
workers = {workers}
run = "run"

[[listener]]
address = "127.0.0.1:{port}"

[domain."demo.test"]
users = "any"
transport = "discard"

[queue]
concurrency = 200
"""

RULES = (Path(__file__).parent / "main.lua").read_text()


class Ours:
    """Our own server in a folder of its own."""

    def __init__(self, folder: Path, port: int, workers: int) -> None:
        self.folder, self.port, self.workers = folder, port, workers

    def __enter__(self) -> Ours:
        (self.folder / "rules").mkdir(parents=True)
        (self.folder / "rules" / "main.lua").write_text(RULES)
        config = self.folder / "mta.toml"
        config.write_text(CONFIG.format(port=self.port, workers=self.workers))
        with open(self.folder / "output", "w") as output:
            words = [sys.executable, "-m", "mta", "serve", "-c", str(config)]
            self.server = subprocess.Popen(words, cwd=TREE, stdout=output, stderr=output)
        self.pid = self.server.pid
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as s:
                    s.recv(100)
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("we do not answer: " + (self.folder / "output").read_text()[-2000:])

    def waiting(self) -> int:
        with Line(str(self.folder / "run")) as line:
            children = line.ask("status")["children"]
        return sum(child["work"]["spool"]["mails"] for child in children if "work" in child)

    def __exit__(self, *_: object) -> None:
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(60)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def table(title: str, ours: list[Round], theirs: list[Round]) -> None:
    def row(name: str, rounds: list[Round]) -> None:
        print(
            f"  {name:8}"
            + "".join(
                f" {min(v):8.0f} {statistics.median(v):8.0f} {max(v):8.0f} |"
                for v in ([r.accepted for r in rounds], [r.done for r in rounds], [r.cpu for r in rounds])
            )
        )

    print(f"{title}   accepted/s min med max    | done/s min med max        | CPU us a mail min med max |")
    row("mta", ours)
    row("Postfix", theirs)
    median, pairs = statistics.median, list(zip(ours, theirs, strict=True))
    print(
        f"  ratio    accepted {median(o.accepted / p.accepted for o, p in pairs):.2f}"
        f"   done {median(o.done / p.done for o, p in pairs):.2f}"
        f"   CPU 1/{median(p.cpu / o.cpu for o, p in pairs):.2f}"
    )


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--mails", type=int, default=10_000)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    words.add_argument("--size", type=int, default=4096)
    words.add_argument("--sessions", type=int, default=20)
    given = words.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        (folder / "postfix").mkdir()
        with (
            Postfix(folder / "postfix", free_port()) as theirs,
            Ours(folder / "mta", free_port(), given.workers) as ours,
        ):
            for name, keep in (("c", False), ("d", True)):
                rounds: dict[str, list[Round]] = {"mta": [], "postfix": []}
                for n in range(given.rounds + 1):
                    for who, server in (("mta", ours), ("postfix", theirs)):
                        mails = given.mails // (1 if who == "mta" else 3)
                        taken = measure(
                            server.port,
                            server.pid,
                            server.waiting,
                            mails if n else mails // 4,
                            sessions=given.sessions,
                            size=given.size,
                            keep=keep,
                        )
                        if n:  # the first round only warms both up
                            rounds[who].append(taken)
                table(f"{name}{given.sessions}", rounds["mta"], rounds["postfix"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
