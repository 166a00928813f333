"""How a trial looks on a terminal, and without colours in a pipe: stages, rules, what was asked, what changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mta.cli.telling import paint
from mta.rules.engine import difference
from mta.rules.engine.difference import Change
from mta.rules.transaction import Asked
from mta.rules.trying.sketch import Spoke, Stage

LEVELS = ("actions", "rules", "tests", "values")  # each shows what the one before shows, and more
COLOUR = {"deny": "red", "failed": "red", "defer": "yellow", "reply": "yellow", "quarantine": "yellow"}
COLOUR |= {"accept": "green", "faccept": "green", "discard": "yellow", "next": "", "skipped": "dim"}
SIGNS = {"+": "green", "-": "red", "@": "blue"}


def stage(one: Stage, level: str = "tests") -> list[str]:
    """One stage: what the client hears, then its rules."""
    rank = LEVELS.index(level)
    title = one.name + (f" <{one.recipient}>" if one.recipient is not None else "")
    heard = paint(one.reply, "red" if one.refused else "green") if one.reply else paint("nobody hears it", "dim")
    lines = [f"{paint(title.ljust(28), 'bold')} {heard}"]
    for spoke in one.rules:
        if rank or spoke.changes or spoke.said not in ("next", "not reached", "skipped"):
            lines += rule(spoke, rank)
    for word in one.unknown:
        lines.append(paint(f"    nobody made up {word}: rules were told there is none", "yellow"))
    if one.ignored:
        lines.append(paint(f"    note: {one.ignored}", "yellow"))
    for event, about in one.events:
        if event == "rule_failed":
            lines.append(paint(f"    {about.get('where')}: {about.get('error')}", "red"))
        elif rank > 2 or event.startswith("rule_"):
            told = about.get("message") or " ".join(f"{name}={value}" for name, value in about.items())
            lines.append(paint(f"    log {event}: {told}", "dim"))
    return lines


def rule(spoke: Spoke, rank: int = 2) -> list[str]:
    """One rule: its verdict, where it stands, what it cost; below it what it asked and changed."""
    if spoke.said in ("not reached", "skipped"):
        return [paint(f"    {spoke.said:<12}{spoke.rule}  ({spoke.where})", "dim")]
    cost = f"{spoke.microseconds:.0f} us" + (f", {spoke.instructions:,} instructions" if spoke.instructions else "")
    lines = [f"    {paint(spoke.said.ljust(12), COLOUR.get(spoke.said, ''))}{spoke.rule}  ({spoke.where}, {cost})"]
    if rank > 1:
        lines += [f"        {asked(one, rank > 2)}" for one in spoke.asked]
    return lines + ["        " + line for line in changes(spoke.changes)]


def asked(one: Asked, whole: bool = False) -> str:
    """A question to the outside and its answer."""
    answer = value(one.answer)
    if not whole and len(answer) > 60:
        answer = answer[:57] + "..."
    return f"{one.word}({', '.join(map(value, one.arguments))}) -> {answer}  ({one.microseconds:.0f} us)"


def value(one: Any) -> str:
    """A plain value as Lua writes it."""
    if one is None:
        return "nil"
    if isinstance(one, bool):
        return str(one).lower()
    if isinstance(one, list | tuple):
        return "{" + ", ".join(map(value, one)) + "}"
    if isinstance(one, str):
        return '"' + one.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
    return str(one)


def changes(found: Iterable[Change]) -> list[str]:
    """What changed, a title before each section."""
    lines, section = [], ""
    for change in found:
        if change.section != section:
            section = change.section
            lines.append(paint(section, "bold"))
        lines.append("  " + paint(str(change), SIGNS.get(change.sign, "")))
    return lines


def outline(message: Any) -> list[str]:
    """A mail in a few lines: what people look for in its header, and the tree of its parts."""
    lines = []
    for name, text in difference.fields(message):
        if name.lower() in ("from", "to", "cc", "subject", "date", "message-id"):
            lines.append(f"  {paint(name + ':', 'bold')} {text[:120]}")
    return lines + ["  " + difference.outline(part) for part in message.parts()]
