"""Replays: captured sessions under other rules, in the world of then; stored mail; how long a thousand take."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import mta
from daemon import Server
from fake_dns import FakeDns
from timing import of_programs, slowness

TREE = Path(__file__).parent.parent

OLD = """
on.helo("known robots", function(mail)
  if mail.helo == "robot.test" then return faccept() end
end)
on.rcpt("no archive", function(mail)
  local found = dns.lookup(mail.sender.domain, "MX")
  store.increment("mails/" .. mail.client.ip)
  if mail.recipient.local_part == "archive" then return deny("550 5.7.1 Not from outside") end
end)
on.preq("aside", function(mail)
  if mail.headers:get("Subject"):match("odd") then return quarantine("odd") end
end)
"""

NEW = """
on.helo("shouting", function(mail)
  if mail.helo == "LOUD.test" then return deny("550 5.7.1 Not so loud") end
end)
on.rcpt("needs an MX", function(mail)
  local found = dns.lookup(mail.sender.domain, "MX")
  if #found == 0 then return deny("550 5.1.8 Your domain takes no mail") end
  if store.get("mails/" .. mail.client.ip) ~= nil then log.info("seen before") end
end)
on.preq("aside", function(mail)
  if mail.headers:get("Subject"):match("odd") then return quarantine("strange") end
  if mail.headers:get("Subject"):match("large") then return defer("451 4.7.1 Not now") end
  if mail.headers:get("Subject"):match("listed") then
    if #dns.lookup("2.0.0.127.list.test") > 0 then return deny() end
  end
end)
"""

CONFIG = """
[capture]
sample = 1.0
[dns]
timeout = "1m"
servers = ["{dns}"]
"""


def send(server: Server, subject: str, *to: str, sender: str = "a@b.test", helo: str = "me.test") -> None:
    with server.smtp() as client:
        client.ehlo(helo)
        client.mail(sender)
        if min([client.rcpt(one)[0] for one in to or ("you@demo.test",)]) >= 400:
            return
        client.data(f"Subject: {subject}\r\n\r\nhello\r\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with captures of a server that ran OLD, and NEW beside them."""
    folder = tmp_path_factory.mktemp("replay")
    zone: Any = {"b.test": {"MX": ["10 mx.b.test."]}, "c.test": {"A": ["192.0.2.9"]}}
    with FakeDns(zone) as dns, Server(folder, CONFIG.format(dns=dns.server), OLD) as server:
        send(server, "plain")
        send(server, "two", "you@demo.test", "archive@demo.test")
        send(server, "odd")
        send(server, "large")
        send(server, "listed")
        send(server, "no mx", sender="x@c.test")
        send(server, "loud", helo="LOUD.test")
        send(server, "robot", helo="robot.test", sender="x@c.test")
        send(server, "archive", "archive@demo.test")
        server.until(lambda: len(list((folder / "captures").glob("*.json"))) == 9, "captures are missing")
    (folder / "new").mkdir()
    (folder / "new" / "main.lua").write_text(NEW, "utf-8")
    return folder


def replay(folder: Path, *words: str, code: int | None = None) -> str:
    return mta("-c", str(folder / "mta.toml"), "replay", *words, cwd=folder, code=code)


def cases(folder: Path, *words: str, code: int = 1) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    summary, *found = map(json.loads, replay(folder, *words, "--json", code=code).splitlines())
    return summary, found


def test_the_same_rules_decide_the_same(folder: Path) -> None:
    """DNS, store and clock answer as they did, so nothing is unknown either."""
    summary, found = cases(folder, "captures", "--rules", "rules", code=0)
    assert (summary["sessions"], summary["cases"], found) == (9, 10, [])
    assert summary["uncertain"] == 0 and not summary["broken"]


def test_what_the_server_itself_refuses_is_refused_again(tmp_path: Path) -> None:
    config = "[capture]\nsample = 1.0\n[smtp]\nmax_size = 5000\nmax_received = 3\n[spool]\nmin_free = {free}\n"
    rules = 'on.preq("a look", function(mail) mail.headers:get("X") end)'
    with Server(tmp_path, config.format(free=0), rules) as server:
        for content in ("x\r\n" * 5000, "a\nb\r\n", "Received: x\r\n" * 4 + "\r\n", "Subject: fine\r\n\r\n"):
            with server.smtp() as client:
                client.ehlo("me.test")
                client.mail("a@b.test")
                client.rcpt("you@demo.test")
                client.docmd("DATA")
                client.send(content + ".\r\n")
                client.getreply()
        server.configure(config.format(free=1 << 60))
        server.reload()
        send(server, "no room")
        server.until(lambda: len(list((tmp_path / "captures").glob("*.json"))) == 5, "not all are written")
    said = [event["reply"][:3] for event in server.events("refused")]
    told = mta("replay", "--rules", "rules", "captures", cwd=tmp_path)
    assert sorted(said) == ["452", "521", "552", "554"]
    assert "5 as before" in told.partition("\n")[0], told


def test_what_new_rules_decide_otherwise(folder: Path) -> None:
    summary, found = cases(folder, "captures", "--rules", "new")
    assert summary["counts"] == {
        "deny -> accept": 2,
        "accept -> deny": 2,
        "quarantine odd -> quarantine strange": 1,
        "accept -> defer": 1,
        "faccept -> deny": 1,
    }
    by = {(case["sender"], case["recipient"], case["new"]["kind"]): case for case in found}
    loud = by["a@b.test", "you@demo.test", "deny"]
    assert loud["new"] == {
        "kind": "deny",
        "stage": "helo",
        "reply": "550 5.7.1 Not so loud",
        "rule": "shouting",
        "where": "main.lua:2",
    }
    assert loud["old"]["kind"] == "accept"
    archive = by["a@b.test", "archive@demo.test", "accept"]
    assert archive["old"]["rule"] == "no archive" and archive["old"]["where"] == "main.lua:5"
    assert by["a@b.test", "you@demo.test", "quarantine"]["new"]["folder"] == "strange"
    assert by["a@b.test", "you@demo.test", "defer"]["new"]["reply"] == "451 4.7.1 Not now"
    assert by["x@c.test", "you@demo.test", "deny"]["new"]["where"] == "main.lua:5"


def test_what_the_capture_does_not_hold_is_unknown(folder: Path) -> None:
    """Nobody is asked: the name server of the capture is gone, and the answer is there at once."""
    summary, _ = cases(folder, "captures", "--rules", "new")
    assert summary["uncertain"] == 2  # the list, and the robot's MX
    told = replay(folder, "captures", "--rules", "new", code=1)
    assert "dns 2.0.0.127.list.test A" in told and "dns c.test MX" in told


def test_people_read_the_counts_and_every_case(folder: Path) -> None:
    told = replay(folder, "captures", "--rules", "new", code=1)
    assert told.startswith("9 sessions, 10 cases in ")
    assert "\n  was  accept: no rule minded\n" in told
    assert '\n  now  deny at helo by "shouting" (main.lua:2): "550 5.7.1 Not so loud"\n' in told
    assert '\n  now  deny at rcpt by "needs an MX" (main.lua:5): "550 5.1.8 Your domain takes no mail"\n' in told
    assert "accept: no rule minded, as far as the client went" in told  # the archive's client said no more


def test_old_rules_can_be_run_too(folder: Path) -> None:
    summary, found = cases(folder, "captures", "--rules", "rules", "--old", "new")
    assert summary["counts"]["quarantine strange -> quarantine odd"] == 1
    assert {case["new"]["kind"] for case in found} >= {"deny", "faccept", "quarantine", "accept"}


def test_one_file_and_main_lua_by_name(folder: Path) -> None:
    name = next(str(path) for path in (folder / "captures").glob("*.json") if "Subject: odd" in path.read_text("utf-8"))
    summary, found = cases(folder, name, "--rules", "new/main.lua")
    assert summary["sessions"] == 1 and found[0]["old"]["folder"] == "odd"


def test_a_rule_that_fails_is_told(folder: Path) -> None:
    broken = folder / "broken"
    broken.mkdir()
    (broken / "main.lua").write_text('on.mail("breaks", function(mail)\n  local n = mail.helo + {}\nend)\n', "utf-8")
    _, found = cases(folder, "captures", "--rules", "broken")
    assert found[0]["new"]["kind"] == "defer" and found[0]["new"]["rule"] == "breaks"
    assert found[0]["errors"][0].startswith("main.lua:2: ")


def test_rules_that_do_not_load(folder: Path) -> None:
    wrong = folder / "wrong"
    wrong.mkdir()
    (wrong / "main.lua").write_text('on.mail("x", function(mail)\n', "utf-8")
    assert "main.lua:" in replay(folder, "captures", "--rules", "wrong", code=1)


def test_what_is_no_capture_is_named(folder: Path, tmp_path: Path) -> None:
    good = next((folder / "captures").glob("*.json"))
    shutil.copy(good, tmp_path / "good.json")
    (tmp_path / "bad.json").write_text("{", "utf-8")
    (tmp_path / "other.json").write_text('{"format": "else"}', "utf-8")
    damaged = json.loads(good.read_text("utf-8"))
    del damaged["transcript"]
    (tmp_path / "damaged.json").write_text(json.dumps(damaged), "utf-8")
    told = replay(folder, str(tmp_path), "--rules", "rules", code=1)
    assert told.startswith("1 sessions")
    assert all(f"{tmp_path}/{name}.json" in told for name in ("bad", "other", "damaged"))
    assert "there is no such file" in replay(folder, "nowhere.json", "--rules", "rules", code=3)


STORED = """Return-Path: <a@b.test>
Delivered-To: you@demo.test
Received: from me.test ([192.0.2.7])
\tby mx.example.test with ESMTPS (TLSv1.3 TLS_AES_256_GCM_SHA384) id k3v9x0a2bq-1f.2
\tfor <you@demo.test>; Mon, 1 Jan 2024 00:00:00 +0000
Received: from elsewhere.test ([198.51.100.1]) by me.test; Mon, 1 Jan 2024 00:00:00 +0000
Subject: {subject}

hello
.
"""

LATER = """
on.connect("never asked", function(mail) return deny() end)
on.preq("by what the fields tell", function(mail)
  local h = mail.headers
  assert(mail.client.ip == "192.0.2.7" and mail.helo == "me.test" and mail.tls:match("TLSv1.3"))
  assert(tostring(mail.sender) == "a@b.test" and tostring(mail.recipients[1]) == "you@demo.test")
  assert(#h:all("Received") == 2 and not h:has("Return-Path"))
  if h:get("Subject"):match("bad") then return deny("550 5.7.1 No") end
end)
on.postq("aside", function(mail)
  if mail.headers:get("Subject"):match("odd") then return quarantine("odd") end
end)
on.delivery("late", function(mail)
  if mail.headers:get("Subject"):match("late") then return defer() end
end)
"""


def test_stored_mail(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "box" / "new").mkdir(parents=True)
    (tmp_path / "box" / "cur").mkdir()
    for subject in ("good", "bad", "odd", "late"):
        (tmp_path / "box" / "cur" / f"{subject}:2,S").write_text(STORED.format(subject=subject), "utf-8")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "main.lua").write_text(LATER, "utf-8")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "main.lua").write_text("", "utf-8")
    words = ["--maildir", str(tmp_path / "box"), "--rules", str(tmp_path / "later")]
    summary, found = cases(folder, *words, "--old", str(tmp_path / "none"))
    assert summary["counts"] == {"accept -> deny": 1, "accept -> quarantine odd": 1, "accept -> defer": 1}, found
    assert {(case["session"], case["new"]["stage"]) for case in found} == {
        ("bad", "preq"),
        ("odd", "postq"),
        ("late", "delivery"),
    }
    assert "no Maildir" in replay(folder, "--maildir", str(tmp_path / "nothing"), "--rules", "new", code=3)


def test_large_mails_in_several_processes(folder: Path, tmp_path: Path) -> None:
    """Their words are answered in threads, which do not survive a fork."""
    name = next(path for path in (folder / "captures").glob("*.json") if "Subject: large" in path.read_text("utf-8"))
    made = json.loads(name.read_text("utf-8"))
    made["mails"] = ["Subject: large\r\n\r\n" + ("0123456789" * 7 + "\r\n") * 3000]
    (tmp_path / "captures").mkdir()
    for number in range(60):
        (tmp_path / "captures" / f"{number}.json").write_text(json.dumps(made), "utf-8")
    (tmp_path / "main.lua").write_text(
        'on.preq("x", function(mail) for part in mail:parts() do if #part:text() > 9999 then return deny() end end end)'
    )
    words = [str(tmp_path / "captures"), "--rules", str(tmp_path / "main.lua"), "--jobs", "2"]
    summary, _ = cases(folder, *words)
    assert summary["counts"] == {"accept -> deny": 60}


def test_a_thousand_sessions_in_under_twenty_seconds(folder: Path, tmp_path: Path) -> None:
    kinds = sorted((folder / "captures").glob("*.json"))
    for number in range(1000):
        shutil.copy(kinds[number % len(kinds)], tmp_path / f"{number}.json")
    told: list[dict[str, Any]] = []
    assert of_programs(lambda: told.append(cases(folder, str(tmp_path), "--rules", "new")[0])) < 20 * slowness()
    assert told[0]["sessions"] == 1000
