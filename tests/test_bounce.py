"""Bounces, read back with the standard library's parser."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

import pytest

from mta.message import bounce
from mta.message.address import Address, parse
from mta.message.bounce import Failure
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Reply

MAIL = b"Received: by here\r\nMessage-ID: <m1@example.test>\r\nSubject: hello\r\n\r\nthe body\r\n"
NO = Reply(550, "5.1.1", "No such user")


def failed(name: str, reply: Reply = NO, *, attempts: int = 1, original: str = "", **more: object) -> Failure:
    to = Recipient(parse(name), original=parse(original) if original else None, attempts=attempts)
    return Failure(to, reply, **more)  # type: ignore[arg-type]


def bounced(*failures: Failure, raw: bytes = MAIL, sender: str = "ann@example.test") -> tuple[EmailMessage, bytes]:
    envelope = Envelope(id="k3v9x0a2bq-1f.2", sender=parse(sender), arrived=1_700_000_000.0)
    made = bounce.make(
        envelope, Message(raw), failures, server="mx.here.test", id="k3v9x0a2bq-2.1", now=1_700_000_000.0 + 3 * 86400
    )
    wire = bytes(made)
    found = email.message_from_bytes(wire, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found, wire


def test_it_is_a_report_of_three_parts() -> None:
    report, _ = bounced(failed("bob@far.test", host="mx.far.test [192.0.2.1]", said=True))
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in report.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["To"] == "ann@example.test"
    assert report["From"].addresses[0].addr_spec == "MAILER-DAEMON@mx.here.test"
    assert report["Message-ID"] == "<k3v9x0a2bq-2.1@mx.here.test>"
    assert report["In-Reply-To"] == report["References"] == "<m1@example.test>"
    assert not report.defects and not any(part.defects for part in report.walk())


def test_people_read_which_recipient_which_host_how_often_and_since_when() -> None:
    said = Reply(452, "4.2.2", "Mailbox full")
    report, _ = bounced(
        failed("bob@far.test", said, attempts=17, host="mx.far.test [192.0.2.1]", said=True, expired=True)
    )
    words = next(report.iter_parts()).get_content().replace("\r\n", "\n")
    for told in (
        "the mail server mx.here.test",
        "Tue, 14 Nov 2023 22:13:20",
        "<bob@far.test>",
        "It was tried 17 times in 3 days. The last time:",
        "mx.far.test [192.0.2.1] answered:\n      452 4.2.2 Mailbox full",
        "k3v9x0a2bq-1f.2",
    ):
        assert told in words
    assert "bob@far.test" in report["Subject"]


def test_programs_read_fields_for_each_recipient() -> None:
    report, _ = bounced(
        failed("bob@far.test", host="mx.far.test [192.0.2.1]", said=True, original="b@alias.test"),
        failed("eve@near.test", Reply(451, "4.4.1", "timed out"), attempts=9, host="mx.near.test", expired=True),
        failed("joe@none.test", Reply(550, "", "What?")),
    )
    about, bob, eve, joe = list(report.iter_parts())[1].get_payload()
    assert about["Reporting-MTA"] == "dns; mx.here.test"
    assert about["Arrival-Date"] == "Tue, 14 Nov 2023 22:13:20 -0000"
    assert bob["Final-Recipient"] == "rfc822; bob@far.test"
    assert bob["Original-Recipient"] == "rfc822; b@alias.test"
    assert (bob["Action"], bob["Status"]) == ("failed", "5.1.1")
    assert bob["Remote-MTA"] == "dns; mx.far.test"
    assert bob["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"
    assert (eve["Status"], eve["Diagnostic-Code"]) == ("4.4.7", None)  # nobody said anything: it is our own word
    assert joe["Status"] == "5.0.0"


def test_the_header_of_the_mail_is_returned_and_its_body_is_not() -> None:
    report, wire = bounced(failed("bob@far.test"))
    assert list(report.iter_parts())[2].get_payload().startswith("Received: by here")
    assert b"Subject: hello" in wire
    assert b"the body" not in wire


@pytest.mark.parametrize("raw", [b"", b"\r\nonly a body", b"Subject: cut short", b"no header at all\r\n\r\nx"])
def test_odd_mails_bounce_too(raw: bytes) -> None:
    report, wire = bounced(failed("bob@far.test"), raw=raw)
    assert len(list(report.iter_parts())) == 3
    assert wire.replace(b"\r\n", b"").count(b"\n") == wire.replace(b"\r\n", b"").count(b"\r") == 0


def test_eight_bit_headers_are_declared() -> None:
    report, _ = bounced(failed("bob@far.test"), raw="Subject: grüß\r\n\r\n".encode())
    assert list(report.iter_parts())[2]["Content-Transfer-Encoding"] == "8bit"


def test_what_others_said_cannot_become_a_field_or_a_part() -> None:
    evil = Reply(550, "5.0.0", "no\r\nX-Evil: yes\n--=k3v9x0a2bq-2.1=--\n\x00\xff")
    report, wire = bounced(failed("bob@far.test", evil, host="mx\r\nX-Evil: 2", said=True))
    assert b"\r\nX-Evil" not in wire
    assert len(list(report.iter_parts())) == 3
    assert b"\0" not in wire


def test_quoted_addresses_survive() -> None:
    report, _ = bounced(failed('"a b"@far.test'), sender='"x y"@example.test')
    assert report["To"] == '"x y"@example.test'


def test_never_more_than_50_kB_whatever_failed() -> None:
    many = [failed(f"{'x' * 50}{n}@{'far.' * 30}test", Reply(550, "5.1.1", f"{n} " + "no " * 300)) for n in range(1000)]
    raw = b"".join(b"X-%d: %s\r\n" % (n, b"y" * 900) for n in range(100)) + b"\r\nbody"
    for failures in (many, [failed(f"r{n}@far.test") for n in range(1000)]):
        report, wire = bounced(*failures, raw=raw)
        assert len(wire) <= bounce.LIMIT
        words = next(report.iter_parts()).get_content().replace("\r\n", "\n")
        listed = words.count("\n  <")
        assert listed > 10
        assert f"and {1000 - listed} more recipients" in words


def test_recipients_that_fared_alike_stand_together() -> None:
    report, _ = bounced(*[failed(f"r{n}@far.test") for n in range(300)])
    words = next(report.iter_parts()).get_content().replace("\r\n", "\n")
    assert words.count("No such user") == 1
    assert words.count("\n  <") == 300


def test_its_envelope_has_the_null_sender() -> None:
    of = Envelope(id="a.1", sender=parse("ann@example.test"))
    made = bounce.envelope_of(of, id="b.1", now=5.0, direction="outgoing")
    assert made.sender == Address() and not made.ours
    assert [r.address for r in made.recipients] == [of.sender]
    assert (made.id, made.origin, made.arrived, made.next_try) == ("b.1", "a.1", 5.0, 5.0)
