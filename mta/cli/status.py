"""What the running server does: its addresses, processes, sessions and queue."""

from __future__ import annotations

import argparse
import time
from typing import Any

from mta.cli import telling


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
    print()
    telling.table(["process", "pid", "state", "gen", "work"], map(_row, status["children"]))
    return telling.FINE


def _row(child: dict[str, Any]) -> list[Any]:
    work = child.get("work", {})
    told = ", ".join(f"{name} {value}" for name, value in flat(work))
    return [child["name"], child["pid"], child["state"], child["generation"], told]


def flat(work: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested counts as "queue due" and so on."""
    found: list[tuple[str, Any]] = []
    for name, value in work.items():
        if isinstance(value, dict):
            found += flat(value, f"{before}{name} ")
        elif isinstance(value, int | float | str):
            found.append((before + name, round(value, 3) if isinstance(value, float) else value))
    return found
