"""mta lua repl: on a terminal, in a pipe and with -e."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fake_dns import FakeDns
from receiving import PATIENCE
from test_trial import rule, trial

from mta import settings
from mta.message import address
from mta.message.envelope import Client, Envelope, Recipient
from mta.message.message import Message
from mta.spool.journal import JournalSpool
from mta.spool.spool import Mail

TREE = Path(__file__).parent.parent
LOGIN = """\
on.authenticate("ann", function(mail)
  if mail.credentials.user == "ann" and mail.credentials.password == "sesame" then return accept() end
end)
"""

RULES = """\
on.connect("hello", function(mail) log.info("from " .. mail.client.ip) end)

on.rcpt("archive", function(mail)
  if mail.recipient.local_part == "archive" then return deny("550 5.7.1 Not from outside") end
end)

on.rcpt("welcome", function(mail) return accept("250 2.1.5 Welcome") end)

on.rcpt("never", function(mail) return deny("550 5.7.1 Never") end)

on.preq("tag", function(mail)
  mail.headers:append("X-Tag", "seen")
  mail.vars.score = 3
  if store.increment("mails") > 1 then return quarantine("again") end
  if dns.listed(mail.client.ip, "list.test") then return defer("450 4.7.1 Listed") end
end)
"""
MAIL = "From: Ann <ann@x.example>\nTo: you@y.example\nSubject: Hello\n\nHow are you?\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "main.lua").write_text(RULES)
    (tmp_path / "m.eml").write_text(MAIL)
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MTA_CONFIG"}
    return {**kept, "PYTHONPATH": str(TREE), "XDG_STATE_HOME": str(place / "state"), "NO_COLOR": "1", "TERM": "xterm"}


def mta(place: Path, *words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mta", *words],
        cwd=place,
        input=textwrap.dedent(said),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        env=environment(place),
        check=False,
    )


def repl(place: Path, said: str, code: int = 0) -> str:
    done = mta(place, "lua", "repl", "rules", said=said)
    assert done.returncode == code, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


# -- on a terminal ----------------------------------------------------------------------------------------------------


def test_on_a_terminal(place: Path) -> None:
    """In a process of its own: a pseudo terminal and gevent's fork do not go together."""
    done = subprocess.run(
        [sys.executable, str(TREE / "tests" / "repl_session.py")],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 + 22" in (place / "state" / "mta" / "history").read_text()


def test_the_signature_below_the_line_is_that_of_the_call_one_is_in() -> None:
    from mta.cli.lua import terminal

    for text in ("mail.headers:get", "mail.headers:get(", "x = mail.headers:get('a"):
        found = terminal.word_before(text)
        assert found is not None
        assert found.signature == "mail.headers:get(name: string) -> string?"
    assert terminal.word_before("nothing(") is None


def test_whatever_is_saved_is_seen_and_what_is_wrong_with_it_told_once(tmp_path: Path) -> None:
    """Also a file that is older than the others, and one that is new."""
    from mta.cli.lua.console import Console

    wanted = settings.Rules(path=str(tmp_path / "rules"), domains=str(tmp_path / "domains"))
    console, said = Console(settings.Settings(rules=wanted), trial(tmp_path, "")), list[str]()
    console.say = said.append
    console.line(":watch")
    assert not console.look()
    main = tmp_path / "rules" / "main.lua"
    for text, when, told in [("on.rcpt(", 2, "unexpected"), (rule("rcpt", "return deny()"), 1, "deny")]:
        main.write_text(text)
        os.utime(main, (when, when))
        assert console.look() and not console.look()
        assert told in said[-1]
    (tmp_path / "domains" / "example.test").mkdir(parents=True)
    (tmp_path / "domains" / "example.test" / "incoming.lua").write_text("on.rcpt(")
    assert console.look() and not console.look()
    assert "domains/example.test/incoming.lua:1" in said[-1]


# -- in a pipe --------------------------------------------------------------------------------------------------------


def test_a_mail_is_run_through_the_rules(place: Path) -> None:
    said = repl(place, ":load m.eml\n:run\n")
    assert "rcpt <you@y.example>" in said
    assert "    accept      welcome  (main.lua:7, " in said
    assert "    not reached never  (main.lua:9)" in said
    assert 'dns.listed("192.0.2.1", "list.test") -> nil' in said
    assert "nobody made up dns 1.2.0.192.list.test A" in said
    assert said.splitlines()[-2:] == ["result  delivered", "  rcpt         accept      welcome  (main.lua:7)"]


def test_a_made_up_world(place: Path) -> None:
    said = repl(place, ":load m.eml\n:dns 1.2.0.192.list.test A 127.0.0.2\n:run\n:dns\n")
    assert "preq                         450 4.7.1 Listed" in said
    assert "1.2.0.192.list.test A" in said
    said = repl(place, ":load m.eml\n:store mails 1\n:run\n:store\n:back\n:store mails\n")
    assert "quarantine at preq holds it" in said
    assert said.splitlines()[-3:] == ["mails = 2", "before preq", "1"]  # going back takes back what was stored
    assert "2026-01-01T11:00:00+00:00" in repl(place, ":clock 2026-01-01T10:00:00+00:00\n:clock +1h\n")


def test_the_session_is_what_one_says(place: Path) -> None:
    said = repl(
        place,
        ":session ip=198.51.100.7 helo=a.example from=<> rcpt=archive@y.example rcpt=b@y.example tls=1.3 user=ann\n"
        ":step rcpt\n:step\nmail.sender\nmail.tls\nmail.user\n",
    )
    assert "550 5.7.1 Not from outside" in said
    assert "from 198.51.100.7" in said
    assert said.splitlines()[-3:] == ["<>", '"TLSv1.3"', '"ann"']


def test_logging_in(place: Path) -> None:
    with (place / "rules" / "main.lua").open("a") as file:
        file.write(LOGIN)
    said = repl(place, ":session user=ann password=sesame from=a@b.example\n:step authenticate\n:step\nmail.user\n")
    assert "user=ann password=***" in said and "235 2.7.0 Welcome" in said and said.splitlines()[-1] == '"ann"'
    said = repl(place, ":session user=ann password=wrong-one\n:step authenticate\nmail.credentials.password\n", 1)
    assert "535 5.7.8 Wrong name or password" in said and "these credentials are gone" in said
    assert "wrong-one" not in said
    said = repl(place, ":session user=ann password=sesame\n:session password=other\n:run\n:why\n")
    assert "the authenticate stage refused it: 535" in said


def test_why_names_the_line_and_the_rules_that_were_not_asked(place: Path) -> None:
    said = repl(place, ":session from=a@b.example rcpt=archive@y.example\n:run\n:why\n")
    tail = said[said.rindex("no recipient was taken") :]
    assert 'rcpt <archive@y.example>: deny by "archive" (main.lua:3)' in tail
    assert 'on.rcpt("archive", function(mail)' in tail
    assert '"welcome" (main.lua:7) would have said accept' in tail
    assert '"never" (main.lua:9) would have said deny' in tail


def test_diff(place: Path) -> None:
    said = repl(place, ":load m.eml\n:run preq\nmail.headers:set('Subject', 'Bye')\n:diff\n")
    tail = said[said.rindex("envelope") :]
    assert "  + vars.score = 3" in tail
    assert "  + X-Tag: seen" in tail
    assert "  - Subject: Hello\n  + Subject: Bye" in tail


def test_only_and_skip(place: Path) -> None:
    said = repl(place, ":session rcpt=archive@y.example\n:skip archive\n:step rcpt\n:skip\n:only never\n:step rcpt\n")
    assert "    skipped     archive  (main.lua:3)" in said
    first, _, second = said.partition("all rules speak")
    assert "250 2.1.5 Welcome" in first
    assert "550 5.7.1 Never" in second


def test_trace_levels(place: Path) -> None:
    start = ":load m.eml\n"
    actions = repl(place, f"{start}:trace actions\n:run\n")
    assert "+ X-Tag: seen" in actions
    assert "dns.listed" not in actions and "hello" not in actions
    rules = repl(place, f"{start}:trace rules\n:run\n")
    assert "hello" in rules and "dns.listed" not in rules
    values = repl(place, f"{start}:trace values\n:run\n")
    assert "dns.listed" in values and "+ X-Tag: seen" in values


def test_lua_of_several_lines_and_its_values(place: Path) -> None:
    said = repl(place, "x = { 1, 'two',\n{ deep = true } }\nx\nx[2]\n_\ndeny('550 5.7.1 no')\n1 +\n2\n")
    assert said == '{ 1, "two", {\n    deep = true\n  } }\n"two"\n"two"\ndeny("550 5.7.1 no")\n3\n'


def test_a_rule_that_fails_is_an_exit_code(place: Path) -> None:
    (place / "rules" / "main.lua").write_text('on.mail("bad", function(mail) error("oh") end)\n')
    said = repl(place, ":session from=a@b.example\n:run\n", 1)
    assert "main.lua:1: oh" in said
    assert "451 4.3.0" in said


def test_what_means_nothing_is_wrong_usage(place: Path) -> None:
    assert "there is no command :nonsense" in repl(place, ":nonsense\n", 2)
    assert "a session has no colour" in repl(place, ":session colour=red\n", 2)
    assert "there is no stage lunch" in repl(place, ":step lunch\n", 2)
    assert "did you mean mail.sender?" in repl(place, "mail.sendr\n", 1)


def test_every_command_has_its_line(place: Path) -> None:
    from mta.cli.lua.console import COMMANDS

    said = repl(place, ":help\n")
    assert all(f":{name} " in said for name in COMMANDS)
    wanted = "help load session step run back rules only skip why diff trace dns clock store service live watch queued"
    assert set(wanted.split()) | {"bench", "profile", "save", "doc", "quit"} <= set(COMMANDS)
    assert "10,000,000 instructions" in said


def test_doc(place: Path) -> None:
    assert repl(place, ":doc dns.lookup\n").startswith("dns.lookup(name: string, type?: string)")
    assert repl(place, ":doc mail.recipient.local_part\n").startswith("address.local_part: string")
    assert "did you mean" in repl(place, ":doc dns.lokup\n", 2)


def test_bench_and_profile(place: Path) -> None:
    said = repl(place, ":load m.eml\n:bench 20\n:profile 20\n:store\n")
    assert "20 mails, " in said
    assert "preq: tag  (main.lua:11)" in said
    assert "mails = " not in said  # nothing of it stays


def test_services_are_made_up(place: Path) -> None:
    (place / "rules" / "main.lua").write_text(
        'on.mail("virus", function(mail)\n  local found = service.scan { }\n'
        '  if found.code == 1 then return deny("550 5.7.1 " .. found.stdout) end\nend)\n'
    )
    said = repl(place, ":service scan code=1 stdout='Eicar found'\n:session from=a@b.example\n:run\n")
    assert "550 5.7.1 Eicar found" in said


def test_a_session_becomes_a_test(place: Path) -> None:
    repl(place, ":load m.eml\n:session rcpt=archive@y.example,b@y.example\n:run\n:save tests/archive\n")
    text = (place / "tests" / "archive_test.lua").read_text()
    assert 't:expect("rcpt", "550 5.7.1 Not from outside", "archive@y.example")' in text
    assert 't:header("X-Tag", "seen")' in text
    done = mta(place, "lua", "test", "tests")
    assert done.returncode == 0, done.stdout
    (place / "rules" / "main.lua").write_text(RULES.replace("550 5.7.1 Not from", "554 5.7.1 Not from"))
    assert mta(place, "lua", "test", "tests").returncode == 1
    assert "File exists" in repl(place, ":load m.eml\n:save tests/archive\n", 1)


def test_a_mail_of_the_spool(place: Path) -> None:
    (place / "mta.toml").write_text('[server]\nname = "mx.example.test"\n[domain."y.example"]\n')
    spool = JournalSpool(settings.Spool(path=str(place / "spool")), "writer1")
    client = Client(ip="198.51.100.9", helo="h.example", listener="relay")
    envelope = Envelope("abc-1.1", address.parse("s@x.example"), [Recipient(address.parse("you@y.example"))], client)
    try:
        spool.commit(add=[Mail(envelope, Message(MAIL.replace("\n", "\r\n").encode()))])
        before = {path: path.read_bytes() for path in (place / "spool").rglob("*.seg")}
        said = repl(place, ":queued abc-1.1\n:run\n:queued none-1.1\n", 2)
        assert "ip=198.51.100.9" in said and "from=<s@x.example>" in said
        assert "rcpt <you@y.example>         250 2.1.5 Welcome" in said
        assert "none-1.1 is not in" in said
        assert {path: path.read_bytes() for path in before} == before
    finally:
        spool.close()


def test_live_asks_the_real_name_servers(place: Path) -> None:
    with FakeDns({"real.example": {"TXT": ["live"]}}) as dns:
        (place / "mta.toml").write_text(
            f'[server]\nname = "mx.example.test"\n[dns]\nservers = ["{dns.server}"]\ntimeout = "{PATIENCE:g}s"\n'
        )
        said = repl(
            place, "dns.lookup('real.example', 'TXT')\n:live on\ndns.lookup('real.example', 'TXT')\n:live off\n"
        )
    assert said.splitlines() == ["{}", "live on", '{ "live" }', "live off"]


def test_without_a_relay_a_foreign_recipient_is_refused_whatever_a_rule_accepts(place: Path) -> None:
    (place / "mta.toml").write_text('[server]\nname = "mx.example.test"\n[domain."y.example"]\n')
    said = repl(place, ":session from=a@b.example rcpt=eve@elsewhere.example\n:run\n")
    assert "554 5.7.1 We do not relay for you" in said
    assert "accept() does not open the relay: only relay() does" in said


# -- with -e ----------------------------------------------------------------------------------------------------------


def test_a_line_on_the_command_line(place: Path) -> None:
    done = mta(place, "lua", "repl", "rules", "-e", ":load m.eml", "-e", 'mail.headers:get("Subject")')
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == '"Hello"'
    assert mta(place, "lua", "repl", "rules", "-e", "error('x')").returncode == 1
    assert mta(place, "lua", "repl", "rules", "-e", ":what").returncode == 2


def test_rules_that_cannot_be_loaded(place: Path) -> None:
    (place / "rules" / "main.lua").write_text("on.rcpt(\n")
    done = mta(place, "lua", "repl", "rules", "-e", "1")
    assert done.returncode == 1
    assert done.stderr.startswith("mta lua: main.lua:")
    done = mta(place, "lua", "repl", "nowhere", "-e", "1")
    assert done.returncode == 3
    assert "nowhere: there is no main.lua" in done.stderr


def test_why_shows_the_line_of_the_rule_and_not_of_a_file_whose_name_ends_alike(place: Path) -> None:
    (place / "rules" / "amain.lua").write_text("return 'no rule stands here'\n")
    rule = 'on.helo("shut", function() return deny("550 5.7.1 Shut") end) local _ = require "amain"\n'
    (place / "rules" / "main.lua").write_text(rule)
    said = repl(place, ":run\n:why\n")
    assert f"    {rule.strip()}\n" in said and "no rule stands here" not in said
