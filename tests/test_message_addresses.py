"""Address lists in headers: read as people mean them, however they are written."""

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import linear

from mta.message import addresses
from mta.message.addresses import Mailbox

READ: list[tuple[str, list[tuple[str, str] | tuple[str, str, str]]]] = [
    ("ann@x.test", [("", "ann@x.test")]),
    ("Ann <ann@x.test>", [("Ann", "ann@x.test")]),
    ('"Doe, Jane" <jane@x.test>, joe@x.test (Joe Doe)', [("Doe, Jane", "jane@x.test"), ("Joe Doe", "joe@x.test")]),
    ("=?utf-8?q?J=C3=BCrgen?= M <j@x.test>", [("Jürgen M", "j@x.test")]),
    ('"=?utf-8?q?J=C3=BCrgen?=" <j@x.test>', [("Jürgen", "j@x.test")]),  # RFC 2047 forbids it, many do it
    ("=?utf-8?q?M=C3=BCller,_J?= <j@x.test>, b@x.test", [("Müller, J", "j@x.test"), ("", "b@x.test")]),
    ("=?utf-8?q?shop:_M=C3=BCller_<x@y.test>?= =?utf-8?q?;?= <j@x.test>", [("shop: Müller <x@y.test>;", "j@x.test")]),
    ("=?utf-8?q?never, ends <j@x.test>", [("=?utf-8?q?never", ""), ("ends", "j@x.test")]),
    ("J\xc3\xbcrgen <j@x.test>", [("Jürgen", "j@x.test")]),
    (
        "Team: a@x.test, B <b@x.test>;, c@x.test",
        [("", "a@x.test", "Team"), ("B", "b@x.test", "Team"), ("", "c@x.test")],
    ),
    ("undisclosed-recipients:;", [("", "", "undisclosed-recipients")]),
    ("<@a.test,@b.test:c@d.test>", [("", "c@d.test")]),  # RFC 5322 4.4
    ("((nested) comment) a@x.test (last (one) counts)", [("last (one) counts", "a@x.test")]),
    ('"two words"@x.test', [("", '"two words"@x.test')]),
    ("a@[192.0.2.1]", [("", "a@[192.0.2.1]")]),
    ("a@x.test,, b@x.test,", [("", "a@x.test"), ("", "b@x.test")]),
    ("bank@x.test <evil@y.test>", [("bank@x.test", "evil@y.test")]),
    ("a@x.test <b@y.test> <c@z.test>", [("a@x.test", "b@y.test"), ("", "c@z.test")]),
    ("<a@x.test, <b@x.test>", [("", "a@x.test,"[:-1]), ("", "b@x.test")]),
    ('"unclosed <u@x.test>', [("unclosed", "u@x.test")]),
    ("Ann ann@x.test", [("Ann ann@x.test", "ann@x.test")]),
    ("just a name", [("just a name", "")]),
    ('say "hi" <a@x.test>', [("say hi", "a@x.test")]),
    ('"a\\"b" <a@x.test>', [('a"b', "a@x.test")]),
    ("<>", []),
    ("", []),
    (" , ; : <", []),
]


@pytest.mark.parametrize(("value", "found"), READ)
def test_read(value: str, found: list[tuple[str, ...]]) -> None:
    assert addresses.parse(value) == [Mailbox(*member) for member in found]


@pytest.mark.parametrize("value", [value for value, _ in READ])
def test_what_is_written_reads_back(value: str) -> None:
    found = addresses.parse(value)
    written = addresses.write(found)
    assert addresses.parse(written) == found


WRITTEN = [
    (Mailbox("", "a@x.test"), "a@x.test"),
    (Mailbox("Ann Lee", "a@x.test"), "Ann Lee <a@x.test>"),
    (Mailbox("Lee, Ann", "a@x.test"), '"Lee, Ann" <a@x.test>'),
    (Mailbox('Ann "A"', "a@x.test"), '"Ann \\"A\\"" <a@x.test>'),
    (Mailbox("Lee, Änn", "a@x.test"), "=?utf-8?q?Lee=2C_=C3=84nn?= <a@x.test>"),
    (Mailbox("a\r\nBcc: x", "a@x.test"), '"a  Bcc: x" <a@x.test>'),
]


@pytest.mark.parametrize(("mailbox", "text"), WRITTEN)
def test_written(mailbox: Mailbox, text: str) -> None:
    assert addresses.write([mailbox]) == text


NAME = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=40).map(
    lambda text: " ".join(text.split())
)
ADDRESS = st.from_regex(r"[a-z0-9+.-]{1,10}@[a-z0-9-]{1,10}\.test", fullmatch=True)


@given(st.lists(st.tuples(NAME, ADDRESS), max_size=5))
def test_names_and_addresses_survive_the_way_out_and_in(members: list[tuple[str, str]]) -> None:
    value = addresses.write(Mailbox(name.strip(), address) for name, address in members)
    assert value.isascii() and "\r" not in value
    assert [(m.name, m.address) for m in addresses.parse(value)] == [(n.strip(), a) for n, a in members]


@given(st.lists(st.tuples(st.from_regex(r"[A-Za-z ,.]{0,20}", fullmatch=True), ADDRESS), min_size=1, max_size=5))
def test_the_standard_library_reads_it_the_same(members: list[tuple[str, str]]) -> None:
    value = addresses.write(Mailbox(name, address) for name, address in members)
    theirs = email.utils.getaddresses([value])
    assert [(m.name, m.address) for m in addresses.parse(value)] == [(name.strip(), a) for name, a in theirs]


@given(
    st.text(alphabet=st.characters(max_codepoint=255), max_size=200)
    | st.text(alphabet='a@<>,;:"\\() []\r\n\0', max_size=60)
)
def test_reading_raises_nothing(value: str) -> None:
    found = addresses.parse(value)
    written = addresses.write(found)
    assert not any(c in written for c in "\r\n\0")


BOMBS = {
    "members": lambda n: "a@b, " * (n // 5),
    "comments": lambda n: "(" * n,
    "quotes": lambda n: '"\\"' * (n // 3),
    "unclosed quotes": lambda n: '"' * (n + 1 - n % 2),
    "brackets": lambda n: "<" * n,
    "routes": lambda n: "<@a," * (n // 4),
    "literals": lambda n: "[a" * (n // 2),
    "words": lambda n: "a " * (n // 2),
    "groups": lambda n: "a:" * (n // 2),
    "encoded": lambda n: "=?utf-8?q?a?= " * (n // 14) + "<a@b>",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_take_as_long_as_they_are_long(bomb) -> None:  # type: ignore[no-untyped-def]
    assert linear(addresses.parse, bomb(30_000), bomb(300_000))
    assert len(addresses.parse(bomb(300_000))) <= addresses.MAX_ADDRESSES
