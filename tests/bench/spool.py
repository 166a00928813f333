"""How fast the spool keeps and forgets mail, against a file and an fdatasync for each: python -m tests.bench.spool

`pairs` are an add and its drop. CPU is of the whole process, all threads. Only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time

from gevent import monkey

monkey.patch_all()

import gevent  # noqa: E402

from mta.message.address import Address  # noqa: E402
from mta.message.envelope import Client, Envelope, Recipient  # noqa: E402
from mta.message.ids import Ids  # noqa: E402
from mta.message.message import Message  # noqa: E402
from mta.net import offload  # noqa: E402
from mta.settings import Spool  # noqa: E402
from mta.spool.journal import JournalSpool  # noqa: E402
from mta.spool.spool import Mail  # noqa: E402

BODY = b"Subject: bench\r\n\r\n" + (b"x" * 76 + b"\r\n") * 52


def envelope(id: str) -> Envelope:
    return Envelope(
        id=id,
        sender=Address("ann", "client.test"),
        recipients=[Recipient(Address("bob", "demo.test"))],
        client=Client(ip="192.0.2.1", port=4711, name="client.test", helo="client.test", protocol="ESMTP"),
        arrived=time.time(),
        next_try=time.time(),
    )


def journal(path: str, greenlets: int, seconds: float, claim: bool) -> tuple[float, float]:
    """(pairs a second, us of CPU for one commit)."""
    ids = Ids()
    spool = JournalSpool(Spool(path=path), ids.writer)
    stop, done = [False], [0]

    def add_and_drop() -> None:
        while not stop[0]:
            id = ids.session() + ".1"
            spool.commit(add=[Mail(envelope(id), Message(BODY))])
            if claim:
                id = spool.claim(time.time(), 1)[0].envelope.id
            spool.commit(drop=[id])
            done[0] += 1

    cpu, began = time.process_time(), time.perf_counter()
    running = [gevent.spawn(add_and_drop) for _ in range(greenlets)]
    gevent.sleep(seconds)
    stop[0] = True
    gevent.joinall(running)
    pairs, took, cpu = done[0], time.perf_counter() - began, time.process_time() - cpu
    spool.close()
    return pairs / took, cpu / pairs / 2 * 1e6


def files(path: str, greenlets: int, seconds: float) -> tuple[float, float]:
    """The same with a file for each mail: written, synced, its folder synced, removed."""
    stop, count = [False], [0]

    def keep(name: str) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, BODY)
        os.fdatasync(fd)
        os.close(fd)
        folder = os.open(path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def add_and_drop() -> None:
        while not stop[0]:
            count[0] += 1
            name = f"{path}/{count[0]}"
            offload.run(keep, name)
            offload.run(os.unlink, name)

    cpu, began = time.process_time(), time.perf_counter()
    running = [gevent.spawn(add_and_drop) for _ in range(greenlets)]
    gevent.sleep(seconds)
    stop[0] = True
    gevent.joinall(running)
    return count[0] / (time.perf_counter() - began), (time.process_time() - cpu) / count[0] / 2 * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement (default: 2)")
    parser.add_argument("--path", help="a folder on the disk to measure (default: a temporary one)")
    given = parser.parse_args()
    print(f"{'sessions':>8}  {'journal':>16}  {'with claim':>16}  {'file per mail':>16}  {'ratio':>6}")
    for greenlets in (1, 20, 100):
        shown, rates = [], []
        for measure in (
            lambda path, n=greenlets: journal(path, n, given.seconds, False),
            lambda path, n=greenlets: journal(path, n, given.seconds, True),
            lambda path, n=greenlets: files(path, n, given.seconds),
        ):
            path = tempfile.mkdtemp(dir=given.path)
            rate, cpu = measure(path)
            shutil.rmtree(path)
            rates.append(rate)
            shown.append(f"{rate:8.0f}/s {cpu:3.0f} us")
        print(
            f"{greenlets:>8}  {shown[0]:>16}  {shown[1]:>16}  {shown[2]:>16}  {rates[0] / rates[2]:>6.1f}", flush=True
        )


if __name__ == "__main__":
    main()
