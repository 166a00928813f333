"""The mail that every example of the reference speaks of, and the world around it."""

from __future__ import annotations

from mta.message.address import Address
from mta.message.credentials import Credentials
from mta.message.envelope import Client
from mta.message.message import Message
from mta.rules.outside import facts
from mta.rules.outside.services.fake import FakeService
from mta.rules.outside.services.request import Answer
from mta.rules.outside.world import FakeWorld
from mta.rules.transaction import Transaction
from mta.rules.trying.example_keys import KEYS
from mta.rules.verdict import STAGES
from mta.settings import Server, Settings

SENDER = Address("ann", "example.com")
RECIPIENT = Address("you", "example.test")

MAIL = (
    b"Received: from inner.example.com by mail.example.com; Thu, 1 Jan 2026 10:00:01 +0000\r\n"
    b"Received: from desk.example.com by inner.example.com; Thu, 1 Jan 2026 10:00:00 +0000\r\n"
    b"From: Ann <ann@example.com>\r\n"
    b"To: You <you@example.test>\r\n"
    b"Subject: Hello\r\n"
    b"Message-ID: <1@example.com>\r\n"
    b"Date: Thu, 1 Jan 2026 10:00:00 +0000\r\n"
    b"\r\n"
    b"How are you?\r\n"
)

ZONE: dict[str, dict[str, list[str] | str]] = {
    "example.com": {"MX": ["10 mail.example.com"], "A": ["192.0.2.7"], "TXT": ["v=spf1 mx -all"]},
    "mail.example.com": {"A": ["192.0.2.7"]},
    "7.2.0.192.in-addr.arpa": {"PTR": ["mail.example.com"]},
    "66.2.0.192.zen.example.test": {"A": ["127.0.0.2", "127.0.0.11"]},
    "broken.example": {"A": "broken.example A: SERVFAIL", "MX": "broken.example MX: SERVFAIL"},
}


LISTS = {
    "blocked.txt": "# who may not send to us\n198.51.100.0/24\n.bad.example\nspammer@example.org\n",
    "aliases.csv": "sales@example.test, you@example.test\n",
}


FACTS = facts.of(Settings(server=Server(name="mx.example.test"), app={"owner": "postmaster@example.test"}))


def world() -> FakeWorld:
    clean = FakeService(Answer(code=0, stdout=b"stdin: OK\n"))
    made = FakeWorld(ZONE, lists=LISTS, users=("you",), services={"clamscan": clean}, keys=KEYS)
    made.facts = FACTS
    return made


def transaction(stage: str) -> Transaction:
    """The mail as far as it is known at a stage."""
    client = Client(ip="192.0.2.7", port=40000, name="mail.example.com", listener="relay")
    made = Transaction("k3v9x0a2bq-1", client, server="mx.example.test", listener="relay")
    at = STAGES.index(stage)
    if at >= STAGES.index("helo"):
        made.helo = "mail.example.com"
    if stage == "authenticate":
        made.credentials = Credentials("PLAIN", str(SENDER), "sesame")
    if at >= STAGES.index("mail"):
        made.mail_id, made.sender = "k3v9x0a2bq-1.1", SENDER
    if stage in ("rcpt", "delivery"):
        made.recipient = RECIPIENT
    if at > STAGES.index("rcpt"):
        made.recipients = [RECIPIENT]
    if at >= STAGES.index("preq"):
        made.message = Message(MAIL)
    return made
