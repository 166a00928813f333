"""What rules judge: one mail on its way, as plain state that the session or the queue fills stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mta.message.address import Address
from mta.message.credentials import Credentials
from mta.message.envelope import Client, Vars
from mta.message.headers import Headers, write
from mta.message.message import Message

if TYPE_CHECKING:
    from mta.rules.engine.engine import Rules
    from mta.rules.engine.side import Side
    from mta.rules.verdict import Verdict
    from mta.rules.words.inner import Parts
    from mta.rules.words.routing import Ways


EARLY_FIELDS, EARLY_BYTES = 100, 65_536  # what rules may put into a header that is not there yet
GIVEN = 64 << 20  # bytes they may put into one mail, in all its stages
FIELD = 100  # bytes each field counts for besides its text
LOGGED = 4 << 20  # bytes they may write to the log about one mail
LINE = 200  # bytes each line of it counts for besides its text

Early = tuple[tuple[str, str, str], ...]  # what is to be done to it: (append, prepend or set; name; value)


def put(early: Early, headers: Headers) -> None:
    """Now the header is there."""
    for how, name, value in early:
        getattr(headers, how)(name, value)


class Asked(NamedTuple):
    """One question to the outside: the word, what it was given, what came back, and how long it took."""

    word: str
    arguments: tuple[Any, ...]
    answer: Any
    microseconds: float


class Step(NamedTuple):
    """One rule that spoke. `verdict` is a kind, or "failed"; `instructions` are counted in thousands."""

    stage: str
    rule: str
    where: str
    verdict: str
    microseconds: float
    instructions: int
    asked: list[Asked]


class Addressed(NamedTuple):
    """From whom, to whom, and by which ways."""

    sender: Address | None
    recipients: list[Address]
    originals: dict[Address, Address]
    silent: frozenset[Address]
    ways: Ways | None


class Transaction:
    """One mail (or, before MAIL, one connection). The caller sets the fields as it learns them, then runs a stage.

    `recipient` is the one RCPT speaks of, `recipients` those accepted so far. `origin` is the id of the mail this one
    was made from. `relay` tells after a stage whether a rule said relay(): for this recipient, or for all of them if it
    was said before RCPT. Set `tracing` to have every rule that speaks noted in `trace`, and then `alone` to the number
    (from 1) of the only rule of a stage that shall speak.

    `credentials` are there only while the rules of authenticate speak; `user` is who has logged in.

    `file` is that of a domain, whose rules speak after main.lua's, as rules.folders names it; "": there is none.

    `edited`: a rule changed the sender or the recipients; `originals` are the addresses it replaced, by the new ones,
    `silent` those of whom the sender hears nothing.
    At rcpt a rule may also replace `recipient`, or take it out (None).

    `early`: what rules did to the header before there was one; whoever has the content does it then, by `put`.

    A transaction keeps the rules it began with, whatever is loaded meanwhile. Call `close()` at its end.
    """

    __slots__ = (
        "_given", "_logged", "_standing", "alone", "client", "credentials", "decided", "early", "edited", "file",
        "helo", "listener", "mail_id", "message", "origin", "originals", "parts", "recipient", "recipients", "relay",
        "rules", "sender", "server", "session", "side", "silent", "trace", "tracing", "trusted", "user", "vars", "ways",
    )  # fmt: skip

    def __init__(
        self,
        session: str = "",
        client: Client | None = None,
        *,
        mail_id: str = "",
        origin: str = "",
        server: str = "",
        listener: str = "",
        trusted: bool = False,
    ) -> None:
        self.session, self.mail_id, self.origin = session, mail_id, origin
        self.client = client or Client()
        self.server, self.listener, self.trusted = server, listener, trusted
        self.file = self.helo = self.user = ""
        self.credentials: Credentials | None = None
        self.sender: Address | None = None
        self.recipient: Address | None = None
        self.recipients: list[Address] = []
        self.originals: dict[Address, Address] = {}
        self.silent: frozenset[Address] = frozenset()
        self.message: Message | None = None
        self.parts: Parts | None = None  # those rules hold
        self.vars: Vars = {}
        self.early: Early = ()
        self.ways: Ways | None = None  # what rules said of its routes
        self.edited = self.relay = self.tracing = False
        self._given = self._logged = 0  # bytes rules have put into the mail, and written to the log
        self._standing = False  # relay() was said before RCPT: it holds for every recipient
        self.alone = 0
        self.decided: tuple[tuple[str, Verdict], ...] = ()  # stages and what rules decided there
        self.trace: list[Step] = []
        self.rules: Rules | None = None  # the generation it began with
        self.side: Side | None = None  # what Lua knows of it

    @property
    def changing(self) -> tuple[Any, ...]:
        """What Lua was told of it and must be told again once it is another."""
        client = self.client
        return (
            self.recipient, self.sender, self.helo, self.user, self.mail_id, client.tls, client.ip, client.name,
            self.vars,
        )  # fmt: skip

    def mail(self, mail_id: str = "") -> Transaction:
        """The next mail of this connection: knows what is known of the connection, has a copy of its vars.

        Call it on the connection's transaction, the one that helo and authenticate were run with.
        """
        new = Transaction(
            self.session,
            self.client,
            mail_id=mail_id,
            origin=self.origin,
            server=self.server,
            listener=self.listener,
            trusted=self.trusted,
        )
        new.helo, new.user, new.decided = self.helo, self.user, self.decided
        if self.vars:
            new.vars = dict(self.vars)
        if self.early:
            new.early = self.early
        if self._standing:
            new.relay = new._standing = True
        if self.tracing:
            new.tracing = True
        return new

    def addressed(self) -> Addressed:
        """The envelope, and where it goes, as rules have left them so far."""
        ways = None if self.ways is None else self.ways.copy()
        return Addressed(self.sender, [*self.recipients], dict(self.originals), self.silent, ways)

    def readdress(self, to: Addressed) -> None:
        """What rules have changed of them since is undone."""
        self.sender, self.recipients, self.originals, self.silent, self.ways = to
        if self.side is not None:
            self.side.edited()

    def next(self, recipients: list[Address], message: Message, vars: Vars) -> None:
        """In the queue: the same mail, for the next stage or the next group of its recipients; what rules decided or
        changed before is settled."""
        self.recipients, self.message = recipients, message
        if vars or self.vars:
            self.vars = dict(vars)
        self.edited, self.ways, self.parts = False, None, None
        if self.decided:
            self.decided = tuple(one for one in self.decided if one[0] != "delivery")

    def again(self, vars: Vars, relay: bool, early: Early = ()) -> None:
        """What was said since is forgotten; these are the vars, the relay() and the fields of then."""
        if self.vars != vars:
            self.vars = dict(vars)
        self.early = early
        self.relay = self._standing = relay

    def copy(self, mail_id: str, recipients: list[Address]) -> Transaction:
        """One of the mails this one is split into, for some of its recipients; it has a copy of all that was said."""
        new = self.mail(mail_id)
        new.origin, new.sender, new.recipients = self.mail_id, self.sender, recipients
        new.originals, new.silent = dict(self.originals), self.silent
        new.ways = None if self.ways is None else self.ways.copy()
        return new

    def put_early(self, how: str, name: str, value: str) -> None:
        """A rule does something to the header, which is not there yet. Raises ValueError for what is no field."""
        size = len(write(name, value)) + sum(len(name) + len(value) for _, name, value in self.early)
        if len(self.early) >= EARLY_FIELDS or size > EARLY_BYTES:
            raise ValueError(f"before preq rules put at most {EARLY_FIELDS} fields into a header, and 64 KB")
        self.early = (*self.early, (how, name, value))

    def give(self, size: int) -> None:
        """A rule puts so many bytes into the mail. Raises ValueError when it were too many: nobody else counts them."""
        self._given += size
        if self._given > GIVEN:
            raise ValueError(f"rules have put more than {GIVEN >> 20} MB into this mail")

    def tell(self, size: int) -> None:
        """A rule writes a line of so many bytes to the log. Raises ValueError when it were too many, as each wait gives
        a rule the units anew that lines cost."""
        self._logged += LINE + size
        if self._logged > LOGGED:
            raise ValueError(f"rules have written more than {LOGGED >> 20} MB about this mail to the log")

    def allow_relay(self, stage: str) -> None:
        """A rule said relay()."""
        self.relay = True
        if stage != "rcpt":
            self._standing = True

    def close(self) -> None:
        """It is over: Lua forgets it."""
        side, self.side = self.side, None
        if side is not None:
            side.close()

    def __del__(self) -> None:
        if self.side is not None:
            self.side.close()
