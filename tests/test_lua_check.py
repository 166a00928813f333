"""The check of rules: what it finds and where, what it leaves alone, and that no text makes it raise."""

import json
import re
import smtplib
from pathlib import Path
from typing import Any

import pytest
from commands import mta
from daemon import Server
from hypothesis import given
from hypothesis import strategies as st
from rules_kit import Bench

from mta import settings
from mta.rules import check
from mta.rules.check import ERROR, WARNING, Finding, Source, patterns
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.outside import facts
from mta.rules.pages import wordbook
from mta.rules.trying import example, files
from mta.rules.verdict import STAGES

TREE = Path(__file__).parent.parent


def look(text: str | bytes, *, rules: bool = True, services: bool = False) -> list[Finding]:
    source = Source("main.lua", text.encode() if isinstance(text, str) else text, rules)
    words = wordbook.WORDS | check.named(facts.of(settings.Settings()))
    return check.look([source], words, services=services)


def rule(body: str, stage: str = "rcpt", parameter: str = "mail") -> str:
    """One rule; its body starts on line 2."""
    return f'on.{stage}("a rule", function({parameter})\n{body}\nend)\n'


def told(text: str, **more: Any) -> str:
    """What is said, if there is just one thing: "2:8 error: what (advice)"."""
    (found,) = look(text, **more)
    return str(found).removeprefix("main.lua:").replace(": ", " ", 1)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("mail.size = mail.size", "2:18 error: mail.size is not known before preq (move it into a rule at preq and"),
        ("return deny(mail.recipent)", "2:18 error: mail.recipent does not exist (did you mean mail.recipient?)"),
        ('print(mail.headers:get("X"))', "2:20 error: mail.headers:get is not known before preq"),
        ("local m = mail; local c = m.client; print(c.address)", "2:45 error: mail.client.address does not exist"),
        ("for _, r in ipairs(mail.recipients) do print(r.local_parts) end", "2:48 error: address.local_parts does not"),
        ("print(mail.recipients[1].host)", "2:26 error: address.host does not exist"),
        (
            'if mail.sender == "ann@x.test" then return deny() end',
            '2:4 error: an address is never equal to a text (write mailbox.same(mail.sender, "ann@x.test"),',
        ),
        (
            'if mail.sender == "" then return deny() end',
            '2:4 error: an address is never equal to a text (write tostring(mail.sender) == "")',
        ),
        (
            'if mail.sender --[[who]] == --[[ann]] "ann@x.test" then return deny() end',
            '2:4 error: an address is never equal to a text (write mailbox.same(mail.sender, "ann@x.test"),',
        ),
        ("local r = mail.recipients[1]\nreturn mail.user ~= r", "3:8 error: an address is never equal to a text"),
        ("return deny(550)", '2:13 error: deny needs text, not a number (write deny("550 text"))'),
        ('print(mail["helloo"])', "2:12 error: mail.helloo does not exist (did you mean mail.helo?)"),
        ('dns.lokup("x")', "2:5 error: dns.lokup does not exist (did you mean dns.lookup?)"),
        ('dns:lookup("x")', '2:5 error: dns.lookup is called with a dot (write "dns.lookup(...)")'),
        ('print(mail.helo:trim())', "2:17 error: string.trim does not exist"),
        ("clamscan()", '2:1 error: there is no global clamscan (make it with "local clamscan = ...")'),
        ("print(os.getenv('HOME'))", "2:10 error: os.getenv does not exist"),
        ("io.open('/etc/passwd')", "2:1 error: there is no global io"),
        ("count = 1", '2:1 error: a rule cannot assign the global count (write "local count", or keep it in mail.vars'),
        ("function helper() end", "2:10 error: a rule cannot assign the global helper"),
        ('print(net.inside(mail.client.ip, "10.0.0.0/33"))', "2:34 error: net.inside: '10.0.0.0/33' is no network"),
        ('print(regex.matches(mail.helo, "("))', "2:32 error: regex.matches: the pattern '(': missing )"),
        ('print(rate("x", "60/1x"))', "2:17 error: rate: '60/1x' is not a rate"),
        ('mail:hold("soon")', "2:11 error: mail:hold: 'soon' is no duration"),
        ('mail:route("smtp://a.test:smtp")', "2:12 error: mail:route: "),
        ('mail:route("maildir:x/")', '2:12 error: mail:route: maildir where? Write "maildir:PATH"'),
        ('store.set("k", 1, "soon")', "2:19 error: store.set: 'soon' is no duration"),
        ('print(dns.lookup("a.test", "MIX"))', "2:28 error: dns.lookup: there is no record type 'MIX'"),
        ('print(dns.listed("192.0.2.1", "bl.test", "2"))', "2:42 error: dns.listed: '2' is no network"),
        ('return deny("Not here")', "2:13 error: deny: not an SMTP reply: 'Not here' (write a reply like \"550 5.7.1"),
        ('return deny("250 2.0.0 Fine")', "2:13 error: deny needs a 5xx reply, not 250 (write a reply"),
        ('return deny{"550 4.7.1 x", close = true}', "2:12 error: deny: the enhanced code 4.7.1 does not belong to a"),
        ('return accept("550 no")', "2:15 error: accept needs a 2xx reply, not 550"),
        ("return deny(replies.relay_denid)", "2:21 error: replies.relay_denid does not exist (did you mean"),
        ("print(config.severs)", "2:14 error: config.severs does not exist (did you mean config.server?)"),
        ("service.clamav()", "2:9 error: service.clamav does not exist (add [service.clamav] to the configuration)"),
        ('require "x"', "2:1 error: require belongs at the top of the file, outside any rule (move it there)"),
        ('print(mail.helo:find("[a"))', "2:22 error: malformed pattern (missing ']')"),
        ('print(string.gsub("x", "%", ""))', "2:24 error: malformed pattern (ends with '%')"),
        ('on.mail("inner", function() end)', "2:1 error: on.mail belongs at the top of a file, outside any rule"),
    ],
)  # fmt: skip
def test_errors(body: str, expected: str) -> None:
    assert told(rule(body)).startswith(expected)


def test_a_stage_that_is_none() -> None:
    assert told('on.recpt("x", function(mail) end)') == "1:4 error: there is no stage recpt (did you mean rcpt?)"
    assert "the stages are connect, helo" in told('on.xyz("x", function(mail) end)')


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_and_method_of_mail_at_every_stage(stage: str) -> None:
    for one in wordbook.WORDS.values():
        if not re.fullmatch(r"mail[.:]\w+", one.name):
            continue
        use = f"print({one.name})" if one.kind == "field" else f"print({one.name}('1h', 'b', 'c'))"
        found = [finding for finding in look(rule(use, stage)) if finding.level == ERROR]
        assert bool(found) == (stage not in one.stages), f"{one.name} at {stage}: {found}"


@pytest.mark.parametrize("stage", STAGES)
def test_every_verdict_at_every_stage(stage: str) -> None:
    for one in wordbook.WORDS.values():
        if one.kind == "verdict":
            given = {"reply": '("450 4.7.1 x")', "quarantine": '("x")'}.get(one.name, "()")
            found = [f for f in look(rule(f"return {one.name}{given}", stage)) if f.level == "error"]
            assert bool(found) == (stage not in one.stages), f"{one.name} at {stage}: {found}"


def test_a_method_called_with_a_dot() -> None:
    said = told(rule('print(mail.headers.get("X"))', "preq"))
    assert said == '2:20 error: mail.headers:get is called with a colon (write "mail.headers:get(...)")'


def test_parts() -> None:
    assert not look(rule('for part in mail:parts("*.exe") do print(part.filename); part:remove() end', "preq"))
    assert "part.file does not exist" in told(rule("for part in mail:parts() do print(part.file) end", "preq"))
    assert "part:remove is called with a colon" in told(rule('mail:find("x").remove()', "preq"))
    assert "mail.headers.trim does not exist" in told(rule('mail:find("x").headers:trim()', "preq"))


def test_duplicate_names() -> None:
    text = 'on.rcpt("a", function() end)\non.mail("a", function() end)\non.rcpt("a", function() end)\n'
    assert told(text) == '3:9 error: there is a rule "a" at rcpt already, in line 1 (give it another name)'


def test_what_belongs_inside_a_rule() -> None:
    assert told("deny()").startswith("1:1 error: deny() belongs inside a rule")
    assert told('local found = dns.lookup("x")').startswith("1:15 error: dns.lookup can be asked inside a rule only")
    assert told("print(mail.helo)").startswith("1:7 error: there is no global mail: a rule has it as its argument")


def test_a_module_has_no_on() -> None:
    text = 'on.rcpt("a", function(mail) end)\nreturn {}'
    assert told(text, rules=False).startswith("1:1 error: a module has no on")
    assert not look(text)


def test_named_functions_are_rules_too() -> None:
    text = "local function big(mail)\n  return mail.size > 1\nend\n"
    assert told(text + 'on.rcpt("a", big)').startswith("2:15 error: mail.size is not known before preq")
    both = text + 'on.rcpt("a", big)\non.preq("b", big)'
    assert told(both).startswith("2:15 warning: mail.size is not known before preq")
    assert not look(text + 'on.preq("b", big)')


# -- warnings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('deny("550 5.7.1 x")', '2:1 warning: the verdict of deny() is thrown away (write "return deny...")'),
        ("print(os.clock or time.now)", "2:10 warning: os.clock does not exist"),
        ("if debugging then return end", "2:4 warning: there is no global debugging, so this is nil"),
        ("if mail.user then return accept() else return end\nprint(1)", "3:1 warning: this is never reached"),
        ("while true do break; print(1) end", "2:22 warning: this is never reached"),
        ('error("x")\nprint(1)', "3:1 warning: this is never reached"),
        ('print(mail.helo:match("(.-)=(.-);(.-)!"))', "2:23 warning: 200 bytes can keep this pattern busy for 2e+09"),
        (
            'if dns.listed("192.0.2.1", "zen.example") and mail.helo == "x" then return deny() end',
            "2:4 warning: dns.listed waits for an answer, and only then comes a test that costs nothing (put the test",
        ),
        (
            'local codes = dns.listed(mail.client.ip, "zen.example")\nif mail.user then return end\nprint(codes)',
            "2:1 warning: dns.listed waits for an answer that the test in line 3 may not need (put the test first)",
        ),
    ],
)  # fmt: skip
def test_warnings(body: str, expected: str) -> None:
    assert told(rule(body)).startswith(expected)


@pytest.mark.parametrize("verdict", ["accept()", 'deny{"550 x", close = true}', 'quarantine("x")'])
def test_a_rule_behind_one_that_always_decides(verdict: str) -> None:
    text = f'on.rcpt("one", function(mail)\nif mail.user then return accept() end\nreturn {verdict}\nend)\n'
    text += 'on.rcpt("two", function(mail) end)\non.mail("three", function(mail) end)'
    assert told(text).startswith(
        '5:1 warning: the rule "two" is never asked: "one" in line 1 decides always (move it up'
    )


def test_a_rule_of_a_later_stage() -> None:
    later = 'on.preq("two", function(mail) end)'
    assert '"one" in line 1 ends everything at mail' in told(
        'on.mail("one", function() return faccept() end)\n' + later
    )
    for verdict in ("accept()", "next()", "relay()", 'quarantine("x")'):
        assert not look(f'on.mail("one", function() return {verdict} end)\n' + later)


def test_a_login_that_would_be_refused() -> None:
    """faccept() says yes to everything but this."""
    assert told(rule("return faccept()", "authenticate")) == (
        "2:8 warning: faccept() lets nobody log in (accept() does)"
    )
    assert not look(rule("return accept()", "authenticate")) and not look(rule("return faccept()", "connect"))


def test_a_misspelt_field_in_a_function_of_ones_own() -> None:
    found = told("local function f(mail)\n  return mail.recipent\nend\nreturn f", rules=False)
    assert found == "2:15 warning: mail.recipent does not exist (did you mean mail.recipient?)"


# -- what is left alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        rule("pcall(function() return mail.size end)"),
        rule("local m = mail\nm = {}\nprint(m.whatever)"),
        rule("local mail = {}\nprint(mail.whatever)"),
        rule("local dns = { lokup = print }\ndns.lokup()"),
        rule("print(mail.vars.anything, mail.vars.a.b)\nmail.vars.x = 1"),
        rule("local function deny() end\ndeny()"),
        rule("for next, value in pairs({}) do print(next, value) end"),
        rule("return mail.user and deny() or next()"),
        rule("if mail.sender == mail.recipients[1] or mail.helo == mail.sender.domain then return deny() end", "data"),
        rule('if tostring(mail.sender) == "a@b.test" or mail.sender == nil then return deny() end'),
        rule("goto done\nprint(1)\n::done::\nreturn accept()"),
        rule("repeat local x = mail.user until x"),
        rule("print(next({}))", "postq"),
        rule("local t = { mail = 1, [mail.helo] = 2, print }\nreturn t.mail and t[mail.helo] and nil"),
        rule('if mail.user and dns.lookup("x") then return deny() end'),
        rule('local found = dns.lookup("x")\nif found and mail.helo == found[1] then return deny() end'),
        rule('if not rate("x", "1/1h") and mail.helo == "x" then return defer() end'),
        rule('local x <const> = 1\nlocal y <close> = nil\nprint(x // 2, y)'),
        rule('print(mail.recipient .. "x", tostring(mail.sender):lower():find("^a+$"))'),
        rule('print(mail.helo:find(")"), mail.helo:find("[", 1, true))'),
        rule("print(replies.relay_denied, config.server.name, config.domain[mail.sender.domain], config.app.mine)"),
        rule("local _ENV = { dns = {} }\nx = 1\ndns.lokup(whatever.x)"),
        rule("print(_G, _VERSION, utf8.charpattern)"),
        "limit = 5\nfunction helper(mail) return mail.client.ip, limit end\n" + rule("print(helper(mail), limit)"),
        'for _, stage in ipairs{"mail", "rcpt"} do on[stage]("a", function(mail) end) end',
        "#!/usr/bin/lua\n" + rule("return next()"),
        "\ufeff" + rule("return next()"),
    ],
)  # fmt: skip
def test_no_false_findings(text: str) -> None:
    assert look(text) == []


@pytest.mark.parametrize("one", wordbook.WORDS.values(), ids=lambda one: one.name)
def test_every_example_passes(one: Any) -> None:
    stage = one.example_stage
    text = one.example if one.kind == "stage" else rule(one.example, stage)
    assert [str(finding) for finding in look(text, services=True) if finding.level == ERROR] == []


SHIPPED = [*sorted((TREE / "lua" / "examples").rglob("*.lua")), *sorted((TREE / "conf").rglob("*.lua"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_rules_have_no_findings(path: Path) -> None:
    text = path.read_bytes()
    assert check.look([Source(path.name, text, b"\non." in text)], wordbook.WORDS, services=True) == []


@pytest.mark.parametrize("path", sorted((TREE / "lua" / "lib").rglob("*.lua")), ids=lambda path: path.name)
def test_shipped_modules_have_no_findings(path: Path) -> None:
    assert check.look([Source(path.name, path.read_bytes(), False)], wordbook.WORDS, services=True) == []


PIECES = [
    "on.rcpt(", '"x"', "function(mail)", "end", ")", "return", "deny", "mail", ".", ":", "headers", "recipient", "if",
    "then", "else", "local", "=", "for", "in", "ipairs", "do", "{", "}", "[", "]", "..", "and", "not", "[[", "--", "\n",
    "'", "\\", "%", "1", "::a::", "goto a", "until", "repeat", "while", "\x00", "\xff", "é", "pcall", "...", "<const>",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=60).map(" ".join))
def test_no_text_makes_it_raise(text: str) -> None:
    for finding in look(text.encode("utf-8", "surrogatepass")):
        assert finding.line >= 1 and finding.column >= 1 and finding.what and finding.advice


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(text: bytes) -> None:
    look(text)
    look(rule("").encode().replace(b"\n\n", b"\n" + text + b"\n"))


@given(st.text(st.sampled_from("()[]%^$.*+-?abfw01"), max_size=12))
def test_no_pattern_makes_it_raise(pattern: str) -> None:
    look(rule(f"print(mail.helo:match([==[{pattern}]==]))"))


def test_deep_text_is_not_followed() -> None:
    deep = "(" * 5000 + "1" + ")" * 5000
    assert "nested too deeply" in told(rule(f"print({deep})"))
    assert look(rule("print(" + "..".join(["mail.helo"] * 150) + ")")) == []


# -- patterns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["%.exe$", "^%s*(.-)%s*$", "[^%s,;]+", "^([^=]+)=([^=]+)=(.+)$", "%b()", "^.+@.+$"])
def test_patterns_that_are_fine(pattern: str) -> None:
    assert patterns.steps(pattern) <= patterns.WORST


BUSY = [".*.*.*x", "(.-)=(.-);(.-)!", "^%w*%w*%w*%w*!", "a?" * 30 + "b", ".-(.)%1.-%b()x"]


@pytest.mark.parametrize("pattern", BUSY)
def test_patterns_that_may_blow_up(pattern: str) -> None:
    assert patterns.steps(pattern) > patterns.WORST


@pytest.mark.parametrize("pattern", ["[", "%", "(", ")", "%b", "%f", "%1", "(%1)", "[%", "[a-", "[]", "[^]"])
def test_patterns_that_are_none(pattern: str, tmp_path: Path) -> None:
    """The rules' own matcher refuses what the check refuses, in the same words."""
    bench = Bench(tmp_path, rule(f'return ("aab"):gsub("{pattern}", "")'))
    bench.run("rcpt")
    with pytest.raises(ValueError, match=r"\w") as caught:
        patterns.steps(pattern)
    assert bench.failure == f"main.lua:2: {caught.value}"


# -- at load, and on the command line ----------------------------------------------------------------------------------


def load(folder: Path, text: str) -> Rules:
    (folder / "main.lua").write_text(text)
    return Rules.load(settings.Rules(path=str(folder)), example.world())


def test_errors_are_errors_at_load(tmp_path: Path) -> None:
    with pytest.raises(RulesError) as caught:
        load(tmp_path, rule("print(mail.size)\nprint(mail.sizee)"))
    assert (caught.value.file, caught.value.line) == ("main.lua", 2)
    assert caught.value.what.startswith("mail.size is not known before preq (move it into a rule at preq and later)")
    assert caught.value.what.endswith('; "mta lua check" shows 1 more')


def test_warnings_are_none_at_load(tmp_path: Path) -> None:
    assert load(tmp_path, rule('deny("550 5.7.1 x")')).stages == {"rcpt"}


def test_modules_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "words.lua").write_text("return { f = function() return dns.lokup('x') end }")
    with pytest.raises(RulesError) as caught:
        load(tmp_path, 'local words = require "words"\n' + rule("words.f()"))
    assert (caught.value.file, caught.value.line) == ("words.lua", 1)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    main = tmp_path / "rules" / "main.lua"
    main.write_text(rule("return next()"))
    assert mta("lua", "check", "rules", cwd=tmp_path, code=0) == "rules: fine\n"
    main.write_text(rule('deny("550 5.7.1 x")'))
    said = mta("lua", "check", "rules", cwd=tmp_path, code=0)
    assert said.startswith("rules/main.lua:2:1: warning: the verdict of deny()") and said.endswith(
        "\nrules: 1 warning\n"
    )
    mta("lua", "check", "rules", "--strict", cwd=tmp_path, code=1)
    main.write_text(rule("return mail.size, mail.sizee"))
    said = mta("lua", "check", "rules", cwd=tmp_path, code=1)
    assert "\nrules/main.lua:2:24: error: mail.sizee does not exist" in said and said.endswith("\nrules: 2 errors\n")
    lines = mta("lua", "check", "rules", "--json", cwd=tmp_path, code=1).splitlines()
    one = json.loads(lines[0])
    assert (one["file"], one["line"], one["column"], one["level"]) == ("rules/main.lua", 2, 13, "error")
    assert "there is no such file" in mta("lua", "check", "nowhere", cwd=tmp_path, code=3)


def test_what_loading_finds(tmp_path: Path) -> None:
    (tmp_path / "main.lua").write_text("local x = = 1\n")
    (tmp_path / "spare.lua").write_text("return (\n")
    found = files.findings(settings.Rules(path=str(tmp_path)), {})
    assert [(Path(one.file).name, one.line, one.level) for one in found] == [("main.lua", 1, ERROR)]
    assert "unexpected symbol near '='" in found[0].what
    (tmp_path / "main.lua").write_text('error("not today")\n')
    found = files.findings(settings.Rules(path=str(tmp_path)), {})
    assert found[0].what == "not today"
    (tmp_path / "main.lua").write_text(rule("return next()"))
    found = files.findings(settings.Rules(path=str(tmp_path)), {})
    assert [(Path(one.file).name, one.level) for one in found] == [("spare.lua", WARNING)]


def test_one_file_with_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "words.lua").write_text("return { hello = 'x' }")
    (tmp_path / "filter.lua").write_text('local words = require "words"\n' + rule("print(words.hello, mail.sizee)"))
    said = mta("lua", "check", "filter.lua", cwd=tmp_path, code=1)
    assert said.startswith("filter.lua:3:25: error: mail.sizee does not exist")
    assert mta("lua", "check", "words.lua", cwd=tmp_path, code=0) == "words.lua: fine\n"


def test_services_and_lists_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "known.txt").write_text("example.com\n")
    text = 'lists.load("known.txt")\n' + rule("return service.scan().code == 1 and deny() or next()")
    (tmp_path / "rules" / "main.lua").write_text(text)
    mta("lua", "check", "rules", cwd=tmp_path, code=0)  # no configuration: any service may be meant
    (tmp_path / "mta.toml").write_text('[server]\nname = "mx.example.test"\n')
    assert "add [service.scan] to the configuration" in mta("config", "check", cwd=tmp_path, code=1)
    assert "add [service.scan] to the configuration" in mta("lua", "check", cwd=tmp_path, code=1)
    with (tmp_path / "mta.toml").open("a") as file:
        file.write('[service.scan]\ntype = "program"\narguments = ["/bin/true"]\n')
    assert mta("lua", "check", cwd=tmp_path, code=0).endswith("rules: fine\n")
    assert mta("config", "check", cwd=tmp_path, code=0).endswith("fine\n")


def test_a_reload_checks_first(tmp_path: Path) -> None:
    with Server(tmp_path, rules=rule("return next()")) as server:
        server.rules(rule("return deny(mail.recipent)"))
        said = server.reload(code=1)
        assert "main.lua:2: mail.recipent does not exist (did you mean mail.recipient?)" in said
        server.send()
        server.until(lambda: len(server.mails()) == 1, "no mail came")
        server.rules(rule("return deny()"))
        server.reload()
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            server.send()
