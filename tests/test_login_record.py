"""Logins in captures: who, how and what became of it, never the password; and the same again in a replay."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from receiving import Receiving, reply, self_signed, trusting, until

from mta import settings
from mta.receive.login_record import Censor
from mta.receive.outcome import pairs
from mta.receive.replay import Player
from mta.rules.engine.engine import Rules
from mta.rules.outside.recording import RecordingWorld
from mta.rules.outside.world import FakeWorld
from mta.rules.trying.recorded import RecordedWorld

PASSWORD = "correct horse"
RULES = """
on.authenticate("known people", function(mail)
  local shown = mail.credentials
  if not lists.has("users.csv", shown.user) then return deny("535 5.7.8 Nobody is called " .. shown.user) end
  store.increment("tried " .. shown.password)
  if shown.password == lists.get("users.csv", shown.user) then
    mail.vars.group, mail.vars.key = "staff", shown.password
    return accept()
  end
end)
on.mail("staff", function(mail)
  if mail.user and mail.vars.group ~= "staff" then return deny("550 5.7.1 Not of the staff") end
end)
"""
MAIL = ["MAIL FROM:<ann@example.test>", "RCPT TO:<eve@elsewhere.example>", "DATA"]
CONTENT = "Subject: hi\r\n\r\nhello\r\n."


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Bench:
    """A server that captures; `captured()` says lines over TLS and gives the capture."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pair = folder, self_signed(folder)

    def rules(self, lua: str, world: Any) -> Rules:
        (self.folder / "main.lua").write_text(lua, "utf-8")
        return Rules.load(settings.Rules(path=str(self.folder), domains=str(self.folder / "domains")), world)

    def captured(self, *lines: str, lua: str = RULES, kind: str = "submissions", **changes: Any) -> dict[str, Any]:
        folder = self.folder / "captures"
        capture = dataclasses.replace(settings.Capture(sample=1.0, path=str(folder)), **changes)
        world: Any = RecordingWorld(FakeWorld(lists={"users.csv": f"ann, {PASSWORD}\nAnn@b.test, {PASSWORD}\n"}))
        listener = settings.Listener(kind=kind, tls=settings.ListenerTls(*self.pair))
        rules = self.rules(lua, world)
        with Receiving(rules=rules, certificate=self.pair, listener=listener, capture=capture) as server:
            client = server.connect()
            if kind == "relay":
                client.recv(1000)
                client.sendall(b"STARTTLS\r\n")
                assert client.recv(1000).startswith(b"220 2.0.0")
            client = trusting().wrap_socket(client)
            replies = client.makefile("rb")
            self.heard = [reply(replies).decode()] if kind == "submissions" else [""]
            for line in ("EHLO me.test", *lines, "QUIT"):
                client.sendall(line.encode() + b"\r\n")
                self.heard.append(reply(replies).decode())
            replies.close()
            client.close()
            until(lambda: list(folder.glob("*.json")))
        (path,) = folder.glob("*.json")
        made: dict[str, Any] = json.loads(path.read_text("utf-8"))
        path.unlink()
        return made

    def replay(self, record: dict[str, Any], lua: str) -> dict[str, Any]:
        world = RecordedWorld()
        given = settings.Settings(domain={"example.test": settings.Domain()})
        return Player(self.rules(lua, world), world, given).play(record)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


PLAIN = "AUTH PLAIN " + b64(f"\0ann\0{PASSWORD}")
LOGIN = ["AUTH LOGIN", b64("ann"), b64(PASSWORD)]


@pytest.mark.parametrize(
    "said", [[PLAIN], ["AUTH PLAIN", b64(f"\0ann\0{PASSWORD}")], LOGIN, [f"{LOGIN[0]} {LOGIN[1]}", LOGIN[2]]]
)
def test_a_capture_tells_of_a_login_but_not_the_password(bench: Bench, said: list[str]) -> None:
    made = bench.captured(*said)
    assert bench.heard[len(said) + 1].startswith("235")
    text = json.dumps(made)
    for form in (PASSWORD, b64(PASSWORD), b64(f"\0ann\0{PASSWORD}")):
        assert form not in text
    (verdict,) = (entry for entry in made["verdicts"] if entry["stage"] == "authenticate")
    mechanism = said[0].split()[1]
    assert (verdict["kind"], verdict["user"], verdict["mechanism"]) == ("accept", "ann", mechanism)
    assert verdict["rule"] == "known people" and verdict["noted"] == {"group": "staff", "key": "***"}
    assert "asked" not in verdict and made["client"]["user"] == "ann"
    assert ["LOGIN", "ann", mechanism] in made["transcript"]


def test_lines_that_go_on_after_a_refusal_are_not_written_down(bench: Bench) -> None:
    made = bench.captured("AUTH CRAM-MD5", LOGIN[1], LOGIN[2], "NOOP", "XYZ")
    assert [line[1] for line in made["transcript"] if line[0] == "C"] == [
        "EHLO me.test", "AUTH CRAM-MD5", "*", "*", "NOOP", "XYZ", "QUIT",
    ]  # fmt: skip
    censor = Censor()
    assert [censor.line(line) for line in ("XYZ", "auth PLAIN abc", "abc", "RSET", "abc")] == [
        "XYZ", "auth PLAIN *", "*", "RSET", "abc",
    ]  # fmt: skip


def test_what_is_not_offered_to_others_is_not_offered_to_a_client_that_is_heard(bench: Bench) -> None:
    made = bench.captured(PLAIN, lua="")
    assert "AUTH" not in bench.heard[1] and bench.heard[2].startswith("502")
    assert "LOGIN" not in [line[0] for line in made["transcript"]]


def test_names_become_pseudonyms(bench: Bench) -> None:
    made = bench.captured(PLAIN, redact="addresses")
    assert '"ann"' not in json.dumps(made)
    stand_in = made["client"]["user"]
    assert ["LOGIN", stand_in, "PLAIN"] in made["transcript"]
    assert [entry["user"] for entry in made["verdicts"] if entry["stage"] == "authenticate"] == [stand_in]


def kinds(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    return [(before.kind, before.stage, after.kind, after.stage) for before, after in pairs(old, new)]


@pytest.mark.parametrize("said", [[PLAIN], LOGIN, ["AUTH LOGIN", "*", PLAIN], ["AUTH PLAIN !!", *LOGIN]])
def test_who_had_logged_in_has_logged_in(bench: Bench, said: list[str]) -> None:
    """Also if the rules under trial know nothing of logins; and the vars are those of then."""
    made = bench.captured(*said, *MAIL, CONTENT)
    assert bench.heard[-2].startswith("250 2.0.0 Kept"), bench.heard
    for lua in (RULES, "", 'on.authenticate("no", function(mail) return deny() end)'):
        new = bench.replay(made, lua)
        assert kinds(made, new) == [("accept", "preq", "accept", "preq")]
        assert new["client"]["user"] == "ann" and new["client"]["protocol"] == "ESMTPSA"
        assert new["unknown"] == new["errors"] == []
    changed = 'on.mail("staff", function(mail) if mail.vars.group == "staff" then return deny() end end)'
    assert kinds(made, bench.replay(made, changed)) == [("accept", "preq", "deny", "mail")]


def test_who_was_refused_is_refused_and_then_a_stranger(bench: Bench) -> None:
    wrong = "AUTH PLAIN " + b64("\0ann\0wrong")
    made = bench.captured(wrong, "AUTH PLAIN " + b64("\0eve\0x"), PLAIN, *MAIL, CONTENT)
    assert [line[:3] for line in bench.heard[2:5]] == ["535", "535", "235"]
    anybody = 'on.authenticate("yes", function(mail) return accept() end)'
    for lua in (RULES, anybody):
        assert kinds(made, bench.replay(made, lua)) == [("accept", "preq", "accept", "preq")]
    made = bench.captured(wrong, *MAIL[:2])
    assert bench.heard[-2].startswith("503")  # MAIL was answered 530: a stranger
    assert kinds(made, bench.replay(made, anybody)) == [("deny", "mail", "deny", "mail")]


def test_a_session_that_only_tried_is_a_case(bench: Bench) -> None:
    made = bench.captured("AUTH PLAIN " + b64("\0eve\0x"))
    ((old, new),) = pairs(made, bench.replay(made, RULES))
    assert (
        old[:5] == new[:5] == ("deny", "authenticate", "535 5.7.8 Nobody is called eve", "known people", "main.lua:2")
    )
    made = bench.captured(PLAIN)
    assert kinds(made, bench.replay(made, "")) == [("accept", "", "accept", "")]


@pytest.mark.parametrize(("said", "kind"), [('quarantine("odd")', "quarantine"), ("discard()", "discard")])
def test_what_was_held_at_authenticate_is_held(bench: Bench, said: str, kind: str) -> None:
    lua = f'on.authenticate("trap", function(mail) return {said} end)'
    mail = [MAIL[0].replace("ann", "x"), "RCPT TO:<you@example.test>", "DATA", CONTENT]
    made = bench.captured(PLAIN, *mail, lua=lua, kind="relay")  # where a stranger may send
    assert bench.heard[2].startswith("535") and bench.heard[-2].startswith("250")
    replayed = bench.replay(made, "")
    assert [entry["kind"] for entry in replayed["verdicts"] if entry["stage"] == "authenticate"] == [kind]
    assert kinds(made, bench.replay(made, RULES)) == [(kind, "authenticate", kind, "authenticate")]


def test_rules_that_ended_everything_before_leave_no_login(bench: Bench) -> None:
    made = bench.captured(PLAIN, *MAIL, CONTENT)
    ended = bench.replay(made, 'on.connect("all", function(mail) return faccept() end)')
    assert kinds(made, ended) == [("accept", "preq", "deny", "mail")]  # 530: it is a stranger now
