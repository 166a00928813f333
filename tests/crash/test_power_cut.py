"""The power goes right after an acknowledgement: what the spool promised is there after the restart."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import gevent
import pytest

from mta.settings import Spool as Settings
from mta.spool.journal import JournalSpool

from .committing import text
from .power_cut import Machine, why_not

CUTS = 10

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be done here")


class Told(NamedTuple):
    """What a child said: acknowledged mails and their sizes, drops it began, and those acknowledged."""

    added: dict[str, int]
    begun: set[str]
    dropped: set[str]


def cut_once(machine: Machine, spool: Path, writer: str, after: int, sync: str) -> Told:
    """Let a child commit until it said `after` lines, then cut the power and kill it."""
    command = [sys.executable, os.path.join(os.path.dirname(__file__), "committing.py"), str(spool), writer, sync]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, env=environment, text=True
    )
    assert child.stdout is not None
    try:
        lines = [child.stdout.readline() for _ in range(after)]
        machine.cut()
    finally:
        child.kill()
        child.wait()
    assert all(lines), "the child ended by itself"
    late = child.stdout.read().splitlines(keepends=True)  # a power cut takes the network, too: nobody hears these
    child.stdout.close()
    told = Told({}, set(), set())
    for line in lines:
        match line.split() if line.endswith("\n") else []:
            case ["+", id, size]:
                told.added[id] = int(size)
            case ["?", id]:
                told.begun.add(id)
            case ["-", id]:
                told.dropped.add(id)
    told.begun.update(line.split()[1] for line in late if line.startswith("?") and line.endswith("\n"))
    return told


def cuts(tmp_path: Path, count: int, sync: str) -> tuple[int, list[str], list[str]]:
    """(acknowledged in all, what is missing or not whole, what came back)."""
    dice = random.Random(1)
    acknowledged, lost, back = 0, list[str](), list[str]()
    alive: dict[str, int] = {}
    with Machine(tmp_path, megabytes=300) as machine:
        path = machine.path / "spool"
        path.mkdir()
        os.sync()
        for n in range(count):
            added, begun, dropped = cut_once(machine, path, f"w{n}", dice.randrange(30, 400), sync)
            machine.restart()
            acknowledged += len(added)
            alive.update((id, size) for id, size in added.items() if id not in begun)
            spool = JournalSpool(Settings(path=str(path), segment=1 << 20, min_free=0), f"reader{n}")
            for folder in [each for each in path.iterdir() if each.is_dir() and each.name != f"reader{n}"]:
                assert spool.adopt(str(folder))
            there = {e.id for e in spool.find()}
            back += sorted(there & dropped)
            for id, size in alive.items():
                if id not in there or bytes(spool.open(id)) != text(id, size):
                    lost.append(id)
            if n % 3 == 2:  # now and then all is delivered, else it stays for the next cut
                spool.commit(drop=sorted(there))
                alive.clear()
            gevent.sleep(0.05)
            spool.close()
    return acknowledged, lost, back


def test_nothing_acknowledged_is_missing_after_ten_power_cuts(tmp_path: Path) -> None:
    acknowledged, lost, back = cuts(tmp_path, CUTS, "sync")
    assert acknowledged > 100
    assert not lost, f"{len(lost)} of {acknowledged} acknowledged mails are missing or torn: {lost[:5]}"
    assert not back, f"dropped mails are back: {back[:5]}"


def test_a_spool_that_does_not_sync_loses_mail(tmp_path: Path) -> None:
    """The control: the cut is a real one."""
    _, lost, _ = cuts(tmp_path, 3, "lie")
    assert lost
