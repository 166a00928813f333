"""The resolver against a name server that lies, breaks and keeps silent on demand."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from daemon import PATIENCE
from fake_dns import FakeDns
from receiving import until
from timing import quickest

from mta import settings
from mta.net import dns
from mta.net.dns import DnsTemporary, Resolver

ZONE = {
    "example.test": {
        "MX": ["20 b.example.test.", "10 A.example.test."],
        "TXT": ['"v=spf1 " "-all"'],
        "A": ["192.0.2.7"],
    },
    "a.example.test": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "b.example.test": {"A": ["192.0.2.2"], "AAAA": "SERVFAIL"},
    "alias.test": {"CNAME": ["hop.test."]},
    "hop.test": {"CNAME": ["a.example.test."]},
    "ring1.test": {"CNAME": ["ring2.test."]},
    "ring2.test": {"CNAME": ["ring1.test."]},
    "nullmx.test": {"MX": ["0 ."]},
    "broken.test": {"*": "SERVFAIL"},
    "refused.test": {"*": "REFUSED"},
    "silent.test": {"*": "TIMEOUT"},
    "garbage.test": {"*": "GARBAGE"},
    "big.test": {"TXT": ("TRUNCATED", ['"the whole"'])},
    "1.2.0.192.in-addr.arpa": {"PTR": ["Mail.Example.test."]},
}


@pytest.fixture
def server() -> Iterator[FakeDns]:
    with FakeDns(ZONE) as server:
        yield server


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def resolver(server: FakeDns, clock: Time) -> Resolver:
    return Resolver(settings.Dns(servers=[server.server], timeout=PATIENCE), clock)


def test_records_are_texts_without_trailing_dots(resolver: Resolver) -> None:
    assert resolver.lookup("Example.TEST.", "txt") == ["v=spf1 -all"]
    assert resolver.mx("example.test") == [(10, "a.example.test"), (20, "b.example.test")]
    assert resolver.reverse("192.0.2.1") == ["mail.example.test"]
    assert resolver.addresses("a.example.test") == ["2001:db8::1", "192.0.2.1"]


def test_null_mx_is_an_empty_host(resolver: Resolver) -> None:
    assert resolver.mx("nullmx.test") == [(0, "")]


def test_cnames_are_followed(resolver: Resolver) -> None:
    assert resolver.lookup("alias.test", "A") == ["192.0.2.1"]


def test_a_truncated_answer_is_asked_for_again_by_tcp(resolver: Resolver) -> None:
    assert resolver.lookup("big.test", "TXT") == ["the whole"]


@pytest.mark.parametrize(
    "name, why",
    [
        ("broken.test", "SERVFAIL"),
        ("refused.test", "REFUSED"),
        ("silent.test", "in time"),
        ("garbage.test", "in time"),
        ("ring1.test", "chain"),
    ],
)
def test_trouble_is_temporary_and_says_what_happened(server: FakeDns, clock: Time, name: str, why: str) -> None:
    limit = 0.4 if why == "in time" else PATIENCE

    def ask() -> None:
        resolver = Resolver(settings.Dns(servers=[server.server], timeout=limit), clock)
        with pytest.raises(DnsTemporary, match=f"{name} MX: .*{why}"):
            resolver.mx(name)

    assert quickest(ask, 2) < 2


def test_half_an_answer_about_addresses_is_enough(resolver: Resolver) -> None:
    assert resolver.addresses("b.example.test") == ["192.0.2.2"]
    with pytest.raises(DnsTemporary):
        resolver.addresses("broken.test")
    assert resolver.addresses("nullmx.test") == []


def test_what_is_known_is_not_asked(resolver: Resolver, server: FakeDns) -> None:
    assert resolver.addresses("[192.0.2.9]") == ["192.0.2.9"]
    assert resolver.addresses("[IPv6:2001:db8::9]") == ["2001:db8::9"]
    assert resolver.addresses("localhost") == ["::1", "127.0.0.1"]
    assert resolver.lookup("x.localhost", "MX") == []
    assert resolver.lookup("x" * 64 + ".test", "A") == []
    assert resolver.lookup("a..test", "A") == []
    assert server.asked == []


def test_answers_are_kept_as_long_as_they_say(resolver: Resolver, server: FakeDns, clock: Time) -> None:
    for _ in range(3):
        resolver.lookup("example.test", "A")
    assert len(server.asked) == 1
    clock.now += server.ttl + 1
    resolver.lookup("example.test", "A")
    assert len(server.asked) == 2


def test_a_caller_cannot_change_what_is_kept(resolver: Resolver) -> None:
    resolver.lookup("example.test", "A").clear()
    assert resolver.lookup("example.test", "A") == ["192.0.2.7"]


def test_absence_is_kept_as_long_as_the_soa_says(resolver: Resolver, server: FakeDns, clock: Time) -> None:
    for _ in range(2):
        assert resolver.lookup("nowhere.test", "A") == []
        assert resolver.lookup("example.test", "AAAA") == []
    assert len(server.asked) == 2
    clock.now += server.negative_ttl + 1
    resolver.lookup("nowhere.test", "A")
    assert len(server.asked) == 3


def test_ttl_zero_is_never_kept(resolver: Resolver, server: FakeDns) -> None:
    server.ttl = 0
    resolver.lookup("example.test", "A")
    resolver.lookup("example.test", "A")
    assert len(server.asked) == 2


def test_trouble_is_kept_for_a_second_only(resolver: Resolver, server: FakeDns, clock: Time) -> None:
    for _ in range(2):
        with pytest.raises(DnsTemporary):
            resolver.lookup("broken.test", "A")
    assert len(server.asked) == 1
    server.zone["broken.test"] = {"A": ["192.0.2.3"]}
    clock.now += 2
    assert resolver.lookup("broken.test", "A") == ["192.0.2.3"]


def test_many_who_ask_the_same_share_one_question(resolver: Resolver, server: FakeDns) -> None:
    server.delay = 0.05
    asking = [gevent.spawn(resolver.lookup, "example.test", "A") for _ in range(50)]
    until(lambda: server.asked)
    asking[0].kill()  # the first to ask goes away: the others still get their answer
    gevent.joinall(asking)
    assert [g.value for g in asking[1:]] == [["192.0.2.7"]] * 49
    assert len(server.asked) == 1


def test_the_cache_is_bounded(resolver: Resolver, server: FakeDns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "ENTRIES", 20)
    for n in range(100):
        resolver.lookup(f"n{n}.test", "A")
        assert len(resolver._kept) <= 20
    asked = len(server.asked)
    resolver.lookup("n99.test", "A")
    assert len(server.asked) == asked


def test_wrong_words_are_said_clearly(resolver: Resolver) -> None:
    with pytest.raises(ValueError, match="NONSENSE is not a type"):
        resolver.lookup("example.test", "nonsense")
    with pytest.raises(ValueError, match=r"dns.servers: 'ns.example' is not an address"):
        Resolver(settings.Dns(servers=["ns.example"]))
