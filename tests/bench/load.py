"""What a benchmark round needs: smtp-source as the load, and the CPU a tree of processes has used."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")


class Round(NamedTuple):
    """One round: mails a second until the last 250 and until the queue is empty, server CPU in us for each mail."""

    accepted: float
    done: float
    cpu: float


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found, open_ = [], [pid]
    while open_:
        one = open_.pop()
        found.append(one)
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as children:
                    open_ += map(int, children.read().split())
        except OSError:
            pass
    return found


def cpu(pid: int) -> float:
    """Seconds of CPU a process, its living and its reaped descendants have used so far."""
    total = 0
    for one in family(pid):
        try:
            with open(f"/proc/{one}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # utime stime cutime cstime
        except OSError:
            pass
    return total / TICK


def source(port: int, mails: int, *, sessions: int, size: int, keep: bool) -> None:
    """Send mails with Postfix's own load generator. Raises CalledProcessError when one is refused."""
    words = ["/usr/sbin/smtp-source", "-s", str(sessions), "-m", str(mails), "-l", str(size)]
    words += ["-d"] if keep else []
    words += ["-f", "ann@client.test", "-t", "bob@demo.test", f"inet:127.0.0.1:{port}"]
    subprocess.run(words, check=True, capture_output=True, timeout=600)


def measure(
    port: int, pid: int, waiting: Callable[[], int], mails: int, *, sessions: int, size: int, keep: bool
) -> Round:
    """One round against one server, until its queue is empty again."""
    before, start = cpu(pid), time.monotonic()
    source(port, mails, sessions=sessions, size=size, keep=keep)
    accepted = time.monotonic() - start
    while waiting():
        time.sleep(0.01)
        if time.monotonic() - start > 600:
            raise TimeoutError("the queue does not get empty")
    done = time.monotonic() - start
    return Round(mails / accepted, mails / done, (cpu(pid) - before) / mails * 1e6)
