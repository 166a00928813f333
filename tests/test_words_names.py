"""Addresses, networks, domains, times, the machine and chance as words of the rules."""

from __future__ import annotations

import ipaddress
import os
import pwd
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import slowness

from mta.message.addresses import parse
from mta.rules.outside import accounts
from mta.rules.words import addresses, chance, domains, network, system, times


def lua(said: str) -> str:
    return said.encode().decode("latin-1")


def test_addresses_and_their_parts() -> None:
    assert addresses.parse("<Ann+x@Example.TEST>") == ("Ann+x", "example.test")
    assert addresses.parse('"a b"@x.test') == ("a b", "x.test")
    assert addresses.local_part("ann@x.test") == "ann" and addresses.domain("ann@x.test") == "x.test"
    assert addresses.join("a b", "x.test") == '"a b"@x.test'
    assert addresses.join("ann", "X.test") == "ann@x.test"
    assert addresses.same("Ann@X.test", "<ann@x.TEST>") is True and addresses.same("a@x.test", "b@x.test") is False
    for bad in ("", "ann", "@x", "a@b@c", "a b@x.test", "a@-\r\n"):
        nothing, why = addresses.parse(bad)
        assert nothing is None and why
    for parts in (("a\r\nRCPT TO:<b", "x.test"), ("ann", "x.test>\r\n"), ("", "x.test"), (None, "x")):
        joined: Any = addresses.join(*parts)  # type: ignore[arg-type]
        assert joined[0] is None or "\r" not in joined


@given(st.text(max_size=80))
def test_whatever_a_name_is_an_address_with_it_is_one_member(name: str) -> None:
    """The name is a stranger's, and a list takes its addresses for what others are told to answer to."""
    written = addresses.named(lua(name.encode("utf-8", "replace").decode()), "list@x.test")
    assert isinstance(written, str) and written.isascii() and written.isprintable()
    (member,) = parse(written)
    assert (member.address, member.group) == ("list@x.test", "")
    assert addresses.named("Ann", "list@x.test\r\nBcc: b@y.test")[0] is None


@pytest.mark.parametrize(
    "said, separators, answer",
    [
        ("ann+lists@x.test", "+", ("ann@x.test", "lists")),
        ("ann+a+b", "+", ("ann", "a+b")),
        ("ann-a+b@x", "+-", ("ann@x", "a+b")),
        ("ann@x", "+", ("ann@x", "")),
        ("+ann@x", "+", ("+ann@x", "")),
        ("ann+@x", "+", ("ann@x", "")),
        ("ann@x+y", "+", ("ann@x+y", "")),
    ],
)
def test_extensions(said: str, separators: str, answer: tuple[str, str]) -> None:
    assert (addresses.base(said, separators), addresses.extension(said, separators)) == answer


def test_networks() -> None:
    assert network.is_ip("192.0.2.1") is True and network.is_ip("[IPv6:2001:db8::1]") is True
    assert network.is_ip("192.0.2") is False and network.is_ip("") is False
    assert network.version("::1") == 6 and network.version("::ffff:1.2.3.4") == 4
    assert network.inside("10.1.2.3", "192.168.0.0/16, 10.0.0.0/8") is True
    assert network.inside("::ffff:10.1.2.3", "10.0.0.0/8") is True
    assert network.inside("192.0.2.5", "192.0.2.1-192.0.2.9") is True
    assert network.inside("192.0.2.10", "192.0.2.1-192.0.2.9 2001:db8::/32") is False
    assert network.network("192.0.2.77") == "192.0.2.0/24"
    assert network.network("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert network.network("192.0.2.77", 32) == "192.0.2.77/32"
    assert network.reverse("127.0.0.2", "zen.example.test.") == "2.0.0.127.zen.example.test"
    assert network.reverse("2001:db8::1", "z.test") == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.z.test"
    assert network.reverse("192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert network.plain("2001:DB8:0:0::1") == "2001:db8::1"
    for private in ("10.1.1.1", "192.168.1.1", "172.20.0.1", "127.0.0.1", "fe80::1", "fd00::1", "::1", "100.64.0.1"):
        assert network.is_private(private) is True
    for public in ("8.8.8.8", "172.32.0.1", "2a00::1"):
        assert network.is_private(public) is False
    for answer in (
        network.version("x"), network.inside("x", "10.0.0.0/8"), network.inside("10.0.0.1", "10.0.0.1/8"),
        network.network("10.0.0.1", 33), network.reverse("x", "z"), network.plain(None), network.is_private(5),  # type: ignore[arg-type]
    ):  # fmt: skip
        assert isinstance(answer, tuple) and answer[0] is None and answer[1]


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.text(max_size=30))
def test_no_address_breaks_them(ip: ipaddress.IPv4Address, junk: str) -> None:
    assert isinstance(network.network(str(ip)), str) and isinstance(network.is_private(str(ip)), bool)
    for function in (
        network.is_ip,
        network.version,
        network.plain,
        network.reverse,
        addresses.parse,
        domains.root_domain,
    ):
        function(junk)  # type: ignore[operator]


def test_domains() -> None:
    assert domains.root_domain("a.b.Example.co.uk.") == "example.co.uk"
    assert domains.root_domain("mx.example.com") == "example.com"
    assert domains.root_domain("co.uk") == "co.uk" and domains.root_domain("localhost") == "localhost"
    assert domains.public_suffix("a.b.example.co.uk") == "co.uk"
    assert domains.below("mx.example.test", "other.test, example.test") is True
    assert domains.below("example.test", "example.test") is True
    assert domains.below("badexample.test", "example.test") is False
    assert domains.root_domain(lua("www.Bücher.de")) == "xn--bcher-kva.de"
    assert domains.below(lua("www.bücher.de"), "xn--bcher-kva.de") is True
    assert domains.parent(lua("www.bücher.de")) == "xn--bcher-kva.de"
    assert domains.parent("mx.example.test") == "example.test" and domains.parent("test") == ""
    assert domains.to_ascii(lua("Bücher.example")) == "xn--bcher-kva.example"
    assert domains.to_unicode("xn--bcher-kva.example") == lua("bücher.example")
    for answer in (
        domains.root_domain(""), domains.root_domain("a..b"), domains.root_domain("\xff.de"),
        domains.to_ascii("\xff"), domains.to_ascii("a b.c"),
        domains.to_unicode("xn--\xff"), domains.below(None, "x"), domains.root_domain("x" * 300),  # type: ignore[arg-type]
    ):  # fmt: skip
        assert isinstance(answer, tuple) and answer[0] is None and answer[1]


def test_times() -> None:
    when = 1735689599.5  # 2024-12-31T23:59:59.5Z, a Tuesday
    assert times.date(when) == "2024-12-31" and times.time(when) == "23:59:59"
    assert times.date(when, "Europe/Paris") == "2025-01-01"
    assert times.iso(when) == "2024-12-31T23:59:59Z" and times.iso(when, "Europe/Paris") == "2025-01-01T00:59:59+01:00"
    assert times.rfc5322(when) == "Tue, 31 Dec 2024 23:59:59 +0000"
    assert times.format(when, "%H:%M 100%%") == "23:59 100%"
    assert times.weekday(when) == 2 and times.hour(when, "Europe/Paris") == 0
    assert times.parse("Tue, 31 Dec 2024 23:59:59 +0000") == 1735689599
    assert times.parse("2024-12-31T23:59:59Z") == 1735689599
    assert times.parse("2024-12-31") == 1735603200
    assert times.parse("Tue, 31 Dec 2024 18:59:59 -0500") == 1735689599
    for answer in (
        times.date(1e20), times.date(float("nan")), times.date(0, "Mars/Olympus"), times.date(0, "../../etc/passwd"),
        times.format(0, "%Q"), times.format(0, "%"), times.format(0, "x" * 500), times.parse("soon"), times.parse(""),
        times.parse("Tue, 99 Dec 2024"), times.date(None), times.weekday("x"),  # type: ignore[arg-type]
    ):  # fmt: skip
        assert isinstance(answer, tuple) and answer[0] is None and answer[1]


def test_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MTA_TEST_SAID", "café")
    assert system.env("MTA_TEST_SAID", ["MTA_TEST_SAID"]) == lua("café")
    assert system.env("MTA_TEST_UNSET", ["MTA_TEST_UNSET"]) is None
    assert system.env("PATH", ["MTA_TEST_SAID"]) == (None, "the variable 'PATH' is not in [rules] env")
    assert system.hostname()
    assert accounts.exists(pwd.getpwuid(os.getuid()).pw_name) is True
    for nobody in ("no-such-account-here", "", "a/b", "a\0b", "x" * 1000):
        assert accounts.exists(nobody) is False


def test_chance() -> None:
    seed = random.Random(7)
    numbers = {chance.number(1, 3, seed) for _ in range(200)}
    assert numbers == {1, 2, 3}
    said = chance.text(20)
    assert isinstance(said, str) and len(said) == 20 and set(said) <= set(chance.ALPHABET) and said != chance.text(20)
    assert chance.text(4, random.Random(1)) == chance.text(4, random.Random(1))
    for answer in (chance.number(3, 1), chance.text(-1), chance.text(5000), chance.number(None, 1)):  # type: ignore[arg-type]
        assert isinstance(answer, tuple) and answer[0] is None


def test_what_is_too_long_for_an_address_is_not_looked_through() -> None:
    long = '"' * 1_000_000
    begun = time.process_time()
    for nothing, why in (
        *(addresses.join(long, "a.test"), addresses.join("a", long), addresses.domain(long + "@a.test")),
        addresses.named(lua("ü") * 500_000, "a@a.test"),
    ):
        assert nothing is None and "bytes is no address" in why
    assert time.process_time() - begun < slowness()
