"""Mail that waits: list it, from the running server, or from the spool's files when none runs."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any

from mta.cli import telling
from mta.daemon.control import Line
from mta.net.frames import CallFailed, Unavailable


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", nargs="?", choices=["list"], default="list", help="list (default)")
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    made = telling.configuration(given, quiet=given.json)
    mails = _running(made.settings.server.run)
    if mails is None:
        mails = _resting(made.settings.spool.path)
    if given.json:
        for mail in mails:
            telling.print_json(mail)
        return telling.FINE
    head = ["id", "age", "next try", "tries", "sender", "recipients", "why"]
    telling.table(head, (_row(mail, time.time()) for mail in mails))
    return telling.FINE


def _running(run: str) -> Iterator[dict[str, Any]] | None:
    """The mails of a running server; None if there is none."""
    try:
        line = Line(run)
    except Unavailable:
        return None
    return _pages(line)


def _pages(line: Line) -> Iterator[dict[str, Any]]:
    with line:
        try:
            for child in line.ask("status")["children"]:
                if child["name"] == "registry" or child["state"] == "starting":
                    continue
                page = line.ask("worker", child["pid"], "queue", [])
                yield from page["mails"]
                while page["cursor"]:
                    page = line.ask("worker", child["pid"], "queue", [page["cursor"]])
                    yield from page["mails"]
        except Unavailable as error:
            raise telling.Failed(str(error), telling.NOT_REACHABLE) from None
        except CallFailed as error:
            raise telling.Failed(error.text, telling.FINDING) from None


def _resting(path: str) -> Iterator[dict[str, Any]]:
    from mta.daemon.waiting import plain
    from mta.spool.recovery import read

    if os.path.isdir(path):  # else no server has ever run here
        yield from map(plain, read(path))


def _row(mail: dict[str, Any], now: float) -> list[Any]:
    recipients = [recipient["address"] for recipient in mail["recipients"]]
    replies = [recipient["reply"] for recipient in mail["recipients"] if recipient.get("reply")]
    wait = mail["next_try"] - now
    return [
        mail["id"],
        telling.ago(now - mail["arrived"]),
        "held" if mail.get("held") else "now" if wait <= 0 else f"in {telling.ago(wait)}",
        mail.get("attempts", 0),
        mail["sender"] or "<>",
        ", ".join(recipients[:3]) + (f" and {len(recipients) - 3} more" if len(recipients) > 3 else ""),
        mail.get("held") or (replies[0] if replies else ""),
    ]
