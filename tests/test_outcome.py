"""What a session comes to under given rules, recipient by recipient, and what counts as a difference."""

from pathlib import Path
from typing import Any

import pytest

from mta import settings
from mta.receive.outcome import Outcome, differ, outcomes, pairs
from mta.receive.replay import Player
from mta.rules.engine.engine import Rules
from mta.rules.trying.recorded import RecordedWorld


def record(*said: str, mails: tuple[str | None, ...] = (), **facts: Any) -> dict[str, Any]:
    """A capture of a client that said this. "DATA" is followed by the next of the mails, "TLS" is a handshake."""
    transcript: list[list[Any]] = []
    for line in said:
        transcript.append(["TLS", "TLSv1.3 X"] if line == "TLS" else ["EARLY"] if line == "EARLY" else ["C", line])
        if line == "DATA":
            transcript.append(["M", sum(1 for kind, *_ in transcript if kind == "M")])
    return {
        "session": "k3v9x0a2bq-1f",
        "began": 1_700_000_000.0,
        "server": "mx.example.test",
        "listener": "relay",
        "client": {"ip": "192.0.2.1"},
        "transcript": transcript,
        "mails": list(mails),
        "domains": {"example.test": True, "second.test": True, "elsewhere.test": False},
        "mailboxes": {"you@example.test": True, "me@example.test": True, "nobody@example.test": False},
        "verdicts": [],
        **facts,
    }


MAIL = "Subject: hi\r\n\r\nhello\r\n"
ONE = ("EHLO me.test", "MAIL FROM:<a@b.test>", "RCPT TO:<you@example.test>", "DATA", "QUIT")
TWO = (*ONE[:3], "RCPT TO:<me@example.test>", *ONE[3:])


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def play(self, lua: str, made: dict[str, Any], queue: bool = False) -> dict[str, Any]:
        (self.folder / "main.lua").write_text(lua, "utf-8")
        rules = settings.Rules(path=str(self.folder), domains=str(self.folder / "domains"))
        given = settings.Settings(domain={"example.test": settings.Domain(), "second.test": settings.Domain()})
        world = RecordedWorld()
        return Player(Rules.load(rules, world), world, given, queue=queue).play(made)

    def kinds(self, lua: str, made: dict[str, Any], queue: bool = False) -> list[tuple[str, str, str]]:
        """Every case the client meets without rules, and what becomes of it with them."""
        both = pairs(self.play("", made), self.play(lua, made, queue))
        return [(one.recipient, one.kind, one.stage) for _, one in both]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def rule(stage: str, body: str, name: str = "") -> str:
    return f'on.{stage}("{name or stage}", function(mail) {body} end)\n'


YOU, ME = "you@example.test", "me@example.test"


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "data", "preq"])
@pytest.mark.parametrize("verdict", ["deny", "defer", "quarantine", "discard", "faccept", "accept"])
def test_one_verdict_at_each_stage(bench: Bench, stage: str, verdict: str) -> None:
    said = 'return quarantine("q")' if verdict == "quarantine" else f"return {verdict}()"
    kinds = bench.kinds(rule(stage, said), record(*TWO, mails=(MAIL,)))
    decided = "preq" if verdict == "accept" else stage
    assert kinds == [(YOU, verdict, decided), (ME, verdict, decided)]


def test_each_recipient_has_its_own_fate(bench: Bench) -> None:
    lua = rule("rcpt", 'if mail.recipient.local_part == "me" then return defer() end')
    said = (*TWO[:4], "RCPT TO:<nobody@example.test>", "RCPT TO:<x@elsewhere.test>", "DATA", "QUIT")
    assert bench.kinds(lua, record(*said, mails=(MAIL,))) == [
        (YOU, "accept", "preq"),
        (ME, "defer", "rcpt"),
        ("nobody@example.test", "deny", "rcpt"),
        ("x@elsewhere.test", "deny", "rcpt"),
    ]


def test_who_said_no(bench: Bench) -> None:
    lua = rule("rcpt", 'if mail.recipient.local_part == "me" then return deny("550 5.7.1 No") end', "no me")
    made = bench.play(lua, record(*TWO[:4], "RCPT TO:<nobody@example.test>", "QUIT"))
    _, you, me, nobody = outcomes(made).values()
    assert (me.rule, me.where, me.reply) == ("no me", "main.lua:1", "550 5.7.1 No")
    assert nobody.rule == "" and nobody.reply.startswith("550 5.1.1 ")
    assert you.short and not you.rule


def test_several_mails_of_one_session(bench: Bench) -> None:
    lua = rule("preq", 'if mail.headers:get("Subject"):match("bad") then return deny() end')
    lua += rule("mail", 'if mail.sender.local_part == "c" then return deny() end')
    said = (*ONE[:4], "MAIL FROM:<c@b.test>", "RCPT TO:<me@example.test>", *ONE[1:4], "MAIL FROM:<d@b.test>", "QUIT")
    made = bench.play(lua, record(*said, mails=(MAIL, MAIL.replace("hi", "bad"))))
    found = [(one.mail, one.sender, one.recipient, one.kind, one.stage) for one in outcomes(made).values()][1:]
    assert found == [
        ("k3v9x0a2bq-1f.1", "a@b.test", YOU, "accept", "preq"),
        ("k3v9x0a2bq-1f.2", "c@b.test", ME, "deny", "mail"),
        ("k3v9x0a2bq-1f.3", "a@b.test", YOU, "deny", "preq"),
        ("k3v9x0a2bq-1f.4", "d@b.test", "", "accept", ""),
    ]


def test_the_content_is_what_it_was(bench: Bench) -> None:
    body = "Subject: dots\r\n\r\n.one\r\n..two\r\n.\r\nend"
    lua = rule("preq", 'for part in mail:parts() do return deny("550 5.7.1 " .. part:text():gsub("%s+", "_")) end')
    (_, one) = outcomes(bench.play(lua, record(*ONE, mails=(body,)))).values()
    assert one.reply == "550 5.7.1 .one_..two_._end_"


def test_a_large_mail(bench: Bench) -> None:
    """Its words are answered in a thread."""
    lua = rule(
        "preq", 'for part in mail:parts() do if #part:text() > 500000 then return deny("550 5.7.1 Large") end end'
    )
    large = "Subject: large\r\n\r\n" + ("0123456789" * 7 + "\r\n") * 10_000
    assert bench.kinds(lua, record(*ONE, mails=(large,))) == [(YOU, "deny", "preq")]


def test_a_session_that_is_ended_has_one_fate(bench: Bench) -> None:
    """The recorded client went on; here it is hung up on."""
    old = bench.play("", record(*TWO, mails=(MAIL,)))
    new = bench.play(rule("mail", 'return deny{"550 5.7.1 Go", close=true}'), record(*TWO, mails=(MAIL,)))
    assert [(after.recipient, after.kind, after.stage) for _, after in pairs(old, new)] == [
        (YOU, "deny", "mail"),
        (ME, "deny", "mail"),
    ]


def test_a_session_without_a_mail_is_a_case(bench: Bench) -> None:
    old = bench.play("", record("EHLO me.test", "QUIT"))
    ((before, after),) = pairs(old, bench.play(rule("connect", "return deny()"), record("EHLO me.test", "QUIT")))
    assert (before.kind, after.kind, after.stage, after.rule) == ("accept", "deny", "connect", "connect")


def test_tls_and_early_talkers(bench: Bench) -> None:
    lua = rule("mail", "if not mail.tls then return deny() end")
    said = ("EHLO me.test", "STARTTLS", "TLS", *ONE)
    assert bench.kinds(lua, record(*said, mails=(MAIL,))) == [(YOU, "accept", "preq")]
    assert bench.kinds(lua, record(*ONE, mails=(MAIL,))) == [(YOU, "deny", "mail")]
    assert bench.kinds("", record("EARLY", *ONE, mails=(MAIL,))) == [("", "deny", "connect")]


def test_our_own_people(bench: Bench) -> None:
    said = (*ONE[:2], "RCPT TO:<x@elsewhere.test>", "DATA")
    client = {"ip": "192.0.2.1", "trusted": True}
    assert bench.kinds("", record(*said, mails=(MAIL,), client=client)) == [("x@elsewhere.test", "accept", "preq")]
    assert bench.kinds("", record(*said, mails=(MAIL,))) == [("x@elsewhere.test", "deny", "rcpt")]


def test_rules_of_the_queue(bench: Bench) -> None:
    lua = rule("postq", 'mail.vars.seen = "yes"') + rule(
        "delivery", 'if mail.vars.seen then return quarantine("q") end'
    )
    assert bench.kinds(lua, record(*ONE, mails=(MAIL,))) == [(YOU, "accept", "preq")]
    assert bench.kinds(lua, record(*ONE, mails=(MAIL,)), queue=True) == [(YOU, "quarantine", "delivery")]


def test_rules_by_domain(bench: Bench) -> None:
    """Copies of one mail under different rules have fates of their own."""
    for name, verdict in (("example.test", "deny()"), ("second.test", "quarantine('q')")):
        folder = bench.folder / "domains" / name
        folder.mkdir(parents=True)
        (folder / "incoming.lua").write_text(rule("preq", f"return {verdict}"), "utf-8")
    said = (*ONE[:3], "RCPT TO:<you@second.test>", "DATA")
    client = {"ip": "192.0.2.1", "trusted": True}
    assert bench.kinds("", record(*said, mails=(MAIL,), client=client)) == [
        (YOU, "deny", "preq"),
        ("you@second.test", "quarantine", "preq"),
    ]


def test_a_mail_without_content(bench: Bench) -> None:
    """The client was refused before it sent any; what it would have sent nobody knows."""
    made = record(*ONE)
    made["transcript"] = [entry for entry in made["transcript"] if entry[0] != "M"]
    (_, one) = outcomes(bench.play("", made)).values()
    assert (one.kind, one.short) == ("accept", True)
    assert bench.kinds("", record(*ONE, mails=(None,))) == [(YOU, "accept", "")]


def test_a_rule_that_fails_is_told(bench: Bench) -> None:
    made = bench.play(rule("mail", "local x = mail.helo + {}"), record(*ONE, mails=(MAIL,)))
    assert made["errors"] == ["main.lua:1: attempt to add a 'string' with a 'table'"]


def test_what_counts_as_a_difference() -> None:
    accept, deny = Outcome(), Outcome("deny", "rcpt", "550 5.7.1 No", "a", "main.lua:1")
    assert not differ(accept, accept._replace(stage="preq", reply="250 Ok"))
    assert differ(accept, deny) and differ(accept, Outcome("faccept"))
    assert not differ(deny, deny._replace(rule="b", where="main.lua:9", stage="mail"))
    assert differ(deny, deny._replace(reply="550 5.7.1 Never"))
    assert not differ(deny, deny._replace(rule="", reply="550 5.1.1 There is no such mailbox (k3v9x0a2bq-1f.1)"))
    assert differ(Outcome("quarantine", folder="a"), Outcome("quarantine", folder="b"))
