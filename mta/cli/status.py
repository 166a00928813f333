"""What the running server does: its addresses, processes, sessions and queue."""

from __future__ import annotations

import argparse
import time
from typing import Any

from mta.cli import telling

COLUMNS = (  # of the table: heading, and where a worker tells it; --json has all there is
    ("sessions", "sessions"),
    ("accepted", "accepted"),
    ("refused", "refused"),
    ("queued", "spool.mails"),
    ("delivered", "queue.delivered"),
    ("deferred", "queue.deferred"),
    ("rules", "rules"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    status = telling.ask(telling.run_folder(given, quiet=given.json), "status", timeout=10.0)
    if given.json:
        telling.print_json(status)
        return telling.FINE
    since = telling.ago(time.time() - status["since"])
    print(f"mta {status['version']} is {status['state']}, pid {status['pid']}, since {since}")
    print(f"configuration  {status['config']} (generation {status['generation']})")
    for listener in status["listeners"]:
        tls = ", TLS" if listener["tls"] else ""
        print(f"listener       {', '.join(listener['address'])} ({listener['kind']}{tls})")
    if status["orphans"]:
        print(f"to take over   {status['orphans']} spool folders of workers that ended")
    print()
    head = ["process", "pid", "state", "gen", *(name for name, _ in COLUMNS)]
    telling.table(head, [_row(child) for child in status["children"]])
    return telling.FINE


def _row(child: dict[str, Any]) -> list[Any]:
    work = child.get("work", {})
    told = [_inside(work, path) for _, path in COLUMNS]
    return [child["name"], child["pid"], child["state"], child["generation"] or "", *told]


def _inside(work: dict[str, Any], path: str) -> Any:
    value: Any = work
    for name in path.split("."):
        value = value.get(name, "") if isinstance(value, dict) else ""
    return value
