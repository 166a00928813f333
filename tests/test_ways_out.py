"""The real server and its rules: every way out that a rule can name, and every verdict at postq and delivery."""

from __future__ import annotations

import json
import mailbox
import smtplib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from daemon import Server
from fake_smtp import EXTENSIONS, FakeSmtp

CONFIG = """
[server]
name = "mx.example.test"
workers = 2
drain = "5s"
trusted = [{trusted}]
[queue]
retry = ["1s"]
[domain."demo.test"]
path = "Maildir"
[domain."mbox.test"]
transport = "mbox"
path = "boxes/{{local_part}}"
[route."far.test"]
host = "smtp://relay:t0psecret@127.0.0.1:{port}?tls=none"
[rules]
mailboxes = ["lists"]
"""

RULES = """
local port = {port}

on.rcpt("strangers may write to far.test here", function(mail) relay() end)

on.rcpt("archive", function(mail)
  if mail.recipient.local_part == "archive" then mail:route("mbox:archive/{domain}") end
  if mail.recipient.local_part == "box" then mail:route("maildir:{local_part}") end
  if mail.recipient.local_part == "nobody" then mail:route("discard") end
  if mail.recipient.local_part == "filter" then
    mail:route("smtp://ann:s3cret%40@127.0.0.1:" .. port .. "?tls=none")
  end
  if mail.recipient.local_part == "later" then mail:hold("1h") end
end)

on.preq("soon", function(mail)
  if mail.headers:has("X-Soon") then mail:hold("1s") end
end)

on.preq("copies", function(mail)
  if mail.headers:has("X-Copy") then
    mail:write("in")
    mail:dump("in/" .. mail.sender.local_part)
  end
end)

local function say(mail, stage)
  local what = mail.headers:get("X-" .. stage)
  if what == "deny" then return deny("550 5.7.1 Not this one") end
  if what == "defer" then return defer("451 4.7.1 In a moment") end
  if what == "quarantine" then return quarantine("odd") end
  if what == "discard" then return discard() end
  if what == "route" then mail:route("mbox:" .. stage) end
end

on.postq("as the mail says", function(mail) return say(mail, "postq") end)
on.delivery("as the mail says", function(mail) return say(mail, "delivery") end)
"""


class Way:
    """A server, and a host it relays to."""

    def __init__(self, server: Server, far: FakeSmtp) -> None:
        self.server, self.far = server, far

    def send(self, to: str = "you@demo.test", sender: str = "me@demo.test", **fields: str) -> None:
        head = "".join(f"X-{name}: {value}\r\n" for name, value in fields.items())
        self.server.send(f"{head}Subject: x\r\n\r\nhello\r\n", sender=sender, to=to)

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first such line of the log, waited for."""

        def found() -> list[dict[str, Any]]:
            return [e for e in self.server.events(event) if all(e.get(k) == v for k, v in fields.items())]

        self.server.until(found, f"no {event} {fields}")
        return found()[0]

    def queue(self) -> list[dict[str, Any]]:
        return self.server.queue()

    def box(self, name: str) -> list[mailbox.mboxMessage]:
        return list(mailbox.mbox(self.server.folder / name, create=False))


def started(folder: Path, trusted: str) -> Iterator[Way]:
    with FakeSmtp({"AUTH": "235 2.7.0 In"}, extensions=(*EXTENSIONS, "AUTH PLAIN")) as far:
        config = CONFIG.format(trusted=trusted, port=far.port)
        with Server(folder, config, RULES.replace("{port}", str(far.port))) as server:
            yield Way(server, far)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """Clients are our own people."""
    yield from started(tmp_path_factory.mktemp("ours"), '"127.0.0.0/8"')


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """Clients are strangers."""
    yield from started(tmp_path_factory.mktemp("strange"), "")


def test_settings_name_mbox_and_a_host_with_a_password(ours: Way) -> None:
    ours.send("bob@mbox.test")
    ours.until("delivered", recipient="bob@mbox.test", transport="mbox")
    assert [m["Delivered-To"] for m in ours.box("boxes/bob")] == ["bob@mbox.test"]
    ours.send("bob@far.test")
    ours.until("delivered", recipient="bob@far.test", transport="smtp")
    assert any(line.startswith("AUTH PLAIN ") for line in ours.far.commands)
    assert "t0psecret" not in ours.server.told() + ours.server.mta("config", "show")


def test_rules_name_the_way(ours: Way) -> None:
    for to, transport in (("archive", "mbox"), ("box", "maildir"), ("nobody", "discard"), ("filter", "smtp")):
        ours.send(f"{to}@demo.test")
        ours.until("delivered", recipient=f"{to}@demo.test", transport=transport)
    assert len(ours.box("lists/archive/demo.test")) == 1
    assert len(list((ours.server.folder / "lists" / "box" / "new").iterdir())) == 1
    assert ours.far.mails[-1][1] == ["filter@demo.test"]
    assert "s3cret" not in (ours.server.folder / "mta.log").read_text()
    assert not [m for m in ours.server.mails() if b"archive@" in m.read_bytes()]


def test_one_mail_many_ways(ours: Way) -> None:
    with ours.server.smtp() as client:
        client.sendmail("me@demo.test", ["archive@mbox.test", "nobody@mbox.test", "joe@mbox.test"], "\r\nhi\r\n")
    for to, transport in (("archive", "mbox"), ("nobody", "discard"), ("joe", "mbox")):
        ours.until("delivered", recipient=f"{to}@mbox.test", transport=transport)
    assert len(ours.box("boxes/joe")) == 1 and not (ours.server.folder / "boxes" / "archive").exists()


def test_held_until_a_time(ours: Way) -> None:
    ours.send("later@demo.test")
    (mail,) = [mail for mail in ours.queue() if mail["recipients"][0]["address"] == "later@demo.test"]
    assert "held" not in mail and mail["until"] == mail["next_try"]
    told = ours.until("postponed", mail=mail["id"])
    assert told["recipients"] == ["later@demo.test"] and told["next_try"] == round(mail["until"], 3)
    by = f'rule "{told["rule"]}" ({told["where"]})'
    assert told["stage"] == "rcpt" and told["where"].startswith("main.lua:"), told
    assert by == mail["recipients"][0]["until_by"]
    assert f": {by} holds it until 20" in ours.server.mta("queue", "show", mail["id"])
    assert "held by a rule until 20" in (why := ours.server.mta("why", mail["id"])) and by in why, why


def test_held_for_a_moment_and_then_delivered(ours: Way) -> None:
    ours.send("soon@demo.test", Soon="yes")
    until = ours.until("postponed", recipients=["soon@demo.test"])["next_try"]  # to a millisecond
    delivered = ours.until("delivered", recipient="soon@demo.test")
    assert datetime.fromisoformat(delivered["time"]).timestamp() >= until - 0.001


def test_copies(ours: Way) -> None:
    folder = ours.server.folder / "export" / "in"
    before = set(folder.glob("*.eml"))
    ours.send(sender="ann@demo.test", Copy="yes")
    (raw,) = set(folder.glob("*.eml")) - before
    assert raw.read_bytes().startswith(b"Received: ") and raw.read_bytes().endswith(b"\r\n\r\nhello\r\n")
    (path,) = (ours.server.folder / "export" / "in" / "ann").glob("*.json")
    told = json.loads(path.read_text())
    assert told["sender"] == "ann@demo.test" and told["client"]["trusted"]
    assert path.stem == raw.stem == told["id"]


def test_a_name_that_leads_elsewhere_keeps_nothing(ours: Way) -> None:
    before = sorted(ours.server.folder.rglob("*.json"))
    with pytest.raises(smtplib.SMTPDataError, match="451"):
        ours.send(sender='"../../x y"@demo.test', Copy="yes")
    assert "upwards" in ours.until("rule_failed")["error"]
    assert sorted(ours.server.folder.rglob("*.json")) == before


@pytest.mark.parametrize("stage", ["postq", "delivery"])
class TestVerdicts:
    def test_deny_bounces_our_own_peoples_mail(self, ours: Way, stage: str) -> None:
        before = len(ours.server.events("bounced"))
        ours.send(**{stage: "deny"})
        ours.server.until(lambda: len(ours.server.events("bounced")) == before + 1, "no bounce")
        bounced = ours.server.events("bounced")[-1]
        ours.until("delivered", mail=bounced["bounce"], recipient="me@demo.test")
        (bounce,) = [m for m in ours.server.mails() if bounced["bounce"].encode() in m.read_bytes()]
        assert b"550 5.7.1 Not this one" in bounce.read_bytes() and b"multipart/report" in bounce.read_bytes()

    def test_deny_quarantines_a_strangers(self, strange: Way, stage: str) -> None:
        strange.send(sender=f"{stage}-eve@strange.test", **{stage: "deny"})
        held = strange.until("held", sender=f"{stage}-eve@strange.test")
        assert held["reason"] == "quarantine denied: 550 5.7.1 Not this one" and held["rule"] == "as the mail says"
        strange.server.until(lambda: held["mail"] in strange.server.mta("queue", "list", "--held"), "it is not held")
        assert not strange.server.events("bounced")
        strange.server.mta("queue", "release", held["mail"])
        strange.until("delivered", mail=held["mail"])

    def test_defer_comes_again(self, strange: Way, stage: str) -> None:
        strange.send(sender=f"{stage}@strange.test", **{stage: "defer"})
        later = strange.until("deferred", sender=f"{stage}@strange.test", attempts=1)
        assert later["reply"] == "451 4.7.1 In a moment" and later["rule"] == "as the mail says"
        strange.until("deferred", mail=later["mail"], attempts=2)
        assert "451 4.7.1 In a moment" in strange.server.mta("queue", "show", later["mail"])
        strange.server.mta("queue", "delete", later["mail"])

    def test_quarantine(self, ours: Way, stage: str) -> None:
        ours.send(sender=f"{stage}-q@demo.test", **{stage: "quarantine"})
        held = ours.until("held", sender=f"{stage}-q@demo.test")
        odd = lambda: held["mail"] in ours.server.mta("queue", "list", "--held", "odd")  # noqa: E731
        ours.server.until(odd, "it is not held")
        ours.server.mta("queue", "release", held["mail"])
        ours.until("delivered", mail=held["mail"])

    def test_discard(self, ours: Way, stage: str) -> None:
        ours.send(sender=f"{stage}-d@demo.test", **{stage: "discard"})
        gone = ours.until("discarded", sender=f"{stage}-d@demo.test")
        assert gone["stage"] == stage
        ours.server.until(lambda: gone["mail"] not in ours.server.mta("queue", "list"), "it is still there")
        assert not [e for e in ours.server.events("delivered") if e["mail"] == gone["mail"]]

    def test_route(self, ours: Way, stage: str) -> None:
        ours.send(sender=f"{stage}-r@demo.test", **{stage: "route"})
        ours.until("delivered", sender=f"{stage}-r@demo.test", transport="mbox")
        assert len(ours.box(f"lists/{stage}")) == 1
