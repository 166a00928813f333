"""What the rules of the queue decide about the mails of captured sessions: a line for each verdict, beside the capture.

A session's file is written when it ends (capture.py); its mails are judged by postq and delivery when they are first
tried, before that or after it. So that stands in a file of its own, SESSION.queue beside SESSION.json: lines of JSON,
each a verdict as in the capture, and `at`, seconds since 1970, and `version`, that of the rules. Of later attempts
nothing is noted, nor of mails that another process tries first.

The queue knows nothing of it: it is given rules that are heard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from mta.net import clock
from mta.rules.verdict import NEXT, Verdict

if TYPE_CHECKING:
    from mta.rules.engine.engine import Rules
    from mta.rules.transaction import Transaction

STAGES = frozenset({"postq", "delivery"})
KEPT = 1000  # sessions whose mails are listened for

Write = Callable[["Heard"], None]


class Heard:
    """A captured session, as far as the queue speaks of it. `file`: the capture, once it is written."""

    __slots__ = ("file", "seen", "session", "verdicts", "writing")

    def __init__(self, session: str) -> None:
        self.session, self.file, self.writing = session, "", False
        self.verdicts: list[dict[str, Any]] = []  # not written yet
        self.seen: set[tuple[Any, ...]] = set()  # what the queue asked already


class _One:
    """What a record has for one verdict."""

    __slots__ = ("rules", "verdicts")

    def __init__(self) -> None:
        self.verdicts: list[dict[str, Any]] = []
        self.rules: list[str] = []


class Listening:
    """The captured sessions whose mails the queue may still judge. `write` is called when there is something to."""

    def __init__(self, watched: Callable[[Rules, Any], Any], write: Write) -> None:
        self.watched, self._write = watched, write
        self._sessions: dict[str, Heard] = {}

    def begin(self, session: str) -> None:
        self._sessions[session] = Heard(session)
        if len(self._sessions) > KEPT:
            del self._sessions[next(iter(self._sessions))]

    def drop(self, session: str) -> None:
        """It is not captured after all."""
        self._sessions.pop(session, None)

    def written(self, session: str, file: str) -> None:
        """Its capture stands in `file`: the queue's verdicts may stand beside it."""
        heard = self._sessions.get(session)
        if heard is not None:
            heard.file = file
            self.tell(heard)

    def tell(self, heard: Heard) -> None:
        if heard.file and heard.verdicts and not heard.writing:
            self._write(heard)

    def rules(self, rules: Rules) -> _Rules:
        """The rules as the queue asks them."""
        return _Rules(rules, self)

    def of(self, tx: Transaction, stage: str) -> Heard | None:
        """The session this is to be noted for, if it is."""
        heard = self._sessions.get(tx.session)
        if heard is None:
            return None
        about = stage, tx.mail_id, *map(str, tx.recipients)
        if about in heard.seen:
            return None
        heard.seen.add(about)
        return heard


class _Rules:
    """Rules that are heard. They seem to have rules at both stages, so that they are always asked: that a mail was
    tried, and nobody minded, is worth a line."""

    def __init__(self, rules: Rules, listening: Listening) -> None:
        self._rules, self._listening = rules, listening

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rules, name)

    def stages_of(self, file: str) -> frozenset[str]:
        return STAGES

    def run(self, stage: str, tx: Transaction) -> Verdict:
        heard = self._listening.of(tx, stage)
        if heard is None:
            return self._rules.run(stage, tx) if stage in self._rules.stages_of(tx.file) else NEXT
        one = _One()
        verdict: Verdict = self._listening.watched(self._rules, one).run(stage, tx)
        heard.verdicts.append(one.verdicts[0] | {"at": round(clock.now(), 3), "version": one.rules[0]})
        self._listening.tell(heard)
        return verdict


def beside(file: str) -> str:
    """Where the queue's verdicts stand for that capture."""
    return file.removesuffix(".json") + ".queue"


def joined(record: dict[str, Any], lines: bytes) -> dict[str, Any]:
    """The capture with what the queue's rules said. A line that is half written is left out."""
    verdicts, rules = list(record["verdicts"]), list(record["rules"])
    for line in lines.splitlines():
        try:
            said = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            continue
        verdicts.append(said)
        if said["version"] not in rules:
            rules.append(said["version"])
    return {**record, "verdicts": verdicts, "rules": rules}
