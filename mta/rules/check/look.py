"""Looks at files of rules with everything the other files of this folder know."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from mta.rules.check import flow, order, uses
from mta.rules.check.names import Words
from mta.rules.check.tree import ERROR, WARNING, Finding, Source, Tree
from mta.rules.words.word import Word


def look(
    sources: Iterable[Source], words: Mapping[str, Word], *, services: bool = False, warnings: bool = True
) -> list[Finding]:
    """What is wrong, in the order of the files and their lines. Never raises, whatever the text is.

    `services`: the settings are not known, so any service may exist. A file Lua cannot read is not looked at: loading
    it tells why. Errors alone cost half the time.
    """
    known, found = Words(words, services=services), []
    for source in sources:
        tree = Tree(source)
        if tree.whole:
            seen = uses.walk(tree, known)
            told = seen.findings
            if warnings:
                told = [*told, *flow.look(tree, seen.rules, seen.calls), *order.look(tree, seen)]
            found += sorted(dict.fromkeys(told), key=lambda one: (one.line, one.column))
        elif not tree.root.has_error:
            what = "this file is nested too deeply to be looked at"
            found.append(Finding(source.name, 1, 1, WARNING, what, "move parts of it into functions"))
    return found


def errors(sources: Iterable[Source], words: Mapping[str, Word]) -> list[Finding]:
    """The errors alone, found in a thread: who serves mail in this process does not wait for them."""
    if "gevent" in sys.modules:
        from mta.net import offload

        found = offload.run(lambda: look(sources, words, warnings=False))
    else:
        found = look(sources, words, warnings=False)
    return [one for one in found if one.level == ERROR]


def is_rules(path: Path) -> bool:
    """A file with rules, not a module."""
    return path.name in ("main.lua", "fallback.lua", "incoming.lua", "outgoing.lua", "internal.lua")
