"""mail:route and mail:hold: what a rule may say, what becomes of it, and that a slip is an error at the rule's line."""

from pathlib import Path

import pytest
from rules_kit import Bench, rule

from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient, Route
from mta.rules.trying import example
from mta.rules.words.routing import LONGEST, Hold, Ways, read, shown, when

BOXES = ["/srv/mail", "/srv/archive/"]

YOU, EVE = Address("You", "example.test"), Address("eve", "example.test")


def envelope() -> Envelope:
    return Envelope("s-1.1", recipients=[Recipient(YOU), Recipient(EVE)], next_try=1.0)


@pytest.mark.parametrize(
    ("way", "route"),
    [
        ("settings", None),
        ("mx", Route("smtp")),
        ("discard", Route("discard")),
        ("far.test:25", Route("smtp", host="far.test:25")),
        ("smtp://a:b@far.test", Route("smtp", host="smtp://a:b@far.test")),
        ("mbox:all", Route("mbox", path="/srv/mail//all")),
        ("maildir:x/{domain}", Route("maildir", path="/srv/mail//x/{domain}")),
        ("mbox:/srv/archive/a/b", Route("mbox", path="/srv/archive//a/b")),
        ("mbox:/srv/mail//etc", Route("mbox", path="/srv/mail//etc")),
        ("MX", Route("smtp")),
        ("Maildir:x", Route("maildir", path="/srv/mail//x")),
        ("abcd::1", Route("smtp", host="abcd::1")),
        ("abcd:ef::1", Route("smtp", host="abcd:ef::1")),
    ],
)
def test_ways(way: str, route: Route | None) -> None:
    assert read(way, BOXES) == route


@pytest.mark.parametrize(
    "way",
    [
        "", "maildir", "mbox:", "mbox:a/", "mbox:/etc/passwd", "mbox:/srv/mailbox/x", "mbox:/srv/mail",
        "mbox:/srv/mail/", "mbox:../x", "mbox:/srv/mail/../../etc/x", "maildir:a/../b", "mbox:a\0b", "mbox:a\nb", "smtp://a:secret@",
        "http://far.test",
    ],
)  # fmt: skip
def test_ways_that_are_none(way: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(way, BOXES)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("program:cat", "program: is no way to send mail; there are mx, host:port, .* discard, settings"),
        ("lmtp:unix:/run/dovecot/lmtp", "lmtp: is no way"),
        ("forward:far.test", "forward: is no way"),
        ("mbox:{domain}/{user}", r"cannot hold \{user\}; there are \{domain\} and \{local_part\}"),
    ],
)
def test_what_is_wrong_is_told(way: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(way, BOXES)


def test_no_mailboxes_no_paths() -> None:
    with pytest.raises(ValueError, match=r"rules\.mailboxes"):
        read("mbox:x", [])


def test_the_last_word_counts() -> None:
    ways, mail = Ways(), envelope()
    ways.say(Route("discard"), [YOU])
    ways.write(mail, 0.0)
    assert [r.route for r in mail.recipients] == [Route("discard"), None]
    ways.say(Route("smtp"), None)
    ways.write(mail, 0.0)
    assert [r.route for r in mail.recipients] == [Route("smtp"), Route("smtp")]
    ways.say(None, [Address("you", "example.test")])
    ways.write(mail, 0.0)
    assert [r.route for r in mail.recipients] == [None, Route("smtp")]


def test_what_was_said_before_stays_where_nothing_new_is() -> None:
    ways, mail = Ways(), envelope()
    mail.recipients[0].route = Route("discard")
    ways.hold(Hold(50.0), None)
    ways.write(mail, 100.0)
    assert mail.recipients[0].route == Route("discard")
    assert mail.next_try == 1.0, "what is past holds nothing"
    ways.hold(Hold(200.0), None)
    ways.write(mail, 100.0)
    assert (mail.next_try, mail.until) == (200.0, 200.0)


def test_times() -> None:
    assert when("2h", 1000.0) == 8200.0
    assert when(5000, 1000.0) == 5000.0
    assert when(-1, 1000.0) == 0.0
    for wrong in ("soon", float("nan"), float("inf"), LONGEST + 1001.0, "400d"):
        with pytest.raises(ValueError):
            when(wrong, 1000.0)


def test_said_by_a_rule(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('mail:route("discard")\nmail:hold("1h")'))
    assert bench.run("rcpt").kind == "next"
    assert not bench.failures
    mail = Envelope("x", recipients=[Recipient(Address("you", "example.test")), Recipient(EVE)])
    assert bench.tx.ways is not None
    bench.tx.ways.write(mail, bench.world.now())
    assert [r.route for r in mail.recipients] == [Route("discard"), None], "at rcpt: this recipient"
    assert [r.until for r in mail.recipients] == [bench.world.now() + 3600, 0.0], "and so it is with hold"
    assert mail.until == 0.0 and mail.next_try == 0.0


def test_if_all_are_held_the_mail_waits_for_the_first(tmp_path: Path) -> None:
    ways, mail = Ways(), envelope()
    ways.hold(Hold(500.0), [YOU])
    ways.hold(Hold(300.0), [EVE])
    ways.copy().write(mail, 100.0)
    assert [r.until for r in mail.recipients] == [500.0, 300.0]
    assert (mail.next_try, mail.until) == (300.0, 300.0)
    ways.hold(Hold(50.0), [EVE])
    ways.write(mail, 100.0)
    assert [r.until for r in mail.recipients] == [500.0, 0.0], "what is past holds nothing"
    ways.hold(Hold(200.0), None)
    ways.write(mail, 100.0)
    assert (mail.next_try, mail.until) == (200.0, 200.0), "the last word counts"
    assert [r.until for r in mail.recipients] == [0.0, 0.0]


def test_later_it_is_for_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('mail:route("mx")\nmail:route("discard", mail.recipients)', "preq"))
    bench.run("preq")
    assert bench.tx.ways is not None
    assert bench.tx.ways.of(Recipient(EVE)) == Route("smtp")
    assert bench.tx.ways.of(Recipient(Address("you", "example.test"))) == Route("discard")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('mail:route("smtp://ann:secret@far.test?tls=maybe")', "tls is one of none"),
        ('mail:route("mbox:" .. "../../etc/passwd")', "upwards"),
        ('mail:route("mx", "no address")', "is no address"),
        ('mail:hold("soon")', "no duration"),
        ("mail:route()", "must be a string"),
    ],
)
def test_a_slip_is_an_error_at_its_line(tmp_path: Path, body: str, said: str) -> None:
    bench = Bench(tmp_path, rule(body))
    assert bench.run("rcpt").kind == "defer"
    assert bench.failure.startswith("main.lua:2: ")
    assert said in bench.failure
    assert "secret" not in bench.failure
    assert "secret" not in str(bench.world.events)


def test_not_before_rcpt(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('mail:route("mx")', "mail"))
    bench.run("mail")
    assert "mail.route" in bench.failure.replace(":route", ".route")


def test_a_trace_shows_recipients_as_they_were_written() -> None:
    assert shown("mail:route", ["mx", "13:a@example.com13:b@example.com"]) == ("mx", "a@example.com, b@example.com")
    assert shown("mail:hold", [60, None]) == (60,)
    assert shown("dns.lookup", ["3:a", "3:b"]) == ("3:a", "3:b")


def test_a_trace_shows_no_password(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('mail:route("smtp://ann:secret@far.test")'))
    tx = example.transaction("rcpt")
    tx.tracing = True
    bench.run("rcpt", tx)
    assert tx.trace[0].asked[0].arguments[0] == "smtp://ann:***@far.test"
