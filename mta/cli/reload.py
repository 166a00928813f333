"""Put a changed configuration, rules or certificates in force; waits, and says what is wrong if they are refused."""

from __future__ import annotations

import argparse

from mta.cli import telling


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(given: argparse.Namespace) -> int:
    done = telling.ask(telling.run_folder(given), "reload")
    what = "new settings, by new workers" if done["what"] == "settings" else "rules and certificates"
    print(f"in force: {what} (generation {done['generation']})")
    return telling.FINE
