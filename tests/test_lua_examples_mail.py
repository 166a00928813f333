"""Examples (lua/examples) that read and change mails: each loaded as it is shipped, and asked."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from rules_kit import Bench, shipped
from test_rules_parts import NESTED

from mta.message.address import Address
from mta.message.message import Message
from mta.rules.outside.world import FakeWorld
from mta.rules.transaction import Transaction
from mta.rules.trying import example
from mta.rules.verdict import Verdict

LISTS = {"aliases.csv": 'sales@example.test, "ann@example.test bob@elsewhere.test"\n'}


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    text = shipped(request.param)
    return Bench(tmp_path, text, FakeWorld(lists=LISTS))


def asked(bench: Bench, stage: str, raw: bytes = b"", **facts: object) -> tuple[Verdict, Transaction]:
    tx = example.transaction(stage)
    if raw:
        tx.message = Message(raw)
    for name, value in facts.items():
        setattr(tx, name, value)
    verdict = bench.run(stage, tx)
    assert [one["error"] for one in bench.failures] == []
    return verdict, tx


def read(tx: Transaction) -> EmailMessage:
    assert tx.message is not None
    made = message_from_bytes(bytes(tx.message), policy=policy.default)
    assert isinstance(made, EmailMessage)
    return made


@pytest.mark.parametrize("bench", ["attachments"], indirect=True)
def test_attachments(bench: Bench) -> None:
    verdict, tx = asked(bench, "preq", NESTED)
    assert verdict.kind == "next" and read(tx)["X-Removed"] == "Invoice.EXE"
    assert bench.messages == ["1 taken out: Invoice.EXE"] and b"TVqQ" not in bytes(tx.message or b"")
    verdict, _ = asked(bench, "preq", NESTED, user="ann")
    assert verdict.reply is not None and str(verdict.reply) == "550 5.7.1 Invoice.EXE: programs are not sent by mail"
    verdict, tx = asked(bench, "preq", NESTED.replace(b"Invoice.EXE", b"a.exe. ."))
    assert b"TVqQ" not in bytes(tx.message or b"")
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(150))
    assert asked(bench, "preq", deep)[0].folder == "unreadable"
    big = NESTED.replace(b"iVBORw0", b"A" * 5_000_000 + b"iVBORw0")
    _, tx = asked(bench, "preq", big)
    assert b"A picture of 5 MB was removed here." in bytes(tx.message or b"") and len(bytes(tx.message or b"")) < 5000


@pytest.mark.parametrize("bench", ["disclaimer"], indirect=True)
def test_disclaimer(bench: Bench) -> None:
    _, tx = asked(bench, "preq", NESTED, user="ann")
    plain, html = (part.get_content() for part in list(read(tx).walk())[2:4])
    assert plain.rstrip().endswith("recipients only.") and "<hr>" in html and read(tx)["Subject"] == "Grüße"
    asked(bench, "preq", bytes(tx.message or b""), user="ann", vars=tx.vars)
    assert b"".join(bytes(tx.message or b"").split()).count(b"Road,Town.This") == 1
    signed = b"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nsigned\r\n--b\r\n\r\nxx\r\n--b--\r\n"
    _, tx = asked(bench, "preq", signed, user="ann")
    parts = list(read(tx).iter_parts())
    assert parts[0].get_content_type() == "multipart/signed" and parts[1].get_filename() == "disclaimer.txt"
    _, tx = asked(bench, "preq", NESTED)
    assert read(tx)["Subject"] == "[external] Grüße" and b"Road" not in bytes(tx.message or b"")


@pytest.mark.parametrize("bench", ["message"], indirect=True)
def test_message(bench: Bench) -> None:
    lottery = NESTED.replace(b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", b"=?utf-8?q?You_have?= =?utf-8?q?_won?=")
    assert asked(bench, "preq", lottery)[0].kind == "deny"
    old = NESTED.replace(b"ann@example.com", b"ann@old.example.test")
    _, tx = asked(bench, "preq", old, sender=Address("ann", "old.example.test"))
    assert read(tx)["From"] == "Ann <ann@example.test>" and str(tx.sender) == "ann@example.test"
    _, tx = asked(bench, "preq", NESTED.replace(b"ann@example.com", b"shop@example.test"))
    assert read(tx)["Reply-To"] == "Example Shop <tickets@example.test>" and read(tx)["X-Archived"] == "yes"
    assert [str(one) for one in tx.recipients] == ["you@example.test", "archive@example.test"]
    assert "Invoice.EXE" in bench.messages[-1]


@pytest.mark.parametrize("bench", ["aliases"], indirect=True)
def test_aliases(bench: Bench) -> None:
    _, tx = asked(bench, "rcpt", recipient=Address("sales", "example.test"))
    assert str(tx.recipient) == "ann@example.test" and [str(one) for one in tx.recipients] == ["bob@elsewhere.test"]
    _, tx = asked(bench, "preq", recipients=[Address("kid", "example.test")])
    assert str(tx.recipients[1]) == "parents@example.test"
    _, tx = asked(bench, "postq", recipients=[Address("bob", "elsewhere.test")])
    assert tx.sender is not None and tx.sender.domain == "example.test" and tx.sender.local_part.startswith("SRS0=")
    _, back = asked(bench, "rcpt", recipient=tx.sender)
    assert str(back.recipient) == "ann@example.com"
    _, forged = asked(bench, "rcpt", recipient=Address("SRS0=AAAA", "example.test"))
    assert str(forged.recipient) == "SRS0=AAAA@example.test"
