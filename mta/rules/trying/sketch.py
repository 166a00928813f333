"""A session to be tried, and what is told of each of its stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mta.domains import Domains
from mta.message.address import Address
from mta.message.message import Message
from mta.rules.transaction import Asked
from mta.rules.verdict import Verdict


@dataclass
class Sketch:
    """A session to be tried. `domains`: which are ours; None: all of them.

    `user` has logged in, whatever rules say; with a `password` the rules of authenticate are asked whether it may, and
    for that the connection has TLS.
    """

    ip: str = "192.0.2.1"
    port: int = 40000
    name: str = ""
    helo: str = "client.example"
    user: str = ""
    password: str | None = field(default=None, repr=False)
    tls: str = ""
    sender: Address | None = None
    recipients: list[Address] = field(default_factory=list)
    message: Message | None = None
    listener: str = "relay"
    server: str = "mx.example.test"
    trusted: bool = False
    domains: Domains | None = None
    vars: dict[str, Any] = field(default_factory=dict)

    @property
    def encryption(self) -> str:
        return self.tls or ("TLSv1.3" if self.password is not None else "")

    @property
    def protocol(self) -> str:
        return "ESMTP" + "S" * bool(self.encryption) + "A" * bool(self.user)

    def plan(self) -> list[tuple[str, Address | None]]:
        """The stages of this session, one for each recipient at rcpt."""
        stages: list[tuple[str, Address | None]] = [("connect", None), ("helo", None)]
        if self.password is not None:
            stages.append(("authenticate", None))
        if self.sender is not None or self.recipients or self.message is not None:
            stages.append(("mail", None))
        stages += [("rcpt", one) for one in self.recipients]
        if self.message is not None:
            stages += [(stage, None) for stage in ("data", "preq", "postq", "delivery")]
        return stages


class Spoke(NamedTuple):
    """What one rule said. `said`: a kind of verdict, "failed", "skipped", or "not reached"."""

    rule: str
    where: str
    said: str
    microseconds: float = 0.0
    instructions: int = 0
    asked: tuple[Asked, ...] = ()
    changes: tuple[Any, ...] = ()  # difference.Change, if the trial watches each rule


class Stage(NamedTuple):
    """One stage as it went. `reply` is what the client hears, "" where it hears nothing."""

    name: str
    recipient: Address | None
    verdict: Verdict
    rules: tuple[Spoke, ...]
    reply: str
    ignored: str  # why a verdict had not the effect somebody may have wanted
    events: tuple[tuple[str, dict[str, Any]], ...]
    unknown: tuple[str, ...]  # what rules asked and nobody knew

    @property
    def decided(self) -> Spoke | None:
        """The rule that ended the stage."""
        return next((one for one in self.rules if one.said not in ("next", "skipped", "not reached")), None)

    @property
    def asked(self) -> list[Asked]:
        return [asked for rule in self.rules for asked in rule.asked]

    @property
    def refused(self) -> bool:
        return self.reply[:1] in ("4", "5")
