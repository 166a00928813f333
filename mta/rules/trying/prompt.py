"""A line of Lua typed at a prompt, run as one more rule of the stage a trial has come to: same world, same limits."""

from __future__ import annotations

from typing import NamedTuple

from mta.rules.engine.crossing import said
from mta.rules.engine.sandbox import PLACE
from mta.rules.engine.side import Side
from mta.rules.transaction import Asked
from mta.rules.trying.trial import Trial
from mta.rules.verdict import Verdict
from mta.rules.words import api

NAME = "the prompt"
OBJECTS = ("mail", "mail.client", "part", "address")


class Evaluated(NamedTuple):
    """`text` is what the line came to, `error` why it failed."""

    text: str = ""
    error: str = ""
    microseconds: float = 0.0
    instructions: int = 0
    asked: tuple[Asked, ...] = ()
    printed: tuple[str, ...] = ()


def evaluate(trial: Trial, text: str) -> Evaluated:
    """Run `text` where the trial stands. What it changes of the mail stays changed; it decides nothing."""
    stage, tx = trial.here()
    tx.rules = tx.rules or trial.rules
    if tx.side is None:
        tx.side = Side(tx.rules.runtime, tx)
    runtime, place = tx.side.runtime, PLACE[stage]
    prompt = runtime.tool("prompt")
    for thing in OBJECTS:
        prompt["known"](thing, " ".join(known(thing, stage)))
    number = prompt["put"](place, text.encode("utf-8").decode("latin-1"))
    if isinstance(number, tuple):
        return Evaluated(error=said(number[1]).removeprefix("prompt.lua:"))
    runtime.listing.main[place].append((NAME, "prompt.lua:1"))
    count, events = len(tx.trace), len(trial.world.events)
    tx.alone, relay, tracing = number, tx.relay, tx.tracing
    tx.tracing = True
    try:
        verdict: Verdict = tx.rules.run(stage, tx)
    finally:
        tx.alone, tx.tracing = 0, tracing
        tx.relay = tx.relay or relay
        runtime.listing.main[place].pop()
        found = said(prompt["take"](place))
    step = tx.trace[count] if len(tx.trace) > count else None
    del tx.trace[count:]
    logged = trial.world.events[events:]
    del trial.world.events[events:]
    error = ""
    if verdict.kind != "next" or any(event == "rule_failed" for event, _ in logged):
        failed = next((fields for event, fields in logged if event == "rule_failed"), {})
        error = f"{failed.get('where', 'prompt.lua:1')}: {failed.get('error', verdict.reply)}"
    printed = tuple(str(fields.get("message", "")) for event, fields in logged if event != "rule_failed")
    if step is None:
        return Evaluated(found, error, printed=printed)
    return Evaluated(found, error, step.microseconds, step.instructions, tuple(step.asked), printed)


def unfinished(trial: Trial, text: str) -> bool:
    """Whether Lua wants more lines before it makes sense."""
    found = trial.rules.runtime.tool("prompt")["unfinished"](text.encode("utf-8").decode("latin-1"))
    return found is True


def names(trial: Trial) -> list[str]:
    """Globals that were made at this prompt."""
    text: str = trial.rules.runtime.tool("prompt")["globals"]()
    return sorted(text.split())


def known(thing: str, stage: str) -> list[str]:
    """The fields of an object at a stage, as declared."""
    start = len(thing) + 1
    return [
        name[start:]
        for name, word in api.WORDS.items()
        if word.kind == "field" and name.startswith(f"{thing}.") and stage in word.stages and "." not in name[start:]
    ]
