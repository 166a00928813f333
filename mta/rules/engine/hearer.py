"""Writes down how one stage was judged, for the log at level debug: rules in order, what they asked and changed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mta.rules.transaction import Transaction

SHOWN = 200  # characters of an answer, or of a field
FEW = 50  # questions, or changes, that are told


class Hearer:
    """Make it before the stage; it switches the trace of the transaction on, and off again."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._tracing, self._count = tx, tx.tracing, len(tx.trace)
        self._before, self._rewritten = _lines(tx), _rewritten(tx)
        tx.tracing = True

    def heard(self, stage: str) -> dict[str, Any]:
        """The fields of the event."""
        tx, steps = self._tx, self._tx.trace[self._count :]
        if not self._tracing:
            tx.tracing = False
            del tx.trace[self._count :]
        after = _lines(tx)
        changed = [f"- {line}" for line in (self._before - after).elements()]
        changed += [f"+ {line}" for line in (after - self._before).elements()]
        if _rewritten(tx) and not self._rewritten:
            changed.append("the body")
        if tx.credentials is not None:  # before it is cut: half a password is no text to be hidden
            changed = tx.credentials.hide(changed)
        asked = [
            [asked.word, [_short(one) for one in asked.arguments], _short(asked.answer)]
            for step in steps
            for asked in step.asked
        ]
        return {
            "session": tx.session,
            "mail": tx.mail_id,
            "stage": stage,
            "file": tx.file,
            "rules": [[step.rule, step.where, step.verdict, round(step.microseconds)] for step in steps],
            "asked": asked[:FEW] or None,
            "changed": [line[:SHOWN] for line in changed[:FEW]] or None,
        }


def _lines(tx: Transaction) -> Counter[str]:
    from mta.rules.engine import difference

    lines = difference.envelope(tx)
    if tx.message is not None:
        lines += [f"{name}: {value}" for name, value in difference.fields(tx.message)]
    return Counter(lines)


def _rewritten(tx: Transaction) -> bool:
    message = tx.message
    return message is not None and message._root is not None and message._root.outermost.rewritten


def _short(value: Any) -> Any:
    if isinstance(value, int | float | bool) or value is None:
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
