"""Try rules by hand: load a mail, run it stage by stage, ask why; in the server's sandbox, and without a server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from mta.cli import telling
from mta.cli.lua import trying
from mta.cli.lua.console import Console, Quit
from mta.cli.telling import paint
from mta.rules.engine.engine import RulesError
from mta.rules.trying.trial import Trial


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rules", nargs="?", help="a folder with main.lua; without it that of the configuration")
    parser.add_argument("-e", dest="lines", action="append", metavar="LUA", help="say this line and leave")


def run(given: argparse.Namespace) -> int:
    made, found = trying.settings_of(given, given.rules)
    world = trying.world_of(made, found)
    try:
        trial = Trial(trying.loader(made, world, found), world, trying.sketch_of(made, found))
    except RulesError as error:
        raise telling.Failed(str(error), telling.FINDING) from None
    console = Console(made, trial)
    if given.lines:
        return speak(console, given.lines)
    if not sys.stdin.isatty():
        return speak(console, (line.rstrip("\r\n") for line in sys.stdin))
    from mta.cli.lua import terminal

    rules = len(trial.names())
    print(f"{made.rules.path}/main.lua: {rules} rule{'s' * (rules != 1)}. {paint(':help', 'bold')} tells what to say.")
    terminal.talk(console)
    return telling.FINE


def speak(console: Console, lines: Iterable[str]) -> int:
    """Say lines one after the other; the exit code: 1 a rule or a line failed, 2 a command that means nothing."""
    try:
        for line in lines:
            console.line(line)
        console.end()
    except Quit:
        pass
    return telling.USAGE if console.misused else telling.FINDING if console.failed else telling.FINE
