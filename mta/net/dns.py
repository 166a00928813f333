"""Questions to the domain name system: dnspython asks, a cache with TTLs answers what was asked before.

    answer         raised or returned                   kept for
    records        their texts                          the smallest TTL in the answer, at most a day
    none           [] (NXDOMAIN, or no such type)       the SOA's negative TTL (RFC 2308 5), at most an hour
    no answer      DnsTemporary (timeout, SERVFAIL)     one second (RFC 9520 3.2)

Many who ask the same at once share one question. It runs in a greenlet of its own, so that one who stops waiting takes
nothing from the others. A hit costs a dict lookup; a question 250 us of CPU.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import NamedTuple

import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import dns.reversename
import gevent

from mta import settings

LONGEST = 86400.0  # seconds a record is believed
LONGEST_NEGATIVE = 3600.0
FAILED = 1.0
ENTRIES = 20_000

Key = tuple[str, str]


class DnsTemporary(Exception):
    """Nobody could tell now: a timeout, SERVFAIL or the like. The text says what was asked and what happened."""


class _Kept(NamedTuple):
    until: float
    texts: list[str] | DnsTemporary


class Resolver:
    """Ask for names. All methods park the greenlet and take at most about `settings.timeout` seconds."""

    def __init__(self, settings: settings.Dns, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError for a server that is no address."""
        self._now = monotonic
        self._kept: dict[Key, _Kept] = {}
        self._asking: dict[Key, gevent.Greenlet] = {}
        self._timeout = settings.timeout
        try:
            self._resolver = dns.resolver.Resolver(configure=not settings.servers)
        except dns.resolver.NoResolverConfiguration:
            self._resolver = dns.resolver.Resolver(configure=False)
        if settings.servers:
            self._resolver.nameservers = [_server(text) for text in settings.servers]
        self._resolver.timeout = min(2.0, settings.timeout / 2)
        self._resolver.use_edns(0, 0, 1232)

    def lookup(self, name: str, type: str) -> list[str]:
        """The records of a name, CNAMEs followed; [] when there are none. Raises DnsTemporary, ValueError (type).

        Texts are in zone file notation without trailing dots, except TXT: its strings joined, as latin-1.
        """
        key = (name.lower().rstrip("."), type.upper())
        kept = self._kept.get(key)
        if kept is None or kept.until <= self._now():
            kept = self._ask(key)
        if isinstance(kept.texts, DnsTemporary):
            raise DnsTemporary(str(kept.texts))
        return list(kept.texts)

    def mx(self, domain: str) -> list[tuple[int, str]]:
        """(preference, host), best first; [(0, "")] is the null MX (RFC 7505). Raises DnsTemporary."""
        found = []
        for text in self.lookup(domain, "MX"):
            preference, _, host = text.partition(" ")
            found.append((int(preference), host.lower().rstrip(".")))
        return sorted(found)

    def addresses(self, host: str) -> list[str]:
        """IPv6 and IPv4 addresses of a host, or the address it is itself. Raises DnsTemporary if none is known now."""
        try:
            return [str(ipaddress.ip_address(host.strip("[]").removeprefix("IPv6:")))]
        except ValueError:
            pass
        v6 = gevent.spawn(self._try, host, "AAAA")
        found4 = self._try(host, "A")
        found = [a for a in (v6.get(), found4) if not isinstance(a, DnsTemporary)]
        texts = [text for each in found for text in each]
        if not texts and len(found) < 2:
            raise found4 if isinstance(found4, DnsTemporary) else v6.get()
        return texts

    def reverse(self, ip: str) -> list[str]:
        """The names of an address, as its PTR records claim. Raises DnsTemporary."""
        return [name.lower() for name in self.lookup(dns.reversename.from_address(ip).to_text(), "PTR")]

    def _try(self, name: str, type: str) -> list[str] | DnsTemporary:
        try:
            return self.lookup(name, type)
        except DnsTemporary as failed:
            return failed

    def _ask(self, key: Key) -> _Kept:
        asking = self._asking.get(key)
        if asking is None:
            known = _local(key)
            if known is not None:
                return _Kept(0.0, known)
            try:
                dns.rdatatype.from_text(key[1])
            except dns.exception.DNSException:
                raise ValueError(f"{key[1]} is not a type of DNS record") from None
            asking = self._asking[key] = gevent.spawn(self._fetch, key)
        return asking.get()

    def _fetch(self, key: Key) -> _Kept:
        try:
            texts, ttl = self._query(*key)
        except DnsTemporary as failed:
            texts, ttl = failed, FAILED
        finally:
            del self._asking[key]
        kept = _Kept(self._now() + ttl, texts)
        if ttl > 0:
            self._keep(key, kept)
        return kept

    def _keep(self, key: Key, kept: _Kept) -> None:
        self._kept.pop(key, None)  # so that the dict stays in the order of keeping
        if len(self._kept) >= ENTRIES:
            now = self._now()
            self._kept = {k: v for k, v in self._kept.items() if v.until > now}
            for old in list(self._kept)[: len(self._kept) - ENTRIES * 3 // 4]:
                del self._kept[old]
        self._kept[key] = kept

    def _query(self, name: str, type: str) -> tuple[list[str] | DnsTemporary, float]:
        """(texts, seconds they hold)."""
        try:
            answer = self._resolver.resolve(
                dns.name.from_text(name), type, raise_on_no_answer=False, lifetime=self._timeout, search=False
            )
            response = answer.response
        except dns.resolver.NXDOMAIN as none:
            answer, response = None, next(iter(none.responses().values()))
        except dns.resolver.YXDOMAIN:
            return [], FAILED
        except (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.IDNAException):
            return [], LONGEST_NEGATIVE  # no such name can exist
        except (dns.exception.DNSException, OSError) as failed:
            raise DnsTemporary(f"{name} {type}: {_why(failed)}") from failed
        try:
            ttl = float(response.resolve_chaining().minimum_ttl)
        except dns.exception.DNSException:  # a chain of CNAMEs that leads nowhere
            ttl = FAILED
        if answer is None or answer.rrset is None:
            return [], min(ttl, LONGEST_NEGATIVE)
        return [_text(record) for record in answer.rrset], min(ttl, LONGEST)


def _server(text: str) -> dns.nameserver.Do53Nameserver:
    """ "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:53"."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, "53"
    try:
        return dns.nameserver.Do53Nameserver(str(ipaddress.ip_address(host.strip("[]"))), int(port))
    except ValueError:
        raise ValueError(f'dns.servers: {text!r} is not an address ("192.0.2.1" or "192.0.2.1:53")') from None


def _local(key: Key) -> list[str] | None:
    """RFC 6761 6.3: localhost is this machine, and nobody is asked."""
    name, type = key
    if name != "localhost" and not name.endswith(".localhost"):
        return None
    return {"A": ["127.0.0.1"], "AAAA": ["::1"]}.get(type, [])


def _why(failed: Exception) -> str:
    if isinstance(failed, dns.exception.Timeout):
        return "no answer in time"
    if isinstance(failed, dns.resolver.NoNameservers):
        codes = sorted({str(error[3]) for error in failed.kwargs.get("errors", [])})
        return ", ".join(codes) or "no name server is known (set dns.servers)"
    return str(failed) or type(failed).__name__


def _text(record: object) -> str:
    strings = getattr(record, "strings", None)
    if strings is not None:
        return b"".join(strings).decode("latin-1")
    text: str = record.to_text()  # type: ignore[attr-defined]
    return text if text.endswith(" .") or text == "." else text.removesuffix(".")
