"""Rules by domain: which file a mail meets, and what it means beside main.lua."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from daemon import Server
from receiving import Receiving

from mta import settings
from mta.message.address import Address
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.engine.folders import Folders, Scope
from mta.rules.outside.world import FakeWorld
from mta.rules.trying import example
from mta.spool.journal import JournalSpool

OURS = ["example.test", "sub.example.test", "deep.sub.example.test", "other.test"]


def write(folder: Path, **files: str) -> settings.Rules:
    """Files by name: main, fallback, or a domain's with / for its folder: {"example.test/incoming": text}."""
    files.setdefault("main", "")
    for name, text in files.items():
        path = folder / ("domains" if "/" in name else "rules") / f"{name}.lua"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return settings.Rules(path=str(folder / "rules"), domains=str(folder / "domains"))


def load(wanted: settings.Rules, world: Any = None, **given: Any) -> Rules:
    return Rules.load(wanted, world or example.world(), **{"domains": OURS, **given})


def speak(rules: Rules, file: str, stage: str = "rcpt", **changes: Any) -> str:
    """What the rules say of the example mail under a domain's file: its kind and text."""
    tx = example.transaction(stage)
    tx.file = file
    for name, value in changes.items():
        setattr(tx, name, value)
    said = rules.run(stage, tx)
    return f"{said.kind} {said.reply or ''}".strip()


def rule(stage: str, body: str, name: str = "a rule") -> str:
    return f'on.{stage}("{name}", function(mail) {body} end)\n'


# -- which file -------------------------------------------------------------------------------------------------------

INCOMING, OUTGOING, INTERNAL = (f"domains/example.test/{way}.lua" for way in ("incoming", "outgoing", "internal"))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    files = {f"example.test/{way}": "" for way in ("incoming", "outgoing", "internal")}
    return Folders(write(tmp_path, fallback="", **files, **{"other.test/incoming": ""}), OURS)


@pytest.mark.parametrize(
    ("ours", "sender", "user", "recipient", "chosen"),
    [
        (False, "a@b.example", "", "x@example.test", Scope("incoming", "example.test", INCOMING)),
        (False, "ann@example.test", "", "x@example.test", Scope("incoming", "example.test", INCOMING)),
        (False, "ann@example.test", "", "x@b.example", Scope("incoming", "", "fallback.lua")),
        (False, "", "", "x@sub.example.test", Scope("incoming", "sub.example.test", INCOMING)),
        (False, "", "", "x@deep.sub.example.test", Scope("incoming", "deep.sub.example.test", INCOMING)),
        (False, "", "", "x@not.example.test", Scope("incoming", "", "fallback.lua")),
        (True, "ann@example.test", "", "x@b.example", Scope("outgoing", "example.test", OUTGOING)),
        (True, "ann@example.test", "", "x@example.test", Scope("internal", "example.test", INTERNAL)),
        (True, "ann@example.test", "", "x@sub.example.test", Scope("internal", "example.test", INTERNAL)),
        (True, "ann@sub.example.test", "", "x@example.test", Scope("internal", "sub.example.test", INTERNAL)),
        (True, "ann@example.test", "", "x@other.test", Scope("outgoing", "example.test", OUTGOING)),
        (True, "ann@other.test", "", "x@example.test", Scope("outgoing", "other.test", "fallback.lua")),
        (True, "a@b.example", "", "x@other.test", Scope("incoming", "other.test", "domains/other.test/incoming.lua")),
        (True, "a@b.example", "", "x@c.example", Scope("outgoing", "", "fallback.lua")),
        (True, "", "", "x@example.test", Scope("incoming", "example.test", INCOMING)),
        (True, "", "", "x@c.example", Scope("outgoing", "", "fallback.lua")),
        (True, "", "ann@example.test", "x@c.example", Scope("outgoing", "example.test", OUTGOING)),
        (True, "", "Ann@Example.test", "x@example.test", Scope("internal", "example.test", INTERNAL)),
        (True, "", "ann", "x@example.test", Scope("incoming", "example.test", INCOMING)),
    ],
)
def test_the_file_of_a_recipient(
    folders: Folders, ours: bool, sender: str, user: str, recipient: str, chosen: Scope
) -> None:
    find = dict.fromkeys(OURS, True).get
    assert folders.scope(ours, address(sender), user, address(recipient), find) == chosen


def test_the_file_at_mail(folders: Folders) -> None:
    find = dict.fromkeys(OURS, True).get
    assert folders.at_mail(True, address("ann@sub.example.test"), "", find) == OUTGOING
    assert folders.at_mail(True, address("ann@other.test"), "", find) == "fallback.lua"
    assert folders.at_mail(True, address(""), "ann@example.test", find) == OUTGOING
    assert folders.at_mail(True, address("a@b.example"), "", find) == ""
    assert folders.at_mail(True, address(""), "ann", find) == ""
    assert folders.at_mail(False, address("ann@example.test"), "", find) == "", "a stranger's word"


def test_domains_without_a_folder_are_homes_of_their_own(tmp_path: Path) -> None:
    bare, find = Folders(write(tmp_path), OURS), dict.fromkeys(OURS, True).get
    assert not bare
    assert bare.scope(True, address("a@other.test"), "", address("b@other.test"), find).direction == "internal"
    assert bare.scope(True, address("a@other.test"), "", address("b@example.test"), find).direction == "outgoing"


def test_any_domain_is_ours(tmp_path: Path) -> None:
    made = Folders(write(tmp_path, **{"a.test/incoming": ""}), ["*"])
    assert made.file("incoming", "x.a.test") == "domains/a.test/incoming.lua"


def address(text: str) -> Address:
    local, _, domain = text.partition("@")
    return Address(local, domain)


# -- loading ----------------------------------------------------------------------------------------------------------


def refused(wanted: settings.Rules, **given: Any) -> str:
    with pytest.raises(RulesError) as caught:
        load(wanted, **given)
    return str(caught.value)


def test_a_folder_for_no_domain(tmp_path: Path) -> None:
    wanted = write(tmp_path, **{"foo.test/incoming": ""})
    assert refused(wanted) == 'domains/foo.test: there is no [domain."foo.test"] in the settings'
    load(wanted, domains=["mail.foo.test"])
    load(wanted, domains=["*"])
    load(wanted, domains=None)


def test_a_file_no_mail_meets(tmp_path: Path) -> None:
    wanted = write(tmp_path, **{"example.test/incomming": ""})
    assert refused(wanted).startswith("domains/example.test/incomming.lua: no mail meets this file")
    shutil.rmtree(tmp_path / "domains")
    load(write(tmp_path, **{"example.test/incoming_test": "", "example.test/incoming": ""}))


@pytest.mark.parametrize("stage", ["connect", "helo", "authenticate"])
def test_stages_before_mail_are_main_lua_s(tmp_path: Path, stage: str) -> None:
    wanted = write(tmp_path, **{"example.test/outgoing": "\n" + rule(stage, "")})
    assert refused(wanted).startswith(f"domains/example.test/outgoing.lua:2: on.{stage} belongs in main.lua")


def test_the_stage_mail_is_not_for_those_who_need_the_recipient(tmp_path: Path) -> None:
    load(write(tmp_path, **{"example.test/outgoing": rule("mail", ""), "fallback": rule("mail", "")}))
    for way in ("incoming", "internal"):
        wanted = write(tmp_path, **{f"example.test/{way}": rule("mail", "")})
        assert refused(wanted).startswith(f"domains/example.test/{way}.lua:1: on.mail is asked in main.lua")
        (tmp_path / "domains" / "example.test" / f"{way}.lua").unlink()


def test_names_are_unique_in_a_file(tmp_path: Path) -> None:
    load(write(tmp_path, main=rule("rcpt", ""), **{"example.test/incoming": rule("rcpt", "")}))
    wanted = write(tmp_path, **{"example.test/incoming": rule("rcpt", "") * 2})
    message = 'domains/example.test/incoming.lua:2: there is a rule "a rule" at rcpt already'
    assert refused(wanted).startswith(message)
    assert refused(wanted, checked=False).startswith(message)


def test_errors_name_the_file(tmp_path: Path) -> None:
    wanted = write(tmp_path, **{"example.test/incoming": "local x =\n"})
    assert refused(wanted).startswith("domains/example.test/incoming.lua:")
    wanted = write(tmp_path, **{"example.test/incoming": "\nlocal x = nosuch.thing\n"})
    assert refused(wanted).startswith("domains/example.test/incoming.lua:2: ")


def test_the_version_covers_every_file(tmp_path: Path) -> None:
    wanted = write(tmp_path, **{"example.test/incoming": rule("rcpt", "")})
    before = load(wanted)
    assert before.version == load(wanted).version and not before.changed()
    shutil.move(tmp_path / "domains/example.test", tmp_path / "domains/other.test")
    assert before.changed() and load(wanted).version != before.version, "the same text, for another domain"


def test_changed_tells_new_and_removed_files(tmp_path: Path) -> None:
    wanted = write(tmp_path, **{"example.test/incoming": ""})
    rules = load(wanted)
    assert not rules.changed()
    write(tmp_path, **{"example.test/outgoing": ""})
    assert rules.changed()
    rules = load(wanted)
    (tmp_path / "domains/example.test/outgoing.lua").unlink()
    assert rules.changed()
    rules = load(wanted)
    write(tmp_path, fallback="")
    assert rules.changed()
    rules = load(wanted)
    write(tmp_path, **{"example.test/incoming": "-- other"})
    assert rules.changed()


def test_modules_beside_the_domains(tmp_path: Path) -> None:
    wanted = write(
        tmp_path, **{"example.test/incoming": 'local words = require "words"\n' + rule("rcpt", "return words()")}
    )
    (tmp_path / "domains" / "words.lua").write_text('return function() return deny("550 5.7.1 From a module") end')
    rules = load(wanted)
    assert speak(rules, INCOMING) == "deny 550 5.7.1 From a module"
    assert [path.name for path in rules.files] == ["incoming.lua", "words.lua", "main.lua"]


def test_thousands_of_files_load(tmp_path: Path) -> None:
    names = [f"d{n}.test" for n in range(300)]
    files = {f"{name}/incoming": rule("rcpt", f'return deny("550 5.7.1 {name}")') for name in names}
    rules = load(write(tmp_path, **files), domains=names)
    assert speak(rules, "domains/d299.test/incoming.lua") == "deny 550 5.7.1 d299.test"


# -- two files, one verdict -------------------------------------------------------------------------------------------


def test_stages(tmp_path: Path) -> None:
    rules = load(
        write(tmp_path, main=rule("helo", ""), **{"example.test/incoming": rule("preq", ""), "other.test/incoming": ""})
    )
    assert rules.stages == {"helo", "preq"}
    assert rules.stages_of("") == {"helo"} == rules.stages_of("domains/other.test/incoming.lua")
    assert rules.stages_of(INCOMING) == {"helo", "preq"}
    tx = example.transaction("preq")
    rules.run("preq", tx)
    assert tx.side is None, "without a rule for it Lua hears nothing of a mail"


@pytest.mark.parametrize(
    ("main", "own", "said"),
    [
        ("", "", "next"),
        ("return accept()", "", "accept"),
        ('return accept("250 2.1.5 Main")', "return next()", "accept 250 2.1.5 Main"),
        ('return accept("250 2.1.5 Main")', "return deny()", "deny 550 5.7.1 Refused by a rule of this server"),
        ('return accept("250 2.1.5 Main")', 'return accept("250 2.1.5 Own")', "accept 250 2.1.5 Own"),
        ("return faccept()", "return deny()", "faccept"),
        ('return deny("550 5.7.1 Main")', "return accept()", "deny 550 5.7.1 Main"),
        ('return quarantine("x")', "return deny()", "quarantine"),
        ("return next()", 'return deny("550 5.7.1 Own")', "deny 550 5.7.1 Own"),
    ],
)
def test_the_verdict_of_both(tmp_path: Path, main: str, own: str, said: str) -> None:
    rules = load(
        write(
            tmp_path,
            main=rule("rcpt", main) + rule("rcpt", 'mail.vars.main = "went on"', "second"),
            **{"example.test/incoming": rule("rcpt", own)},
        )
    )
    assert speak(rules, INCOMING) == said


def test_who_decided(tmp_path: Path) -> None:
    wanted = write(
        tmp_path,
        main=rule("rcpt", "", "one") + rule("rcpt", "return accept()", "two"),
        **{"example.test/incoming": "\n" + rule("rcpt", "if mail.vars.no then return deny() end", "three")},
    )
    rules, tx = load(wanted), example.transaction("rcpt")
    tx.file = INCOMING
    assert rules.run("rcpt", tx)[3:5] == ("two", "main.lua:2")
    tx.vars = {"no": True}
    assert rules.run("rcpt", tx)[3:5] == ("three", "domains/example.test/incoming.lua:2")
    tx.tracing = True
    rules.run("rcpt", tx)
    assert [(step.rule, step.verdict) for step in tx.trace] == [("one", "next"), ("two", "accept"), ("three", "deny")]


def test_one_transaction_may_change_its_file(tmp_path: Path) -> None:
    rules = load(
        write(
            tmp_path,
            **{"example.test/incoming": rule("rcpt", 'return deny("550 5.7.1 A")')},
            **{"other.test/incoming": rule("rcpt", 'return deny("550 5.7.1 B")')},
        )
    )
    tx, heard = example.transaction("rcpt"), []
    for tx.file in (INCOMING, "", "domains/other.test/incoming.lua", "domains/gone.test/incoming.lua", INCOMING):
        said = rules.run("rcpt", tx)
        heard.append(str(said.reply or said.kind))
    assert heard == ["550 5.7.1 A", "next", "550 5.7.1 B", "next", "550 5.7.1 A"]


def test_a_rule_that_fails_in_either_file(tmp_path: Path) -> None:
    world = example.world()
    wanted = write(
        tmp_path,
        main=rule("rcpt", "error('one')", "one") + rule("rcpt", 'return accept("250 2.1.5 Main")', "two"),
        **{"example.test/incoming": rule("rcpt", "error('three')", "three") + rule("rcpt", "", "four")},
    )
    rules = load(dataclasses.replace(wanted, on_error="continue"), world)
    assert speak(rules, INCOMING) == "accept 250 2.1.5 Main"
    failed = [(each["rule"], each["where"]) for each in world.said("rule_failed")]
    assert failed == [("one", "main.lua:1"), ("three", "domains/example.test/incoming.lua:1")]
    assert speak(load(wanted), INCOMING).startswith("defer 451")


def test_what_a_rule_says_to_the_log(tmp_path: Path) -> None:
    world = example.world()
    rules = load(write(tmp_path, **{"example.test/incoming": rule("rcpt", 'log.info("hello")', "greets")}), world)
    speak(rules, INCOMING)
    (said,) = world.said("rule_log")
    assert (said["rule"], said["where"]) == ("greets", "domains/example.test/incoming.lua:1")


def test_waiting_in_both_files(tmp_path: Path) -> None:
    ask = 'return deny("550 5.7.1 " .. dns.lookup("example.com", "A")[1])'
    rules = load(
        write(
            tmp_path,
            main=rule("rcpt", 'dns.lookup("example.com", "MX") return accept()'),
            **{"example.test/incoming": rule("rcpt", ask)},
        )
    )
    assert speak(rules, INCOMING) == "deny 550 5.7.1 192.0.2.7"


def test_domains_share_no_globals(tmp_path: Path) -> None:
    rules = load(
        write(
            tmp_path,
            **{"example.test/incoming": "secret = 'a'\n" + rule("rcpt", "if secret then return deny() end")},
            **{"other.test/incoming": rule("rcpt", "if secret then return deny() end")},
        ),
        checked=False,
    )
    assert speak(rules, INCOMING).startswith("deny")
    assert speak(rules, "domains/other.test/incoming.lua") == "next"


def test_a_new_runtime_has_every_file(tmp_path: Path) -> None:
    rules = load(write(tmp_path, **{"example.test/incoming": rule("rcpt", "return deny()")}))
    write(tmp_path, **{"example.test/incoming": "this is being edited"})
    rules._runtime = rules._fresh()
    assert speak(rules, INCOMING).startswith("deny"), "what was loaded counts, not what is there now"


# -- the shipped ones -------------------------------------------------------------------------------------------------

CONF = Path(__file__).parent.parent / "conf"


def test_the_samples(tmp_path: Path) -> None:
    rules = load(settings.Rules(path=str(CONF / "rules"), domains=str(CONF / "domains")))
    assert speak(rules, INCOMING, recipient=Address("staff", "example.test")).startswith("deny 550 5.7.1 Only our own")
    assert speak(rules, INCOMING) == "next"
    assert speak(rules, OUTGOING, "preq") == "next"
    tx = example.transaction("preq")
    tx.file, message = OUTGOING, tx.message
    assert message is not None
    message.headers.set("Subject", "[Internal] plans")
    assert rules.run("preq", tx).kind == "deny"
    tx.file = INTERNAL
    assert rules.run("preq", tx).kind == "next" and message.headers.get("X-From-Inside") == "yes"


# -- in the server ----------------------------------------------------------------------------------------------------


def test_a_large_mail_is_split_without_a_copy_of_its_body(tmp_path: Path) -> None:
    wanted = write(
        tmp_path,
        **{"example.test/internal": rule("preq", 'mail.headers:append("X-Way", "internal")')},
        **{"example.test/outgoing": rule("preq", 'mail.headers:append("X-Way", "outgoing")')},
    )
    spool = JournalSpool(settings.Spool(path=str(tmp_path / "spool"), min_free=0), "0000000000")
    body = b"Subject: large\r\n\r\n" + b"x" * 70 * 1000 + b"\r\n" * 10
    body = body + (b"y" * 998 + b"\r\n") * 2000
    with Receiving(
        rules=load(wanted, FakeWorld()),
        spool=spool,
        server=settings.Server(name="mx.example.test", trusted=["192.0.2.1/32"]),
        smtp=settings.Smtp(max_size=10_000_000),
    ) as server:
        said = server.talk(
            "EHLO c.example",
            "MAIL FROM:<ann@example.test>",
            "RCPT TO:<you@example.test>",
            "RCPT TO:<eve@elsewhere.example>",
            "DATA",
            body + b".\r\n",
            "QUIT",
        )
        assert said[-2].startswith(b"250 2.0.0 Kept as "), said
        mails = spool.claim(server.settings.queue.expire * 1e6, 10)
        assert len(mails) == 2 and len(list((tmp_path / "spool").rglob("*.body"))) == 1
        for (envelope, message), way in zip(mails, (b"internal", b"outgoing"), strict=True):
            content = bytes(message)
            assert content.endswith(body) or content.partition(b"\r\n\r\n")[2] == body.partition(b"\r\n\r\n")[2]
            assert b"X-Way: " + way in content[:2000] and f" id {envelope.id}".encode() in content[:500]
            assert envelope.direction == way.decode() and envelope.domain == "example.test"
            assert envelope.origin.endswith(".1") and [r.attempts for r in envelope.recipients] == [0]
        spool.commit(drop=[mails[0].envelope.id])
        assert bytes(spool.open(mails[1].envelope.id)).count(b"y") >= 998 * 2000, "the other needs the file"
        spool.commit(drop=[mails[1].envelope.id])
    spool.close()


def test_who_waits_is_told_as_the_rules_of_a_copy_left_it(tmp_path: Path) -> None:
    exchange = 'mail:hold("1h") mail:add_recipient("joe@example.test") mail:remove_recipient("you@example.test")'
    wanted = write(
        tmp_path,
        **{"example.test/internal": rule("preq", exchange)},
        **{"example.test/outgoing": rule("preq", "")},
    )
    world = FakeWorld()
    world.time = time.time()
    with Receiving(
        rules=load(wanted, world),
        server=settings.Server(name="mx.example.test", trusted=["192.0.2.1/32"]),
    ) as server:
        said = server.talk(
            "EHLO c.example",
            "MAIL FROM:<ann@example.test>",
            "RCPT TO:<you@example.test>",
            "RCPT TO:<eve@elsewhere.example>",
            "DATA",
            b"Subject: x\r\n\r\nhello\r\n.\r\n",
            "QUIT",
        )
        assert said[-2].startswith(b"250 2.0.0 Kept as "), said
    (told,) = server.events("postponed")
    assert told["recipients"] == ["joe@example.test"]


CONFIG = """
[server]
name = "mx.example.test"
workers = 1
trusted = ["127.0.0.1/32"]
[[listener]]
address = "127.0.0.1:0"
[domain."demo.test"]
path = "Maildir"
"""


def test_the_server_and_its_queue(tmp_path: Path) -> None:
    """The queue asks the file the mail came in with; new and removed files are in force by a reload, wrong ones not."""
    write(
        tmp_path,
        **{"demo.test/internal": rule("postq", 'mail.headers:append("X-Postq", mail.id)')},
    )
    with Server(tmp_path, CONFIG, "on.postq('any', function() end)") as server:
        server.send(sender="ann@demo.test", to="you@demo.test")
        server.until(lambda: len(server.mails()) == 1, "nothing was delivered")
        assert b"X-Postq: " in server.mails()[0].read_bytes()
        server.send(sender="a@b.test", to="you@demo.test")
        server.until(lambda: len(server.mails()) == 2, "nothing was delivered")
        assert sum(b"X-Postq: " in mail.read_bytes() for mail in server.mails()) == 1, "that one was incoming"

        write(tmp_path, **{"demo.test/incoming": rule("rcpt", 'return deny("550 5.7.1 Closed")')})
        server.reload()
        with server.smtp() as client:
            client.ehlo()
            client.mail("a@b.test")
            assert client.rcpt("you@demo.test")[0] == 550
        write(tmp_path, **{"foo.test/incoming": ""})
        said = server.reload(code=1)
        assert 'domains/foo.test: there is no [domain."foo.test"]' in said
        assert "domains/foo.test" in server.mta("config", "check", code=1)
        with server.smtp() as client:
            client.ehlo()
            client.mail("a@b.test")
            assert client.rcpt("you@demo.test")[0] == 550, "a refused reload keeps the old rules"
        shutil.rmtree(tmp_path / "domains")
        server.reload()
        server.send(sender="a@b.test", to="you@demo.test")


def test_the_queue_asks_the_file_a_mail_came_in_with(tmp_path: Path) -> None:
    """Also when a rule has sent it elsewhere since: what the client asked for decides, and is kept with the mail."""
    own = rule("preq", 'mail:replace_recipient(mail.recipients[1], "you@elsewhere.example")')
    own += rule("postq", 'mail:route("discard") log.info("postq of " .. tostring(mail.recipients[1]))')
    write(tmp_path, **{"demo.test/incoming": own})
    with Server(tmp_path, CONFIG, "-- nothing") as server:
        server.send(sender="a@b.test", to="you@demo.test")
        server.until(lambda: server.events("rule_log"), "postq was not asked")
        (said,) = server.events("rule_log")
        assert said["message"] == "postq of you@elsewhere.example"
        assert said["where"] == "domains/demo.test/incoming.lua:2"
