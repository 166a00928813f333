"""Which way a recipient's mail goes, and which recipients of a mail go together. Pure.

1. the route a rule chose       2. the domain is ours: [domain."..."]
3. [route."its domain"]         4. [route."*"], the smarthost        5. its MX hosts
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mta import settings
from mta.message.address import Address
from mta.message.envelope import Recipient, Route

MX = Route("smtp")


class Domains(Protocol):
    @property
    def first(self) -> str: ...

    def find(self, domain: str) -> settings.Domain | None: ...

    def lists(self, address: Address) -> bool: ...


class Destination(NamedTuple):
    """Recipients with the same destination are served together: by one file batch, in one SMTP transaction."""

    route: Route
    domain: str  # "" where the domain makes no difference


class Router:
    """The routes of one configuration."""

    def __init__(self, settings: settings.Settings, domains: Domains) -> None:
        self._domains, self._name = domains, settings.server.name.lower()
        self._others = {name.lower(): _route(route) for name, route in settings.route.items()}
        self._known: dict[str, Destination] = {}  # by domain, for recipients without a route of their own

    def destination(self, recipient: Recipient) -> Destination:
        domain = recipient.address.domain
        if recipient.route is not None:
            return _destination(recipient.route, domain)
        known = self._known.get(domain)
        if known is None:
            if len(self._known) > 10_000:  # domains come from outside: they may be many
                self._known.clear()
            known = self._known[domain] = _destination(self._find(domain), domain)
        return known

    def groups(self, recipients: Sequence[Recipient]) -> list[tuple[Destination, list[Recipient]]]:
        """The recipients by destination, in the order each destination is first named."""
        if len(recipients) == 1:
            return [(self.destination(recipients[0]), list(recipients))]
        groups: dict[Destination, list[Recipient]] = {}
        for recipient in recipients:
            groups.setdefault(self.destination(recipient), []).append(recipient)
        return list(groups.items())

    def mailbox(self, address: Address) -> Address:
        """Whose mailbox it is: bob+lists is bob's, unless bob+lists is listed too. Raises Refused (451)."""
        base, plus, _ = address.local_part.partition("+")
        if not plus or not base or self._domains.lists(address):
            return address
        mailbox = Address(base, address.domain)
        return mailbox if self._domains.lists(mailbox) else address

    def _find(self, domain: str) -> Route:
        ours = self._domains.find(domain or self._domains.first or self._name)  # RFC 5321 4.5.1: a bare Postmaster
        if ours is not None:
            return _route(ours)
        return self._others.get(domain) or self._others.get("*") or MX


def _route(of: settings.Domain | settings.Route) -> Route:
    if of.transport in ("maildir", "mbox"):
        return Route(of.transport, path=of.path)
    return Route(of.transport, host=of.host if of.transport == "smtp" else "")


def _destination(route: Route, domain: str) -> Destination:
    return Destination(route, domain if route.transport == "smtp" and not route.host else "")
