"""Addresses: what stands between the angle brackets, how it prints, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.message.address import NULL, Address, parse, parse_domain
from mta.message.reply import Refused

READ = [
    # as it came                              local part            domain
    ("you@example.test", "you", "example.test"),
    ("You.There@Example.TEST", "You.There", "example.test"),
    ("a+b=c/d?e^f_g`{|}~!#$%&'*-@x", "a+b=c/d?e^f_g`{|}~!#$%&'*-", "x"),
    ("you@_srv.example.test", "you", "_srv.example.test"),
    ('"two words"@example.test', "two words", "example.test"),
    ('"a@b"@example.test', "a@b", "example.test"),
    ('"say \\"hi\\" \\\\"@example.test', 'say "hi" \\', "example.test"),
    ('"plain"@example.test', "plain", "example.test"),
    ('""@example.test', "", "example.test"),
    ("you@[192.0.2.1]", "you", "[192.0.2.1]"),
    ("you@[IPv6:2001:DB8:0::1]", "you", "[IPv6:2001:db8::1]"),
    ("@relay.test,@b.test:you@example.test", "you", "example.test"),  # RFC 5321 appendix C
    ("x" * 64 + "@example.test", "x" * 64, "example.test"),
    ("you@" + "d" * 63 + ".test", "you", "d" * 63 + ".test"),
]


@pytest.mark.parametrize(("text", "local", "domain"), READ)
def test_read(text: str, local: str, domain: str) -> None:
    assert parse(text) == Address(local, domain)


REFUSED = [
    "",
    "@",
    "you",
    "you@",
    "@example.test",
    ".you@example.test",
    "you.@example.test",
    "y..ou@example.test",
    "you@example..test",
    "you@.test",
    "you@-x.test",
    "you@x-.test",
    "you@exa mple.test",
    "you there@example.test",
    "a@b@c",
    '"open@example.test',
    '"a"b@example.test',
    "you@[192.0.2.256]",
    "you@[192.0.2.1",
    "you@[2001:db8::1]",
    "you@[IPv6:fe80::1%eth0]",
    "you@[]",
    "x" * 65 + "@example.test",
    "you@" + "d" * 64 + ".test",
    "you@" + ".".join(["label"] * 60),
    "you@example.test\r\nRCPT TO:<other@example.test>",
    "you\0@example.test",
    '"a\nb"@example.test',
    "dü@example.test",
    "you@exämple.test",
    "you@example.test\n",
]


@pytest.mark.parametrize("text", REFUSED)
def test_refused_with_a_5xx(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text)
    assert refused.value.reply.permanent and refused.value.reply.enhanced.startswith("5.")


def test_a_literal_carries_nothing_but_an_address() -> None:
    with pytest.raises(Refused):
        parse_domain("[IPv6:fe80::1%a\r\nBcc: x]")


def test_printing_quotes_only_where_needed() -> None:
    assert str(Address("you", "example.test")) == "you@example.test"
    assert str(Address("two words", "example.test")) == '"two words"@example.test'
    assert str(Address('a"b\\', "example.test")) == '"a\\"b\\\\"@example.test'
    assert str(Address("Postmaster")) == "Postmaster"
    assert str(NULL) == "" and not NULL


def test_the_key_compares_without_case() -> None:
    assert parse("YOU@Example.test").key == parse("you@example.TEST").key
    assert parse("YOU@example.test") != parse("you@example.test"), "RFC 5321 2.4: local parts keep their case"


LOCAL = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=64)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(LOCAL, st.lists(LABEL, min_size=1, max_size=5).map(".".join))
def test_what_is_printed_reads_back(local: str, domain: str) -> None:
    address = Address(local, domain)
    assert parse(str(address)) == address


@given(st.text(max_size=300) | st.text(alphabet='ab."\\@[]:%1\r\n ', max_size=60))
def test_reading_raises_refused_and_nothing_else(text: str) -> None:
    try:
        address = parse(text)
    except Refused:
        return
    assert parse(str(address)) == address
    assert not any(c < " " for c in str(address))


@pytest.mark.parametrize(
    "bomb", ["a." * 50_000, '"' + "\\" * 100_000, "@a" * 50_000, "a@" + "b-" * 50_000, "-" * 100_000]
)
def test_bombs_are_refused_as_any_other(bomb: str) -> None:
    with pytest.raises(Refused):
        parse(bomb)
