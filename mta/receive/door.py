"""What all sessions of one listener share: who we are, what we offer, whom we trust, and what has been counted."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from mta import settings as settings_of
from mta.domains import Domains
from mta.message.ids import Ids
from mta.message.reply import Reply
from mta.receive import replies, sasl
from mta.receive.limits import Budget
from mta.spool.spool import Spool

if TYPE_CHECKING:
    from mta.receive.capture import Capture
    from mta.rules.engine.engine import Rules


class Counts:
    """What a worker's sessions have done so far."""

    def __init__(self) -> None:
        self.connections = self.sessions = self.accepted = self.refused = self.bytes = 0


class Door:
    """One listener. `rules()` are those in force now; `tls()` the certificate in force now, or None."""

    def __init__(
        self,
        settings: settings_of.Settings,
        listener: settings_of.Listener,
        domains: Domains,
        rules: Callable[[], Rules],
        spool: Spool,
        ids: Ids,
        tls: Callable[[settings_of.Listener], ssl.SSLContext | None],
        counts: Counts,
        budget: Budget,
    ) -> None:
        self.settings, self.listener, self.domains = settings, listener, domains
        self.rules, self.spool, self.ids = rules, spool, ids
        self.counts, self.budget = counts, budget
        self.tls: Callable[[], ssl.SSLContext | None] = lambda: tls(listener)
        self.trusts = trusts(settings.server.trusted)
        self.draining = False
        self.capture: Capture | None = None  # is shown every new session
        name = settings.server.name
        self.greeting = Reply(220, "", replies.GREETING.text.replace("{name}", name))
        self.helo = Reply(250, "", name)
        self._ehlo: dict[int, Reply] = {}

    @property
    def ours_only(self) -> bool:
        """Only our own people may send here (RFC 6409)."""
        return self.listener.kind != "relay"

    def ehlo(self, encrypted: bool, auth: bool) -> Reply:
        """The answer to EHLO. `auth`: this client may log in now."""
        which = 2 if auth else int(not encrypted and self.tls() is not None)
        if which not in self._ehlo:
            self._ehlo[which] = Reply(250, "", "\n".join([self.settings.server.name, *self.offers(encrypted, auth)]))
        return self._ehlo[which]

    def offers(self, encrypted: bool, auth: bool) -> list[str]:
        """The extensions we have (RFC 5321 4.1.1.1); STARTTLS and AUTH only while they would help."""
        starttls = ["STARTTLS"] if not encrypted and self.tls() is not None else []
        login = [f"AUTH {' '.join(sasl.MECHANISMS)}"] if auth else []
        size = f"SIZE {self.settings.smtp.max_size}"
        return ["PIPELINING", size, "8BITMIME", *starttls, *login, "ENHANCEDSTATUSCODES"]


def trusts(networks: list[str]) -> Callable[[str], bool]:
    """A question: does this IP address (IPv4 never in IPv6 clothes) lie in one of these networks?"""
    known = [ipaddress.ip_network(network, strict=False) for network in networks]

    @lru_cache(4096)
    def trusted(ip: str) -> bool:
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:  # not from the Internet at all
            return False
        return any(address in network for network in known)

    return trusted


def plain(ip: str) -> str:
    """An IP address as the kernel gives it, without what is only clothing: `::ffff:192.0.2.1`, `fe80::1%eth0`."""
    if ":" not in ip:
        return ip
    address = ip.partition("%")[0]
    return address[7:] if address[:7].lower() == "::ffff:" and "." in address else address
