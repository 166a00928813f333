"""Plays a captured session once more: the same client, other rules, and a world that is the one of then.

The session is the server's own (session.py), so what a verdict does is what it would do. Only what is around it is made
up: the client's lines come from the capture, domains and mailboxes are those it noted, nothing is kept, and the world
is rules/trying/recorded.py. The result is a record as capture.py makes them, so that both can be compared (outcome.py).

A client that was refused then has said nothing more; rules that let it in now are asked no further. Logins are as they
were then: the password is in no capture (login_record.py). So is what the server itself refused a mail's content for.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mta import log, settings
from mta.domains import Domains
from mta.message.address import NULL, Address
from mta.message.envelope import Client, Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Refused, Reply
from mta.net import clock
from mta.net.stream import Gone
from mta.receive import login_record, queue_record
from mta.receive.door import Counts, Door
from mta.receive.limits import Budget
from mta.receive.session import Session
from mta.receive.session_record import Record, Watched, hear
from mta.rules.transaction import Transaction
from mta.rules.trying.recorded import RecordedWorld
from mta.rules.verdict import LEAVING, REFUSING, Verdict
from mta.rules.words.envelope import silent, taken

if TYPE_CHECKING:
    from mta.rules.engine.engine import Rules

ENDLESS = 1 << 50
_DOT = re.compile(rb"^\.", re.M)
_ID = re.compile(r" \([^() ]*\)$")  # behind every refusal


class Tape:
    """A stream on which a captured client speaks; what we answer goes nowhere."""

    ended = buffered = pending = reset = waiting = False
    deadline = 0.0

    def __init__(self, record: dict[str, Any]) -> None:
        self._transcript, self._mails = record["transcript"], record["mails"]
        self._at = 0
        self._login: list[bytes] = []  # the lines of an exchange under way
        self._preq = [verdict for verdict in record["verdicts"] if verdict["stage"] == "preq"]
        self.session: Session | None = None
        self._at_once: Reply | None = None  # what the server itself says to the mail under way before preq is asked
        self.no: Reply | None = None  # and when it has been
        self.tls = ""

    def line(self, limit: int) -> bytes:
        if self._login:
            return self._login.pop(0)
        while self._at < len(self._transcript):
            kind, *what = self._transcript[self._at]
            self._at += 1
            self._at_once = None
            if kind == "C":
                if what[0][:5].upper() == "AUTH ":
                    self._login, self._at = login_record.lines(self._transcript, self._at)
                return self._login.pop(0) if self._login else str(what[0]).encode("latin-1")
            if kind == "BAD":
                raise Refused(Reply.parse(what[0], close=what[1]))
        raise Gone("the capture ends here")

    def chunk(self) -> bytes:
        if self._at_once is not None:
            raise Refused(self._at_once)
        for at in range(self._at, min(self._at + 2, len(self._transcript))):  # our reply to DATA, then the mail
            kind, *what = self._transcript[at]
            if kind == "M":
                self._hear_no(self._transcript[at + 1 : at + 2])
                if self._at_once is not None:
                    return b""  # a mail there was
                if self._mails[what[0]] is not None:
                    content = self._mails[what[0]].encode("latin-1")
                    end = b"" if content.endswith(b"\r\n") or not content else b"\r\n"
                    return _DOT.sub(b"..", content) + end + b".\r\n"
        raise Gone("the capture holds no content")

    def _hear_no(self, answer: list[list[Any]]) -> None:
        """What the server itself said to a mail: its limits, its line ends and its disk were those of then."""
        self.no = None
        envelope = self.session.envelope if self.session is not None else None
        if not answer or answer[0][0] != "S" or answer[0][1][:1] not in ("4", "5") or envelope is None:
            return
        asked = [one for one in self._preq if envelope.id in (one.get("mail"), one.get("origin"))]
        if any(verdict["kind"] in REFUSING for verdict in asked):
            return
        no = Reply.parse(_ID.sub("", answer[0][1]))
        no = no.closing() if no.code in LEAVING else no
        if asked:
            self.no = no
        else:
            self._at_once = no

    def unread(self, rest: bytes) -> None:
        pass

    def spoke(self) -> bool:
        return ["EARLY"] in self._transcript

    def start_tls(self, context: Any, server_side: bool, hostname: str | None = None) -> None:
        self.tls = next((what[0] for kind, *what in self._transcript[self._at :] if kind == "TLS"), "TLSv1.3")

    def say(self, data: bytes) -> None:
        pass

    send = say

    def linger(self, seconds: float = 0.0) -> None:
        pass

    def close(self) -> None:
        pass


class _Known:
    """The domains and mailboxes of then; a domain nobody asked for is ours if the settings name it."""

    def __init__(self, record: dict[str, Any], world: RecordedWorld, ours: Domains) -> None:
        self._domains, self._mailboxes = record["domains"], record["mailboxes"]
        self._world, self._settings = world, ours
        self.first = next((name for name, known in self._domains.items() if known), ours.first)

    def find(self, domain: str) -> settings.Domain | None:
        known = self._domains.get(domain)
        return self._settings.find(domain) if known is None else settings.Domain() if known else None

    def knows(self, address: Address) -> bool:
        known = self._mailboxes.get(str(address))
        if known is None:
            self._world.miss("mailbox", address)
        return known is not False

    def lists(self, address: Address) -> bool:
        return False


class _Nowhere:
    """A spool that keeps nothing, but knows what it was given, and has no room where there was none then."""

    def __init__(self) -> None:
        self.mails: list[tuple[Envelope, Message]] = []
        self.tape: Tape

    def commit(self, add: Sequence[Any] = (), settle: Sequence[Any] = (), drop: Sequence[str] = ()) -> None:
        if self.tape.no is not None:
            raise Refused(self.tape.no)
        self.mails += [(mail.envelope, mail.message) for mail in add]


class _Id:
    def __init__(self, session: str) -> None:
        self.session = lambda: session


class _Only:
    """Rules of which only some stages speak."""

    def __init__(self, rules: Rules, stages: frozenset[str]) -> None:
        self._rules, self._stages = rules, stages
        self.stages = rules.stages & stages

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rules, name)

    def stages_of(self, file: str) -> frozenset[str]:
        return self._rules.stages_of(file) & self._stages


def notes(record: dict[str, Any]) -> list[Any]:
    """Everything that was asked in a session."""
    return [note for entry in record["verdicts"] for note in entry.get("asked", ())]


class Player:
    """Rules, and what they are tried with. `queue`: the stages postq and delivery too, for all mails that are taken;
    else for those the queue had tried when the capture was read."""

    def __init__(self, rules: Rules, world: RecordedWorld, given: settings.Settings, *, queue: bool = False) -> None:
        large = dataclasses.replace(given.spool, large=ENDLESS)
        smtp = dataclasses.replace(given.smtp, max_size=ENDLESS, max_body_line=ENDLESS, memory=ENDLESS)
        self._settings = dataclasses.replace(given, spool=large, smtp=smtp)
        self._rules, self._world, self._queue = rules, world, queue
        self._domains = Domains({name: settings.Domain() for name in given.domain})

    def play(self, record: dict[str, Any], stages: frozenset[str] | None = None) -> dict[str, Any]:
        """What happens under these rules: a record, with `unknown`, and `errors` of rules and of our own.

        `stages` are those at which rules may speak; None: all.
        """
        world, spool, made = self._world, _Nowhere(), list[Record]()
        world.turn_to(notes(record), record["began"])
        rules: Any = login_record.Said(self._rules if stages is None else _Only(self._rules, stages), record)
        bugs: list[bytes] = []
        sink, level, schedule = log.log.sink, log.log.level, log.log.schedule
        log.log.sink, log.log.level, log.log.schedule = bugs.append, log.LEVELS["error"], None
        before = clock.replace(clock.Clock(lambda: world.time, time.monotonic))
        try:
            session = self._session(record, rules, spool)
            hear(session, Record(session, ENDLESS), made.append)
            session.run()
            tried = [verdict for verdict in record["verdicts"] if verdict["stage"] in queue_record.STAGES]
            for envelope, message in spool.mails:
                if self._queue or any(envelope.id == verdict.get("mail") for verdict in tried):
                    self._deliver(Watched(rules, made[0]), envelope, message, tried)
        finally:
            clock.replace(before)
            log.log.sink, log.log.level, log.log.schedule = sink, level, schedule
        played = made[0].plain()
        failed = [fields for event, fields in world.events if event == "rule_failed"]
        played["errors"] = [f"{fields.get('where', '')}: {fields.get('error', '')}" for fields in failed]
        played["errors"] += [str(msgspec.json.decode(line).get("error")) for line in bugs]
        played["unknown"] = list(world.unknown)
        return played

    def _session(self, record: dict[str, Any], rules: Any, spool: Any) -> Session:
        server = dataclasses.replace(self._settings.server, name=record["server"])
        secure = object() if any(kind == "TLS" for kind, *_ in record["transcript"]) else None
        known: Any = _Known(record, self._world, self._domains)
        id: Any = _Id(record["session"])
        context: Any = secure
        client = msgspec.convert(record["client"], Client)
        door = Door(
            dataclasses.replace(self._settings, server=server), settings.Listener(kind=record["listener"]), known,
            lambda: rules, spool, id, lambda _: context, Counts(), Budget(ENDLESS),
        )  # fmt: skip
        door.trusts = lambda ip: client.trusted
        tape: Any = Tape(record)
        session = tape.session = Session(door, tape, client.ip, client.port)
        spool.tape = tape
        later = any(kind == "LOGIN" for kind, *_ in record["transcript"])
        session.client = msgspec.structs.replace(session.client, name=client.name, user="" if later else client.user)
        return session

    def _deliver(self, rules: Watched, envelope: Envelope, message: Message, tried: list[dict[str, Any]]) -> None:
        """The rules of the queue, as the courier asks them once; `tried`: what was said there then."""
        if envelope.held or envelope.accepted:
            return
        verdict, tx = self._ask(rules, "postq", envelope, message, envelope.recipients)
        if verdict.kind not in ("next", "accept"):
            return
        envelope.vars = tx.vars
        if tx.edited:
            envelope.sender, envelope.recipients = tx.sender or NULL, taken(tx, envelope.recipients)
        for group in _groups(envelope.recipients, [one["recipients"] for one in tried if one["stage"] == "delivery"]):
            self._ask(rules, "delivery", envelope, message.copy(), group)

    def _ask(
        self, rules: Watched, stage: str, envelope: Envelope, message: Message, recipients: Sequence[Recipient]
    ) -> tuple[Verdict, Transaction]:
        client = envelope.client or Client()
        tx = Transaction(
            envelope.id.rpartition(".")[0], client, mail_id=envelope.id, origin=envelope.origin,
            server=self._settings.server.name, listener=client.listener, trusted=client.trusted,
        )  # fmt: skip
        tx.helo, tx.user, tx.sender = client.helo, client.user, envelope.sender
        tx.silent = silent(envelope.recipients)
        if rules.folders:
            tx.file = rules.folders.file(envelope.direction, envelope.domain)
        tx.next([recipient.address for recipient in recipients], message, envelope.vars)
        try:
            return rules.run(stage, tx), tx
        finally:
            tx.close()


def _groups(recipients: Sequence[Recipient], then: list[list[str]]) -> Iterator[list[Recipient]]:
    """The recipients as they were asked about together then; those nobody asked about, together."""
    left = list(recipients)
    for names in then:
        group = [recipient for recipient in left if str(recipient.address) in names]
        if group:
            yield group
            left = [recipient for recipient in left if recipient not in group]
    if left:
        yield left


_RECEIVED = re.compile(rb"^Received:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", re.M | re.I)
_FROM = re.compile(r"\s*from\s+(\S+)\s+\((?:(\S+)\s+)?\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]", re.I)
_WITH = re.compile(r"\swith\s+(E?SMTP)(S?)(A?)\b", re.I)
_VERSION = re.compile(r"\((TLSv[\d.]+ [\w-]+)\)|version=(\S+) cipher=(\S+)|using (TLSv[\d.]+)")


def stored(content: bytes, name: str, server: str, at: float) -> dict[str, Any]:
    """A record of a mail in a mailbox: what its fields tell of the session it came by, `at` seconds since 1970.

    LF line ends become CRLF. The topmost Received is taken for our own, and made anew.
    """
    content = re.sub(rb"\r?\n", b"\r\n", content)
    headers = Message(content).headers
    said = {field: (headers.get(field) or "").strip() for field in ("Return-Path", "Delivered-To", "Received")}
    message = Message(_RECEIVED.sub(b"", content, count=1) if said["Received"] else content)
    headers = message.headers
    passed, protocol = _FROM.match(said["Received"]), _WITH.search(said["Received"])
    version = _VERSION.search(said["Received"])
    for field in ("Return-Path", "Delivered-To"):
        headers.remove(field)
    sender = said["Return-Path"].strip("<>")
    recipient = said["Delivered-To"].strip("<>") or "unknown@unknown.invalid"
    transcript: list[list[Any]] = [["C", "EHLO " + (passed[1] if passed else "unknown.invalid")]]
    if protocol and protocol[2]:
        transcript += [["TLS", " ".join(filter(None, version.groups())) if version else "TLS"]]
        transcript = [["C", "EHLO unknown.invalid"], ["C", "STARTTLS"], transcript[1], transcript[0]]
    transcript += [
        ["C", f"MAIL FROM:<{sender}>"],
        ["C", f"RCPT TO:<{recipient}>"],
        ["C", "DATA"],
        ["M", 0],
        ["C", "QUIT"],
    ]
    client = Client(ip=passed[3] if passed else "", name=(passed[2] or "") if passed else "")
    if protocol and protocol[3]:
        client.user = "unknown"
    return {
        "session": name,
        "began": at,
        "server": server,
        "listener": "relay",
        "client": msgspec.to_builtins(client),
        "redacted": "none",
        "rules": [],
        "transcript": transcript,
        "mails": [bytes(message).decode("latin-1")],
        "whole": [True],
        "domains": {recipient.rpartition("@")[2].lower(): True},
        "mailboxes": {recipient: True},
        "verdicts": [],
    }
