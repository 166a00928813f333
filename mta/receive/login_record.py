"""What a capture knows of logins, and how they are replayed. A password is in no capture, so it cannot be judged again.

In the transcript the client's lines are "AUTH PLAIN *" and "*"; before our answer stands ["LOGIN", user, mechanism] if
the rules of authenticate were asked. What they said is a verdict like any other, without what they asked, but with
`noted`: the vars they left. A replay says the same again, whatever the rules under trial say at authenticate: who had
logged in then has logged in now. Rules that ended everything before AUTH (faccept, quarantine, discard) still do.
"""

from __future__ import annotations

import base64
from collections import deque
from typing import TYPE_CHECKING, Any

from mta.message.reply import Reply
from mta.receive.session import COMMANDS
from mta.rules.verdict import NEXT, Verdict

if TYPE_CHECKING:
    from mta.rules.engine.engine import Rules
    from mta.rules.transaction import Transaction

HIDDEN = "*"
STAGE = frozenset(["authenticate"])


class Censor:
    """Reads a client's lines as they come; what may be a password is HIDDEN."""

    def __init__(self) -> None:
        self.asked = False  # 334 was our last word: the next line is an answer
        self._began = False  # AUTH was said, and nothing that is surely a command since

    def line(self, text: str) -> str:
        verb, _, rest = text.partition(" ")
        if self.asked:
            return HIDDEN
        if verb.upper() == "AUTH":
            self._began = True
            return " ".join([verb, rest.split(" ")[0], *([HIDDEN] if " " in rest else [])])
        if self._began and verb.upper() not in COMMANDS:  # it went on although we said no
            return HIDDEN
        self._began = False
        return text


def noted(tx: Transaction, before: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """What a verdict at authenticate has of its own in a capture."""
    credentials = tx.credentials
    assert credentials is not None
    vars = {name: value for name, value in tx.vars.items() if name not in before or before[name] != value}
    reply = str(verdict.reply) if verdict.reply is not None else ""
    return {
        "user": credentials.user,
        "mechanism": credentials.mechanism,
        "noted": credentials.hide(vars),
        "reply": credentials.hide(reply),
        "asked": [],
    }


class Said:
    """Rules that say of each login what was said then."""

    def __init__(self, rules: Any, record: dict[str, Any]) -> None:
        self._rules: Rules = rules
        self._then = deque(entry for entry in record["verdicts"] if entry["stage"] == "authenticate")
        self._offered = STAGE if self._then else frozenset[str]()
        self.stages = self._rules.stages - STAGE | self._offered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rules, name)

    def stages_of(self, file: str) -> frozenset[str]:
        return self._rules.stages_of(file) - STAGE | self._offered

    def run(self, stage: str, tx: Transaction) -> Verdict:
        if stage != "authenticate":
            return self._rules.run(stage, tx)
        if not self._then:
            return NEXT
        entry = self._then.popleft()
        tx.vars = {**tx.vars, **entry.get("noted", {})}
        if entry.get("relay"):
            tx.allow_relay(stage)
        reply = Reply.parse(entry["reply"]) if entry.get("reply") else None
        told = {name: entry.get(name, "") for name in ("folder", "rule", "where")}
        return Verdict(entry["kind"], reply, failed=bool(entry.get("failed")), stage=stage, **told)


def lines(transcript: list[list[Any]], at: int) -> tuple[list[bytes], int]:
    """What to say in place of an AUTH that rules were asked about, and where its answer stands; else no lines.

    `at` is the place behind the AUTH.
    """
    for place in range(at, len(transcript)):
        kind, *what = transcript[place]
        if kind == "LOGIN":
            return _said(*what), place + 1
        if kind not in ("C", "S") or (kind == "S" and not what[0].startswith("334")):
            break
    return [], at


def _said(user: str, mechanism: str) -> list[bytes]:
    words = [b"", user.encode(), HIDDEN.encode()] if mechanism == "PLAIN" else [user.encode(), HIDDEN.encode()]
    if mechanism == "PLAIN":
        return [b"AUTH PLAIN " + base64.b64encode(b"\0".join(words))]
    return [b"AUTH LOGIN", *map(base64.b64encode, words)]
