"""Examples (lua/examples) about senders, clients and limits: each loaded as it is shipped, and asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rules_kit import Bench, shipped

from mta.message.address import Address
from mta.rules.outside.world import FakeWorld
from mta.rules.transaction import Transaction
from mta.rules.trying import example
from mta.rules.verdict import Verdict

LISTS = {
    "known.txt": "198.51.100.0/24\n@known.test\n",
    "mailboxes.txt": "you@example.test\n",
    "blocked.txt": "spammer@example.org\n.bad.example\n203.0.113.0/24\n",
    "replies.csv": 'partner.test, "450 4.7.1 Please use port 587"\n',
}

ZONE: dict[str, dict[str, list[str] | str]] = {
    "8.8.8.8.zen.example.test": {"A": ["127.0.0.4"]},
    "9.8.8.8.bl.example.test": {"A": ["127.0.0.2"]},
    "bad.co.uk.dbl.example.test": {"A": ["127.0.1.2"]},
}

Ask = Callable[..., Verdict]


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld(ZONE, lists=LISTS)


@pytest.fixture
def ask(tmp_path: Path, world: FakeWorld, request: pytest.FixtureRequest) -> Ask:
    bench = Bench(tmp_path, shipped(request.param), world)

    def ask(
        stage: str, ip: str = "192.0.2.7", sender: str = "ann@example.com", to: str = "you", **facts: str
    ) -> Verdict:
        tx: Transaction = example.transaction(stage)
        tx.client = type(tx.client)(ip=ip, port=1, listener="relay")
        tx.user = facts.get("user", "")
        tx.sender = Address(*sender.split("@")) if tx.sender is not None else None
        tx.recipient = Address(to, "example.test") if tx.recipient is not None else None
        if "subject" in facts and tx.message is not None:
            tx.message.headers.set("Subject", facts["subject"])
        verdict = bench.run(stage, tx)
        tx.close()
        assert not bench.failures
        return verdict

    return ask


def example_of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("ask", [name], indirect=True, ids=[name])


@example_of("greylist")
def test_greylist(ask: Ask, world: FakeWorld) -> None:
    assert str(ask("rcpt").reply) == "451 4.7.1 Please come again, this server does not know you yet"
    assert ask("rcpt", ip="198.51.100.9").kind == "next" and ask("rcpt", sender="a@known.test").kind == "next"
    assert ask("rcpt", user="you").kind == "next"
    world.time += 300
    assert ask("rcpt").kind == "next"


@example_of("limits")
def test_limits(ask: Ask, world: FakeWorld) -> None:
    assert [ask("rcpt").kind for _ in range(61)] == ["next"] * 60 + ["defer"]
    guesses = [ask("rcpt", ip="8.8.4.4", to=f"guess{n}") for n in range(11)]
    assert [verdict.kind for verdict in guesses] == ["next"] * 10 + ["deny"]
    assert guesses[-1].reply is not None and guesses[-1].reply.close
    assert ask("connect", ip="8.8.4.4").kind == "deny" and ask("connect").kind == "next"
    world.time += 3601
    assert ask("connect", ip="8.8.4.4").kind == "next"


@example_of("dnsbl")
def test_dnsbl(ask: Ask) -> None:
    assert str(ask("connect", ip="8.8.8.8").reply) == "554 5.7.1 Your address 8.8.8.8 is listed by zen.example.test"
    assert ask("connect", ip="8.8.8.9").kind == "defer" and ask("connect", ip="8.8.8.7").kind == "next"
    assert str(ask("mail", sender="x@mx.bad.co.uk").reply) == "550 5.7.1 bad.co.uk is listed by dbl.example.test"
    assert ask("mail").kind == "next"


@example_of("blocklist")
def test_blocklist(ask: Ask) -> None:
    assert ask("connect", ip="203.0.113.9").kind == "deny" and ask("connect").kind == "next"
    assert (
        ask("mail", sender="Spammer@example.org").kind == "deny"
        and ask("mail", sender="x@a.bad.example").kind == "deny"
    )
    told = ask("mail", sender="x@partner.test")
    assert told.kind == "reply" and str(told.reply) == "450 4.7.1 Please use port 587"
    assert ask("mail").kind == "next"
    assert ask("preq", subject="Cheap V1agra!").folder == "words" and ask("preq").kind == "next"
    assert ask("preq", subject="=?utf-8?b?Q2hlYXAgVjFhZ3JhIQ==?=").folder == "words", "encoding it hides nothing"
