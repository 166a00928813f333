"""A session that is listened to: what both sides said, what was asked of the rules, and what they learned outside.

    session     its id             began, ended    seconds since 1970      server, listener, client   who spoke to whom
    rules       the versions of the rules that spoke                       services   the names rules could ask
    transcript  in order: ["C", line] ["S", reply] ["M", number of the mail] ["TLS", version]
                ["BAD", reply, close] a line that was none, ["EARLY"] spoke before the greeting, ["LOST", how],
                ["LOGIN", user, mechanism] what rules of authenticate judged (login_record.py)
    mails       contents, without dot stuffing; null: none that could be read
    domains, mailboxes   what the server knew of them
    verdicts    of every stage: what the rules said, who said it, and `asked`: what they asked, as
                rules/outside/recording.py notes it

All text of the other side is latin-1: bytes in disguise. A session that is heard has a door, a judge and a stream of
its own, which note what passes through; so sessions that are not heard pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from mta.message.address import Address
from mta.message.reply import Refused
from mta.net import clock
from mta.receive import login_record
from mta.receive.content import Content
from mta.receive.judge import Judge
from mta.receive.redaction import header_of
from mta.rules.outside.recording import noting
from mta.rules.verdict import NEXT, STAGES, Verdict

if TYPE_CHECKING:
    from mta.receive.session import Session
    from mta.rules.engine.engine import Rules
    from mta.rules.transaction import Transaction

FORMAT = "mta capture 1"
ALL = frozenset(STAGES)
OTHERS = ALL - {"authenticate"}


class Record:
    """One session as it goes. `redacted`: what was left out of it, as in the settings."""

    def __init__(self, session: Session, room: int) -> None:
        self.session, self.began, self.client = session.id, clock.now(), session.client
        self.room, self.size = room, 0  # bytes of content it may hold, and has
        self.server, self.listener = session.door.settings.server.name, session.door.listener
        self.transcript: list[list[Any]] = []
        self.contents: list[tuple[bytes, bool]] = []  # as they came over the wire, and whether that is all of it
        self.domains: dict[str, bool] = {}
        self.mailboxes: dict[str, bool] = {}
        self.verdicts: list[dict[str, Any]] = []
        self.rules: list[str] = []
        self.services = list(session.door.settings.service)

    def plain(self) -> dict[str, Any]:
        """The record as values of JSON."""
        mails = [self._content(*content) for content in self.contents]
        return {
            "format": FORMAT,
            "session": self.session,
            "began": self.began,
            "ended": clock.now(),
            "server": self.server,
            "listener": self.listener.kind,
            "client": msgspec.to_builtins(self.client),
            "redacted": "none",
            "rules": self.rules,
            "services": self.services,
            "transcript": self.transcript,
            "mails": mails,
            "whole": [whole for _, whole in self.contents],
            "domains": self.domains,
            "mailboxes": self.mailboxes,
            "verdicts": self.verdicts,
        }

    def _content(self, wire: bytes, whole: bool) -> str | None:
        try:
            content, _ = Content(1 << 40, self.listener.newlines == "repair").feed(wire)
        except Refused:
            return None
        return (content if whole else header_of(content)).decode("latin-1")

    def said(self) -> set[str]:
        """The verdicts of this session, of rules and of the server itself."""
        kinds = {entry["kind"] for entry in self.verdicts} - {"next"}
        content = False
        for kind, *rest in self.transcript:
            if kind == "S" and rest[0][:1] in "45":
                kinds.add("deny" if rest[0][0] == "5" else "defer")
            elif kind == "S" and content and rest[0][:1] == "2":
                kinds.add("accept")
            content = kind == "M"
        return kinds


class Watched:
    """Rules that are heard. They seem to have rules at every stage, so that they are always asked.

    But for authenticate: what is not offered to others is not offered to a client that is heard.
    """

    def __init__(self, rules: Rules, record: Record, domains: Any = None) -> None:
        self._rules, self._record, self._domains = rules, record, domains
        self.stages = ALL if "authenticate" in rules.stages_of("") else OTHERS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rules, name)

    def stages_of(self, file: str) -> frozenset[str]:
        return self.stages

    def run(self, stage: str, tx: Transaction) -> Verdict:
        asked: list[Any] = []
        recipient = str(tx.recipient) if tx.recipient is not None and stage == "rcpt" else ""
        recipients = [str(one) for one in tx.recipients] if stage not in ("mail", "rcpt") else []
        if recipient and tx.recipient is not None:
            self._know(tx.recipient)
        verdict, vars = NEXT, dict(tx.vars)
        if stage in self._rules.stages_of(tx.file):
            with noting(asked):
                verdict = self._rules.run(stage, tx)
        version = tx.rules.version if tx.rules is not None else self._rules.version
        if version not in self._record.rules:
            self._record.rules.append(version)
        entry = {
            "stage": stage,
            "mail": tx.mail_id,
            "origin": tx.origin,
            "recipient": recipient,
            "recipients": recipients,
            "file": tx.file,
            "kind": verdict.kind,
            "reply": str(verdict.reply) if verdict.reply is not None else "",
            "folder": verdict.folder,
            "rule": verdict.rule,
            "where": verdict.where,
            "failed": verdict.failed,
            "relay": tx.relay,
            "asked": asked,
        }
        if tx.credentials is not None:
            entry |= login_record.noted(tx, vars, verdict)
            self._record.transcript.append(["LOGIN", tx.credentials.user, tx.credentials.mechanism])
        self._record.verdicts.append({name: value for name, value in entry.items() if value or name == "kind"})
        return verdict

    def _know(self, recipient: Address) -> None:
        """What the server knows of a recipient, though a rule may refuse it before anybody asks."""
        try:
            if self._domains is not None and self._domains.find(recipient.domain) is not None:
                self._domains.knows(recipient)
        except Refused:
            pass


class _Domains:
    """Domains that are heard."""

    def __init__(self, real: Any, record: Record) -> None:
        self._real, self._record = real, record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def find(self, domain: str) -> Any:
        found = self._real.find(domain)
        self._record.domains[domain] = found is not None
        return found

    def knows(self, address: Any) -> bool:
        known: bool = self._real.knows(address)
        self._record.mailboxes[str(address)] = known
        return known


class _Door:
    """The door of a captured session."""

    def __init__(self, door: Any, record: Record) -> None:
        self._door, self._record = door, record
        self._watched: tuple[Any, Watched] | None = None
        self.domains = _Domains(door.domains, record)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._door, name)

    def rules(self) -> Any:
        rules = self._door.rules()
        if self._watched is None or self._watched[0] is not rules:
            self._watched = rules, Watched(rules, self._record, self.domains)
        return self._watched[1]


class Tap:
    """A session's stream; what is said on it is noted. `done` is called when it is closed."""

    def __init__(self, stream: Any, record: Record, done: Callable[[Record], None]) -> None:
        self._stream, self._record = stream, record
        self._done: Callable[[Record], None] | None = done
        self._wire: list[bytes] = []
        self._whole, self._censor = True, login_record.Censor()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def deadline(self) -> float:
        return float(self._stream.deadline)

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._stream.deadline = at

    def note(self, *what: Any) -> None:
        if self._wire:
            self._record.transcript.append(["M", len(self._record.contents)])
            self._record.contents.append((b"".join(self._wire), self._whole))
            self._wire, self._whole = [], True
        self._record.transcript.append(list(what))

    def line(self, limit: int) -> bytes:
        try:
            line: bytes = self._stream.line(limit)
        except Refused as refused:
            self.note("BAD", str(refused.reply), refused.reply.close)
            raise
        except Exception as error:
            self.note("LOST", str(error) or type(error).__name__)
            raise
        self.note("C", self._censor.line(line.decode("latin-1")))
        return line

    def chunk(self) -> bytes:
        piece: bytes = self._stream.chunk()
        record = self._record
        if record.size < record.room:
            self._wire.append(piece)
        else:
            self._whole = False
        record.size += len(piece)
        return piece

    def unread(self, rest: bytes) -> None:
        if rest and self._wire and self._whole:
            self._wire[-1] = self._wire[-1][: -len(rest)]
        self._stream.unread(rest)

    def say(self, data: bytes) -> None:
        self._said(data)
        self._stream.say(data)

    def send(self, data: bytes) -> None:
        self._said(data)
        self._stream.send(data)

    def _said(self, data: bytes) -> None:
        self._censor.asked = data.startswith(b"334")
        self.note("S", data.decode("utf-8", "replace").rstrip("\r\n"))

    def spoke(self) -> bool:
        spoke = bool(self._stream.spoke())
        if spoke:
            self.note("EARLY")
        return spoke

    def start_tls(self, context: Any, server_side: bool, hostname: str | None = None) -> None:
        self._stream.start_tls(context, server_side, hostname)
        self.note("TLS", self._stream.tls)

    def close(self) -> None:
        self._stream.close()
        if self._done is not None:
            done, self._done = self._done, None
            done(self._record)


def hear(session: Session, record: Record, done: Callable[[Record], None]) -> None:
    """From now on this session is noted in `record`; `done` is called with it at the end."""
    door: Any = _Door(session.door, record)

    def ended(record: Record) -> None:
        record.client = session.client  # who it turned out to be
        done(record)

    tap: Any = Tap(session.stream, record, ended)
    session.judge = Judge(door)
    session.door, session.stream = door, tap
