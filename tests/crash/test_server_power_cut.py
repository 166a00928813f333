"""The power goes under the whole server, right after a 250: what was acknowledged is in the Maildir in the end."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import gevent
import pytest
from daemon import PATIENCE, Server, free_ports

from .ledger import Ledger, delivered
from .power_cut import Machine, why_not

CUTS = 10
SESSIONS = 8

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be done here")


def cut(machine: Machine, server: Server, ledger: Ledger, after: int) -> set[str]:
    """Cut when `after` mails are acknowledged; those that were by then. A later 250 is one that nobody heard."""
    while len(ledger.acknowledged) < after:
        server.alive()
        gevent.sleep(0)
    pids = [child["pid"] for child in server.status()["children"]]
    heard = set(ledger.acknowledged)
    machine.cut()  # no greenlet runs between these two lines
    ledger.stop()
    server.kill()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return heard


def test_nothing_acknowledged_is_missing_after_ten_power_cuts(tmp_path: Path) -> None:
    dice = random.Random(7)
    acknowledged: set[str] = set()
    port = next(free_ports(1))
    config = f'[[listener]]\naddress = "127.0.0.1:{port}"\n[spool]\nsegment = "1M"\nmin_free = "1M"\n'
    with Machine(tmp_path, megabytes=400) as machine:
        folder = machine.path / "server"
        for _ in range(CUTS):
            server = Server(folder, config).start()
            ledger = Ledger(port, sessions=SESSIONS, mails=1_000_000, size=dice.choice([300, 3000, 20_000]))
            ledger.start()
            acknowledged |= cut(machine, server, ledger, dice.randrange(8, 300))
            machine.restart()
            for note in folder.rglob("in-hand"):  # written by another boot, a server after a power cut does not heed it
                note.unlink()
        with Server(folder, config) as server:
            server.until(lambda: server.waiting() == 0, "the queue did not get empty", 10 * PATIENCE)
            copies, torn = delivered(folder / "Maildir")
        lost = acknowledged - set(copies)
        assert len(acknowledged) > CUTS * SESSIONS
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged mails are gone, such as {sorted(lost)[:3]}"
        assert not torn
