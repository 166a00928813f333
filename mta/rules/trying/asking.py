"""Lets the rules of one stage of a trial speak, and tells what each of them said."""

from __future__ import annotations

from collections.abc import Callable

from mta.rules.engine import difference
from mta.rules.engine.engine import Rules
from mta.rules.transaction import Transaction
from mta.rules.trying.sketch import Spoke
from mta.rules.verdict import NEXT, Verdict


def together(rules: Rules, stage: str, tx: Transaction) -> tuple[Verdict, tuple[Spoke, ...]]:
    """All at once, as the server does."""
    before = len(tx.trace)
    listed = rules.listed(stage, tx.file)
    verdict = rules.run(stage, tx)
    places = dict(listed)
    steps = {(step.rule, step.where): step for step in tx.trace[before:]}
    steps |= {(step.rule, places[step.rule]): step for step in tx.trace[before:] if step.verdict == "failed"}
    spoke = []
    for name, where in listed:
        step = steps.get((name, where))
        if step is None:
            spoke.append(Spoke(name, where, "not reached"))
        else:
            place = step.where if step.verdict == "failed" else where
            spoke.append(Spoke(name, place, step.verdict, step.microseconds, step.instructions, tuple(step.asked)))
    return verdict, tuple(spoke)


def one_by_one(
    rules: Rules, stage: str, tx: Transaction, wanted: Callable[[str], bool], *, watch: bool, on: bool = False
) -> tuple[Verdict, tuple[Spoke, ...]]:
    """Each wanted rule in a run of its own. `watch`: its changes are told. `on`: a verdict does not end the stage."""
    verdict, spoke, relay, accepted = NEXT, [], False, 0
    main, listed = len(rules.listed(stage)), rules.listed(stage, tx.file)
    for number, (name, where) in enumerate(listed, 1):
        if not wanted(name):
            spoke.append(Spoke(name, where, "skipped"))
            continue
        # an accept in main.lua ends main.lua's part only
        ended = verdict.kind != "next" and not (verdict.kind == "accept" and number > main >= accepted)
        if ended and not on:
            spoke.append(Spoke(name, where, "not reached"))
            continue
        before = difference.Picture.of(tx) if watch else None
        count, tx.alone = len(tx.trace), number
        try:
            said = rules.run(stage, tx)
        finally:
            tx.alone = 0
        relay = relay or tx.relay
        changes = tuple(difference.between(before, difference.Picture.of(tx))) if before is not None else ()
        step = tx.trace[count] if len(tx.trace) > count else None
        kind = step.verdict if step is not None else said.kind
        spoke.append(
            Spoke(
                name,
                step.where if step is not None and kind == "failed" else where,
                kind,
                step.microseconds if step is not None else 0.0,
                step.instructions if step is not None else 0,
                tuple(step.asked) if step is not None else (),
                changes,
            )
        )
        if said.kind != "next" and (verdict.kind == "next" or not ended):
            verdict, accepted = said, number
    tx.relay = tx.relay or relay  # each run at rcpt begins without it
    return verdict, tuple(spoke)
