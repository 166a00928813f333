"""Received and its kin: right for honest clients, harmless for all others."""

from __future__ import annotations

import email.utils
import re

from hypothesis import given
from hypothesis import strategies as st

from mta.message import address, trace
from mta.message.address import NULL, Address
from mta.message.envelope import Client

NOON = 1_700_000_000.0


def test_received() -> None:
    client = Client(ip="192.0.2.1", name="a.example", helo="b.example", protocol="ESMTPS", tls="TLSv1.3 TLS_X_256")
    text = trace.received(trace.passage(client, "mx.example.test"), "k3-1.1", address.parse("jones@example.test"), NOON)
    assert text == (
        b"Received: from b.example (a.example [192.0.2.1])\r\n"
        b"\tby mx.example.test with ESMTPS (TLSv1.3 TLS_X_256) id k3-1.1\r\n"
        b"\tfor <jones@example.test>; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


def test_received_for_several_tells_nobody_of_the_others() -> None:
    text = trace.received(trace.passage(Client(ip="2001:db8::1"), "mx.example.test"), "k3-1.1", None, NOON)
    assert text.startswith(b"Received: from unknown ([IPv6:2001:db8::1])\r\n\tby mx.example.test with SMTP id k3-1.1;")
    assert b" for " not in text


def test_date_is_one_everybody_reads() -> None:
    for now in (0.0, NOON, NOON + 0.999, 951_782_400.0):
        parsed = email.utils.parsedate_to_datetime(trace.date(now))
        assert parsed.timestamp() == int(now)


def test_return_path_and_delivered_to() -> None:
    assert trace.return_path(NULL) == b"Return-Path: <>\r\n"
    assert trace.delivered_to(Address("a b", "x.example")) == b'Delivered-To: "a b"@x.example\r\n'


@given(st.text(), st.text(), st.text(), st.text())
def test_nothing_a_client_says_gets_out_of_its_place(helo: str, name: str, tls: str, local: str) -> None:
    client = Client(ip="192.0.2.1", helo=helo, name=name, tls=tls)
    text = trace.received(trace.passage(client, "mx"), "id", Address(local, "x.example"), NOON).decode("ascii")
    lines = text.split("\r\n")
    assert lines[0].startswith("Received: from ") and lines[-1] == "" and len(lines) == 4
    assert all(line.startswith("\t") for line in lines[1:-1])
    assert re.fullmatch(r"[^()]*\([^()]*\)[^()]*(\([^()]*\))?[^()]*", text.replace(f"<{local}@", "<"))
    assert text.count(";") == 1 + local.count(";") * (f"<{local}@" in text)
