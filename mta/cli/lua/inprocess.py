"""A server in this process that nobody else can reach: real sessions, rules and queue, a spool and mailboxes in memory.

A dialogue is played against it, over a pair of sockets. Its `with` lines change the settings and make up the world;
what rules say is noted with the line of the conversation it was said at.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import socket
import ssl
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mta import log, settings
from mta.cli.lua import trying
from mta.deliver.courier import Courier
from mta.deliver.transport import Result
from mta.domains import Domains
from mta.message.envelope import Envelope, Recipient, Route
from mta.message.ids import Ids
from mta.message.message import Message
from mta.message.reply import Reply
from mta.net import clock, deadline, offload, tls
from mta.net.stream import Stream
from mta.receive.door import Counts, Door, plain
from mta.receive.limits import Budget
from mta.receive.session import Session
from mta.rules.engine.coverage import Coverage
from mta.rules.engine.engine import Rules
from mta.rules.transaction import Step, Transaction
from mta.rules.trying import dialogue
from mta.rules.trying.dialogue import Aftermath, Dialogue, DialogueError, Player
from mta.rules.trying.trial_world import TrialWorld
from mta.rules.verdict import Verdict
from mta.spool.memory import MemorySpool

CLIENT = "192.0.2.1"  # where a client comes from unless the dialogue says otherwise
TICK = 0.05  # seconds: how exactly time limits are kept here


class Spoken(NamedTuple):
    """What the rules of one stage said, after so many lines of the conversation."""

    line: int
    stage: str
    about: str
    verdict: Verdict
    steps: tuple[Step, ...]


class Noted:
    """Rules, with what they say told to somebody."""

    def __init__(self, rules: Rules, told: Callable[[str, Transaction, Verdict, list[Step]], None]) -> None:
        self._rules, self._told = rules, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rules, name)

    def run(self, stage: str, transaction: Transaction) -> Verdict:
        transaction.tracing = True
        before = len(transaction.trace)
        said = self._rules.run(stage, transaction)
        self._told(stage, transaction, said, transaction.trace[before:])
        return said


class Kept(MemorySpool):
    """A spool in memory that remembers what it was given at first."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[tuple[Envelope, bytes]] = []

    def commit(self, add: Sequence[Any] = (), settle: Sequence[Any] = (), drop: Sequence[str] = ()) -> None:
        self.mails += [(mail.envelope, bytes(mail.message)) for mail in add]
        super().commit(add, settle, drop)


class Boxes:
    """Every way out: what would be delivered is kept here, by recipient."""

    def __init__(self) -> None:
        self.mails: dict[str, list[bytes]] = {}
        self.routes: dict[str, Route] = {}

    def way(self, route: Route) -> _Way:
        return _Way(route, self)


class _Way:
    def __init__(self, route: Route, boxes: Boxes) -> None:
        self.name, self._route, self._boxes = route.transport, route, boxes

    def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
        content = bytes(message)
        for recipient in recipients:
            self._boxes.mails.setdefault(str(recipient.address), []).append(content)
            self._boxes.routes[str(recipient.address)] = self._route
            yield Result(recipient, Reply(250, "2.0.0", "Ok"), self._route.host)


class Played(NamedTuple):
    """How a dialogue went: its lines as they were said, what rules said, and the complaint, if any."""

    transcript: list[str]
    spoken: list[Spoken]
    complaint: str
    log: list[dict[str, Any]]
    unknown: list[str]


def play(
    told: Dialogue,
    made: settings.Settings,
    found: bool,
    *,
    folder: str | None = None,
    coverage: Coverage | None = None,
) -> Played:
    """Play a dialogue under these settings. `folder`: where its paths begin. Raises RulesError, DialogueError."""
    with TemporaryDirectory(prefix="mta-") as place:
        made = settings_for(told, made, found, Path(place), Path(folder or "."))
        world = world_for(told, trying.world_of(made, found))
        rules = Rules.load(made.rules, world, domains=list(made.domain), coverage=coverage)
        return _play(told, made, rules, world, Path(place), coverage)


def _play(
    told: Dialogue,
    made: settings.Settings,
    rules: Rules,
    world: TrialWorld,
    place: Path,
    coverage: Coverage | None,
) -> Played:
    spoken: list[Spoken] = []
    ours, theirs = socket.socketpair()
    player = Player(told, ours, "lines" if "lines" in told.ways else told.ways[0], trusting)

    def note(stage: str, tx: Transaction, verdict: Verdict, steps: list[Step]) -> None:
        about = f"<{tx.recipient}>" if tx.recipient is not None and stage in ("rcpt", "delivery") else ""
        spoken.append(Spoken(len(player.transcript), stage, about, verdict, tuple(steps)))

    noted: Any = Noted(rules, note)
    domains, spool, ids, boxes = Domains(made), Kept(), Ids(), Boxes()
    listener, context = listener_for(told, made, place)
    door = Door(
        made, listener, domains, lambda: noted, spool, ids, lambda _: context, Counts(), Budget(made.smtp.memory)
    )
    complaint, over = "", []
    with listening() as lines:
        session = Session(door, Stream(theirs), plain(told.one("client", CLIENT)), 40000)

        def serve() -> None:
            session.run()
            over.append(True)

        offload.background(serve)
        try:
            player.play()
            for _ in range(200):
                if over:
                    break
                offload.pause(0.01)
            courier = Courier(made, spool, lambda: noted, domains, ids, boxes.way)
            _deliver(courier, spool)
        except DialogueError as error:
            complaint = str(error)
    if coverage is not None:
        coverage.add(rules)
        coverage.spoke.update((one.stage, step.rule) for one in spoken for step in one.steps)
    events = [*lines, *({"event": event, **fields} for event, fields in world.events)]
    mails = [(spool_envelope(spool, envelope), content) for envelope, content in spool.mails]
    if not complaint:
        try:
            dialogue.check(told, Aftermath(events, mails, lambda name: len(boxes.mails.get(name, ()))))
        except DialogueError as error:
            complaint = str(error)
    return Played(player.transcript, spoken, complaint, events, list(dict.fromkeys(world.unknown)))


def _deliver(courier: Courier, spool: Kept) -> None:
    """One attempt for every mail that is due, and for the bounces that come of it."""
    for _ in range(10):
        due = spool.claim(clock.now() + 1.0, 1000)
        if not due:
            return
        for mail in due:
            courier.deliver(mail)


def spool_envelope(spool: Kept, envelope: Envelope) -> Envelope:
    """The envelope as it is now; that of a mail which has left the spool as it came."""
    return next(spool.find(lambda one: one.id == envelope.id), envelope)


@contextmanager
def listening() -> Iterator[list[dict[str, Any]]]:
    """The server's log as a list, for as long."""
    lines: list[dict[str, Any]] = []
    kept, tick = (log.log.sink, log.log.level, log.log.schedule), deadline.TABLE.finer(TICK)
    log.log.schedule, log.log.level = None, log.LEVELS["debug"]
    log.log.sink = lambda text: lines.extend(map(json.loads, text.splitlines()))
    try:
        yield lines
    finally:
        log.log.sink, log.log.level, log.log.schedule = kept
        deadline.TABLE.finer(tick)


# -- what the `with` lines mean ---------------------------------------------------------------------------------------

EXAMPLE: dict[str, Any] = {  # settings for dialogues where there are none
    "server": settings.Server(name="mx.example.test", trusted=["192.0.2.99"]),
    "domain": {"example.test": settings.Domain()},
}


def settings_for(told: Dialogue, made: settings.Settings, found: bool, place: Path, folder: Path) -> settings.Settings:
    """The settings a dialogue is played under. Raises DialogueError."""
    made = with_lines(told, made if found else dataclasses.replace(made, **EXAMPLE), place)
    return dataclasses.replace(made, rules=rules_for(told, made.rules, place, folder))


def with_lines(told: Dialogue, made: settings.Settings, place: Path) -> settings.Settings:
    """Settings as the dialogue's lines `with domain` and `with SECTION.KEY` change them. Raises DialogueError."""
    domains = dict(made.domain)
    for line in told.all("domain"):
        name, _, users = line.partition(" users=")
        where = "any"
        if users:
            where = str(place / f"users-{name}")
            Path(where).write_text("\n".join(users.split(",")))
        domains[name] = settings.Domain(users=where)
    made = dataclasses.replace(made, domain=domains)
    for word, rest in told.given:
        section, dot, key = word.partition(".")
        if dot and section != "listener":
            try:
                value = tomllib.loads(f"value {rest}")["value"]
                changed = dataclasses.replace(getattr(made, section), **{key: value})
                made = dataclasses.replace(made, **{section: changed})
            except (AttributeError, TypeError, tomllib.TOMLDecodeError) as error:
                raise DialogueError(f"{told.name}: with {word} {rest}: {error}") from None
    return made


def rules_for(told: Dialogue, made: settings.Rules, place: Path, folder: Path) -> settings.Rules:
    """The rules a dialogue brings along or names; without any those of the settings, or none."""
    text, files = told.one("rules"), told.all("file")
    if text and "\n" not in text:
        path = named(told, text, folder)
        if path.name == "main.lua" or path.is_dir():
            return dataclasses.replace(made, path=str(path if path.is_dir() else path.parent))
        text = path.read_text("utf-8")
    if text or files or not (Path(made.path) / "main.lua").is_file():
        (place / "rules").mkdir()
        (place / "rules" / "main.lua").write_text(text, "utf-8")
        made = dataclasses.replace(
            made, path=str(place / "rules"), domains=str(place / "domains"), lists=str(place / "lists")
        )
    for one in files:
        name, _, content = one.partition("\n")
        name, _, source = (piece.strip() for piece in name.partition("="))
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise DialogueError(f"{told.name}: with file {name}: it lies elsewhere")
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(named(told, source, folder).read_text("utf-8") if source else content, "utf-8")
    return made


def named(told: Dialogue, path: str, folder: Path) -> Path:
    """A file or folder a dialogue names: beside it, or in a folder above, or here. Raises DialogueError."""
    for place in (folder, *folder.resolve().parents, Path()):
        if (place / path).exists():
            return place / path
    raise DialogueError(f"{told.name}: there is no {path} beside it, nor in a folder above")


def world_for(told: Dialogue, world: TrialWorld) -> TrialWorld:
    """What a dialogue makes up. Raises DialogueError."""
    from mta.cli.lua.made_up import answer_of

    for word, rest in told.given:
        try:
            if word == "dns":
                name, kind, value = rest.split(" ", 2)
                world.record(name, kind, None if value == "fail" else value.strip('"'))
            elif word == "service":
                name, *words = shlex.split(rest)
                world.answer(name, answer_of(words))
            elif word == "store":
                name, value = shlex.split(rest)
                world.store.set(name, int(value) if value.isdigit() else value)
            elif word == "list":
                name, *entries = shlex.split(rest)
                before = world.texts.given.get(name, "")
                world.texts.given[name] = before + "".join(f"{entry}\n" for entry in entries)
            elif word == "clock":
                world.time = trying.moment(rest)
        except ValueError as error:
            raise DialogueError(f"{told.name}: with {word} {rest}: {error}") from None
    return world


def listener_for(
    told: Dialogue, made: settings.Settings, place: Path
) -> tuple[settings.Listener, ssl.SSLContext | None]:
    """The listener a dialogue speaks to; with TLS it has a certificate of its own making."""
    listener = settings.Listener()
    for word, rest in told.given:
        if word.startswith("listener."):
            listener = dataclasses.replace(listener, **{word[9:]: tomllib.loads(f"value {rest}")["value"]})
        elif word == "listener":
            listener = dataclasses.replace(listener, kind=rest)
    if not told.one("tls") and listener.kind != "submissions":
        return listener, None
    pair = self_signed(place, made.server.name)
    policy = told.one("tls", "optional")
    return dataclasses.replace(listener, tls=settings.ListenerTls(*pair, policy=policy)), tls.server_context(*pair)


def trusting(sock: Any) -> Any:
    """The client's side of TLS: any certificate will do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


def self_signed(place: Path, name: str) -> tuple[str, str]:
    """A certificate for an hour: (certificate, key)."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    whose = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(whose)
        .issuer_name(whose)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    private = serialization.PrivateFormat.PKCS8
    (place / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (place / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    )
    return str(place / "cert.pem"), str(place / "key.pem")
