"""Why the session at the prompt ended as it did: who decided, and what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mta.cli.lua import saving, showing
from mta.cli.telling import paint
from mta.rules.engine import difference

if TYPE_CHECKING:
    from mta.cli.lua.console import Console


def why(console: Console, rest: str) -> None:
    trial = console.trial
    if not trial.done:
        raise ValueError("no stage has run yet; :run does")
    console.say(str(trial.result))
    for index, one in enumerate(trial.done):
        decided = one.decided
        if decided is None and not one.ignored and not one.refused:
            continue
        who = f" <{one.recipient}>" if one.recipient is not None else ""
        if decided is None:
            why = one.ignored or "by the server itself, no rule decided"
            console.say(f"{paint(one.name + who, 'bold')}: {one.reply}  {why}")
            continue
        console.say(f'{paint(one.name + who, "bold")}: {decided.said} by "{decided.rule}" ({decided.where})')
        text = _source(console, decided.where)
        if text:
            console.say(f"    {text}")
        for asked in decided.asked:
            console.say(f"    it asked {showing.asked(asked, True)}")
        if one.ignored:
            console.say(f"    note: {one.ignored}")
        for other in trial.others(index):
            console.say(paint(f'    "{other.rule}" ({other.where}) would have said {other.said}', "dim"))


def _source(console: Console, where: str) -> str:
    """The line of a rule's file."""
    name, _, number = where.rpartition(":")
    for path, label in console.trial.rules.labels.items():
        if label == name and number.isdigit():
            lines = path.read_text("utf-8", "replace").splitlines()
            return lines[int(number) - 1].strip() if 0 < int(number) <= len(lines) else ""
    return ""


def diff(console: Console, rest: str) -> None:
    trial = console.trial
    found = list(difference.between(*saving.pictures(trial)))
    if not found:
        console.say("nothing has changed")
    for line in showing.changes(found):
        console.say(line)
