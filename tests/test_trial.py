"""Trials: rules on a made-up session, with what the server itself makes of each verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mta import settings
from mta.domains import Domains
from mta.message.address import parse
from mta.message.message import Message
from mta.rules.engine import difference
from mta.rules.engine.engine import Rules
from mta.rules.outside.services.request import Answer
from mta.rules.trying import prompt
from mta.rules.trying.example import MAIL
from mta.rules.trying.sketch import Sketch
from mta.rules.trying.trial import Trial
from mta.rules.trying.trial_world import TrialWorld


def trial(folder: Path, rules: str, *, files: dict[str, str] | None = None, **facts: Any) -> Trial:
    """A trial of these rules; `files` are those of domains."""
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "rules" / "main.lua").write_text(rules)
    for name, text in (files or {}).items():
        (folder / "domains" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "domains" / name).write_text(text)
    wanted = settings.Rules(path=str(folder / "rules"), domains=str(folder / "domains"))
    world = TrialWorld(wanted, named=("scan",))
    facts.setdefault("sender", parse("a@b.example"))
    facts.setdefault("recipients", [parse("you@example.test")])
    facts.setdefault("message", Message(MAIL))
    return Trial(lambda: Rules.load(wanted, world), world, Sketch(**facts))


def rule(stage: str, body: str, name: str = "one") -> str:
    return f'on.{stage}("{name}", function(mail) {body} end)\n'


def went(tried: Trial) -> dict[str, str]:
    """What the client heard at each stage."""
    return {one.name: one.reply for one in tried.run()}


def test_without_rules_everything_goes_through(tmp_path: Path) -> None:
    tried = trial(tmp_path, "")
    assert [one.name for one in tried.run()] == ["connect", "helo", "mail", "rcpt", "data", "preq", "postq", "delivery"]
    assert tried.result == "delivered"
    with pytest.raises(ValueError, match="no stage is left"):
        tried.step()


@pytest.mark.parametrize(
    ("stage", "verdict", "last", "result"),
    [
        ("connect", 'deny("550 5.7.1 no")', "connect", "the connect stage refused it: 554 5.7.1 no"),
        ("connect", "defer()", "connect", "the connect stage refused it: 421 *"),
        ("helo", "deny()", "helo", "the helo stage refused it: 550 *"),
        ("mail", 'defer("451 4.7.1 later")', "mail", "the mail stage refused it: 451 4.7.1 later"),
        ("rcpt", "deny()", "rcpt", "no recipient was taken"),
        ("data", 'reply("450 4.7.1 not now")', "data", "the data stage refused it: 450 4.7.1 not now"),
        ("preq", "deny()", "preq", "the preq stage refused it: 550 *"),
        ("preq", "discard()", "preq", "it was discarded"),
        ("rcpt", 'quarantine("odd")', "preq", "quarantine at rcpt holds it"),
        ("postq", 'quarantine("odd")', "postq", "it is held as quarantine odd"),
        ("postq", "deny()", "postq", "it is held as quarantine denied"),
        ("delivery", "defer()", "delivery", "it is tried again later"),
        ("mail", "faccept()", "delivery", "delivered"),
    ],
)
def test_what_a_verdict_comes_to(tmp_path: Path, stage: str, verdict: str, last: str, result: str) -> None:
    from mta.rules.trying.dialogue import like

    tried = trial(tmp_path, rule(stage, f"return {verdict}"))
    assert list(went(tried))[-1] == last
    assert like(tried.result, result)


def test_what_a_rule_did_for_a_refused_recipient_is_undone(tmp_path: Path) -> None:
    rules = rule(
        "rcpt", 'mail:add_recipient("chief@example.test") if mail.recipient.local_part == "b" then return deny() end'
    )
    tried = trial(tmp_path, rules, recipients=[parse("b@example.test"), parse("a@example.test")])
    list(tried.run("rcpt"))
    assert tried.tx.recipients == []
    list(tried.run("rcpt"))
    assert [str(one) for one in tried.tx.recipients] == ["chief@example.test", "a@example.test"]


def test_what_a_rule_decided_for_good_of_a_refused_recipient_is_undone(tmp_path: Path) -> None:
    rules = rule("rcpt", 'if mail.recipient.domain == "far.example" then return discard() end')
    ours = Domains({"example.test": settings.Domain()})
    tried = trial(tmp_path, rules, domains=ours, recipients=[parse("x@far.example"), parse("you@example.test")])
    assert [one.reply[:3] for one in tried.run() if one.name == "rcpt"] == ["554", "250"]
    assert tried.result == "delivered"


def test_after_a_reply_that_hangs_up_no_recipient_is_asked_for(tmp_path: Path) -> None:
    rules = rule("rcpt", 'if mail.recipient.local_part == "b" then return defer("421 4.7.0 Bye") end')
    tried = trial(tmp_path, rules, recipients=[parse(f"{name}@example.test") for name in "abc"])
    assert [str(one.recipient) for one in tried.run() if one.name == "rcpt"] == ["a@example.test", "b@example.test"]
    assert tried.result == "the rcpt stage refused it: 421 4.7.0 Bye"


LOGIN = rule(
    "authenticate",
    "local shown = mail.credentials; assert(mail.tls and not mail.user);"
    ' store.set("tried " .. shown.password, true);'
    ' if shown.user == "ann" and shown.password == "sesame" then return %s end',
)


@pytest.mark.parametrize(
    ("verdict", "reply", "ignored"),
    [
        ("accept()", "235 2.7.0 Welcome", ""),
        ('accept("250 2.7.0 Hello")', "235 2.7.0 Hello", ""),
        ("faccept()", "535 5.7.8 Wrong name or password", "faccept() lets nobody in: only accept() does"),
        ('quarantine("odd")', "535 5.7.8 Wrong name or password", "quarantine() lets nobody in: only accept() does"),
        ("next()", "535 5.7.8 Wrong name or password", ""),
        ('deny("535 5.7.8 No")', "535 5.7.8 No", ""),
        ("defer()", "454 4.7.0 Nobody can log in now; try again later", ""),
    ],
)
def test_with_a_password_rules_decide_who_has_logged_in(tmp_path: Path, verdict: str, reply: str, ignored: str) -> None:
    seen = rule("mail", "log.info(mail.user)")
    tried = trial(tmp_path, LOGIN % verdict + seen, user="ann", password="sesame")
    stage = list(tried.run("authenticate"))[-1]
    assert (stage.reply, stage.ignored) == (reply, ignored)
    assert stage.asked[0].arguments[0] == "tried ***" and tried.tx.credentials is None
    tried.back()
    assert tried.step().reply == reply
    list(tried.run())
    messages = [fields["message"] for event, fields in tried.world.events if event == "rule_log"]
    if reply.startswith("235"):
        assert tried.result == "delivered" and messages == ["ann"] and tried.tx.client.protocol == "ESMTPSA"
    else:
        assert tried.result == f"the authenticate stage refused it: {reply}" and messages == []


def test_without_a_password_somebody_has_logged_in_whatever_rules_say(tmp_path: Path) -> None:
    tried = trial(tmp_path, LOGIN % "deny()" + rule("mail", 'assert(mail.user == "ann")'), user="ann")
    assert "authenticate" not in went(tried) and tried.result == "delivered"
    assert went(trial(tmp_path, LOGIN % "accept()", user="eve", password="sesame"))["authenticate"][:3] == "535"


def test_faccept_ends_the_rules_of_later_stages_and_says_so(tmp_path: Path) -> None:
    tried = trial(tmp_path, rule("mail", "return faccept()") + rule("preq", "return deny()"))
    stages = {one.name: one for one in tried.run()}
    assert stages["preq"].rules[0].said == "not reached"
    assert stages["preq"].ignored == "faccept at mail ended the rules of later stages"
    assert tried.result == "delivered"


def test_accept_opens_no_relay_but_relay_does(tmp_path: Path) -> None:
    ours = Domains({"example.test": settings.Domain()})
    elsewhere = [parse("eve@elsewhere.example")]
    tried = trial(tmp_path, rule("rcpt", "return accept()"), domains=ours, recipients=elsewhere)
    stages = {one.name: one for one in tried.run()}
    assert stages["rcpt"].reply == "554 5.7.1 We do not relay for you"
    assert stages["rcpt"].ignored == "accept() does not open the relay: only relay() does"
    two = rule("rcpt", "relay()") + rule("rcpt", "return accept()", "two")
    tried = trial(tmp_path, two, domains=ours, recipients=elsewhere)
    assert went(tried)["rcpt"] == "250 2.1.5 Ok"
    tried = trial(tmp_path, two, domains=ours, recipients=elsewhere)
    tried.watch_each = True  # each rule in a run of its own comes to the same
    assert went(tried)["rcpt"] == "250 2.1.5 Ok"


@pytest.mark.parametrize("each", [False, True])
def test_accept_in_main_ends_its_part_only(tmp_path: Path, each: bool) -> None:
    main = rule("rcpt", "return accept()", "first") + rule("rcpt", "return deny()", "second")
    tried = trial(
        tmp_path, main, files={"example.test/incoming.lua": rule("rcpt", 'return deny("550 5.7.1 own")', "own")}
    )
    tried.watch_each = each
    stages = {one.name: one for one in tried.run()}
    assert [(one.rule, one.said) for one in stages["rcpt"].rules] == [
        ("first", "accept"),
        ("second", "not reached"),
        ("own", "deny"),
    ]
    assert stages["rcpt"].reply == "550 5.7.1 own"


@pytest.mark.parametrize("each", [False, True])
def test_one_run_or_one_for_each_rule_make_no_difference(tmp_path: Path, each: bool) -> None:
    rules = (
        rule("rcpt", "mail.vars.n = (mail.vars.n or 0) + 1", "count")
        + rule("preq", 'mail.headers:append("X-N", tostring(mail.vars.n))', "tell")
        + rule("preq", 'mail.headers:remove("Subject") return accept()', "cut")
        + rule("preq", "return deny()", "last")
    )
    tried = trial(tmp_path, rules, recipients=[parse("a@example.test"), parse("b@example.test")])
    tried.watch_each = each
    for _ in tried.run():
        pass
    assert tried.tx.message is not None
    assert tried.tx.message.headers.get("X-N") == "2"
    assert not tried.tx.message.headers.has("Subject")
    changes = {one.rule: [str(change) for change in one.changes] for stage in tried.done for one in stage.rules}
    assert changes["tell"] == (["+ X-N: 2"] if each else [])


def test_back_takes_everything_back(tmp_path: Path) -> None:
    tried = trial(tmp_path, rule("preq", 'store.increment("n") mail.vars.x = 1 mail.headers:remove("Subject")'))
    for _ in tried.run("preq"):
        pass
    assert tried.world.store.get("n") == 1
    assert tried.back()
    assert tried.world.store.get("n") is None
    assert tried.tx.vars == {} and tried.tx.message is None
    for _ in tried.run():
        pass
    assert tried.world.store.get("n") == 1 and tried.tx.vars == {"x": 1}
    while tried.back():
        pass
    assert tried.upcoming == ("connect", None) and tried.done == []
    assert Message(MAIL).headers.has("Subject")


def test_others_are_asked_without_a_trace(tmp_path: Path) -> None:
    rules = rule("mail", "return accept()", "yes") + rule(
        "mail", 'store.increment("n") mail.vars.x = 1 return deny()', "no"
    )
    tried = trial(tmp_path, rules)
    for _ in tried.run("mail"):
        pass
    assert [(one.rule, one.said) for one in tried.others()] == [("no", "deny")]
    assert tried.world.store.get("n") is None and tried.tx.vars == {}


def test_what_nobody_made_up_is_told(tmp_path: Path) -> None:
    tried = trial(
        tmp_path, rule("mail", 'dns.lookup("a.test") local found = service.scan {} mail.vars.f = found.failed')
    )
    stages = {one.name: one for one in tried.run()}
    assert stages["mail"].unknown == ("dns a.test A", "service scan")
    assert stages["mail"].reply.startswith("451 4.3.0")  # a service that fails defers, as in the server
    tried.world.record("a.test", "A", "none")
    tried.world.answer("scan", Answer(code=0))
    tried.reset()
    assert {one.name: one.unknown for one in tried.run()}["mail"] == ()


def test_there_is_no_real_world_unless_somebody_gave_one() -> None:
    with pytest.raises(ValueError, match="no real world"):
        TrialWorld().live = True


def test_a_line_at_the_prompt_has_the_limits_of_a_rule_and_decides_nothing(tmp_path: Path) -> None:
    tried = trial(tmp_path, rule("rcpt", "return accept()"))
    for _ in tried.run("rcpt"):
        pass
    assert prompt.evaluate(tried, "mail.recipient.local_part").text == '"you"'
    assert "not known before preq" in prompt.evaluate(tried, "mail.size").error
    assert "rules.instructions" in prompt.evaluate(tried, "while true do end").error
    assert "rules.growth" in prompt.evaluate(tried, "local t = {} while true do t[#t + 1] = {} end").error
    assert prompt.evaluate(tried, "io").text == "nil"
    assert prompt.evaluate(tried, "deny()").text == "deny()"
    assert prompt.evaluate(tried, "mail.vars.x = 5").error == ""
    assert prompt.evaluate(tried, "mail.vars.x").text == "5"
    assert [(one.rule, one.said) for one in tried.others()] == []
    assert [one.rule for one in tried.done[-1].rules] == ["one"]
    assert [name for name, _ in tried.listed("rcpt")] == ["one"]
    assert prompt.unfinished(tried, "for n = 1, 2 do") and not prompt.unfinished(tried, "1 + 1")


def test_differences_of_parts_and_bodies() -> None:
    from mta.rules.transaction import Transaction

    old, new = Message(MAIL), Message(MAIL)
    new.root.set_text("How are they?\r\n")
    before, after = difference.Picture.of(Transaction(), old), difference.Picture.of(Transaction(), new)
    told = [(one.section, one.sign, one.text) for one in difference.between(before, after)]
    assert ("body", "-", "How are you?") in told and ("body", "+", "How are they?") in told
    assert list(difference.between(before, before)) == []
