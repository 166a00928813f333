"""The transport that hands mail to another server: to a configured host, or to the MX hosts of the domain.

Which hosts, in which order (RFC 5321 5.1, RFC 7505):
    a configured host       its addresses; message/target.py says how it is written
    an address literal      that address
    MX records              by preference, equal ones in random order; from ourselves on none (else mail would circle)
    no MX records           the addresses of the domain itself

What a host does decides who is asked next:
    no connection, no greeting, 421, broke off before the last dot    the next address
    refuses the session, or answers 4xx                               one more host, then later
    2xx or 5xx for a recipient                                        that is its result
    broke off behind the last dot                                     later: it may have the mail, so a copy is possible
    TLS that fails, is missing where it is required, or no login      the same address again, in clear; or the next one

Connections kept for the next mail are kept apart by what was agreed on: nobody goes out under another one's name, or
with less protection than asked for.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import random
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mta import settings
from mta.deliver.client import Client, Lost
from mta.deliver.ourselves import Ourselves
from mta.deliver.pool import Key, Pool
from mta.deliver.transport import Result
from mta.message import target
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Refused, Reply
from mta.net import clock
from mta.net.dns import DnsTemporary, Resolver
from mta.net.stream import Gone, TimedOut, connect
from mta.net.tls import client_context, verifying_context

ADDRESSES = 10  # tried for one mail
HOSTS = 20  # whose addresses are asked for: a stranger's domain may name hundreds, each as slow as dns.timeout allows
ANY = target.Target("")  # what is agreed with hosts nobody said anything about: TLS if they offer it
SESSIONS = 2  # hosts that may say "later" to one mail (4xx, or no to the session)


class Place(NamedTuple):
    """An address to try. `host` is its name, or the address again."""

    host: str
    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.host} [{self.ip}]" if self.host != self.ip else f"[{self.ip}]"


class Outside(NamedTuple):
    """What all remote deliveries of a worker share."""

    name: str  # ours, for EHLO
    queue: settings.Queue
    resolver: Resolver
    pool: Pool
    ourselves: Ourselves
    tls: ssl.SSLContext
    verifying: Callable[[], ssl.SSLContext]  # reading all authorities takes 20 ms: only where somebody asks for it

    @classmethod
    def of(cls, settings: settings.Settings, resolver: Resolver) -> Outside:
        pool, own = Pool(settings.queue.keep), Ourselves(settings)
        verifying = functools.cache(verifying_context)
        return cls(settings.server.name, settings.queue, resolver, pool, own, client_context(), verifying)


class Remote:
    """Mail to one configured host, or with host "" to the MX hosts of the recipients' (one) domain."""

    name = "smtp"

    def __init__(self, host: str, outside: Outside) -> None:
        """Raises ValueError for a host that cannot be read."""
        self._target = target.parse(host) if host else None
        self._agreed = self._target or ANY
        self._outside = outside

    def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
        waiting = list(recipients)
        held: dict[int, Result] = {}  # the best answer so far for those that may fare better elsewhere
        sessions = 0
        for place in itertools.islice(self._places(recipients[0].address.domain), ADDRESSES):
            answered = False
            for result, again in self._try(place, envelope, waiting, message):
                answered = answered or result.said
                if again:
                    _hold(held, result)
                else:
                    held.pop(id(result.recipient), None)
                    waiting = [r for r in waiting if r is not result.recipient]
                    yield result
            if not waiting:
                return
            sessions += answered
            if sessions >= SESSIONS:
                break
        yield from (held[id(recipient)] for recipient in waiting)

    # -- one host -----------------------------------------------------------------------------------------------------

    def _try(
        self, place: Place, envelope: Envelope, recipients: Sequence[Recipient], message: Message
    ) -> Iterator[tuple[Result, bool]]:
        """Each recipient with its result there, and whether another host may do better."""
        pool, key, host = self._outside.pool, self._key(place), str(place)
        unheard = {id(recipient): recipient for recipient in recipients}
        kept = pool.take(key)
        client = kept
        try:
            if client is None:
                client = self._open(place)
            for answer in client.send(envelope, list(unheard.values()), message):
                del unheard[id(answer.recipient)]
                yield Result(answer.recipient, answer.reply, host, answer.said), answer.reply.temporary
            pool.give(key, client)
            return
        except Lost as lost:
            if kept is not None and not lost.content and len(unheard) == len(recipients):
                yield from self._try_anew(place, envelope, recipients, message)
                return
            again, no, said = not lost.content, lost.reply, lost.said
        except Refused as refused:
            again, no, said = True, refused.reply, True
        except BaseException:
            if client is not None:
                client.close()
            raise
        if client is not None:
            client.quit()
        for recipient in unheard.values():
            yield Result(recipient, no, host, said), again

    def _try_anew(
        self, place: Place, envelope: Envelope, recipients: Sequence[Recipient], message: Message
    ) -> Iterator[tuple[Result, bool]]:
        """A kept connection was no good: servers end what is idle as they like. Others like it will be no better."""
        while (other := self._outside.pool.take(self._key(place))) is not None:
            other.close()
        yield from self._try(place, envelope, recipients, message)

    def _key(self, place: Place) -> Key:
        """What connections to a place have in common that may serve the same mails."""
        return (place.ip, place.port) if self._agreed == ANY else (place.ip, place.port, self._agreed, place.host)

    def _open(self, place: Place) -> Client:
        """A conversation ready for MAIL, as protected as was agreed. Raises Lost, Refused."""
        agreed = self._agreed
        client = self._greeted(place)
        try:
            secure = agreed.at_once
            if not secure and agreed.tls != "none":
                client, secure = self._protected(client, place)
            if agreed.user:
                if not secure and agreed.tls != "none":
                    raise Lost(Reply(454, "4.7.4", f"{place} offers no TLS, and the password is not said in clear"))
                client.log_in(agreed.user, agreed.password)
        except BaseException:
            client.quit()
            raise
        return client

    def _protected(self, client: Client, place: Place) -> tuple[Client, bool]:
        """The conversation with TLS if the server offers it, and whether it has. Raises Lost, Refused."""
        required = self._agreed.tls == "required"
        if "STARTTLS" in client.extensions:
            try:
                if client.start_tls(self._context(), self._name(place)):
                    return client, True
            except Lost:
                if required:
                    raise
                return self._greeted(place), False
        if required:
            raise Lost(Reply(454, "4.7.4", f"{place} offers no TLS, which is required for it"))
        return client, False

    def _context(self) -> ssl.SSLContext:
        return self._outside.verifying() if self._agreed.tls == "required" else self._outside.tls

    def _name(self, place: Place) -> str:
        """Whose certificate it must be: an address where the address is all that is known, and it must be somebody's.

        SNI knows names only (RFC 6066 3), and `ssl` keeps to that.
        """
        if self._agreed.tls == "required":
            return place.host
        return "" if place.host == place.ip else place.host

    def _greeted(self, place: Place) -> Client:
        timeouts = self._outside.queue
        try:
            stream = connect(place.ip, place.port, clock.monotonic() + timeouts.connect_timeout)
        except (Gone, TimedOut) as error:
            why = "no answer in time" if isinstance(error, TimedOut) else str(error)
            raise Lost(Reply(451, "4.4.1", f"No connection to {place}: {why}")) from None
        client = Client(stream, str(place), self._outside.name, timeouts.reply_timeout)
        try:
            if self._agreed.at_once:
                client.wrap(self._context(), self._name(place))
            client.greet()
        except BaseException:
            client.quit()
            raise
        return client

    # -- which hosts --------------------------------------------------------------------------------------------------

    def _places(self, domain: str) -> Iterator[Place]:
        """The addresses to try, best first. Raises Refused when there are none."""
        if self._target:
            yield from self._configured(self._target.host, self._target.port or self._outside.queue.port)
            return
        if domain.startswith("["):
            ip = domain[1:-1].removeprefix("IPv6:")
            yield from self._not_us([Place(ip, ip, self._outside.queue.port)])
            return
        try:
            found = self._outside.resolver.mx(domain)
        except DnsTemporary as error:
            raise Refused(f"451 4.4.3 The mail hosts of {domain} are not known now: {error}") from None
        if found and all(not host for _, host in found):
            raise Refused(f"556 5.1.10 {domain} accepts no mail (null MX)")  # RFC 7505 3
        yield from self._by_preference(domain, [(p, host) for p, host in found if host] or [(0, domain)], bool(found))

    def _by_preference(self, domain: str, found: list[tuple[int, str]], by_mx: bool) -> Iterator[Place]:
        """Raises Refused if not one address comes out."""
        any_place, room = False, HOSTS
        unknown: DnsTemporary | None = None
        for _, group in itertools.groupby(sorted(found), lambda one: one[0]):
            places: list[Place] = []
            hosts = [host for _, host in group]
            random.shuffle(hosts)
            us = any(self._outside.ourselves.named(host) for host in hosts)
            for host in hosts[:room]:
                try:
                    ips = self._outside.resolver.addresses(host)
                except DnsTemporary as error:
                    unknown = error
                    continue
                places += [Place(host, ip, self._outside.queue.port) for ip in ips]
            if us or any(self._us(place) for place in places):
                if not any_place and unknown is None:
                    raise Refused(f"554 5.4.6 Mail loop: {domain} is not served here, but its mail host is this server")
                break  # RFC 5321 5.1: neither ourselves nor any host as good or worse
            for place in places:
                if _reachable(place.ip):
                    any_place = True
                    yield place
            room -= len(hosts)
            if room <= 0:
                break
        if any_place:
            return
        if len(found) > HOSTS and unknown is None:
            raise Refused(f"451 4.4.3 None of the first {HOSTS} mail hosts of {domain} has an address")
        if unknown is not None:
            raise Refused(f"451 4.4.3 The mail hosts of {domain} are not known now: {unknown}")
        if by_mx:
            raise Refused(f"550 5.4.4 The mail hosts of {domain} have no address")
        raise Refused(f"550 5.1.2 There is no domain {domain} that takes mail")

    def _configured(self, host: str, port: int) -> Iterator[Place]:
        try:
            ips = self._outside.resolver.addresses(host)
        except DnsTemporary as error:
            raise Refused(f"451 4.4.3 The address of {host} is not known now: {error}") from None
        if not ips:  # a slip in the settings must not cost mail
            raise Refused(f"451 4.3.5 The configured host {host} has no address")
        yield from self._not_us([Place(host, ip, port) for ip in ips])

    def _not_us(self, places: list[Place]) -> list[Place]:
        if any(self._us(place) for place in places):
            raise Refused(f"554 5.4.6 Mail loop: {places[0]} is this server itself")
        return places

    def _us(self, place: Place) -> bool:
        return self._outside.ourselves.at(place.ip, place.port)


def _reachable(ip: str) -> bool:
    """Some publish addresses that are no host's."""
    address = ipaddress.ip_address(ip)
    return not (address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255")


def _hold(held: dict[int, Result], result: Result) -> None:
    """Of several hosts that did not take a mail, one that may take it later counts more than one that never will."""
    before = held.get(id(result.recipient))
    if before is None or result.reply.temporary or not before.reply.temporary:
        held[id(result.recipient)] = result
