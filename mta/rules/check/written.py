"""What is written out in a call can be looked at before it is used: replies, patterns, networks, routes, times..."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.rdatatype
from tree_sitter import Node

from mta.rules import verdict
from mta.rules.check import patterns
from mta.rules.check.tree import ERROR, WARNING, named
from mta.rules.outside.rate import Rate
from mta.rules.words import network, routing, times
from mta.rules.words import patterns as regex
from mta.rules.words.word import Word

if TYPE_CHECKING:
    from mta.rules.check.uses import Uses

MATCHERS = {"find": True, "match": True, "gmatch": False, "gsub": True}  # does "^" anchor?
SPECIAL = frozenset("^$*+?.([%-")  # without any of them string.find looks for the text itself
REPLIES = {"2": '"250 2.0.0 text"', "4": '"450 4.7.1 text"', "5": '"550 5.7.1 text"'}


def _type(text: str) -> None:
    try:
        dns.rdatatype.from_text(text)
    except dns.exception.DNSException:
        raise ValueError(f"there is no record type {text[:20]!r}") from None


LOOK: dict[str, tuple[int, Callable[[str], Any]]] = {  # a word -> which argument, and what reads it
    "net.inside": (1, lambda text: network.inside("192.0.2.1", text)),
    "rate": (1, Rate.parse),
    "mail:hold": (0, lambda text: routing.when(text, 0.0)),
    "mail:route": (0, lambda text: routing.read(text, ["/"])),  # which folders it may name, the settings say
    "dns.lookup": (1, _type),
    "dns.listed": (2, lambda text: network.inside("127.0.0.2", text)),
    **dict.fromkeys(("store.set", "store.add", "store.increment"), (2, times.seconds)),
    **dict.fromkeys(("regex.matches", "regex.find", "regex.match", "regex.replace"), (1, regex.check)),
}


def argument(uses: Uses, one: Word, given: list[Node]) -> None:
    """A text that can be nothing but a mistake: at run time it would fail, or give nil and the rule never match."""
    at, read = LOOK[one.name]
    text = uses.tree.literal(given[at]) if len(given) > at else None
    if text is None or given[at].type != "string":
        return
    try:
        found = read(text)
    except ValueError as error:
        found = None, str(error)
    if isinstance(found, tuple) and found[0] is None:
        uses.tell(given[at], ERROR, f"{one.name}: {found[1]}", "mta lua doc " + one.name)


def reply(uses: Uses, one: Word, given: list[Node]) -> None:
    """A reply that is written out must be one this verdict can give."""
    if len(given) != 1:
        return
    (only,) = given
    close = False
    if only.type == "number":
        advice = f'write {one.name}("{uses.tree.text(only)} text")'
        uses.tell(only, ERROR, f"{one.name} needs text, not a number", advice)
        return
    if only.type == "table_constructor":
        lines = []
        for field in named(only):
            name, value = field.child_by_field_name("name"), field.child_by_field_name("value")
            if name is None:
                lines.append(uses.tree.literal(value))
            elif uses.tree.text(name) == "close":
                close = value is not None and value.type == "true"
        text = None if None in lines or not lines else "\n".join(filter(None, lines))
    else:
        text = uses.tree.literal(only)
    if text is None:
        return
    wrong = verdict.complaint(one.name, text, close)
    if wrong:
        kind = " or ".join(REPLIES[digit] for digit in verdict.CLASSES[one.name])
        uses.tell(only, ERROR, wrong.partition(" (write")[0], f"write a reply like {kind}")


def pattern(uses: Uses, callee: Node, one: Word | None, given: list[Node]) -> None:
    """A pattern that is written out: is it one, and can it be kept busy?"""
    if callee.type == "method_index_expression":
        matcher, at = uses.tree.text(callee.child_by_field_name("method") or callee), 0
        if one is not None and not one.name.startswith("string."):
            return
    else:
        matcher, at = (one.name.removeprefix("string.") if one is not None else ""), 1
        if one is None or not one.name.startswith("string."):
            return
    if matcher not in MATCHERS or len(given) <= at:
        return
    text = uses.tree.literal(given[at])
    plain = len(given) > at + 2 and given[at + 2].type != "false"
    if text is None or (matcher == "find" and (plain or not set(text) & SPECIAL)):
        return
    try:
        steps = patterns.steps(text, anchors=MATCHERS[matcher])
    except ValueError as wrong:
        level = ERROR if one is not None else WARNING
        uses.tell(given[at], level, str(wrong), 'a "%" before it makes any other sign stand for itself')
        return
    if steps > patterns.WORST:
        what = f"{patterns.LENGTH} bytes can keep this pattern busy for {steps:.0e} steps"
        uses.tell(given[at], WARNING, what, "use regex.find or regex.match, which take linear time, or anchor it")
