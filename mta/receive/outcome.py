"""What a recorded session came to, recipient by recipient, and where two records of it differ. Pure.

    accept       nobody minded, or a rule said so      faccept      and the rules of later stages were not asked
    quarantine   kept aside, in a folder               discard      taken and thrown away
    deny, defer  refused for good, refused for now: by a rule, or by the server itself (then there is no rule)

A session in which no mail was begun is one case, as is a mail without a recipient. What stopped a session or a mail
stopped everybody after it: so a refusal at connect is the outcome of all of its recipients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mta.message import ids
from mta.message.reply import Refused
from mta.receive import command
from mta.rules.verdict import LASTING, REFUSING

Key = tuple[int, int]  # (MAIL command, its RCPT command), from 0; -1: there was none


class Outcome(NamedTuple):
    """`stage` is where it was decided, "" if nobody decided; `short`: the client went no further than to RCPT."""

    kind: str = "accept"
    stage: str = ""
    reply: str = ""
    rule: str = ""
    where: str = ""
    folder: str = ""
    mail: str = ""
    sender: str = ""
    recipient: str = ""
    short: bool = False


def outcomes(record: dict[str, Any]) -> dict[Key, Outcome]:
    """Every case of a record. (-1, -1) is always there: the session itself."""
    return _Reading(record).read()


def differ(old: Outcome, new: Outcome) -> bool:
    """Whether somebody would notice. The words of a reply count where rules chose them."""
    if (old.kind, old.folder) != (new.kind, new.folder):
        return True
    return bool(old.rule and new.rule and old.kind in ("deny", "defer") and old.reply != new.reply)


def pairs(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[Outcome, Outcome]]:
    """The cases of the first record, each with what the second makes of it.

    A session the second ends earlier has fewer cases there: what ended it holds for them.
    """
    before, after = outcomes(old), outcomes(new)
    session = after.pop((-1, -1))
    whole = before.pop((-1, -1))
    if not before:
        return [(whole, session)]
    last = next(reversed(after.values()), session)
    end = last if last.kind in ("deny", "defer") else session
    made = []
    for key, outcome in before.items():
        about: dict[str, Any] = {"mail": outcome.mail, "sender": outcome.sender, "recipient": outcome.recipient}
        made.append((outcome, after[key] if key in after else end._replace(**about)))
    return made


class _Reading:
    """One way through a transcript."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.session, self.verdicts = record["session"], record["verdicts"]
        self.transcript = record["transcript"]
        self.found: dict[Key, Outcome] = {}
        self.whole = Outcome()
        self.blocked: Outcome | None = None  # what stopped everything that follows
        self.mails = self.recipients = -1  # the number of the command under way
        self.id = self.sender = ""
        self.number = 0  # of the last mail that got an id
        judged = [verdict for verdict in self.verdicts if verdict["stage"] == "mail"]
        self.ids = {verdict.get("mail", ""): verdict["kind"] in REFUSING for verdict in judged}  # in order
        self.taken: list[Key] = []
        self.files: dict[Key, str] = {}

    def read(self) -> dict[Key, Outcome]:
        waiting = ("connect", "")
        for kind, *what in self.transcript:
            if kind == "C" and waiting[0] == "AUTH":
                continue  # a further line of the exchange
            if kind == "C":
                verb, _, rest = what[0].partition(" ")
                waiting = verb.upper(), rest
            elif kind == "M":
                waiting = "content", ""
            elif kind == "BAD":
                waiting = "bad", ""
            elif kind == "S" and waiting[0]:
                if what[0].startswith("334"):
                    continue
                if not what[0].startswith("354"):
                    self._heard(*waiting, what[0])
                waiting = "", ""
        return {(-1, -1): self.whole, **self.found}

    def _heard(self, verb: str, rest: str, reply: str) -> None:
        no = reply[:1] in ("4", "5")
        if verb == "connect":
            if no:
                self.blocked = self.whole = self._refused("connect", reply)
        elif verb in ("EHLO", "HELO"):
            if no and self._rule("helo") is not None:
                self.blocked = self.whole = self._refused("helo", reply)
            elif not no:
                self.blocked = None
                self.whole = self._lasting(self.whole, lambda verdict: verdict["stage"] in ("connect", "helo"))
        elif verb == "AUTH" and self.blocked is None:
            self.whole = self._refused("authenticate", reply) if no else Outcome()
        elif verb == "MAIL":
            self._mail(rest, reply, no)
        elif verb == "RCPT":
            self._rcpt(rest, reply, no)
        elif verb == "DATA" and no:
            for key in self.taken:
                self.found[key] = self._refused("data", reply, self.found[key])
            self.taken = []
        elif verb == "content":
            self._content(reply, no)

    def _mail(self, rest: str, reply: str, no: bool) -> None:
        before = self.blocked if self.blocked is not None and self.blocked.stage in ("connect", "helo") else None
        try:
            self.sender = str(command.mail(rest, loose=True).sender)
        except Refused:
            self.sender = rest
        self.mails, self.recipients, self.taken = self.mails + 1, -1, []
        self.id = self._next_id(no)
        about = Outcome(mail=self.id, sender=self.sender, short=True)
        self.blocked = before or (self._refused("mail", reply, about) if no else None)
        outcome = self.blocked._replace(mail=self.id, sender=self.sender) if self.blocked is not None else about
        self.found[self.mails, -1] = self._lasting(outcome, self._of_mail) if not no else outcome

    def _next_id(self, no: bool) -> str:
        """The id of the mail that begins: the next one rules were asked about, else the next number; "": none."""
        ids_left = iter(self.ids.items())
        id, refused = next(ids_left, ("", False))
        if no and not refused:
            return ""
        if id:
            del self.ids[id]
        self.number += 1
        return id or ids.mail(self.session, self.number)

    def _rcpt(self, rest: str, reply: str, no: bool) -> None:
        if self.mails < 0:
            return
        try:
            recipient = str(command.rcpt(rest, loose=True))
        except Refused:
            recipient = rest
        self.found.pop((self.mails, -1), None)
        self.recipients += 1
        key = self.mails, self.recipients
        about = Outcome(mail=self.id, sender=self.sender, recipient=recipient, short=True)
        if self.blocked is not None:
            self.found[key] = self.blocked._replace(mail=self.id, sender=self.sender, recipient=recipient)
        elif no:
            self.found[key] = self._refused("rcpt", reply, about)
        else:
            said = self._rule("rcpt", about, refusing=False)
            self.files[key] = said.get("file", "") if said is not None else ""
            self.found[key] = self._lasting(
                about, lambda verdict: self._of_mail(verdict) or self._of_file(verdict, key)
            )
            self.taken.append(key)

    def _content(self, reply: str, no: bool) -> None:
        for key in self.taken:
            outcome = self.found[key]._replace(short=False)
            if no:
                self.found[key] = self._refused("preq", reply, outcome)
                continue
            mine = [v for v in self.verdicts if self._of_queue(v, outcome, key)]
            outcome = outcome._replace(stage=outcome.stage or "preq", reply=reply)
            for verdict in mine:
                if outcome.kind != "accept" or verdict["kind"] in ("next", "accept"):
                    continue
                outcome = _by(verdict, outcome, verdict.get("reply", "") or outcome.reply)
            self.found[key] = outcome
        self.taken = []

    # -- who said so ------------------------------------------------------------------------------------------------

    def _refused(self, stage: str, reply: str, about: Outcome | None = None) -> Outcome:
        about = about or Outcome()
        verdict = self._rule(stage, about)
        kind = "defer" if reply.startswith("4") else "deny"
        if verdict is None:
            return about._replace(kind=kind, stage=stage, reply=reply, folder="", rule="", where="")
        return _by(verdict, about, verdict.get("reply", "") or reply)._replace(kind=kind)

    def _rule(self, stage: str, about: Outcome | None = None, refusing: bool = True) -> dict[str, Any] | None:
        """The last verdict of a stage on this mail and recipient; if `refusing`, the last that said no."""
        found = None
        for verdict in self.verdicts:
            if verdict["stage"] != stage or (refusing and verdict["kind"] not in REFUSING):
                continue
            if about is not None and verdict.get("mail", "") != about.mail:
                continue
            if stage == "rcpt" and about is not None and verdict.get("recipient", "") != about.recipient:
                continue
            found = verdict
        return found

    def _lasting(self, outcome: Outcome, holds: Callable[[dict[str, Any]], bool]) -> Outcome:
        """With the first verdict that holds beyond its stage, if there is one."""
        if outcome.kind != "accept":
            return outcome
        for verdict in self.verdicts:
            if verdict["kind"] in LASTING and holds(verdict):
                return _by(verdict, outcome, outcome.reply)
        return outcome

    def _of_mail(self, verdict: dict[str, Any]) -> bool:
        if verdict["stage"] in ("connect", "helo", "authenticate"):
            return True
        return bool(verdict["stage"] == "mail" and verdict.get("mail") == self.id)

    def _of_file(self, verdict: dict[str, Any], key: Key) -> bool:
        """Said at rcpt, for everybody under the same rules."""
        return bool(
            verdict["stage"] == "rcpt"
            and verdict.get("mail") == self.id
            and verdict.get("file", "") == self.files.get(key, "")
        )

    def _of_queue(self, verdict: dict[str, Any], outcome: Outcome, key: Key) -> bool:
        """Said from rcpt on, about this recipient."""
        stage = verdict["stage"]
        if stage == "rcpt":
            return verdict["kind"] in LASTING and self._of_file(verdict, key)
        if stage in ("data", "preq", "postq", "delivery"):
            here = [v for v in self.verdicts if v["stage"] == stage and self.id in (v.get("mail"), v.get("origin"))]
            named = [v for v in here if outcome.recipient in v.get("recipients", ())]
            return verdict in (named or [v for v in here if v.get("mail") == self.id])
        return False


def _by(verdict: dict[str, Any], outcome: Outcome, reply: str) -> Outcome:
    kind = verdict["kind"]
    if kind == "reply":
        kind = "defer" if reply.startswith("4") else "deny"
    return outcome._replace(
        kind=kind,
        stage=verdict["stage"],
        reply=reply,
        rule=verdict.get("rule", ""),
        where=verdict.get("where", ""),
        folder=verdict.get("folder", ""),
    )
