"""What rules cost, at the prompt: the session played many times, and each rule's share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mta.cli.telling import paint

if TYPE_CHECKING:
    from mta.cli.lua.console import Console


def bench(console: Console, rest: str) -> None:
    number, trial = int(rest or 1000), console.trial
    watched, trial.watch_each = trial.watch_each, False
    try:
        began = time.perf_counter()
        calls = 0
        for _ in range(number):
            trial.reset()
            calls += sum(len(one.rules) for one in trial.run())
        took = time.perf_counter() - began
    finally:
        trial.watch_each = watched
        trial.reset()
    each = took / number * 1e6
    console.say(f"{number} mails, {each:.0f} us each with the trial's own work, {calls // number} rules a mail")
    console.say(
        f"rules alone: {sum(costs(console, min(number, 200)).values()) * 1.0:.0f} us a mail; :profile shows each"
    )


def costs(console: Console, number: int) -> dict[tuple[str, str, str], float]:
    """Microseconds of each rule (stage, rule, where) in a mail, on average."""
    found: dict[tuple[str, str, str], float] = {}
    for _ in range(number):
        console.trial.reset()
        for stage in console.trial.run():
            for rule in stage.rules:
                key = stage.name, rule.rule, rule.where
                found[key] = found.get(key, 0.0) + rule.microseconds
    console.trial.reset()
    return {key: value / number for key, value in found.items()}


def profile(console: Console, rest: str) -> None:
    number, trial = int(rest or 200), console.trial
    total: dict[tuple[str, str], list[float]] = {}
    watched, trial.watch_each = trial.watch_each, False
    try:
        for _ in range(number):
            trial.reset()
            for stage in trial.run():
                for rule in stage.rules:
                    known = total.setdefault((stage.name, f"{rule.rule}  ({rule.where})"), [0.0, 0.0, 0.0, 0.0])
                    outside = sum(asked.microseconds for asked in rule.asked)
                    for place, one in enumerate((rule.microseconds, outside, rule.instructions, len(rule.asked))):
                        known[place] += one
    finally:
        trial.watch_each = watched
        trial.reset()
    console.say(paint(f"{'us':>8} {'waits':>8} {'instr.':>8} {'calls':>6}  stage, rule", "bold"))
    for (stage_name, rule_name), (us, outside, steps, calls) in sorted(total.items(), key=lambda one: -one[1][0]):
        console.say(
            f"{us / number:8.1f} {outside / number:8.1f} {steps / number:8.0f} {calls / number:6.1f}"
            f"  {stage_name}: {rule_name}"
        )
