"""The envelope as rules change it: in one transaction, through a session, in the queue, and in the real server."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from daemon import Server
from receiving import Receiving
from rules_kit import Bench, rule

from mta.message.address import NULL, Address
from mta.message.envelope import Recipient
from mta.rules.transaction import Transaction
from mta.rules.trying import example
from mta.rules.words.envelope import silent, taken

HELLO = ("EHLO me.example", "MAIL FROM:<ann@example.com>")
CONTENT = b"From: Ann <ann@example.com>\r\nTo: You <you@example.test>\r\nSubject: hi\r\n\r\nhello\r\n.\r\n"


def changed(folder: Path, body: str, stage: str = "preq") -> Bench:
    bench = Bench(folder, rule(body, stage))
    bench.run(stage)
    assert [one["error"] for one in bench.failures] == []
    return bench


# -- one transaction ---------------------------------------------------------------------------------------------------


def test_the_words(tmp_path: Path) -> None:
    tx = changed(
        tmp_path,
        """
        assert(mail:set_sender("Bounces+1@Example.TEST") and tostring(mail.sender) == "Bounces+1@example.test")
        assert(mail:add_recipient("archive@example.test") and not mail:add_recipient("ARCHIVE@example.test"))
        assert(mail:replace_recipient("YOU@example.test", '"odd one"@example.test') and #mail.recipients == 2)
        assert(mail.recipients[1].local_part == "odd one")
        assert(not mail:replace_recipient("nobody@example.test", "x@example.test"))
        assert(mail:remove_recipient(mail.recipients[2]) and not mail:remove_recipient("nobody@example.test"))
        assert(#mail.recipients == 1)""",
    ).tx
    assert tx.edited and tx.sender == Address("Bounces+1", "example.test")
    assert tx.recipients == [Address("odd one", "example.test")]
    assert tx.originals == {Address("odd one", "example.test"): Address("you", "example.test")}


def test_a_copy_nobody_hears_of(tmp_path: Path) -> None:
    tx = changed(
        tmp_path,
        """
        assert(mail:bcc("archive@example.test") and not mail:bcc("archive@example.test"))
        assert(not mail:bcc("you@example.test"), "who has it already is no secret")
        assert(mail:bcc("old@example.test") and mail:replace_recipient("old@example.test", "new@example.test"))
        assert(mail:bcc("once@example.test") and mail:remove_recipient("once@example.test"))
        assert(mail:add_recipient("once@example.test"))""",
    ).tx
    told = {str(one.address): one.notify for one in taken(tx, [])}
    assert told == {
        "you@example.test": "",
        "archive@example.test": "never",
        "new@example.test": "never",
        "once@example.test": "",
    }


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('mail:remove_recipient("old@example.test") mail:add_recipient("old@example.test")', {"you": "", "old": ""}),
        ('mail:replace_recipient("old@example.test", "new@example.test")', {"you": "", "new": "never"}),
        ('mail:replace_recipient("old@example.test", "you@example.test")', {"you": ""}),
        ('mail:replace_recipient("you@example.test", "old@example.test")', {"old": ""}),
        (
            'mail:remove_recipient("old@example.test") mail:replace_recipient("you@example.test", "old@example.test")',
            {"old": ""},
        ),
    ],
)
def test_a_copy_nobody_hears_of_that_was_there_before(body: str, told: dict[str, str], tmp_path: Path) -> None:
    """As in the queue; of somebody who also has the mail otherwise, the sender hears."""
    known = [Recipient(Address(name, "example.test"), notify=said) for name, said in (("you", ""), ("old", "never"))]
    tx = example.transaction("postq")
    tx.recipients, tx.silent = [one.address for one in known], silent(known)
    bench = Bench(tmp_path, rule(body, "postq"))
    bench.run("postq", tx)
    assert {one.address.local_part: one.notify for one in taken(tx, known)} == told


def test_replacing_with_one_that_is_there_already(tmp_path: Path) -> None:
    tx = changed(
        tmp_path,
        'mail:add_recipient("b@example.test")\nmail:replace_recipient("you@example.test", "b@example.test")',
    ).tx
    assert tx.recipients == [Address("b", "example.test")]


@pytest.mark.parametrize("name", ["you", "You"])
def test_replacing_with_itself(name: str, tmp_path: Path) -> None:
    """Perhaps with other capitals: nobody is lost."""
    tx = changed(tmp_path, f'assert(mail:replace_recipient("you@example.test", "{name}@example.test"))').tx
    assert tx.recipients == [Address(name, "example.test")]


def test_the_null_sender(tmp_path: Path) -> None:
    tx = changed(tmp_path, 'mail:set_sender("<>")\nassert(tostring(mail.sender) == "")', "postq").tx
    assert tx.sender == NULL and tx.edited


def test_a_mail_that_is_only_read_is_not_edited(tmp_path: Path) -> None:
    assert not changed(tmp_path, "assert(#mail.recipients == 1)").tx.edited


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('mail:set_sender("nobody")', "mail:set_sender: 'nobody': An address needs a domain"),
        ('mail:add_recipient("a@b.test>\\r\\nRCPT TO:<c@d.test")', "mail:add_recipient: "),
        ('mail:add_recipient("")', "mail:add_recipient: ''"),
        ("mail:add_recipient(nil)", "mail:add_recipient: argument 1 must be a string, not nil"),
        ('mail.sender = "a@b.test"', "mail.sender cannot be assigned"),
        ("for n = 1, 2001 do mail:add_recipient(n .. '@example.test') end", "the mail has 2000 recipients"),
    ],
)
def test_mistakes(body: str, error: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(body, "preq"))
    bench.run("preq")
    assert error in bench.failure


@pytest.mark.parametrize("stage", ["connect", "helo", "delivery"])
def test_where_it_is_too_early_or_too_late(stage: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('mail:set_sender("a@b.test")', stage))
    bench.run(stage)
    assert "mail:set_sender is " in bench.failure and not bench.tx.edited


# -- a session ---------------------------------------------------------------------------------------------------------


def received(folder: Path, main: str, *recipients: str, content: bool = True) -> tuple[Receiving, list[bytes]]:
    bench = Bench(folder, main)
    with Receiving(rules=bench.rules) as server:
        to = [f"RCPT TO:<{one}>" for one in recipients]
        heard = server.talk(*HELLO, *to, *(["DATA", CONTENT] if content else []), "QUIT")
    assert [one["error"] for one in bench.failures] == []
    return server, heard


def test_what_the_rules_of_every_stage_changed_is_kept(tmp_path: Path) -> None:
    main = (
        rule('mail:set_sender("first@example.com")', "mail")
        + rule('mail:add_recipient("archive@elsewhere.test")', "data")
        + rule('mail:set_sender("second+" .. mail.sender.local_part .. "@example.com")', "preq")
    )
    server, heard = received(tmp_path, main, "you@example.test")
    (envelope, _), *_ = server.mails
    assert str(envelope.sender) == "second+first@example.com"
    assert [str(r.address) for r in envelope.recipients] == ["you@example.test", "archive@elsewhere.test"]
    (accepted,) = server.events("accepted")
    assert accepted["sender"] == "second+first@example.com" and heard[-2].startswith(b"250 ")


def test_an_alias_at_rcpt(tmp_path: Path) -> None:
    """Also to another server: the client asked for one of our addresses, and the rule said where it goes."""
    main = rule(
        'if mail.recipient.local_part == "sales" then mail:replace_recipient(mail.recipient, "boss@elsewhere.test")\n'
        "assert(tostring(mail.recipient) == 'boss@elsewhere.test') end"
    )
    server, heard = received(tmp_path, main, "sales@example.test", "you@example.test", "x@elsewhere.test")
    assert heard[3:6] == [b"250 2.1.5 Ok\r\n", b"250 2.1.5 Ok\r\n", heard[5]] and heard[5].startswith(b"554 5.7.1")
    (envelope, _), *_ = server.mails
    assert [(str(r.address), r.original and str(r.original)) for r in envelope.recipients] == [
        ("boss@elsewhere.test", "sales@example.test"),
        ("you@example.test", None),
    ]


def test_an_alias_does_not_open_the_relay(tmp_path: Path) -> None:
    main = rule('mail:replace_recipient(mail.recipient, "you@example.test")')
    _, heard = received(tmp_path, main, "victim@elsewhere.test", content=False)
    assert heard[3].startswith(b"554 5.7.1")


def test_after_a_decision_for_good_the_next_recipient_is_its_own(tmp_path: Path) -> None:
    main = rule('mail:replace_recipient(mail.recipient, "b@example.test") return faccept()')
    server, _ = received(tmp_path, main, "a@example.test", "c@example.test")
    (envelope, _), *_ = server.mails
    assert [str(r.address) for r in envelope.recipients] == ["b@example.test", "c@example.test"]


def test_a_recipient_of_a_rule_is_no_recipient_of_the_client(tmp_path: Path) -> None:
    main = rule('mail:add_recipient("archive@example.test")')
    bench = Bench(tmp_path, main)
    with Receiving(rules=bench.rules) as server:
        heard = server.talk(*HELLO, "RCPT TO:<x@elsewhere.test>", "DATA", "QUIT")
    assert heard[3].startswith(b"554 5.7.1") and heard[4].startswith(b"554 5.5.1")


@pytest.mark.parametrize(
    ("main", "recipients"),
    [
        (rule('mail:bcc("archive@example.test")'), ("you", "archive")),
        (rule('mail:bcc("archive@example.test") if mail.recipient.local_part == "late" then return defer() end'),
         ("late", "archive")),
        (rule('if mail.recipient.local_part ~= "you" then return end mail:bcc("archive@example.test")\n'
              'mail:remove_recipient("archive@example.test")'),
         ("you", "archive")),
        (rule('mail:bcc("archive@example.test") mail:replace_recipient("sales@example.test", "archive@example.test")'),
         ("sales",)),
    ],
)  # fmt: skip
def test_who_asked_for_a_recipient_hears_of_it(main: str, recipients: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever rules did before with the same one."""
    server, _ = received(tmp_path, main, *(f"{name}@example.test" for name in recipients))
    (envelope, _), *_ = server.mails
    told = {str(one.address): one.notify for one in envelope.recipients}
    assert told["archive@example.test"] == "" and "never" not in told.values()


@pytest.mark.parametrize("stage", ["rcpt", "preq"])
def test_a_mail_for_nobody_is_thrown_away(stage: str, tmp_path: Path) -> None:
    what = "mail.recipient" if stage == "rcpt" else "mail.recipients[1]"
    server, heard = received(tmp_path, rule(f"mail:remove_recipient({what})", stage), "you@example.test")
    assert server.mails == [] and heard[-2].startswith(b"250 ") and len(server.events("discarded")) == 1


# -- the real server ---------------------------------------------------------------------------------------------------

MAIN = """
on.mail("a sender of ours", function(mail)
  mail.vars.before = { tostring(mail.sender) }
end)

on.rcpt("aliases", function(mail)
  if mail.recipient.local_part == "sales" then mail:replace_recipient(mail.recipient, "you@demo.test") end
end)

on.preq("rewrite", function(mail)
  mail.headers:replace_address("From", "ann@example.com", "office@demo.test")
  mail.headers:replace_address("To", "sales@demo.test", "J\\u{FC}rgen <you@demo.test>")
  mail:set_sender("office@demo.test")
  mail.vars.n = 1.5
end)

on.postq("more recipients", function(mail)
  mail.vars.n = mail.vars.n + 1
  mail:add_recipient("copy@demo.test")
  mail:footer("-- \\nA footer")
end)

on.delivery("not before the server was started again", function(mail)
  log.info("audit", mail.vars.before[1] .. " " .. mail.vars.n .. " " .. config.app.word)
  if env("PATIENCE") then return defer(replies.not_yet) end
end)
"""
CONFIG = """
[queue]
retry = ["1s"]
[rules]
env = ["PATIENCE"]
[log]
rules = ["rules.log"]
[replies]
not_yet = "450 4.7.1 Not yet"
bye = "221 2.0.0 So long"
greeting = "220 {name} at your service"
[app]
word = "yes"
"""


def test_through_the_real_server_and_a_restart(tmp_path: Path) -> None:
    server = Server(tmp_path, CONFIG, MAIN, environment={"PATIENCE": "1"})
    server.start()
    try:
        with server.smtp() as client:
            content = CONTENT.removesuffix(b".\r\n").replace(b"You <you@example.test>", b"sales@demo.test")
            client.sendmail("ann@example.com", ["sales@demo.test"], content)
            code, words = client.quit()
            assert (code, words) == (221, b"2.0.0 So long")
        server.until(lambda: server.events("deferred"), "it was not tried")
    finally:
        server.stop()
    assert server.mails() == []
    again = Server(tmp_path, CONFIG, None)
    again.start()
    try:
        again.until(lambda: len(again.mails()) == 2, "it was not delivered")
    finally:
        again.stop()
    for path in again.mails():
        content = path.read_bytes()
        read = message_from_bytes(content, policy=policy.default)
        assert read["From"] == "Ann <office@demo.test>" and read["Return-Path"] == "<office@demo.test>"
        assert read["To"] == "Jürgen <you@demo.test>" and read.get_content().endswith("A footer\n")
    said = [json.loads(line) for line in (tmp_path / "rules.log").read_text().splitlines()]
    assert {one["topic"] for one in said} == {"audit"} and {one["message"] for one in said} == {
        "ann@example.com 2.5 yes"
    }
    assert "audit" not in (tmp_path / "mta.log").read_text()


@pytest.mark.parametrize(
    "word", ["replace_recipient(mail.recipient, 'you@example.test')", "remove_recipient(mail.recipient)"]
)
def test_the_same_recipient_again(tmp_path: Path, word: str) -> None:
    """What a rule made of the last recipient is not shown for the next, though that is the same address."""
    bench = Bench(tmp_path, rule(f"log.info(tostring(mail.recipient))\nmail:{word}", "rcpt"))
    tx = Transaction("s-1", mail_id="s-1.1")
    for _ in range(2):
        tx.recipient = Address("info", "example.test")
        bench.run("rcpt", tx)
        assert tx.recipient != Address("info", "example.test")
    assert bench.messages == ["info@example.test"] * 2
