"""Servers as settings and rules name them: what is read, what is refused, and that no password is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.message.target import Target, complaint, masked, parse

READ = {
    "mx.far.test": Target("mx.far.test"),
    "mx.far.test:2525": Target("mx.far.test", 2525),
    "192.0.2.1:26": Target("192.0.2.1", 26),
    "[2001:db8::1]:26": Target("2001:db8::1", 26),
    "[2001:db8::1]": Target("2001:db8::1"),
    "2001:db8::1": Target("2001:db8::1"),
    "smtp://far.test": Target("far.test"),
    "smtp://far.test/": Target("far.test"),
    "smtp://far.test?tls=none": Target("far.test", 0, "none"),
    "smtp://far.test:26?tls=required": Target("far.test", 26, "required"),
    "smtp://ann:secret@far.test": Target("far.test", 587, "required", False, "ann", "secret"),
    "smtp://ann:secret@far.test:25?tls=none": Target("far.test", 25, "none", False, "ann", "secret"),
    "smtp://ann%40far.test:p%3A%2F%40%25@far.test?tls=optional": Target(
        "far.test", 587, "optional", False, "ann@far.test", "p:/@%"
    ),
    "smtps://far.test": Target("far.test", 465, "required", True),
    "SMTPS://ann:secret@[2001:db8::1]:4650": Target("2001:db8::1", 4650, "required", True, "ann", "secret"),
    "smtps://far.test?tls=optional": Target("far.test", 465, "optional", True),
}

REFUSED = {
    "": "names no host",
    "far test": "names no host",
    "far.test:": "a port is",
    "far.test:0": "a port is",
    "far.test:65536": "a port is",
    "far.test:smtp": "a port is",
    "far..test": "no name of a host",
    "[far.test]": "names no host",
    "[::zz]": "names no host",
    "[:::]": "no IPv6 address",
    "http://far.test": "no way to send mail",
    "smtp://": "names no host",
    "smtp://far.test/inbox": "names no host",
    "smtp://far.test?tls=maybe": "tls is one of none, optional, required",
    "smtp://far.test?tls=none&tls=none": "tls= once",
    "smtp://far.test?verify=no": "tls= once and nothing else",
    "smtps://far.test?tls=none": "makes no sense",
    "smtp://ann@far.test": "write user:password@",
    "smtp://:secret@far.test": "write user:password@",
    "smtp://ann:@far.test": "write user:password@",
    "smtp://ann:secret%@far.test": "written %25",
    "smtp://ann:secret%0d%0a@far.test": "control characters",
    "smtp://ann:secret%ff@far.test": "UTF-8",
    "ann:secret@far.test": "is written smtp://",
}


@pytest.mark.parametrize("text", READ)
def test_read(text: str) -> None:
    assert parse(text) == READ[text]
    assert complaint(text) is None


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[text].replace("?", r"\?")) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", READ)
def test_shown_without_its_password_and_read_again(text: str) -> None:
    target = parse(text)
    for shown in (str(target), repr(target), f"{target}", masked(text)):
        assert not target.password or target.password not in shown
    if not target.user:
        assert parse(str(target)) == target


def test_odd_passwords_are_masked_too() -> None:
    for text in ("smtp://ann:a://b@far.test", "ann:a://b@far.test", "smtp://ann:a@b@far.test", "smtp://ann:a:b@c?@"):
        assert masked(text).partition("ann:")[2].startswith("***@")


@given(st.text(max_size=60))
def test_whatever_is_said_is_read_or_refused(text: str) -> None:
    for whole in (text, f"smtp://{text}", f"smtp://ann:{text}@far.test", f"smtps://far.test?{text}"):
        try:
            parse(whole)
        except ValueError:
            pass
