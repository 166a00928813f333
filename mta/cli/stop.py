"""Tell the server to finish open sessions and deliveries and to end; waits for it."""

from __future__ import annotations

import argparse

from mta.cli import telling
from mta.daemon.control import Line
from mta.net.frames import CallFailed, Unavailable


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")


def run(given: argparse.Namespace) -> int:
    run = telling.run_folder(given)
    try:
        with Line(run) as line:
            told = line.ask("stop")
            pid = told["pid"]
            if not given.no_wait and not line.until_gone(told["drain"] + 10):
                raise telling.Failed(f"the server (pid {pid}) has not ended yet", telling.FINDING)
    except Unavailable as error:
        raise telling.Failed(str(error), telling.NOT_REACHABLE) from None
    except CallFailed as error:
        raise telling.Failed(error.text, telling.FINDING) from None
    print(f"{'stopping' if given.no_wait else 'stopped'} (pid {pid})")
    return telling.FINE
