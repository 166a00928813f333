"""What travels with a mail but is not in it: who sent it, for whom, from where, and what has been tried so far."""

from __future__ import annotations

from typing import Any

import msgspec

from mta.message import target
from mta.message.address import NULL, Address

Vars = dict[str, Any]  # plain values only: None, bool, int, float, str, lists and dicts of them


class Client(msgspec.Struct, omit_defaults=True):
    """The other end of the connection a mail came by. `tls` is "TLSv1.3 TLS_AES_256_GCM_SHA384" or empty."""

    ip: str = ""
    port: int = 0
    name: str = ""
    helo: str = ""
    protocol: str = "SMTP"  # RFC 3848: SMTP, ESMTP, ESMTPS, ESMTPA, ESMTPSA, LMTP
    user: str = ""
    tls: str = ""
    trusted: bool = False
    listener: str = ""


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a recipient's mail goes: a transport's name, and what that transport wants to know."""

    transport: str
    host: str = ""  # smtp: "host", "host:port" or a URL; empty: the MX hosts of the domain
    path: str = ""  # maildir, mbox

    def __str__(self) -> str:
        """As rules write it, but without a password."""
        if self.transport == "smtp":
            return target.masked(self.host) or "mx"
        return f"{self.transport}:{self.path}" if self.path else self.transport

    __repr__ = __str__


class Recipient(msgspec.Struct, omit_defaults=True):
    """One recipient still to be served. `route` was chosen by a rule; without one the settings decide."""

    address: Address
    original: Address | None = None
    route: Route | None = None
    attempts: int = 0
    reply: str = ""  # what the last attempt was answered
    until: float = 0.0  # a rule holds this one until then, whatever becomes of the others
    until_by: str = ""  # that rule, and where it stands
    notify: str = ""  # "never": the sender is not told what becomes of this one (RFC 3461 4.1)

    @property
    def heard(self) -> bool:
        """Whether the sender is told."""
        return self.notify != "never"


class Envelope(msgspec.Struct, omit_defaults=True):
    """A mail's outer life. Times are seconds since 1970. Recipients that are served leave the list."""

    id: str
    sender: Address = NULL
    recipients: list[Recipient] = []
    client: Client | None = None
    arrived: float = 0.0
    next_try: float = 0.0
    attempts: int = 0
    body: str = ""  # MAIL's BODY= parameter
    origin: str = ""  # the id of the mail this one was made from (a bounce, a copy)
    direction: str = "incoming"  # incoming, outgoing, internal
    domain: str = ""  # the domain of ours whose rules it meets; "" if it is nobody's
    vars: Vars = {}
    postq: bool = False  # the rules of postq have spoken
    accepted: bool = False  # a rule said faccept: the rules of later stages are not asked
    held: str = ""  # why it waits for a person: "quarantine NAME", "poison"; empty: it does not
    deaths: float = 0  # workers that died with this mail in hand; half of one that was killed from outside
    until: float = 0.0  # a rule holds it until then; the time it may be tried for counts from there
    until_by: str = ""  # that rule, and where it stands; empty where recipients have rules of their own

    @property
    def ours(self) -> bool:
        """Our own people's mail: from a user or a trusted client, not from a stranger."""
        return self.client is not None and bool(self.client.user or self.client.trusted)
