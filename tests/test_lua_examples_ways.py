"""Examples (lua/examples) that send mail another way, keep it or hold it: each on the real server, as it is shipped."""

from __future__ import annotations

import json
import mailbox
from pathlib import Path

from daemon import Server
from rules_kit import Bench, shipped

from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient, Route
from mta.message.message import Message
from mta.rules.trying import example


def test_quarantine(tmp_path: Path) -> None:
    with Server(tmp_path, rules=shipped("quarantine")) as server:
        server.send("Subject: whose?\r\n\r\nhello\r\n")
        server.send("From: a@b.test\r\nSubject: fine\r\n\r\nhello\r\n")
        server.until(server.mails, "the other was not delivered")
        (id,) = [mail["id"] for mail in server.queue("--held", "odd")]
        (dump,) = (tmp_path / "export" / "odd").iterdir()
        assert dump.name == f"{id}.json" and json.loads(dump.read_text())["headers"][-1]["value"] == "whose?"
        server.mta("queue", "release", id)
        server.until(lambda: len(server.mails()) == 2, "it was not released")
        server.until(lambda: not server.queue(), "it is still in the queue")


def test_copies_of_what_goes_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path, shipped("quarantine"), export=["/kept"])
    tx = example.transaction("preq")
    tx.user = "you"
    assert bench.run("preq", tx).kind == "next"
    assert bench.world.kept == {"/kept/sent/you/k3v9x0a2bq-1.1.eml": example.MAIL}


def test_routing(tmp_path: Path) -> None:
    config = '[rules]\nmailboxes = ["lists"]\n'
    with Server(tmp_path, config, shipped("routing")) as server:
        server.send(to="dev-archive@demo.test")
        box = tmp_path / "lists" / "archive" / "demo.test" / "dev-archive"
        server.until(box.exists, "nothing came")
        server.until(lambda: server.events("delivered"), "it was not delivered")
        assert [mail["Subject"] for mail in mailbox.mbox(box)] == ["hi"]
        assert not server.mails()


def test_filtered_elsewhere_and_at_night(tmp_path: Path) -> None:
    bench = Bench(tmp_path, shipped("routing"))
    tx = example.transaction("rcpt")
    tx.recipient = Address("you", "filtered.test")
    bench.run("rcpt", tx)
    tx.recipients, tx.user, tx.message = [tx.recipient], "you", Message(b"Subject: x\r\n\r\n" + b"x" * 6_000_000)
    bench.run("preq", tx)
    assert not bench.failures and tx.ways is not None
    mail = Envelope("x", recipients=[Recipient(tx.recipient)])
    tx.ways.write(mail, bench.world.now())
    assert mail.recipients[0].route == Route("smtp", host="smtp://127.0.0.1:10025?tls=none")
    hour = int(bench.world.now()) // 3600 % 24
    assert (6 <= hour < 22) == bool(mail.until), "the world's clock decides"
    assert mail.until == 0 or int(mail.until) // 3600 % 24 == 22
