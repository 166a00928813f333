"""What rules judge: one mail on its way, as plain state that the session or the queue fills stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mta.message.address import Address
from mta.message.envelope import Client, Vars
from mta.message.message import Message

if TYPE_CHECKING:
    from mta.rules.engine import Rules
    from mta.rules.routing import Ways
    from mta.rules.sandbox import Side
    from mta.rules.verdict import Verdict


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


class Transaction:
    """One mail (or, before MAIL, one connection). The caller sets the fields as it learns them, then runs a stage.

    `recipient` is the one RCPT speaks of, `recipients` those accepted so far. `origin` is the id of the mail this one
    was made from. `relay` tells after a stage whether a rule said relay(): for this recipient, or for all of them if it
    was said before RCPT. Set `tracing` to have every rule that speaks noted in `trace`, and then `alone` to the number
    (from 1) of the only rule of a stage that shall speak.

    `file` is that of a domain, whose rules speak after main.lua's, as rules.folders names it; "": there is none.

    `edited`: a rule changed the sender or the recipients; `originals` are the addresses it replaced, by the new ones.
    At rcpt a rule may also replace `recipient`, or take it out (None).

    A transaction keeps the rules it began with, whatever is loaded meanwhile. Call `close()` at its end.
    """

    __slots__ = (
        "_standing", "alone", "client", "decided", "edited", "file", "helo", "listener", "mail_id", "message", "origin",
        "originals", "parts", "recipient", "recipients", "relay", "rules", "sender", "server", "session", "side",
        "trace", "tracing", "trusted", "user", "vars", "ways",
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
        self.file = ""
        self.helo = ""
        self.user = ""
        self.sender: Address | None = None
        self.recipient: Address | None = None
        self.recipients: list[Address] = []
        self.edited = False
        self.originals: dict[Address, Address] = {}
        self.message: Message | None = None
        self.parts: Any = None  # those rules hold: inner.Parts
        self.vars: Vars = {}
        self.ways: Ways | None = None  # what rules said of its routes
        self.relay = False
        self._standing = False  # relay() was said before RCPT: it holds for every recipient
        self.tracing = False
        self.alone = 0
        self.decided: tuple[tuple[str, Verdict], ...] = ()  # stages and what rules decided there
        self.trace: list[Step] = []
        self.rules: Rules | None = None  # the generation it began with
        self.side: Side | None = None  # what Lua knows of it

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
        new.helo, new.user = self.helo, self.user
        new.vars = dict(self.vars)
        new.relay = new._standing = self._standing
        new.tracing = self.tracing
        new.decided = self.decided
        return new

    def again(self, vars: Vars, relay: bool) -> None:
        """What was said since is forgotten; these are the vars and the relay() of then."""
        if self.vars != vars:
            self.vars = dict(vars)
        self.relay = self._standing = relay

    def copy(self, mail_id: str, recipients: list[Address]) -> Transaction:
        """One of the mails this one is split into, for some of its recipients; it has a copy of all that was said."""
        new = self.mail(mail_id)
        new.origin, new.sender, new.recipients = self.mail_id, self.sender, recipients
        new.originals = dict(self.originals)
        new.ways = None if self.ways is None else self.ways.copy()
        return new

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
