"""How much is too much: headers, trusted networks, the clothes of an address."""

import pytest

from mta.message.reply import Refused
from mta.receive import limits
from mta.receive.door import plain, trusts


def look(head: bytes) -> str:
    try:
        limits.header(head, len(head), 50)
    except Refused as refused:
        return str(refused.reply)
    return ""


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"A: b\r\n" * 1000, ""),
        (b"A: b\r\n" * 1001, "552 5.3.4 More than 1000 header fields"),
        (b"A: b\r\n c\r\n" * 900, ""),
        (b"A: " + b"x" * 99_995 + b"\r\n", ""),
        (b"A: " + b"x" * 99_996 + b"\r\n", "552 5.3.4 A header field is larger than 100000 bytes"),
        (b"A: b\r\n" + b" c\r\n" * 25_001, "552 5.3.4 A header field is larger than 100000 bytes"),
        (b"A: " + b"x" * 90_000 + b"\r\nB: " + b"y" * 90_000 + b"\r\n", ""),
        (b"A: " + b"x" * 300_000 + b"\r\n", "552 5.3.4 The header is larger than 256000 bytes"),
        (b"Received: x\r\n" * 50, ""),
        (b"received: x\r\n" * 50 + b"A: b\r\nRECEIVED:y\r\n", "554 5.4.6 This mail goes in circles: more than 50 Rec"),
        (b"X-Received: x\r\n" * 60, ""),
    ],
)
def test_header(head: bytes, answer: str) -> None:
    assert look(head).startswith(answer) and bool(look(head)) is bool(answer)


def test_trusted_networks() -> None:
    trusted = trusts(["192.0.2.0/24", "2001:db8::/32", "::1", "198.51.100.7"])
    assert all(map(trusted, ["192.0.2.0", "192.0.2.255", "2001:db8:1::5", "::1", "198.51.100.7"]))
    assert not any(map(trusted, ["192.0.3.0", "2001:db9::", "127.0.0.1", "198.51.100.8", "", "somewhere"]))


@pytest.mark.parametrize(
    ("ip", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("::ffff:0:1", "::ffff:0:1"),
    ],
)
def test_addresses_without_their_clothes(ip: str, address: str) -> None:
    assert plain(ip) == address
