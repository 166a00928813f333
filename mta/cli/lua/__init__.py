"""Try rules before they go live: check them, and read about every word they can be written with."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from mta.cli.parser import Parser

VERBS = {  # a file of this folder each, with arguments(parser) and run(given), imported only when asked for
    "repl": "try rules by hand, stage by stage",
    "run": "play a conversation or a mail through the rules",
    "test": 'run tests of rules: conversations, and tests in Lua ("mta lua doc test" and "dialogue" tell their words)',
    "check": "read rules and say what is wrong with them",
    "stubs": "write what an editor needs to know the words",
    "doc": "what a word of the rule language means",
}
ELSEWHERE = {"run": "playing"}  # a file run.py would hide run() below


class _Verb(Parser):
    """A verb's parser, filled when its words are parsed."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        _file(self.prog.split()[-1]).arguments(self)
        return super().parse_known_args(args, namespace)


def _file(verb: str) -> Any:
    return importlib.import_module(f"mta.cli.lua.{ELSEWHERE.get(verb, verb)}")


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Verb)
    for name, meaning in VERBS.items():
        verbs.add_parser(name, help=meaning)


def run(given: argparse.Namespace) -> int:
    code: int = _file(given.verb).run(given)
    return code
