"""A name server of our own for tests: answers from a dict over UDP and TCP on a free port of 127.0.0.1.

    with FakeDns({"example.test": {"MX": ["10 mx.example.test."], "TXT": ['"v=spf1 -all"']},
                  "mx.example.test": {"A": ["192.0.2.1"], "AAAA": []},
                  "broken.test": {"*": "SERVFAIL"}}) as dns:
        Resolver(settings.Dns(servers=[dns.server], timeout=1.0))

A name that is not in the zone is NXDOMAIN; a type that is not is an empty answer; both carry a SOA whose TTL is
`negative_ttl`. A CNAME is followed. Instead of a list of records (in zone file notation) one of these words may stand:
"SERVFAIL", "REFUSED", "NXDOMAIN", "TIMEOUT" (no answer at all), "TRUNCATED" (the real records, by TCP only: write
("TRUNCATED", [...])), "GARBAGE". `zone` may be changed at any time; `asked` lists (name, type) as they came.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import gevent
import gevent.server
from daemon import free_ports
from gevent import socket

Records = Sequence[str] | str | tuple[str, Sequence[str]]


class FakeDns:
    def __init__(
        self, zone: Mapping[str, Mapping[str, Records]], *, ttl: int = 300, negative_ttl: int = 60, delay: float = 0.0
    ) -> None:
        self.zone: dict[str, dict[str, Records]] = {name.lower().rstrip("."): dict(t) for name, t in zone.items()}
        self.ttl, self.negative_ttl, self.delay = ttl, negative_ttl, delay
        self.asked: list[tuple[str, str]] = []
        self.port = next(free_ports(1))
        self._tcp = gevent.server.StreamServer(("127.0.0.1", self.port), self._stream)
        self._tcp.start()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._reader = gevent.spawn(self._datagrams)

    @property
    def server(self) -> str:
        """What stands in `dns.servers`."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> FakeDns:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        self._reader.kill()
        self._udp.close()
        self._tcp.stop()

    def _datagrams(self) -> None:
        while True:
            try:
                query, client = self._udp.recvfrom(4096)
            except OSError:
                return
            gevent.spawn(self._datagram, query, client)

    def _datagram(self, query: bytes, client: Any) -> None:
        answer = self._answer(query, tcp=False)
        if self.delay:
            gevent.sleep(self.delay)
        if answer is not None:
            try:
                self._udp.sendto(answer, client)
            except OSError:
                pass

    def _stream(self, sock: Any, _: Any) -> None:
        with sock, sock.makefile("rb") as reader:
            while True:
                head = reader.read(2)
                if len(head) < 2:
                    return
                answer = self._answer(reader.read(struct.unpack("!H", head)[0]), tcp=True)
                if answer is None:
                    return
                sock.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, wire: bytes, *, tcp: bool) -> bytes | None:
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        name = question.name.to_text().lower().rstrip(".")
        self.asked.append((name, kind))
        answer = dns.message.make_response(query, recursion_available=True)
        for _ in range(20):  # CNAMEs
            types = self.zone.get(name)
            if types is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
                break
            records = types.get(kind, types.get("*", []))
            if isinstance(records, tuple):
                if not tcp:
                    answer.flags |= dns.flags.TC
                    return answer.to_wire()
                records = records[1]
            if records == "TIMEOUT":
                return None
            if records == "GARBAGE":
                return wire[:2] + b"\xff" * 7
            if isinstance(records, str):
                answer.set_rcode(dns.rcode.from_text(records))
                break
            owner = dns.name.from_text(name)
            alias = types.get("CNAME")
            if isinstance(alias, list) and alias and kind != "CNAME":
                answer.answer.append(dns.rrset.from_text(owner, self.ttl, "IN", "CNAME", *alias))
                name = dns.name.from_text(alias[0]).to_text().lower().rstrip(".")
                continue
            if records:
                answer.answer.append(dns.rrset.from_text(owner, self.ttl, "IN", kind, *records))
            break
        if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) and not any(
            rrset.rdtype == question.rdtype for rrset in answer.answer
        ):
            soa = f"ns.invalid. hostmaster.invalid. 1 7200 900 1209600 {self.negative_ttl}"
            top = dns.name.from_text(name.rpartition(".")[2] or ".")
            answer.authority.append(dns.rrset.from_text(top, self.negative_ttl, "IN", "SOA", soa))
        try:
            return answer.to_wire(max_size=65535 if tcp else 1232)
        except dns.exception.TooBig:
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC
            return short.to_wire()
