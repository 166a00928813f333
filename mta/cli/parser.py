"""How the words after a command are read: -c is taken anywhere, and a mistyped word hears the nearest right one."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any, NoReturn

CODES = "Exit codes: 0 fine, 1 a finding, 2 wrong usage, 3 not found, 4 no server answers."


class Parser(argparse.ArgumentParser):
    """The parser of one command, and of each verb below it (argparse makes those of the same class)."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, "epilog": CODES, **more})
        self.register("action", "parsers", _Verbs)
        # Suppressed, or the verb's "not given" would undo what was said before the verb.
        self.add_argument("-c", "--config", metavar="FILE", default=argparse.SUPPRESS, help="the configuration file")

    def error(self, message: str) -> NoReturn:
        """Usage, what is wrong, and perhaps what was meant; exit code 2."""
        word, _, rest = message.partition(": ")[2].partition(" ")
        known: list[str] = list(self._option_string_actions)
        if "invalid choice: " in message:
            word, rest = message.partition("invalid choice: '")[2].split("'", 1)
            known = [choice.strip(" ')") for choice in rest.partition("choose from ")[2].split(",")]
        near = difflib.get_close_matches(word.partition("=")[0], known, 1) if word else []
        super().error(message + (f"; did you mean {near[0]}?" if near else ""))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Newer versions of Python pass over a full disk here; older ones, like us, let it be told."""
        (file or sys.stderr).write(message)


class _Verbs(argparse._SubParsersAction):
    def add_parser(self, name: str, **more: Any) -> Any:
        """As argparse does it; what the list of verbs says of one also opens its own help."""
        meaning = more.get("help") or ""
        return super().add_parser(name, **{"description": f"{meaning[:1].upper()}{meaning[1:]}.", **more})
