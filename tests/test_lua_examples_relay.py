"""The example that says who may send as whom (lua/examples/relay.lua): one case after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from rules_kit import Bench, shipped

from mta.message.address import Address
from mta.rules.trying import example


@pytest.mark.parametrize(
    ("user", "sender", "kind"),
    [
        ("ann@example.test", "ann@example.test", "next"),
        ("ann@example.test", "Ann@Example.Test", "next"),
        ("ann@example.test", "bob@example.test", "deny"),
        ("ann@example.test", "@", "next"),
        ("", "bob@example.test", "next"),
    ],
)
def test_users_write_as_themselves(tmp_path: Path, user: str, sender: str, kind: str) -> None:
    bench = Bench(tmp_path, shipped("relay"))
    tx = example.transaction("mail")
    local, _, domain = sender.partition("@")
    tx.user, tx.sender = user, Address(local, domain.lower())
    said = bench.run("mail", tx)
    assert said.kind == kind and not bench.failures
    assert said.reply is None or said.reply.code == 553
