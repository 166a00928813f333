"""A server that has seen everything for a while is as it was: nothing is lost, and nothing is left behind in it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from daemon import Server, free_ports
from fake_dns import FakeDns
from fake_smtp import FakeSmtp
from receiving import self_signed

from .crowd import RULES, Crowd, moods

CALM = {"MALLOC_ARENA_MAX": "1"}  # else what threads free stays where it was, which looks like a leak


class Size(NamedTuple):
    """What a process has, by /proc."""

    memory: int  # KB, its own
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Size:
        told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return cls(int(told["RssAnon"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(told["Threads"]))


def calm(server: Server) -> dict[str, Size]:
    """Wait until nobody is connected and nothing waits, then look."""

    def quiet() -> bool:
        work = [child.get("work", {}) for child in server.status().get("children", []) if child["name"] != "registry"]
        return all(one.get("sessions") == 0 and one["queue"]["under_way"] == 0 for one in work)

    server.until(lambda: server.waiting() == 0 and quiet(), "it does not come to rest")
    return {name: Size.of(pid) for name, pid in server.workers().items()}


def soak(folder: Path, *, warm: int, rounds: int, seconds: float = 0.0) -> tuple[dict[str, Size], dict[str, Size]]:
    """Let a crowd in, round by round, for at least so long: what the processes had when warm, and at the end."""
    certificate, key = self_signed(folder)
    (submission,) = free_ports(1)
    with FakeDns({"known.test": {"A": ["192.0.2.1"]}}) as dns, FakeSmtp(moods(seed=7)) as far:
        config = f"""
            [server]
            name = "mx.example.test"
            workers = 2
            drain = "5s"
            stuck = "60s"
            [[listener]]
            address = "127.0.0.1:0"
            [[listener]]
            address = "127.0.0.1:{submission}"
            kind = "submission"
            tls = {{ certificate = "{certificate}", key = "{key}" }}
            [queue]
            retry = ["1s"]
            expire = "10s"
            [domain."demo.test"]
            path = "Maildir"
            [route."*"]
            host = "{far.host}"
            [dns]
            servers = ["{dns.server}"]
            [rules]
            instructions = 1_000_000
        """
        with Server(folder, config, RULES, environment=CALM) as server:
            crowd = Crowd(server.port, submission, seed=7)
            before: dict[str, Size] = {}
            done, began = 0, time.monotonic()
            while done < warm + rounds or time.monotonic() < began + seconds:
                crowd.run(100)
                server.reload()
                after = calm(server)
                done += 1
                if done == warm:
                    before = after
                    began = time.monotonic()
            spool = [child["work"]["spool"] for child in server.status()["children"] if "work" in child]
            assert all(one["segments"] < 4 for one in spool), spool
            server.until(lambda: not list((folder / "spool").glob("*/bodies/*")), "a body file stays")
        assert not server.events("bug")
        accepted = {event["mail"] for event in server.events("accepted")}
        served = {event["mail"] for what in ("delivered", "failed") for event in server.events(what)}
        print(f"{done} rounds, {len(accepted)} mails, answers {dict(crowd.codes)}; {before} -> {after}")
        assert len(accepted) > 100 and far.mails and server.events("bounced") and accepted <= served
        return before, after


def grown(before: dict[str, Size], after: dict[str, Size]) -> list[str]:
    """What somebody has more of than a warm server may."""
    return [
        f"{name}: {old} -> {new}"
        for name, old in before.items()
        for new in (after[name],)
        if new.memory > old.memory * 1.5 + 30_000 or new.files > old.files + 8 or new.threads > old.threads + 8
    ]


def test_a_crowd_leaves_nothing_behind(tmp_path: Path) -> None:
    before, after = soak(tmp_path, warm=2, rounds=4)
    assert not grown(before, after)


def test_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    """Each of these brings new workers. A server may be told a hundred times a day for years."""

    def left(server: Server) -> tuple[list[int], int, int]:
        pids = [server.status()["pid"], server.workers()["registry"]]
        files = [Size.of(pid).files for pid in pids]
        return files, len(list((tmp_path / "run").iterdir())), len(list((tmp_path / "spool").iterdir()))

    config = '[server]\nname = "mx{n}.example.test"\nworkers = 2\ndrain = "1s"\n'
    with Server(tmp_path, config.format(n=0)) as server:
        before = left(server)
        for n in range(1, 7):
            server.configure(config.format(n=n))
            server.reload()
            server.send()
            server.until(lambda: len(server.status()["children"]) == 3, "the old workers did not end")
        server.until(lambda: left(server) == before, f"it was {before}")


@pytest.mark.long
def test_a_crowd_leaves_nothing_behind_for_twenty_minutes(tmp_path: Path) -> None:
    before, after = soak(tmp_path, warm=100, rounds=0, seconds=20 * 60)
    assert not grown(before, after)
