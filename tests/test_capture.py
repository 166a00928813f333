"""Captures: what a session leaves in the folder, what is left out, and that mail never waits for it."""

import dataclasses
import json
import os
import random
import smtplib
import stat
from pathlib import Path
from typing import Any

import gevent
import pytest
from daemon import Server
from fake_dns import FakeDns
from gevent import monkey
from receiving import PythonRules, Receiving, until

from mta import settings
from mta.message.reply import Reply
from mta.receive import capture
from mta.rules.verdict import Verdict

RULES = """
on.rcpt("no archive", function(mail)
  local found = dns.lookup(mail.sender.domain, "MX")
  store.set("seen/" .. mail.client.ip, true)
  if mail.recipient.local_part == "archive" then return deny("550 5.7.1 Not from outside") end
end)
on.preq("aside", function(mail)
  if mail.headers:get("Subject") == " odd" or mail.headers:get("Subject") == "odd" then return quarantine("odd") end
end)
"""


def captures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def test_the_server_writes_what_a_session_was(tmp_path: Path) -> None:
    with FakeDns({"b.test": {"MX": ["10 mx.b.test."]}}) as dns:
        config = f'[capture]\nsample = 1.0\n\n[dns]\ntimeout = "1m"\nservers = ["{dns.server}"]\n'
        with Server(tmp_path, config, RULES) as server:
            with server.smtp() as client:
                client.ehlo("client.b.test")
                client.mail("a@b.test")
                assert client.rcpt("archive@demo.test")[0] == 550
                assert client.rcpt("you@demo.test")[0] == 250
                assert client.data("Subject: odd\r\n\r\nhello\r\n.hidden\r\n")[0] == 250
            server.until(lambda: captures(tmp_path / "captures"), "no capture was written")
    (made,) = captures(tmp_path / "captures")
    (path,) = (tmp_path / "captures").iterdir()
    assert path.name == f"{made['session']}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    said = [entry[1] for entry in made["transcript"] if entry[0] == "C"]
    assert said[0] == "ehlo client.b.test" and said[-1] == "QUIT"
    assert made["mails"] == ["Subject: odd\r\n\r\nhello\r\n.hidden\r\n"]
    assert made["client"]["ip"] == "127.0.0.1" and len(made["rules"]) == 1
    judged = {(v["stage"], v.get("recipient", ""), v["kind"], v.get("rule", "")) for v in made["verdicts"]}
    assert ("rcpt", "archive@demo.test", "deny", "no archive") in judged
    assert ("rcpt", "you@demo.test", "next", "") in judged
    assert ("preq", "", "quarantine", "aside") in judged
    (denied,) = (v for v in made["verdicts"] if v["kind"] == "deny")
    assert denied["where"] == "main.lua:2" and denied["reply"] == "550 5.7.1 Not from outside"
    assert denied["asked"] == [
        ["dns", ["b.test", "MX"], ["10 mx.b.test"]],
        ["store.set", ["seen/127.0.0.1", True, None], None],
    ]


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    with Server(tmp_path, "", RULES) as server:
        server.send()
        server.until(server.mails, "no mail came")
    assert not (tmp_path / "captures").exists()


class Said(PythonRules):
    """Rules with a version, as loaded ones have."""

    version = "1"


class Here(Receiving):
    """A receiver that captures into a folder."""

    def __init__(self, folder: Path, rules: Any = None, **changes: Any) -> None:
        capturing = dataclasses.replace(settings.Capture(sample=1.0, path=str(folder)), **changes)
        super().__init__(rules=rules or Said(), capture=capturing)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        until(lambda: not written(self))  # else the next test would find in its log how they went


def deny(transaction: Any) -> Verdict:
    return Verdict("deny", Reply(550, "5.7.1", "No"), rule="no", where="main.lua:1")


MAIL = ["EHLO me.test", "MAIL FROM:<Jo.Doe@b.test>", "RCPT TO:<you@example.test>", "DATA"]
CONTENT = b"From: Jo.Doe@b.test\r\nSubject: to you@example.test\r\n\r\nwrite to jo.doe@b.test\r\n.\r\n"


def written(server: Receiving) -> int:
    """Files under way."""
    assert server.receiver.capture is not None
    return server.receiver.capture._writing + server.receiver.capture._open


def one(folder: Path) -> dict[str, Any]:
    until(lambda: captures(folder))
    (made,) = captures(folder)
    return made


def test_only_the_networks_asked_for(tmp_path: Path) -> None:
    with Here(tmp_path, networks=["198.51.100.0/24"]) as server:
        server.talk(*MAIL, CONTENT, "QUIT")
        server.settle()
        server.receiver.client = "198.51.100.7"
        server.talk("QUIT")
        assert one(tmp_path)["client"]["ip"] == "198.51.100.7"


def test_only_the_verdicts_asked_for(tmp_path: Path) -> None:
    with Here(tmp_path, verdicts=["deny", "quarantine"]) as server:
        server.talk(*MAIL, CONTENT, "QUIT")
        server.rules = Said(mail=deny)
        server.talk(*MAIL[:2], "QUIT")
        assert one(tmp_path)["verdicts"][-1]["kind"] == "deny"


def test_a_share_of_the_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([0.6, 0.4, 0.5])
    monkeypatch.setattr(random, "random", lambda: next(numbers))
    with Here(tmp_path, sample=0.5) as server:
        for _ in range(3):
            server.talk("QUIT")
        assert one(tmp_path)["transcript"][-1] == ["S", one(tmp_path)["transcript"][-1][1]]


def test_addresses_become_pseudonyms_everywhere(tmp_path: Path) -> None:
    with Here(tmp_path, redact="addresses") as server:
        server.talk(*MAIL, CONTENT, "QUIT")
        made = one(tmp_path)
    text = json.dumps(made).lower()
    assert "jo.doe" not in text and "you@" not in text
    sender = made["transcript"][3][1].removeprefix("MAIL FROM:<").removesuffix("@b.test>")
    assert made["mails"][0].count(sender) == 2  # From, and in the body
    assert made["mails"][0].endswith("\r\n") and made["redacted"] == "addresses"


def test_no_body_if_it_is_left_out(tmp_path: Path) -> None:
    with Here(tmp_path, redact="body") as server:
        server.talk(*MAIL, CONTENT, "QUIT")
        made = one(tmp_path)
    assert "write to" not in made["mails"][0] and "Subject: to x" in made["mails"][0]
    assert made["whole"] == [False]


def test_of_a_large_mail_the_header_alone(tmp_path: Path) -> None:
    with Here(tmp_path, size=1000) as server:
        line = b"0123456789" * 7 + b"\r\n"
        server.talk(*MAIL, b"Subject: large\r\n\r\n" + line * 5000 + b".\r\n", "QUIT")
        made = one(tmp_path)
        assert len(server.mails[0][1]) > 350_000  # what is kept is not touched
    assert made["mails"] == ["Subject: large\r\n\r\n"] and made["whole"] == [False]


def test_a_password_is_never_written(tmp_path: Path) -> None:
    with Here(tmp_path) as server:
        server.talk("EHLO me.test", "AUTH PLAIN AGpvAHNlY3JldA==", "QUIT")
        made = one(tmp_path)
    assert ["C", "AUTH PLAIN *"] in made["transcript"] and "AGpv" not in json.dumps(made)


def test_a_full_folder_takes_no_more(tmp_path: Path) -> None:
    with Here(tmp_path, files=2) as server:
        for _ in range(4):
            server.talk("QUIT")
            until(lambda: not written(server))
    assert len(captures(tmp_path)) == 2


def test_a_disk_that_fails_does_not_disturb_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def full(fd: int, text: bytes) -> int:
        if b"mta capture" in text:
            raise OSError(28, "No space left on device")
        return real(fd, text)

    monkeypatch.setattr(os, "write", full)
    with Here(tmp_path) as server:
        for _ in range(3):
            assert server.talk(*MAIL, CONTENT, "QUIT")[5].startswith(b"250 ")
        until(lambda: server.events("capture_failed") and not written(server))
        assert len(server.mails) == 3
        assert [event["reason"] for event in server.events("capture_failed")] == ["No space left on device"]
    assert not list(tmp_path.iterdir())


def test_a_slow_disk_does_not_gather_captures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "WRITING", 0)
    with Here(tmp_path) as server:
        server.talk(*MAIL, CONTENT, "QUIT")
        until(lambda: server.events("capture_failed"))
        assert server.events("capture_failed")[0]["reason"] == "the disk is too slow"


def test_a_process_that_ends_writes_what_it_has_in_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would depend on the disk whether there is a capture of a session that a stop has ended."""
    put, disk = capture._put, monkey.get_original("_thread", "allocate_lock")()

    def slow(file: str, text: bytes, how: int) -> None:
        with disk:
            put(file, text, how)

    monkeypatch.setattr(capture, "_put", slow)
    disk.acquire()
    with Here(tmp_path) as server:
        server.talk("QUIT")
        server.settle()
        assert server.receiver.capture is not None
        gevent.spawn(disk.release)
        server.receiver.capture.end()
        assert len(captures(tmp_path)) == 1


def test_smtplib_is_served_as_ever(tmp_path: Path) -> None:
    """A captured session speaks through another stream; nothing else may differ."""
    with Here(tmp_path) as server, smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
        client.sendmail("a@b.test", ["you@example.test", "me@example.test"], "Subject: x\r\n\r\n..\r\n.\r\n")
        assert server.mails[0][1].endswith(b"Subject: x\r\n\r\n..\r\n.\r\n")


def test_a_session_that_a_stop_ends_is_written_too(tmp_path: Path) -> None:
    with Server(tmp_path, "[capture]\nsample = 1.0\n", RULES) as server:
        client = server.smtp()
        client.ehlo("me.test")
        assert server.stop() == 0
        client.close()
    (made,) = captures(tmp_path / "captures")
    assert made["transcript"][-1][0] == "S" and made["transcript"][-1][1].startswith("421 ")
