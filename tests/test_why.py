"""`mta why`: the story of a mail, a session and a refusal, from the log, its rotated files and the spool."""

import gzip
import json
import lzma
import re
import smtplib
from pathlib import Path
from typing import Any

import pytest
from daemon import Server
from fake_smtp import FakeSmtp
from timing import of_programs, slowness

RULES = """
on.rcpt("no archive", function(mail)
  if mail.recipient.local_part == "archive" then return deny("550 5.7.1 Not from outside") end
end)
on.rcpt("greet", function(mail)
  mail.vars.greeted = store.add("seen/" .. mail.client.ip, true)
end)
on.preq("mark", function(mail)
  mail.headers:append("X-Mark", "yes")
end)
on.preq("aside", function(mail)
  if mail.headers:get("Subject"):match("odd") then return quarantine("odd") end
end)
"""


OURS = '\n[domain."b.test"]\npath = "Maildir"\n'  # far.test is not


def id_of(reply: tuple[int, bytes]) -> str:
    found = re.search(rb"[0-9a-z]{10}-[0-9a-z]+(\.[0-9]+)?", reply[1])
    assert found, reply
    return found[0].decode()


def mail(server: Server, to: str = "you@demo.test", subject: str = "hi") -> str:
    """Send one; its id."""
    with server.smtp() as client:
        client.ehlo("me.test")
        client.mail("a@b.test")
        client.rcpt(to)
        return id_of(client.data(f"Subject: {subject}\r\n\r\nhello\r\n"))


def test_a_mail_that_was_delivered(tmp_path: Path) -> None:
    with Server(tmp_path, "", RULES) as server:
        id = mail(server)
        server.until(lambda: server.events("delivered") and not server.queue(), "it was not delivered")
        told = server.mta("why", id)
        record = json.loads(server.mta("why", id, "--json"))
    assert f"mail {id}\n" in told
    assert "accepted from 127.0.0.1 (me.test), in clear text: a@b.test to you@demo.test, " in told
    assert f'the client heard "250 2.0.0 Kept as {id}"' in told
    assert "delivered to you@demo.test by maildir" in told
    assert [event["event"] for event in record["events"]] == ["accepted", "delivered"]
    assert record["kind"] == "mail" and "spool" not in record
    assert record["summary"][1] == "you@demo.test: delivered at the first attempt"


def test_a_refusal_by_the_id_its_client_saw(tmp_path: Path) -> None:
    with Server(tmp_path, "", RULES) as server:
        with server.smtp() as client:
            client.ehlo("me.test")
            client.mail("a@b.test")
            reply = client.rcpt("archive@demo.test")
        server.until(lambda: server.events("refused"), "it is not in the log")
        told = server.mta("why", f"({id_of(reply)})")
        session = server.mta("why", id_of(reply).partition(".")[0])
    for text in (told, session):
        assert 'refused at rcpt by rule "no archive" (main.lua:2): "550 5.7.1 Not from outside"' in text
        assert "it was from a@b.test to archive@demo.test" in text
    assert "it was refused, so nothing was kept" in told
    assert "a session: no mails accepted, 1 refusal" in session


def test_a_refused_mail_is_found_by_its_recipients(tmp_path: Path) -> None:
    rules = 'on.preq("no", function(mail) return deny("550 5.7.1 No") end)\n'
    with Server(tmp_path, "", rules) as server:
        with server.smtp() as client:
            client.ehlo("me.test")
            client.mail("a@b.test")
            client.rcpt("you@demo.test")
            client.rcpt("me@demo.test")
            code, _ = client.rcpt("<>")
            reply = client.data(b"Subject: x\r\n\r\nhello\r\n")
        server.until(lambda: len(server.events("refused")) == 2, "it is not in the log")
        told = server.mta("why", id_of(reply))
        found = server.mta("log", "me@demo.test")
        syntax, refused = server.events("refused")
    assert "it was from a@b.test to you@demo.test, me@demo.test" in told
    assert "refused " in found and "rule=no where=main.lua:1" in found
    assert code == 501 and "recipients" not in syntax
    assert refused["recipients"] == ["you@demo.test", "me@demo.test"]


def test_at_level_debug_every_rule_is_told(tmp_path: Path) -> None:
    with Server(tmp_path, '[log]\nlevel = "debug"\n', RULES) as server:
        id = mail(server, subject="odd")
        server.until(lambda: server.events("accepted"), "it is not in the log")
        told = server.mta("why", id)
        judged = [e for e in json.loads(server.mta("why", id, "--json"))["events"] if e["event"] == "judged"]
    assert [(event["stage"], [rule[:3] for rule in event["rules"]]) for event in judged] == [
        ("rcpt", [["no archive", "main.lua:2", "next"], ["greet", "main.lua:5", "next"]]),
        ("preq", [["mark", "main.lua:8", "next"], ["aside", "main.lua:11", "quarantine"]]),
    ]
    assert judged[0]["asked"] == [["store.add", ["seen/127.0.0.1", True], True]]
    assert judged[0]["changed"] == ["+ vars.greeted = true"]
    assert judged[1]["changed"] == ["+ X-Mark: yes"]
    assert "nobody gets it until a person releases it: quarantine odd" in told
    assert '"aside" (main.lua:11) quarantine, ' in told
    assert 'asked store.add("seen/127.0.0.1", true): True' in told
    assert "changed + X-Mark: yes" in told
    assert "you@demo.test: in the spool, not tried yet; held: quarantine odd" in told


def test_a_mail_that_waits_also_without_a_server(tmp_path: Path) -> None:
    with FakeSmtp({"RCPT": "450 4.2.0 Mailbox busy"}) as other:
        config = f'[queue]\nretry = ["1h"]\n\n[route."far.test"]\nhost = "{other.host}"\n' + OURS
        with Server(tmp_path, config, "") as server:
            id = mail(server, "x@far.test")
            server.until(
                lambda: server.events("deferred") and [m["attempts"] for m in server.queue()] == [1], "it was not tried"
            )
            running = server.mta("why", id)
            record = json.loads(server.mta("why", id, "--json"))
        resting = server.mta("why", id)
    for told in (running, resting):
        assert 'x@far.test: in the spool, tried once, last answer "450 4.2.0 Mailbox busy"; next try at 20' in told
        assert "not now: x@far.test by smtp " in told
    assert record["spool"][0]["recipients"][0]["attempts"] == 1
    assert "header" not in record["spool"][0]


def test_a_bounce_is_named(tmp_path: Path) -> None:
    with FakeSmtp({"RCPT": "550 5.1.1 Nobody"}) as other:
        config = f'[route."far.test"]\nhost = "{other.host}"\n\n' + OURS
        with Server(tmp_path, config, "") as server:
            id = mail(server, "x@far.test")
            server.until(server.mails, "no bounce came")
            server.until(lambda: server.events("delivered"), "no bounce was logged")
            told = server.mta("why", id)
            (bounced,) = server.events("bounced")
            about = server.mta("why", bounced["bounce"])
    assert "failed: x@far.test by smtp " in told and f"a@b.test was told, by {bounced['bounce']}" in told
    assert f"see also: mta why {bounced['bounce']}" in told
    assert f"see also: mta why {id}" in about and "delivered to a@b.test" in about


# -- without a server --------------------------------------------------------------------------------------------------

MAIL = "k3v9x0a2bq-1f.2"


class Logs:
    """A configuration, and logs written by hand."""

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder)
        self.folder = folder
        self.minute = 0

    def lines(self, *events: dict[str, Any]) -> str:
        text = ""
        for event in events:
            self.minute += 1
            text += json.dumps({"time": f"2026-01-02T03:{self.minute:02}:00.000000Z", "level": "info", **event}) + "\n"
        return text

    def why(self, *words: str, code: int = 0) -> str:
        return self.server.mta("why", *words, code=code)


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


def test_rotated_logs_are_read_too(logs: Logs) -> None:
    accepted = logs.lines({"event": "accepted", "session": MAIL[:-2], "mail": MAIL, "recipients": ["x@far.test"]})
    first, second, third = (
        logs.lines(
            {"event": "deferred", "mail": MAIL, "recipient": "x@far.test", "attempts": n, "reply": f"450 4.2.0 no {n}"}
        )
        for n in (1, 2, 3)
    )
    (logs.folder / "mta.log.3.gz").write_bytes(gzip.compress(accepted.encode()))
    (logs.folder / "mta.log.2.xz").write_bytes(lzma.compress(first.encode()))
    (logs.folder / "mta.log.1").write_text(second)
    (logs.folder / "mta.log").write_text(third)
    record = json.loads(logs.why(MAIL, "--json"))
    assert [event.get("attempts") for event in record["events"]] == [None, 1, 2, 3]
    told = logs.why(MAIL)
    assert "accepted at 2026-01-02 03:01:00 UTC" in told
    assert 'x@far.test: tried 3 times, last answer "450 4.2.0 no 3"' in told


def test_only_what_is_about_this_id(logs: Logs) -> None:
    """The session of one id may be the beginning of another; other mails of the session are another story."""
    (logs.folder / "mta.log").write_text(
        logs.lines(
            {"event": "refused", "session": "k3v9x0a2bq-1f", "stage": "helo", "reply": "550 5.7.1 first"},
            {"event": "refused", "session": "k3v9x0a2bq-1f", "mail": "k3v9x0a2bq-1f.1", "reply": "550 5.7.1 other"},
            {"event": "refused", "session": "k3v9x0a2bq-1f", "mail": MAIL, "reply": "550 5.7.1 mine"},
            {"event": "refused", "session": "k3v9x0a2bq-1f0", "mail": "k3v9x0a2bq-1f0.2", "reply": "550 5.7.1 foreign"},
            {"event": "rule_log", "message": f"about {MAIL}"},
        )
        + f"not JSON {MAIL}\n"
    )
    mine = [event["reply"][10:] for event in json.loads(logs.why(MAIL, "--json"))["events"]]
    assert mine == ["first", "mine"]
    session = json.loads(logs.why("k3v9x0a2bq-1f", "--json"))
    assert [event["reply"][10:] for event in session["events"]] == ["first", "other", "mine"]
    assert session["see"] == ["k3v9x0a2bq-1f.1", MAIL]


def test_what_is_not_known(logs: Logs) -> None:
    (logs.folder / "mta.log").write_text("")
    assert "is not known" in logs.why(MAIL, code=3)
    assert "is no id" in logs.why("hello", code=2)
    assert "No such file" in logs.why(MAIL, "--file", "nowhere.log", code=3)


def test_a_stranger_cannot_steer_the_terminal(logs: Logs) -> None:
    (logs.folder / "mta.log").write_text(
        logs.lines({"event": "refused", "mail": MAIL, "reply": "550 5.7.1 no", "sender": "\033[31m\u202ered"})
    )
    told = logs.why(MAIL)
    assert "\033" not in told and "\u202e" not in told and "?[31m?red" in told


def test_a_large_log_is_searched_fast(logs: Logs) -> None:
    other = logs.lines({"event": "accepted", "mail": "0000000000-1.1", "sender": "a@b.test" * 20}) * 100_000
    (logs.folder / "mta.log").write_text(other + logs.lines({"event": "deleted", "mail": MAIL}) + other)
    told: list[str] = []
    assert of_programs(lambda: told.append(logs.why(MAIL))) < 5 * slowness()
    assert "deleted by a person" in told[0]


def test_every_event_has_words(logs: Logs) -> None:
    """A line with nothing but its name is told too, whatever it is."""
    from mta.events import EVENTS

    (logs.folder / "mta.log").write_text(logs.lines(*({"event": event, "mail": MAIL} for event in EVENTS)))
    told = logs.why(MAIL)
    assert len([line for line in told.splitlines() if re.match(r"\d\d:\d\d:\d\d  \S", line)]) == len(EVENTS)


def test_who_logged_in_and_who_did_not(logs: Logs) -> None:
    session = MAIL.partition(".")[0]
    login = {"event": "logged_in", "session": session, "user": "ann", "mechanism": "PLAIN", "rule": "x", "where": "y:1"}
    refused = {"event": "refused", "session": session, "stage": "authenticate", "reply": "535 5.7.8 No"}
    refused["reason"] = "eve could not log in with LOGIN"
    (logs.folder / "mta.log").write_text(logs.lines(refused, login))
    told = logs.why(session)
    assert 'ann logged in with PLAIN by rule "x" (y:1)' in told
    assert 'refused at authenticate by the server itself: "535 5.7.8 No"' in told
    assert "because eve could not log in with LOGIN" in told


def test_smtplib_sees_the_id(tmp_path: Path) -> None:
    with Server(tmp_path, "", RULES) as server, pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        server.send(to="archive@demo.test")
    ((_, said),) = refused.value.recipients.values()
    assert id_of((550, said)) in server.mta("why", said.decode().split("(")[1].split(";")[0].rstrip(")"))
