"""Workers and the master are killed under load: every mail answered 250 is in the Maildir, whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import gevent
from daemon import PATIENCE, Server, alive, free_ports

from .ledger import Ledger, delivered

MAILS = 20_000
IN_HAND = 50  # mails a worker delivers at a time
DEATHS = 6  # of a worker each, but the last of the master: both workers end then

Recorder = Callable[[str, object], None]
CONFIG = f"""
[queue]
retry = ["1s"]
concurrency = {IN_HAND}
"""


def workers(server: Server) -> list[int]:
    return [pid for name, pid in server.workers().items() if name.startswith("worker")]


def reckon(server: Server, ledger: Ledger, record_property: Recorder) -> None:
    """Wait until the queue is empty, then compare what was promised with what is there."""
    server.until(lambda: server.waiting() == 0, "the queue did not get empty", 10 * PATIENCE)
    copies, torn = delivered(server.folder / "Maildir")
    lost = ledger.acknowledged - set(copies)
    unheard = set(copies) - ledger.acknowledged
    duplicates = sum(count - 1 for count in copies.values())
    record_property("duplicates", duplicates)
    print(
        f"{len(ledger.acknowledged)} acknowledged, {duplicates} duplicates, {len(unheard)} kept but their 250 was lost,"
        f" {ledger.broken} connections broken"
    )
    assert not lost, f"{len(lost)} acknowledged mails are nowhere, such as {sorted(lost)[:3]}"
    assert not torn, f"{len(torn)} mails are not whole"
    assert unheard <= ledger.unanswered, "mails appeared that nobody sent"
    assert duplicates <= IN_HAND * (DEATHS + 1), "a kill may repeat only what was in hand"


def test_twenty_thousand_mails_while_workers_and_the_master_die(tmp_path: Path, record_property: Recorder) -> None:

    port = next(free_ports(1))
    config = f'[[listener]]\naddress = "127.0.0.1:{port}"\n{CONFIG}'
    server = Server(tmp_path, config).start()
    ledger = Ledger(port, sessions=20, mails=MAILS)
    ledger.start()
    for death in range(1, DEATHS + 1):
        some = MAILS * death // (DEATHS + 2)
        server.until(lambda some=some: len(ledger.acknowledged) >= some, "mails are not taken", 10 * PATIENCE)
        if death == DEATHS:
            server.kill()
        else:
            pids = server.until(lambda: workers(server), "no worker is alive")
            os.kill(pids[death % len(pids)], signal.SIGKILL)
    with server:
        ledger.wait()
        reckon(server, ledger, record_property)


def tried_again(server: Server) -> float:
    """Kill all workers, so that every mail must find a new owner; seconds until somebody tries again."""
    server.until(lambda: len(workers(server)) == 2, "the workers were not replaced")
    pids, died = workers(server), time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.until(lambda: not any(map(alive, pids)), "they live on")
    before = len(server.events("deferred"))
    server.until(lambda: len(server.events("deferred")) > before, "nobody tried them again")
    return time.monotonic() - died


def test_a_killed_workers_queue_is_in_delivery_again_within_two_seconds(tmp_path: Path) -> None:
    """Its mail waits for a host that is down; it must be tried by somebody else soon after the death."""
    config = CONFIG + '\n[domain."demo.test"]\npath = "Maildir"\n[route."away.test"]\nhost = "127.0.0.1:1"\n'
    with Server(tmp_path, config) as server:
        for _ in range(20):
            server.send(to="bob@away.test")
        server.until(lambda: len(server.events("deferred")) >= 20, "not tried")
        best = PATIENCE
        for _ in range(5):  # the best of some deaths: other programs stop us too
            best = min(best, tried_again(server))
            if best < 2.0 + 1.5:
                break
            gevent.sleep(10)  # workers that die younger are replaced ever later
        assert best < 2.0 + 1.5  # the retry of one second itself, and a scheduler's mercy
        server.until(lambda: server.waiting() == 20, "the queue is not whole")


def test_eight_workers_become_two_with_a_full_queue(tmp_path: Path) -> None:
    config = '[server]\nname = "mx.example.test"\nworkers = {}\ndrain = "5s"\n' + CONFIG
    away = '\n[route."demo.test"]\nhost = "127.0.0.1:1"\n[domain."ours.test"]\npath = "Maildir"\n'
    here = '\n[domain."demo.test"]\npath = "Maildir"\n'
    with Server(tmp_path, config.format(8) + away) as server:
        ledger = Ledger(server.port, sessions=16, mails=800)
        ledger.start()
        ledger.wait()
        server.until(lambda: server.waiting() >= 800, "the queue is not full")
        server.configure(config.format(2) + here)
        server.reload()
        server.until(lambda: server.waiting() == 0, "the queue did not get empty", 10 * PATIENCE)
        copies, torn = delivered(server.folder / "Maildir")
        assert ledger.acknowledged <= set(copies)
        assert not torn


def test_ten_reloads_under_load_break_no_connection(tmp_path: Path) -> None:
    config = f'[server]\nname = "mx.example.test"\ndrain = "1h"\n{CONFIG}'
    with Server(tmp_path, config) as server:
        ledger = Ledger(server.port, sessions=20, mails=6000, per_connection=3)
        ledger.start()
        for n in range(10):
            server.configure(config + f"\n[smtp]\nmax_recipients = {100 + n}\n")
            server.reload()
            gevent.sleep(0.2)
        ledger.wait()
        assert ledger.broken == 0, f"{ledger.broken} connections were broken: {ledger.reasons}"
        server.until(lambda: server.waiting() == 0, "the queue did not get empty", 10 * PATIENCE)
        copies, torn = delivered(server.folder / "Maildir")
        assert set(copies) == ledger.acknowledged
        assert sum(copies.values()) == len(copies)
        assert not torn
