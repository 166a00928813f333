"""Stages, verdicts, errors with their lines, what is loaded when, and what stays apart."""

import gc
import os
import time
import weakref
from pathlib import Path

import pytest
from rules_kit import Bench, rule
from timing import slowness

from mta import resources, settings
from mta.message.address import Address
from mta.message.envelope import Client
from mta.message.reply import Reply
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.transaction import Transaction
from mta.rules.trying import example
from mta.rules.verdict import STAGES

# -- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "reply", "folder"),
    [
        ("", "next", None, ""),
        ("return", "next", None, ""),
        ("return next()", "next", None, ""),
        ("return relay()", "next", None, ""),
        ("return accept()", "accept", None, ""),
        ('return accept("250 2.0.0 Thanks")', "accept", "250 2.0.0 Thanks", ""),
        ("return faccept()", "faccept", None, ""),
        ('return faccept("250 Fine")', "faccept", "250 Fine", ""),
        ("return deny()", "deny", "550 5.7.1 Refused by a rule of this server", ""),
        ('return deny("550 5.7.1 No")', "deny", "550 5.7.1 No", ""),
        ('return deny("553 No")', "deny", "553 No", ""),
        ('return deny{"550 5.7.1 One", "two"}', "deny", "550 5.7.1 One / two", ""),
        ('return deny("550 5.7.1 One\\n550 5.7.1 two")', "deny", "550 5.7.1 One / two", ""),
        ("return defer()", "defer", "450 4.7.1 Not now, by a rule of this server; try again later", ""),
        ('return defer("451 4.3.0 Later")', "defer", "451 4.3.0 Later", ""),
        ('return reply("550 5.7.1 Odd")', "reply", "550 5.7.1 Odd", ""),
        ('return reply("450 Odd")', "reply", "450 Odd", ""),
        ('return quarantine("odd.mails-1")', "quarantine", None, "odd.mails-1"),
        ("return discard()", "discard", None, ""),
        ('local d = deny("550 x") if d then return d end', "deny", "550 x", ""),
        ('return deny("550 5.7.1 Grüße")', "deny", "550 5.7.1 Grüße", ""),
    ],
)
def test_verdicts(said: str, kind: str, reply: str | None, folder: str, tmp_path: Path) -> None:
    verdict = Bench(tmp_path, rule(said)).run("rcpt")
    assert (verdict.kind, str(verdict.reply) if verdict.reply else None, verdict.folder) == (kind, reply, folder)
    assert not verdict.failed
    assert (verdict.rule, verdict.where) == (("a rule", "main.lua:1") if kind != "next" else ("", ""))


@pytest.mark.parametrize(
    "said",
    [
        *('deny{"550 Bye", close = true}', "deny{close = true}", 'defer{"450 Bye", close = true}'),
        *('defer("421 4.3.2 Bye")', 'deny("521 5.3.2 Bye")', 'reply("421 Bye")'),  # RFC 5321 3.8, RFC 7504 3
    ],
)
def test_a_verdict_can_hang_up(said: str, tmp_path: Path) -> None:
    reply = Bench(tmp_path, rule(f"return {said}")).run("rcpt").reply
    assert reply is not None and reply.close


@pytest.mark.parametrize(
    ("said", "code"), [("deny()", 554), ('deny("550 5.7.1 No")', 554), ("defer()", 450), ('defer("421 Go")', 421)]
)
def test_at_connect_a_denial_is_554(said: str, code: int, tmp_path: Path) -> None:
    """RFC 5321 3.1: a server that will not take mail greets with 554."""
    reply = Bench(tmp_path, rule(f"return {said}", "connect")).run("connect").reply
    assert reply is not None and reply.code == code


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('deny("250 Fine")', "deny needs a 5xx reply, not 250"),
        ('deny("450 Later")', "deny needs a 5xx reply, not 450"),
        ('defer("550 No")', "defer needs a 4xx reply, not 550"),
        ('accept("550 No")', "accept needs a 2xx reply, not 550"),
        ('reply("250 Fine")', "reply needs a 4xx or 5xx reply, not 250"),
        ('deny("No")', "deny: not an SMTP reply: 'No' (write it as \"550 5.7.1 text\")"),
        ('deny("550 4.7.1 No")', "deny: the enhanced code 4.7.1 does not belong to a 550 reply (RFC 3463 2)"),
        ("deny(5)", "deny needs text, not number"),
        ('deny("550 a", "550 b")', 'deny takes one text; a list of lines stands in braces: deny{"...", "..."}'),
        ('deny{"550 a", closed = true}', "deny does not know closed; it takes lines of text and close = true"),
        ('accept{"250 a", close = true}', "accept: a connection can be closed with a refusal only"),
        ("reply()", 'reply needs the text of a reply: reply("450 4.7.1 Not now")'),
        (
            "quarantine()",
            'quarantine needs a name of letters, digits, ".", "-" and "_": quarantine("viruses")',
        ),
        (
            'quarantine("../x")',
            'quarantine needs a name of letters, digits, ".", "-" and "_": quarantine("viruses")',
        ),
    ],
)
@pytest.mark.parametrize("form", ["return {}", "local v = {} return v", "local v\nv = {} return v"])
def test_a_wrong_reply_is_an_error_at_its_line(form: str, said: str, error: str, tmp_path: Path) -> None:
    """`return deny(...)` is a tail call in Lua, and still its line is known."""
    bench = Bench(tmp_path, rule("local a = 1\n" + form.format(said)))
    verdict = bench.run("rcpt")
    line = 4 if "\n" in form else 3
    assert verdict.failed and bench.failure == f"main.lua:{line}: {error}"
    assert verdict.where == f"main.lua:{line}" and verdict.rule == "a rule"


@pytest.mark.parametrize("value", ["5", "true", '"550 No"', "{}", "deny", "mail", "function() end"])
def test_returning_something_odd_is_an_error(value: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f"return {value}"))
    assert bench.run("rcpt").failed
    assert bench.failure.startswith("main.lua:1: the rule returned a ")


@pytest.mark.parametrize("stage", STAGES)
def test_a_word_knows_its_stages(stage: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('return reply("450 4.7.1 Odd")', stage))
    verdict = bench.run(stage)
    if stage in ("helo", "authenticate", "mail", "rcpt", "data"):
        assert verdict.kind == "reply"
    else:
        assert bench.failure == f"main.lua:2: reply() cannot be used at {stage}: it is for helo to data"


def test_a_verdict_cannot_be_changed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("local v = next() v[1] = 'accept' return v"))
    assert bench.run("rcpt").failed
    bench = Bench(tmp_path, rule("local v = next() rawset(v, 1, 'accept') return v"))
    assert bench.run("rcpt").failed


def test_rules_run_in_order_and_stop_at_the_first_that_decides(tmp_path: Path) -> None:
    main = "\n".join(
        rule(f'log.info("{name}") {verdict}', name=name)
        for name, verdict in [("one", ""), ("two", "return next()"), ("three", "return deny()"), ("four", "")]
    )
    bench = Bench(tmp_path, main)
    assert bench.run("rcpt").rule == "three"
    assert bench.messages == ["one", "two", "three"]


def test_a_stage_without_rules_costs_nothing_and_makes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("return accept()", "preq"))
    assert bench.rules.stages == {"preq"}
    assert bench.run("rcpt").kind == "next" and bench.tx.side is None


def test_relay(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('if mail.recipient.local_part == "you" then relay() end'))
    tx = example.transaction("rcpt")
    bench.run("rcpt", tx)
    assert tx.relay
    tx.recipient = Address("other", "example.test")
    bench.run("rcpt", tx)
    assert not tx.relay, "said for one recipient, it holds for that one"


def test_relay_before_rcpt_holds_for_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("relay()", "helo") + rule("", "rcpt"))
    connection = example.transaction("helo")
    bench.run("helo", connection)
    for _ in range(2):
        mail = connection.mail("x.1")
        mail.sender, mail.recipient = example.SENDER, example.RECIPIENT
        bench.run("rcpt", mail)
        assert mail.relay
    mail = Transaction()
    assert not mail.relay


# -- the header before there is one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES[: STAGES.index("preq")])
def test_a_header_that_is_not_there_yet_can_be_written_but_not_read(stage: str, tmp_path: Path) -> None:
    write = 'mail.headers:append("A", "1") mail.headers:prepend("B", "2") mail.headers:set("C", "3")'
    bench = Bench(tmp_path, rule(f'{write}\nlocal _ = mail.headers:get("A")', stage))
    bench.run(stage)
    assert bench.failure == "main.lua:3: mail.headers:get is not known before preq"
    assert bench.tx.early == (("append", "A", "1"), ("prepend", "B", "2"), ("set", "C", "3"))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("Subject\\r\\nX", "1", "is not a header name"),
        ("X", "1\\r\\n\\r\\nbody", "X"),
        ("X", "' .. ('x'):rep(70000) .. '", "at most 100 fields into a header, and 64 KB"),
    ],
)
def test_what_is_no_field_is_said_at_the_line_that_wants_it(name: str, value: str, why: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f"mail.headers:append('{name}', '{value}')", "rcpt"))
    bench.run("rcpt")
    assert bench.failure.startswith("main.lua:2: ") and why in bench.failure
    assert bench.tx.early == ()


def test_a_rule_that_is_asked_often_does_not_fill_the_memory(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("for n = 1, 60 do mail.headers:append('X', 'y') end", "rcpt"))
    tx = example.transaction("rcpt")
    bench.run("rcpt", tx)
    bench.run("rcpt", tx)
    assert "at most 100 fields" in bench.failure and len(tx.early) == 100


# -- facts -------------------------------------------------------------------------------------------------------------

FIELDS = {
    "helo": "helo", "user": "authenticate", "sender": "mail", "recipients": "rcpt", "size": "preq",
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_field_is_not_known_too_early(field: str, stage: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f"local _\n_ = mail.{field} return accept()", stage))
    verdict = bench.run(stage)
    if STAGES.index(stage) >= STAGES.index(FIELDS[field]):
        assert verdict.kind == "accept", bench.failures
    else:
        assert bench.failure == f"main.lua:3: mail.{field} is not known before {FIELDS[field]}"


def test_the_recipient_is_known_at_rcpt_alone(tmp_path: Path) -> None:
    """At delivery a rule that looks at one would fail with the first mail that has two."""
    body = "local _ = mail.recipient return accept()"
    bench = Bench(tmp_path, "".join(rule(body, stage) for stage in ("mail", "rcpt", "data", "preq", "delivery")))
    assert bench.run("mail").failed and bench.failure.endswith("mail.recipient is not known before rcpt")
    tx = example.transaction("rcpt")
    assert bench.run("rcpt", tx).kind == "accept"
    assert bench.run("data", tx).failed, "what rcpt knew is gone"
    assert bench.failures[1]["error"] == "mail.recipient is known at rcpt only"
    assert bench.run("delivery").failed


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("mail.recipent", "mail.recipent does not exist; did you mean mail.recipient?"),
        ("mail.xyzzy", "mail.xyzzy does not exist"),
        ("mail[1]", "mail.[1] does not exist"),
        ("mail.client.adress", "mail.client.adress does not exist"),
        ("mail.client.nam", "mail.client.nam does not exist; did you mean mail.client.name?"),
        ("mail.sender.domian", "address.domian does not exist; did you mean address.domain?"),
        ("dns.lokup", "dns.lokup does not exist; did you mean dns.lookup?"),
        ("log.warn", "log.warn does not exist; did you mean log.warning?"),
        ("denny()", "attempt to call a nil value (global 'denny'); did you mean deny?"),
    ],
)
def test_a_misspelt_name_is_an_error_that_helps(asked: str, error: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f"\nlocal _ = {asked}"))
    assert bench.run("rcpt").failed and bench.failure == f"main.lua:3: {error}"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("mail.x = 1", "mail.x cannot be assigned"),
        ("mail.helo = 1", "mail.helo cannot be assigned"),
        ("mail.vars = {}", "mail.vars cannot be assigned"),
        ('mail.sender.domain = "x"', "address.domain cannot be assigned"),
        ('mail.client.ip = "x"', "mail.client.ip cannot be assigned"),
        ("dns.lookup = print", "dns.lookup cannot be assigned: dns is read-only"),
        ("string.rep = print", "string.rep cannot be assigned: string is read-only"),
        ("count = 1", "a rule cannot assign the global count: use a local, mail.vars or store"),
        ("_G.count = 1", "a rule cannot assign the global count: use a local, mail.vars or store"),
        ("deny = 1", "a rule cannot assign the global deny: use a local, mail.vars or store"),
        ('require "x"', 'require "x" belongs at the top of the file, outside any rule'),
        ('on.mail("x", print)', "on.mail belongs at the top of a file, outside any rule"),
    ],
)
def test_what_is_read_only(body: str, error: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(body))
    assert bench.run("rcpt").failed and bench.failure == f"main.lua:2: {error}"


def test_facts(tmp_path: Path) -> None:
    body = """
      assert(mail.id == "s-1.1" and mail.origin == "s-0.9" and mail.server == "mx" and mail.listener == "submission")
      assert(mail.client.ip == "192.0.2.1" and mail.client.port == 7 and mail.client.name == nil)
      assert(mail.tls == "TLSv1.3 X" and mail.helo == "h" and mail.user == "u")
      assert(mail.sender == mail.recipients[1] and mail.sender ~= mail.recipients[2])
      assert(tostring(mail.sender) == '"a b"@x.test' and "<" .. mail.sender .. ">" == '<"a b"@x.test>')
      assert(#mail.recipients == 3 and tostring(mail.recipients[3]) == "postmaster")
      local names = {} for k, v in pairs(mail.sender) do names[#names + 1] = k end
      assert(#names == 2)
      return accept()"""
    bench = Bench(tmp_path, rule(body, "preq"))
    tx = example.transaction("preq")
    tx.mail_id, tx.origin, tx.server, tx.listener = "s-1.1", "s-0.9", "mx", "submission"
    tx.client = Client(ip="192.0.2.1", port=7, tls="TLSv1.3 X")
    tx.helo, tx.user, tx.sender = "h", "u", Address("a b", "x.test")
    tx.recipients = [Address("A B", "x.test"), Address("c", "x.test"), Address("postmaster", "")]
    assert bench.run("preq", tx).kind == "accept", bench.failures


def test_facts_follow_the_session(tmp_path: Path) -> None:
    """A second EHLO, STARTTLS, AUTH and each RCPT change what rules see."""
    bench = Bench(
        tmp_path,
        rule('log.info(("%s %s"):format(mail.helo, mail.tls))', "helo")
        + rule('log.info(("%s %s %s"):format(mail.helo, mail.tls, mail.user))', "authenticate")
        + rule('log.info(mail.recipient .. " " .. #mail.recipients .. " " .. mail.id)'),
    )
    tx = example.transaction("helo")
    tx.helo = "one"
    bench.run("helo", tx)
    tx.helo, tx.client.tls = "two", "TLSv1.3"
    bench.run("helo", tx)
    tx.user = "ann"
    bench.run("authenticate", tx)
    mail = tx.mail("s.7")
    mail.sender = example.SENDER
    for name in ("a", "b"):
        mail.recipient = Address(name, "x")
        bench.run("rcpt", mail)
        mail.recipients.append(mail.recipient)
    assert bench.messages == ["one nil", "two TLSv1.3", "two TLSv1.3 ann", "a@x 0 s.7", "b@x 1 s.7"]


def test_a_mail_that_is_over_is_nobodys(tmp_path: Path) -> None:
    """A rule that keeps the object beyond its time meets an error, never another mail."""
    main = "local kept\n" + rule(
        "if kept then local ok, why = pcall(kept.get, kept, 'Subject') log.info(why) else kept = mail.headers end",
        "preq",
    )
    bench = Bench(tmp_path, main)
    bench.run("preq")
    bench.tx.close()
    bench.run("preq")
    bench.tx.close()
    bench.run("preq")
    assert len(bench.messages) == 2 and all("this mail is over" in message for message in bench.messages)


def test_a_forgotten_transaction_is_closed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(""))
    for _ in range(50):
        bench.run("rcpt")
    assert len(bench.rules._runtime.sides) <= 2


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_failing_rule_is_logged_once_with_everything(tmp_path: Path) -> None:
    main = 'local function helper(n)\n  error("broken " .. n)\nend\n' + rule("helper(7)", name="breaks")
    bench = Bench(tmp_path, main)
    verdict = bench.run("rcpt")
    assert str(verdict.reply) == "451 4.3.0 A rule of this server failed; try again later"
    assert bench.failures == [
        {
            "session": "k3v9x0a2bq-1",
            "mail": "k3v9x0a2bq-1.1",
            "stage": "rcpt",
            "rule": "breaks",
            "where": "main.lua:2",
            "error": "broken 7",
            "traceback": "main.lua:2 in helper\nmain.lua:5",
        }
    ]


@pytest.mark.parametrize(("on_error", "kind", "code"), [("defer", "defer", 451), ("deny", "deny", 554)])
def test_on_error(on_error: str, kind: str, code: int, tmp_path: Path) -> None:
    verdict = Bench(tmp_path, rule("error('x')"), on_error=on_error).run("rcpt")
    assert verdict.kind == kind and verdict.reply is not None and verdict.reply.code == code and verdict.failed


def test_on_error_continue_goes_on_with_the_next_rule(tmp_path: Path) -> None:
    main = (
        rule("error('x')", name="1")
        + rule("mail.vars.n = 1", name="2")
        + rule("error('y')", name="3")
        + rule("error('z')", name="4")
    )
    bench = Bench(tmp_path, main, on_error="continue")
    assert bench.run("rcpt").kind == "next"
    assert [f["rule"] for f in bench.failures] == ["1", "3", "4"] and bench.tx.vars == {"n": 1}
    bench = Bench(tmp_path, main + rule("return deny()", name="5"), on_error="continue")
    assert bench.run("rcpt").rule == "5"
    bench = Bench(tmp_path, "".join(rule("error('x')", name=str(n)) for n in range(3000)), on_error="continue")
    assert bench.run("rcpt").kind == "next" and len(bench.failures) == 3000


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "error"),
    [
        ("on.rcpt(", "main.lua:1: unexpected symbol near <eof>"),
        ("\nx = = 1", "main.lua:2: unexpected symbol near '='"),
        ("\nerror('no')", "main.lua:2: no"),
        ("on.rcp('x', print)", "main.lua:1: there is no stage rcp; did you mean rcpt?"),
        ("\non.rcpt(print)", "main.lua:2: on.rcpt needs the name of the rule first"),
        ("\non.rcpt('x')", 'main.lua:2: on.rcpt("x") needs a function(mail)'),
        (
            "on.rcpt('x', print)\n\non.rcpt('x', print)",
            'main.lua:3: there is a rule "x" at rcpt already, in main.lua:1',
        ),
        ("\nmail.x = 1", "main.lua:2: attempt to index a nil value (global 'mail')"),
        ("\ndeny()", "main.lua:2: deny() belongs inside a rule"),
        ("\ndeny = 1", "main.lua:2: deny is a word of the server; use another name"),
        ("\nlocal x = dns.lookup('example.com')", "main.lua:2: dns.lookup cannot be used while the rules are loaded"),
        ("\nwhile true do end", "main.lua:2: the rule did not come to an end"),
        ("\nrequire 'nothing'", 'main.lua:2: require "nothing": there is no nothing.lua in '),
        ("\nrequire '../x'", 'main.lua:2: require "../x": a module\'s name is made of words and dots'),
        ("\nrequire '/etc/passwd'", 'main.lua:2: require "/etc/passwd": a module\'s name is'),
        ("\nrequire 'a..b'", 'main.lua:2: require "a..b": a module\'s name is'),
        ("\nrequire(nil)", "main.lua:2: require needs the name of a module"),
    ],
)
def test_what_cannot_be_loaded(main: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(RulesError) as raised:
        Bench(tmp_path, main)
    assert str(raised.value).startswith(error)


def test_compiled_lua_is_refused(tmp_path: Path) -> None:
    (tmp_path / "main.lua").write_bytes(b"\x1bLua junk")
    with pytest.raises(RulesError, match="compiled Lua"):
        Rules.load(settings.Rules(path=str(tmp_path)), example.world())


def test_no_main_lua_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"main\.lua: there is no such file; rules\.path says where"):
        Rules.load(settings.Rules(path=str(tmp_path)), example.world())


def test_the_same_name_at_two_stages_is_fine(tmp_path: Path) -> None:
    assert Bench(tmp_path, rule("", "rcpt") + rule("", "preq")).rules.stages == {"rcpt", "preq"}


def test_modules(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "greeting.lua").write_text(
        'local inner = require "inner"\nlocal M = {}\n'
        "function M.hello(mail) return inner.word .. mail.sender end\nreturn M\n"
    )
    (tmp_path / "inner.lua").write_text('assert(on == nil, "no rules here")\nshared = 1\nreturn { word = "hello " }\n')
    main = 'local g = require "words.greeting"\nassert(g == require "words.greeting" and shared == nil)\n'
    bench = Bench(tmp_path, main + rule("log.info(g.hello(mail))"))
    bench.run("rcpt")
    assert bench.messages == ["hello ann@example.com"]
    assert [path.name for path in bench.rules.files] == ["inner.lua", "main.lua", "greeting.lua"]


def test_an_error_in_a_module_knows_its_file(tmp_path: Path) -> None:
    (tmp_path / "lib.lua").write_text("local M = {}\nfunction M.check(mail)\n  return mail.nothing\nend\nreturn M\n")
    bench = Bench(tmp_path, 'local lib = require "lib"\n' + rule("return lib.check(mail)"))
    bench.run("rcpt")
    assert bench.failure == "lib.lua:3: mail.nothing does not exist"
    (tmp_path / "lib.lua").write_text("local x = \n")
    with pytest.raises(RulesError, match=r"^lib\.lua:"):
        Bench(tmp_path, 'local lib = require "lib"\n')


def test_modules_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.lua").write_text('require "b"')
    (tmp_path / "b.lua").write_text('require "a"')
    with pytest.raises(RulesError, match="leads back to itself: a -> b -> a"):
        Bench(tmp_path, 'require "a"')


def test_globals_of_a_file_are_its_own_and_end_with_loading(tmp_path: Path) -> None:
    main = "limit = 5\nfunction helper() return limit end\n" + rule("if helper() == 5 then return accept() end")
    assert Bench(tmp_path, main).run("rcpt").kind == "accept"
    bench = Bench(tmp_path, main + rule("limit = 6", "preq"))
    assert bench.run("preq").failed and "use a local" in bench.failure


def test_two_mails_never_share_a_forgotten_local(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("customer = tostring(mail.sender) return accept()"))
    assert bench.run("rcpt").failed


def test_version_and_changed(tmp_path: Path) -> None:
    (tmp_path / "lib.lua").write_text("return 1")
    bench = Bench(tmp_path, 'require "lib"\n' + rule(""))
    rules = bench.rules
    assert len(rules.version) == 12 and not rules.changed()
    assert Rules.load(bench.settings, bench.world).version == rules.version
    os.utime(tmp_path / "lib.lua", (1, 1))
    assert not rules.changed(), "touched, the same"
    (tmp_path / "lib.lua").write_text("return 2")
    assert rules.changed()
    again = Rules.load(bench.settings, bench.world)
    assert again.version != rules.version and not again.changed()
    (tmp_path / "lib.lua").unlink()
    assert again.changed()


def test_a_transaction_keeps_the_rules_it_began_with(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('return deny("550 old")') + rule("", "mail"))
    old, tx = bench.rules, example.transaction("mail")
    old.run("mail", tx)
    (tmp_path / "main.lua").write_text(rule('return deny("550 new")'))
    new = Rules.load(bench.settings, bench.world)
    tx.recipient = example.RECIPIENT
    assert new.run("rcpt", tx).reply == Reply(550, "", "old")
    assert new.run("rcpt", example.transaction("rcpt")).reply == Reply(550, "", "new")
    assert new.run("rcpt", tx.mail()).reply == Reply(550, "", "new"), "the next mail of the same connection"


def test_an_old_generation_goes_with_its_last_transaction(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(""))
    runtime = weakref.ref(bench.rules._runtime)
    bench.run("rcpt")
    bench.rules = Rules.load(bench.settings, bench.world)
    gc.collect()
    assert runtime() is not None
    bench.tx = Transaction()
    gc.collect()
    assert runtime() is None


def test_a_runtime_full_of_memory_is_renewed(tmp_path: Path) -> None:
    """What rules keep for ever fills it; new transactions get a fresh one, running ones keep theirs."""
    main = "local kept = {}\n" + rule(
        "for i = 1, 20 do kept[#kept + 1] = ('x'):rep(10000) .. #kept end log.info(#kept)"
    )
    bench = Bench(tmp_path, main, memory=2 << 20, growth=1 << 20)
    first = example.transaction("rcpt")
    bench.run("rcpt", first)
    one = bench.rules._runtime
    while bench.rules._runtime is one:
        assert bench.run("rcpt").kind == "next"
        assert len(bench.messages) < 50
    assert bench.messages[-1] == "20", "the new one begins anew"
    count = len(bench.messages)
    assert bench.rules.run("rcpt", first).kind == "next"
    assert int(bench.messages[-1]) > 100 and len(bench.messages) == count + 1, "the running one goes on in the old"


def test_while_an_old_runtime_is_in_use_no_third_one_is_made(tmp_path: Path) -> None:
    main = "local kept = {}\n" + rule("for i = 1, 20 do kept[#kept + 1] = ('x'):rep(10000) .. #kept end")
    bench = Bench(tmp_path, main, memory=2 << 20, growth=1 << 20)
    held = example.transaction("rcpt")
    bench.run("rcpt", held)
    verdicts = [bench.run("rcpt") for _ in range(40)]
    assert verdicts[-1].failed and str(verdicts[-1].reply).startswith("451 4.3.2")
    assert bench.world.time > 1_700_000_004, "it waited first"
    held.close()
    assert not bench.run("rcpt").failed


def test_a_transaction_is_at_one_stage_at_a_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("dns.lookup('x') return accept()"))
    tx = example.transaction("rcpt")
    again: list[str] = []

    def lookup(name: str, type: str) -> list[str]:
        with pytest.raises(RuntimeError, match="rcpt is still under way"):
            bench.rules.run("rcpt", tx)
        tx.close()  # the session gave up on it
        other = example.transaction("rcpt")
        bench.world.lookup = lambda name, type: []  # type: ignore[method-assign]
        again.append(bench.rules.run("rcpt", other).kind)
        return []

    bench.world.lookup = lookup  # type: ignore[method-assign]
    assert bench.rules.run("rcpt", tx).kind == "accept" and again == ["accept"]
    runtime = bench.rules._runtime
    assert runtime.live == 0 or len(set(runtime.free)) == len(runtime.free)


def test_rules_too_large_for_their_memory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="rules alone take"):
        Bench(tmp_path, "big = {} for i = 1, 15 do big[i] = ('x'):rep(100000) .. i end", memory=2 << 20)


# -- the log and the trace ---------------------------------------------------------------------------------------------


def test_log_words(tmp_path: Path) -> None:
    body = 'log.debug("a")\nlog.info(1)\nlog.warning(mail.sender)\nlog.error("d")\n'
    body += 'print("x", nil, 5)\nlog.info(("y"):rep(9000))'
    bench = Bench(tmp_path, rule(body))
    bench.run("rcpt")
    assert [event for event, _ in bench.world.events] == [
        "rule_debug", "rule_log", "rule_warning", "rule_error", "rule_log", "rule_log",
    ]  # fmt: skip
    assert bench.messages[:5] == ["a", "1", "ann@example.com", "d", "x\tnil\t5"] and len(bench.messages[5]) < 8300
    assert [fields["where"] for _, fields in bench.world.events] == [f"main.lua:{n}" for n in range(2, 8)]
    assert bench.world.events[0][1] == {
        "session": "k3v9x0a2bq-1", "mail": "k3v9x0a2bq-1.1", "stage": "rcpt", "rule": "a rule", "where": "main.lua:2",
        "message": "a",
    }  # fmt: skip


def test_trace(tmp_path: Path) -> None:
    main = (
        rule("for i = 1, 5000 do end", name="works")
        + rule('dns.lookup("example.com", "MX") dns.lookup("broken.example")', name="asks")
        + rule("return deny()", name="decides")
        + rule("", name="never")
    )
    bench = Bench(tmp_path, main)
    tx = example.transaction("rcpt")
    bench.run("rcpt", tx)
    assert tx.trace == []
    tx.tracing = True
    bench.run("rcpt", tx)
    assert [(s.stage, s.rule, s.where, s.verdict) for s in tx.trace] == [
        ("rcpt", "works", "main.lua:1", "next"),
        ("rcpt", "asks", "main.lua:4", "next"),
        ("rcpt", "decides", "main.lua:7", "deny"),
    ]
    assert tx.trace[0].instructions >= 5000 and tx.trace[0].microseconds > 0
    first, second = tx.trace[1].asked
    assert (first.word, first.arguments, first.answer) == ("dns.lookup", ("example.com", "MX"), ["10 mail.example.com"])
    assert "SERVFAIL" in second.answer
    assert tx.trace[0].asked == tx.trace[2].asked == []


def test_a_failing_rule_is_in_the_trace(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("") + rule("\nerror('x')", name="b"))
    tx = example.transaction("rcpt")
    tx.tracing = True
    bench.run("rcpt", tx)
    assert [(s.rule, s.where, s.verdict) for s in tx.trace] == [
        ("a rule", "main.lua:1", "next"),
        ("b", "main.lua:6", "failed"),
    ]


# -- what we ship ------------------------------------------------------------------------------------------------------


def test_the_rules_a_newcomer_gets(tmp_path: Path) -> None:
    main = (resources.folder("conf") / "rules" / "main.lua").read_text("utf-8")
    bench = Bench(tmp_path, main)
    assert bench.run("rcpt").kind == "next"
    tx = example.transaction("rcpt")
    tx.recipient = Address("noreply", "example.test")
    assert str(bench.run("rcpt", tx).reply) == "550 5.7.1 Nobody reads this address"
    uncommented = "\n".join(
        line.removeprefix("-- ") if line.startswith("-- ") else line for line in main.split("\n")[12:]
    )
    bench = Bench(tmp_path, uncommented[uncommented.index("on.preq") :])
    bench.run("preq")
    assert bench.tx.message is not None
    assert bench.tx.message.headers.get("X-Origin") == "outside, by 192.0.2.7"


def test_resources_are_found() -> None:
    assert (resources.folder("lua") / "kernel.lua").is_file()
    assert (resources.folder("conf") / "rules" / "main.lua").is_file()


def test_loading_is_quick(tmp_path: Path) -> None:
    began = time.process_time()
    for _ in range(10):
        Bench(tmp_path, rule(""))
    assert (time.process_time() - began) / 10 < 0.05 * slowness()
