"""What postq and delivery decide about captured mails: what is noted of it, and what other rules make of it."""

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from daemon import Server
from receiving import PythonRules, Receiving, until
from test_replay import cases, replay

from mta import settings
from mta.message.address import Address
from mta.receive import queue_record, session_record
from mta.receive.capture import Capture
from mta.receive.queue_record import Listening
from mta.rules.transaction import Transaction
from mta.rules.verdict import NEXT, Verdict

CONFIG = """
[capture]
sample = 1.0
{more}
[server]
name = "mx.example.test"
trusted = ["127.0.0.1"]
workers = 2
drain = "5s"
[domain."demo.test"]
path = "Maildir"
[domain."other.test"]
path = "Elsewhere"
"""

OLD = """
on.preq("marks", function(mail) mail.vars.marked = mail.headers:get("Subject") end)
on.postq("aside", function(mail)
  store.increment("tried")
  if mail.vars.marked == "odd" then return quarantine("odd") end
end)
on.delivery("not there", function(mail)
  if mail.recipients[1].domain == "other.test" then return defer("451 4.7.1 Not yet") end
end)
"""

NEW = """
on.postq("aside", function(mail)
  if mail.headers:get("Subject") == "odd" then return quarantine("strange") end
end)
on.delivery("nowhere", function(mail)
  if mail.recipients[1].domain == "demo.test" then return deny("550 5.7.1 Nowhere") end
end)
"""


def lines(folder: Path) -> list[dict[str, Any]]:
    """What stands beside the captures; of a line that is being written one may see a half."""
    texts = [path.read_text("utf-8").rpartition("\n")[0] for path in sorted(folder.glob("*.queue"))]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def sent(server: Server, subject: str, *to: str) -> None:
    server.send(f"Subject: {subject}\r\n\r\nhello\r\n", to=to[0]) if len(to) == 1 else _sent(server, subject, to)


def _sent(server: Server, subject: str, to: tuple[str, ...]) -> None:
    with server.smtp() as client:
        client.sendmail("a@b.test", list(to), f"Subject: {subject}\r\n\r\nhello\r\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the captures of a server that ran OLD, and NEW beside them."""
    folder = tmp_path_factory.mktemp("queue")
    with Server(folder, CONFIG.format(more=""), OLD) as server:
        sent(server, "plain", "you@demo.test")
        sent(server, "odd", "you@demo.test")
        sent(server, "both", "you@demo.test", "me@other.test")
        server.until(lambda: len(lines(folder / "captures")) == 6, "the queue's lines are missing")
        server.until(lambda: len(list((folder / "captures").glob("*.json"))) == 3, "captures are missing")
    (folder / "new").mkdir()
    (folder / "new" / "main.lua").write_text(NEW, "utf-8")
    return folder


def test_every_verdict_of_the_first_try_has_a_line(folder: Path) -> None:
    said = lines(folder / "captures")
    assert sorted((one["stage"], one["kind"], one.get("recipients", [])) for one in said) == [
        ("delivery", "defer", ["me@other.test"]),
        ("delivery", "next", ["you@demo.test"]),
        ("delivery", "next", ["you@demo.test"]),
        ("postq", "next", ["you@demo.test"]),
        ("postq", "next", ["you@demo.test", "me@other.test"]),
        ("postq", "quarantine", ["you@demo.test"]),
    ]
    (odd,) = (one for one in said if one["kind"] == "quarantine")
    assert odd["rule"] == "aside" and odd["where"] == "main.lua:3" and odd["folder"] == "odd" and odd["at"] > 1e9
    assert odd["asked"][0][:2] == ["store.increment", ["tried", 1, None]]
    for path in (folder / "captures").glob("*.queue"):
        session = json.loads(path.with_suffix(".json").read_text("utf-8"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        of_it = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert of_it[0]["stage"] == "postq"
        assert all(one["mail"].startswith(f"{session['session']}.") for one in of_it)
        assert {one["version"] for one in of_it} == set(session["rules"])


def test_the_same_rules_decide_the_same(folder: Path) -> None:
    summary, found = cases(folder, "captures", "--rules", "rules", code=0)
    assert (summary["sessions"], summary["cases"], summary["uncertain"], found) == (3, 4, 0, [])


def test_what_new_rules_decide_otherwise(folder: Path) -> None:
    summary, found = cases(folder, "captures", "--rules", "new")
    assert summary["counts"] == {
        "quarantine odd -> quarantine strange": 1,
        "accept -> deny": 2,
        "defer -> accept": 1,
    }
    by = {(case["old"]["kind"], case["recipient"]): case for case in found}
    assert by["accept", "you@demo.test"]["new"] == {
        "kind": "deny",
        "stage": "delivery",
        "reply": "550 5.7.1 Nowhere",
        "rule": "nowhere",
        "where": "main.lua:5",
    }
    later = by["defer", "me@other.test"]  # groups of recipients are asked about as then
    assert later["old"]["reply"] == "451 4.7.1 Not yet" and later["old"]["rule"] == "not there"
    told = replay(folder, "captures", "--rules", "new", code=1)
    assert '\n  was  quarantine at postq by "aside" (main.lua:3)\n' in told


def test_a_mail_the_queue_had_not_tried_is_not_tried(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "captures").glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    summary, found = cases(folder, str(tmp_path), "--rules", "new", code=0)
    assert (summary["cases"], found) == (4, [])


def test_a_line_that_is_half_written_is_left_out(folder: Path, tmp_path: Path) -> None:
    record = {"verdicts": [{"stage": "preq"}], "rules": ["1"]}
    read = queue_record.joined(record, b'{"stage":"postq","version":"2"}\n{"stage":"deli')
    assert read == {"verdicts": [{"stage": "preq"}, {"stage": "postq", "version": "2"}], "rules": ["1", "2"]}
    assert len(record["verdicts"]) == 1


def test_rules_of_a_domain_speak_in_a_replay(tmp_path: Path) -> None:
    """The queue asks the file the mail came in by."""
    (tmp_path / "domains" / "demo.test").mkdir(parents=True)
    (tmp_path / "domains" / "demo.test" / "incoming.lua").write_text(
        'on.postq("theirs", function(mail) return quarantine("theirs") end)'
    )
    config = CONFIG.format(more="").replace("127.0.0.1", "192.0.2.1")
    with Server(tmp_path, config, "") as server:
        server.send(to="you@demo.test")
        server.until(lambda: lines(tmp_path / "captures"), "the queue's line is missing")
        server.until(lambda: list((tmp_path / "captures").glob("*.json")), "the capture is missing")
    (line,) = lines(tmp_path / "captures")
    assert (line["kind"], line["file"]) == ("quarantine", "domains/demo.test/incoming.lua")
    assert cases(tmp_path, "captures", "--rules", "rules", code=0)[1] == []


def test_nothing_beside_sessions_that_are_not_captured(tmp_path: Path) -> None:
    with Server(tmp_path, CONFIG.format(more='verdicts = ["deny"]'), OLD) as server:
        sent(server, "plain", "you@demo.test")
        with server.smtp() as client:
            client.ehlo("me.test")
            client.sendmail("a@b.test", ["you@demo.test"], "Subject: seen\r\n\r\nhello\r\n")
            assert client.docmd("FOO")[0] == 500  # the server's own no
        server.until(lambda: len(lines(tmp_path / "captures")) == 2, "the queue's lines are missing")
        server.until(lambda: len(server.mails()) == 2, "no mail came")
    assert len(list((tmp_path / "captures").iterdir())) == 2  # one session: SESSION.json, SESSION.queue


def test_addresses_are_hidden_as_in_the_capture(tmp_path: Path) -> None:
    with Server(tmp_path, CONFIG.format(more='redact = "addresses"\n').replace("= 2", "= 1"), OLD) as server:
        sent(server, "plain", "Jo.Doe@demo.test")
        server.until(lambda: len(lines(tmp_path / "captures")) == 2, "the queue's lines are missing")
        server.until(lambda: list((tmp_path / "captures").glob("*.json")), "the capture is missing")
    (told,) = {tuple(line["recipients"]) for line in lines(tmp_path / "captures")}
    (session,) = (json.loads(path.read_text("utf-8")) for path in (tmp_path / "captures").glob("*.json"))
    assert told[0] in str(session["transcript"]) and "doe" not in told[0].lower()
    assert cases(tmp_path, "captures", "--rules", "rules", code=0)[1] == []


# -- the listening itself ----------------------------------------------------------------------------------------------


class Rules(PythonRules):
    version = "1"


def asked(listening: Listening, rules: Any, session: str, stage: str = "delivery") -> Verdict:
    tx = Transaction(session, mail_id=f"{session}.1")
    tx.recipients = [Address("you", "example.test")]
    return listening.rules(rules).run(stage, tx)


def test_a_question_is_noted_once() -> None:
    listening = Listening(session_record.Watched, lambda heard: None)
    listening.begin("s")
    deferred = Verdict("defer")
    rules = Rules(delivery=lambda _: deferred)
    assert [asked(listening, rules, "s") for _ in range(3)] == [deferred] * 3
    assert asked(listening, rules, "s", "postq") is NEXT and asked(listening, rules, "other") is deferred
    heard = listening._sessions["s"]
    assert [(one["stage"], one["kind"]) for one in heard.verdicts] == [("delivery", "defer"), ("postq", "next")]


def test_only_so_many_sessions_are_listened_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_record, "KEPT", 3)
    listening = Listening(session_record.Watched, lambda heard: None)
    for number in range(10):
        listening.begin(str(number))
    assert list(listening._sessions) == ["7", "8", "9"]
    listening.drop("8")
    listening.written("8", "x")
    assert list(listening._sessions) == ["7", "9"]


def test_a_disk_that_fails_is_complained_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = dataclasses.replace(settings.Capture(sample=1.0, path=str(tmp_path)))
    with Receiving(rules=Rules()) as server:
        capturing = Capture(chosen)
        capturing.queue.begin("s")
        assert asked(capturing.queue, Rules(), "s") is NEXT
        monkeypatch.setattr(os, "write", lambda fd, text: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        capturing.queue.written("s", str(tmp_path / "s.json"))
        until(lambda: server.events("capture_failed"))
        assert capturing._writing == 0
        monkeypatch.undo()
        asked(capturing.queue, Rules(), "s", "postq")
        until(lambda: lines(tmp_path))
    assert [one["stage"] for one in lines(tmp_path)] == ["postq"]
