"""The server's own replies in the administrator's words, and the settings rules may read."""

from pathlib import Path

import pytest
from commands import mta
from receiving import Receiving
from rules_kit import Bench, rule

from mta import config
from mta.receive import replies
from mta.rules.outside import facts
from mta.rules.trying import example
from mta.settings import Route, Service, Settings


def test_words_of_our_own() -> None:
    given = {"greeting": "220 {name} is here", "bye": "221 2.0.0 So long", "relay_denied": "554 5.7.1 for rules"}
    with Receiving(replies=given) as server:
        assert server.talk("QUIT") == [b"220 mx.example.test is here\r\n", b"221 2.0.0 So long\r\n"]
    with Receiving() as server:  # and they are the usual ones again
        assert server.talk("QUIT") == [b"220 mx.example.test ESMTP\r\n", b"221 2.0.0 Bye\r\n"]


def test_what_rules_and_the_server_say_of_themselves(tmp_path: Path) -> None:
    given = {"denied": "554 5.7.1 Nope", "later": "450 4.7.1 Not today", "relay_denied": "554 5.7.1 Not through us"}
    world = example.world()
    world.facts = facts.of(Settings(replies=given))
    said = rule('if mail.sender.local_part == "d" then return deny() else return defer{close = true} end', "mail")
    bench = Bench(tmp_path, said + rule("return deny()", "connect") + rule("return deny()", "authenticate"), world)
    tx = example.transaction("mail")
    verdict = bench.run("mail", tx)
    assert str(verdict.reply) == given["later"] and verdict.reply is not None and verdict.reply.close
    assert str(bench.run("connect").reply) == given["denied"], "as at every stage"
    assert str(bench.run("authenticate").reply).startswith("535 5.7.8 "), "but not what a wrong password is told"
    with Receiving(replies=given) as server:
        heard = server.talk("EHLO there", "MAIL FROM:<a@b.test>", "RCPT TO:<x@elsewhere.test>")
    assert heard[-1].startswith(b"554 5.7.1 Not through us")


def test_the_replies_there_are_can_be_looked_up(tmp_path: Path) -> None:
    told = mta("config", "explain", "replies", cwd=tmp_path)
    assert "bye                   221 2.0.0 Bye\n" in told and "greylisted            451 4.7.1 Grey" in told
    assert "virus                 550 5.7.1 A virus" in mta("lua", "doc", "replies", cwd=tmp_path)


@pytest.mark.parametrize(("name", "text"), [("ok", "550 No"), ("go_ahead", "250 Go"), ("greeting", "250 Hello")])
def test_a_reply_keeps_its_class(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"\[replies\] {name} must be a"):
        replies.use({name: text})
    replies.use({})


def test_the_words_for_a_mail_that_is_kept() -> None:
    assert str(replies.kept("x-1.1")) == "250 2.0.0 Kept as x-1.1"
    replies.use({"kept": "250 2.6.0 {id}: queued"})
    assert str(replies.kept("x-1.2", "x-1.3")) == "250 2.6.0 x-1.2 x-1.3: queued"
    replies.use({})


def test_what_closes_still_closes() -> None:
    replies.use({"timed_out": "421 4.4.2 Too slow"})
    assert replies.TIMED_OUT.close and replies.TIMED_OUT.text == "Too slow"
    replies.use({})
    assert replies.TIMED_OUT.text == "You took too long"


def test_mistakes_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mta.toml"
    file.write_text('[replies]\nno = "nonsense"\n"a b" = "250 Ok"\n[app]\nwhen = 2026-01-01\nlist = [1, "two"]\n')
    with pytest.raises(config.ConfigError) as caught:
        config.read(file)
    said = str(caught.value)
    assert "mta.toml:3: [replies] 'a b' cannot be a word" in said and "mta.toml:5: [app] when must be text" in said
    file.write_text('[replies]\nno = "nonsense"\n')
    with pytest.raises(config.ConfigError, match=r"mta.toml:2: \[replies\] no: "):
        config.read(file)


def test_what_rules_read(tmp_path: Path) -> None:
    world = example.world()
    settings = Settings(
        route={"*": Route(host="smtp://user:secret@relay.test")},
        service={"scan": Service(arguments=["scan", "--key=secret"], environment=["TOKEN=secret"])},
        replies={"virus": "554 5.7.1 Ill"},
        app={"list": [1, "two"], "deep": True},
    )
    world.facts = facts.of(settings)
    assert "secret" not in "".join(world.facts.texts())
    body = """
    assert(replies.virus == "554 5.7.1 Ill" and replies.spf_failed:find("5.7.23"))
    assert(config.app.list[2] == "two" and #config.app.list == 2 and config.app.deep == true and config.app.no == nil)
    assert(config.route["*"].host == "smtp://relay.test" and config.service[1] == "scan")
    for _, change in ipairs{
      function() config.smtp.max_size = 1 end, function() replies.virus = "" end, function() config.new = 1 end,
      function() return config.smpt end, function() return replies.vrius end, function() config.app.list[1] = 2 end,
    } do
      assert(not pcall(change))
    end
    return deny(replies.virus)"""
    bench = Bench(tmp_path, rule(body, "preq"), world)
    assert str(bench.run("preq").reply) == "554 5.7.1 Ill" and bench.failures == []


def test_topics(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, 'log.info("top", "of the file")\n' + rule('log.warning("audit", mail.size)\nlog.error("x")', "preq")
    )
    bench.run("preq")
    said = [(event, f.get("topic"), f["message"]) for event, f in bench.world.events if event.startswith("rule_")]
    assert said == [
        ("rule_log", "top", "of the file"),
        ("rule_warning", "audit", str(len(example.MAIL))),
        ("rule_error", None, "x"),
    ]
