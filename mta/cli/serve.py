"""Serve mail as the configuration says, in the foreground, until SIGTERM."""

from __future__ import annotations

import argparse
import sys

from mta import config
from mta.cli import telling
from mta.daemon.master import Master, StartError


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(given: argparse.Namespace) -> int:
    made = telling.configuration(given, quiet=True)
    print(f"mta: configuration {made.path} ({config.find(given.config)[1]})", file=sys.stderr, flush=True)
    return serve(made)


def serve(made: config.Config) -> int:
    try:
        return Master(made).run()
    except StartError as error:
        raise telling.Failed(str(error), telling.FINDING) from None
