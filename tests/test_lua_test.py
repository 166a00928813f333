"""mta lua run and mta lua test: what they print, how failures read, what coverage counts, and pytest's collection."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_lua_repl import TREE, environment, mta

RULES = """\
local function archived(address)
  return address.local_part == "archive"
end

on.rcpt("archive", function(mail)
  if archived(mail.recipient) then
    return deny("550 5.7.1 Closed")
  end
end)

on.rcpt("listed", function(mail)
  if dns.listed(mail.client.ip, "list.test") then
    return defer("450 4.7.1 Listed")
  else
    log.info("clean")
  end
end)

on.preq("tag", function(mail)
  for part in mail:parts() do
    if part.filename == "a.exe" then
      mail.headers:append("X-Program", "yes")
    end
  end
  mail:route("smtp://relay.example")
end)

on.preq("never wanted", function(mail)
  if mail.vars.nobody then
    mail.headers:remove("Subject")
  end
end)
"""

GOOD = """\
test("the archive is closed", function(t)
  t:session { from = "a@b.example", to = { "archive@y.example", "b@y.example" } }
  t:mail { subject = "Hi", text = "Hello there\\n", attach = { ["a.exe"] = "MZ" } }
  t:run()
  t:expect("rcpt", "550 5.7.1 *", "archive@y.example"):expect("rcpt", "250 *", "b@y.example")
  t:decided("rcpt", "archive", "deny")
  t:reached("listed"):header("X-Program", "y*"):no_header("X-Other"):header("Subject", "Hi")
  t:envelope { sender = "a@b.example", recipients = { "b@y.example" } }
  t:part("application/*", "MZ"):part("a.exe"):no_part("*.doc"):body("Hello*")
  t:routed("b@y.example", "smtp *relay.example*")
  t:asked("dns.listed", "192.0.2.1"):not_asked("service.*"):not_asked("store.get")
  t:logged("rule_log", { message = "clean" }):not_logged("rule_failed")
  t:result("delivered")
end)

test("listed clients wait", function(t)
  t:dns("1.2.0.192.list.test", "A", "127.0.0.2")
  t:session { to = "b@y.example" }
  t:expect("rcpt", "450 4.7.1 Listed")
  t:not_logged("rule_log")
  t:equal(t:reply("rcpt"), "450 4.7.1 Listed")
end)

test("step by step", function(t)
  t:session { to = "b@y.example" }
  t:equal(t:step(), "connect")
  t:run("rcpt")
  t:back()
  t:dns("1.2.0.192.list.test", "A", "127.0.0.2")
  t:run()
  t:expect("rcpt", "450 *")
end)
"""

DIALOGUE = """\
with dns 1.2.0.192.list.test A 127.0.0.2
with client 192.0.2.9
S: 220 *
C: EHLO client.example
S: ...
C: MAIL FROM:<a@b.example>
S: 250 *
C: RCPT TO:<archive@example.test>
S: 550 5.7.1 Closed (*
C: RCPT TO:<ann@example.test>
S: 250 *
C: DATA
S: 354 *
C: Subject: Hi
C:
C: hello
C: .
S: 250 *
C: QUIT
S: 221 *
then spool 1
then header Subject: Hi
then no header X-Program
then mailbox ann@example.test 1
then log delivered transport=smtp
then log rule_log message=clean
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules" / "main.lua").write_text(RULES)
    (tmp_path / "tests" / "archive_test.lua").write_text(GOOD)
    (tmp_path / "tests" / "talk.smtp").write_text(DIALOGUE)
    return tmp_path


def failing(place: Path, body: str) -> str:
    """What a test with this body is told; the body begins on line 2."""
    (place / "tests" / "one_test.lua").write_text(f'test("one", function(t)\n{body}\nend)\n')
    done = mta(place, "lua", "test", "tests/one_test.lua")
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "tests/one_test.lua"
    assert lines[1].startswith("  FAIL one")
    return lines[2].strip()


# -- test -------------------------------------------------------------------------------------------------------------


def test_a_login_in_a_test(place: Path) -> None:
    """With a password rules decide; without one the user has logged in."""
    with (place / "rules" / "main.lua").open("a") as file:
        file.write(
            'on.authenticate("ann", function(mail)\n'
            '  if mail.credentials.password == "sesame" then return accept() end\n'
            'end)\non.mail("who", function(mail) log.info(mail.user or "nobody") end)\n'
        )
    (place / "tests" / "one_test.lua").write_text(
        'test("in", function(t)\n'
        '  t:session { user = "ann", password = "sesame", from = "a@b.example" }\n'
        '  t:expect("authenticate", "235 *"):decided("authenticate", "ann", "accept")\n'
        '  t:logged("rule_log", { message = "ann" })\nend)\n'
        'test("not in", function(t)\n'
        '  t:session { user = "ann", password = "wrong" }\n'
        '  t:expect("authenticate", "535 5.7.8 *"):result("the authenticate stage refused it: *")\nend)\n'
        'test("already in", function(t)\n'
        '  t:session { user = "ann", from = "a@b.example" }\n'
        '  t:logged("rule_log", { message = "ann" }):not_reached("ann")\nend)\n'
    )
    done = mta(place, "lua", "test", "tests/one_test.lua")
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_mail_of_somebody_who_logs_in(place: Path) -> None:
    (place / "m.eml").write_text("From: a@b.example\nTo: b@y.example\nSubject: Hi\n\nhello\n")
    with (place / "rules" / "main.lua").open("a") as file:
        file.write('on.authenticate("nobody", function(mail) return deny() end)\n')
    done = mta(place, "lua", "run", "m.eml", "--rules", "rules", "--user", "ann", "--password", "sesame")
    assert "535 5.7.8 Wrong name or password" in done.stdout and "sesame" not in done.stdout
    done = mta(place, "lua", "run", "m.eml", "--rules", "rules", "--user", "ann")
    assert "535" not in done.stdout and "delivered" in done.stdout


def test_both_kinds_pass(place: Path) -> None:
    done = mta(place, "lua", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    told = [re.sub(r"  \d+ ms$", "", line) for line in done.stdout.splitlines()]
    assert told[:-1] == [
        "tests/archive_test.lua",
        "  ok   the archive is closed",
        "  ok   listed clients wait",
        "  ok   step by step",
        "tests/talk.smtp",
        "  ok   talk",
    ]
    assert done.stdout.splitlines()[-1].startswith("4 passed in ")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            't:session { to = "archive@y.example" }\nt:expect("rcpt", "250 *")',
            "one_test.lua:3: at rcpt: expected '250 *', got '550 5.7.1 Closed' (decided by \"archive\", main.lua:5)",
        ),
        (
            't:session { to = "b@y.example" }\nt:decided("rcpt", "archive", "deny")',
            'one_test.lua:3: at rcpt: expected deny by "archive", got no rule decided '
            '("archive" stands in main.lua:5 and said next)',
        ),
        (
            't:mail {}\nt:header("X-Program", "yes")',
            "one_test.lua:3: X-Program: expected 'yes', got no such field (asked, without a decision: "
            '"tag" main.lua:19, "never wanted" main.lua:28)',
        ),
        (
            't:session { to = "archive@y.example" }\nt:reached("listed")',
            'one_test.lua:3: expected the rule "listed" to be asked, but it was not '
            '("listed" stands in main.lua:11 and said not reached)',
        ),
        (
            't:session { to = "b@y.example" }\nt:not_asked("dns.listed")',
            'one_test.lua:3: expected dns.listed(*) not to be asked, but "listed" did (main.lua:11)',
        ),
        (
            't:session { to = "archive@y.example" }\nt:mail {}\nt:expect("preq", "250 *")',
            "one_test.lua:4: preq was not reached: no recipient was taken (stages that ran: connect, helo, mail, rcpt)",
        ),
        ("t:session { colour = 1 }", "one_test.lua:2: a session has no colour; it has ip port name helo from to tls"),
        ("t:nothing()", 'one_test.lua:2: there is no t:nothing ("mta lua doc test" lists what there is)'),
        ("t:route()", "one_test.lua:2: there is no t:route (did you mean t:routed?)"),
        ("t:expect()", "one_test.lua:2: t:expect takes other arguments"),
        ("local x\nx.y = 1", "one_test.lua:3: attempt to index a nil value (local 'x')"),
        ("while true do end", "one_test.lua:2: the rule did not come to an end (rules.instructions)"),
        ("t:equal(1 + 1, 3)", "one_test.lua:2: expected 3, got 2"),
    ],
)
def test_failures_say_what_was_expected_what_came_and_where_the_rule_stands(place: Path, body: str, told: str) -> None:
    assert failing(place, body).startswith(told)


def test_lists_that_are_made_up(place: Path) -> None:
    rule = (
        'on.mail("blocked", function(mail)\n  if lists.has("blocked.txt", mail.sender) then return deny() end\nend)\n'
    )
    (place / "rules" / "main.lua").write_text(rule)
    (place / "tests" / "archive_test.lua").write_text(
        'test("listed", function(t)\n  t:list("blocked.txt", "b.example", "c.example")\n'
        '  t:session { from = "a@c.example" }\n  t:decided("mail", "blocked", "deny")\nend)\n'
    )
    done = mta(place, "lua", "test", "tests/archive_test.lua")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_breaks_is_told(place: Path) -> None:
    (place / "rules" / "main.lua").write_text('on.rcpt("bad", function(mail) error("oh") end)\n')
    told = failing(place, 't:session { to = "b@y.example" }\nt:expect("rcpt", "250 *")')
    assert "got '451 4.3.0" in told and '(decided by "bad", main.lua:1)' in told


def test_a_dialogue_that_fails(place: Path) -> None:
    (place / "tests" / "talk.smtp").write_text(DIALOGUE.replace("S: 550 5.7.1 Closed", "S: 550 5.7.1 Shut"))
    done = mta(place, "lua", "test", "tests/talk.smtp")
    assert done.returncode == 1
    assert "talk.smtp:9: expected '550 5.7.1 Shut (*', got '550 5.7.1 Closed (" in done.stdout
    assert 'last decision: deny by "archive" (main.lua:5)' in done.stdout
    (place / "tests" / "talk.smtp").write_text(
        DIALOGUE.replace("mailbox ann@example.test 1", "mailbox ann@example.test 2")
    )
    assert "then mailbox ann@example.test 2: 1 mails are there" in mta(place, "lua", "test", "tests/talk.smtp").stdout


def test_what_cannot_be_read_fails_too(place: Path) -> None:
    (place / "tests" / "archive_test.lua").write_text('test("x", function(t)\n')
    (place / "tests" / "talk.smtp").write_text("D: what\n")
    done = mta(place, "lua", "test")
    assert done.returncode == 1
    assert "archive_test.lua:2: 'end' expected" in done.stdout
    assert "talk.smtp:1: not a line of a dialogue" in done.stdout
    (place / "rules" / "main.lua").write_text("on.lunch()\n")
    (place / "tests" / "archive_test.lua").write_text(GOOD)
    assert "there is no stage lunch" in mta(place, "lua", "test").stdout


def test_some_only(place: Path) -> None:
    done = mta(place, "lua", "test", "-k", "LISTED")
    assert "listed clients wait" in done.stdout and "archive is closed" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 passed")
    assert mta(place, "lua", "test", "-k", "nothing like it").returncode == 3
    assert mta(place, "lua", "test", "nowhere").returncode == 3


def test_json_and_list(place: Path) -> None:
    rows = [json.loads(line) for line in mta(place, "lua", "test", "--json").stdout.splitlines()]
    assert [(row["name"], row["error"]) for row in rows] == [
        ("the archive is closed", ""),
        ("listed clients wait", ""),
        ("step by step", ""),
        ("talk", ""),
    ]
    assert mta(place, "lua", "test", "--list").stdout.splitlines()[-1] == "tests/talk.smtp: talk"


def test_junit(place: Path) -> None:
    failing(place, 't:session { to = "archive@y.example" }\nt:expect("rcpt", "250 <&")')
    assert mta(place, "lua", "test", "--junit", "out.xml").returncode == 1
    suite = ElementTree.parse(place / "out.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("5", "1")
    (failure,) = suite.findall("./testcase[@name='one']/failure")
    assert "expected '250 <&', got '550 5.7.1 Closed'" in (failure.text or "")


def test_every_dialogue_of_our_own_is_a_test_for_everyone() -> None:
    done = mta(TREE, "lua", "test", "tests/dialogues")
    failed = [line for line in done.stdout.splitlines() if "FAIL" in line]
    assert (failed, done.returncode) == ([], 0), done.stdout
    assert done.stdout.count("  ok   ") == len(list((TREE / "tests" / "dialogues").glob("*.smtp")))


def test_a_dialogue_brings_its_rules_and_its_world_along(place: Path) -> None:
    (place / "tests" / "talk.smtp").write_text(
        "with service scan code=1 stdout='Eicar'\nwith list blocked.txt b.example\nwith store mails 3\n"
        "with clock 2026-01-01T10:00:00+00:00\nwith tls optional\nwith rules\n"
        '    on.mail("all", function(mail)\n'
        "      local found = service.scan {}\n"
        '      local listed = lists.has("blocked.txt", mail.sender)\n'
        '      if listed and store.get("mails") == 3 and time.hour(time.now()) == 10 then\n'
        '        return deny("550 5.7.1 " .. found.stdout .. (mail.tls and " in secret" or ""))\n      end\n    end)\n'
        "S: 220 *\nC: EHLO x\nS: ...\nC: STARTTLS\nS: 220 *\nstart tls\nC: EHLO x\nS: ...\n"
        "C: MAIL FROM:<a@b.example>\nS: 550 5.7.1 Eicar in secret (*\nC: QUIT\nS: 221 *\n"
    )
    done = mta(place, "lua", "test", "tests/talk.smtp")
    assert done.returncode == 0, done.stdout


# -- coverage ---------------------------------------------------------------------------------------------------------


def coverage(place: Path, *words: str) -> dict[str, object]:
    done = mta(place, "lua", "test", "--coverage", "--json", *words)
    last: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return last


def test_coverage_counts_the_lines_that_ran(place: Path) -> None:
    told = coverage(place)
    assert told["rules"] == 4
    assert told["silent"] == []
    (main,) = told["files"]  # type: ignore[misc]
    # 2 5 6 7 11 12 13 15 19 20 21 22 25 28 29 30: on the others nobody decides (`end`, `else` and the like)
    assert main == {"file": "main.lua", "lines": 16, "missed": [30]}


def test_coverage_names_rules_and_lines_no_test_reaches(place: Path) -> None:
    told = coverage(place, "-k", "listed clients")
    assert told["silent"] == [
        {"stage": "preq", "rule": "tag", "where": "main.lua:19"},
        {"stage": "preq", "rule": "never wanted", "where": "main.lua:28"},
    ]
    (main,) = told["files"]  # type: ignore[misc]
    assert main["missed"] == [7, 15, 20, 21, 22, 25, 29, 30]
    done = mta(place, "lua", "test", "--coverage", "-k", "listed clients")
    assert "rules: 2 of 4 were asked" in done.stdout
    assert '  never asked: preq "tag" (main.lua:19)' in done.stdout
    assert "main.lua: 8 of 16 lines ran (50 %), not 7, 15, 20-22, 25, 29-30" in done.stdout


def test_rules_that_a_dialogue_brings_along_are_not_counted(place: Path) -> None:
    (place / "tests" / "own.smtp").write_text(
        'with rules\n    on.connect("own", function(mail) end)\nS: 220 *\nC: QUIT\nS: 221 *\n'
    )
    assert coverage(place)["rules"] == 4
    assert coverage(place, "tests/own.smtp")["files"] == []


def test_without_coverage_no_line_is_counted(place: Path) -> None:
    assert "lines ran" not in mta(place, "lua", "test").stdout


# -- again and again, and in pytest -----------------------------------------------------------------------------------


def test_watch(place: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "mta", "lua", "test", "--watch", "-k", "closed"],
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        lines = iter(running.stdout.readline, "")
        assert any(line.startswith("1 passed") for line in lines)  # from here on; also before it looks the first time
        (place / "rules" / "main.lua").write_text(RULES.replace("550 5.7.1 Closed", "554 5.7.1 Closed"))
        assert any("got '554 5.7.1 Closed'" in line for line in lines)
    finally:
        running.kill()
        running.wait()


def test_pytest_collects_both_kinds(place: Path) -> None:
    (place / "conftest.py").write_text('pytest_plugins = ["mta.cli.lua.collect"]\n')
    (place / "tests" / "bad_test.lua").write_text('test("bad", function(t) t:equal(1, 2) end)\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 failed, 4 passed" in done.stdout, done.stdout
    assert "bad_test.lua:1: expected 2, got 1" in done.stdout


# -- run --------------------------------------------------------------------------------------------------------------


def test_a_conversation_is_played_with_who_spoke(place: Path) -> None:
    done = mta(place, "lua", "run", "tests/talk.smtp")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    at = lines.index("C: RCPT TO:<archive@example.test>")
    assert lines[at + 1].startswith("      rcpt      deny       archive  (main.lua:5, ")
    assert lines[at + 2].startswith("S: 550 5.7.1 Closed (")
    assert any(line.startswith('                dns.listed("192.0.2.9", "list.test") -> nil') for line in lines)


def test_a_conversation_as_json(place: Path) -> None:
    told = json.loads(mta(place, "lua", "run", "tests/talk.smtp", "--json").stdout)
    assert told["complaint"] == ""
    (first, *_) = told["rules"]
    assert (first["stage"], first["verdict"], first["rule"], first["where"]) == (
        "rcpt",
        "deny",
        "archive",
        "main.lua:5",
    )
    assert told["transcript"][first["line"] - 1] == "C: RCPT TO:<archive@example.test>"
    assert "dns 9.2.0.192.list.test A" in told["unknown"]


def test_a_conversation_that_goes_another_way(place: Path) -> None:
    (place / "tests" / "talk.smtp").write_text(DIALOGUE.replace("S: 550 5.7.1 Closed", "S: 250 "))
    done = mta(place, "lua", "run", "tests/talk.smtp")
    assert done.returncode == 1
    assert "talk.smtp:9: expected '250  (*', got '550 5.7.1 Closed (" in done.stdout


def test_a_mail_through_other_rules(place: Path) -> None:
    (place / "m.eml").write_text("From: a@b.example\nTo: ann@y.example\nSubject: x\n\nHello\n")
    (place / "new").mkdir()
    (place / "new" / "main.lua").write_text('on.preq("all", function(mail) return quarantine("new") end)\n')
    assert "result  delivered" in mta(place, "lua", "run", "m.eml").stdout
    done = mta(place, "lua", "run", "m.eml", "--rules", "new", "--json")
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[-1] == {"result": "quarantine at preq holds it"}
    (preq,) = [row for row in rows[:-1] if row["stage"] == "preq"]
    assert (preq["verdict"], preq["rule"], preq["where"]) == ("quarantine", "all", "main.lua:1")
    assert mta(place, "lua", "run", "nothing.eml").returncode == 3
