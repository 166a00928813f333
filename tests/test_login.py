"""Logging in: what rules of authenticate see, what is written down of it, and what a client can do wrong."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hands import moved
from receiving import Receiving, World, reply, self_signed, trusting, until
from rules_kit import rule

from mta import settings
from mta.message.credentials import Credentials
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.engine.hearer import Hearer
from mta.rules.outside.services import Services
from mta.rules.outside.services.fake import FakeService
from mta.rules.outside.services.request import Answer
from mta.rules.transaction import Transaction

PASSWORD = 'correct "horse"\\ é'


def plain(user: str, password: str = PASSWORD) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


class Talk:
    """A client over TLS that has said EHLO."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock, self.replies = sock, sock.makefile("rb")
        self.greeting, self.hello = reply(self.replies), self.say("EHLO there.example")

    def say(self, line: str | bytes) -> str:
        self.sock.sendall(line if isinstance(line, bytes) else line.encode() + b"\r\n")
        return str(reply(self.replies).decode())

    def close(self) -> None:
        self.replies.close()
        self.sock.close()


class House:
    """Makes servers with these rules; every client speaks TLS at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pair, self.world = folder, self_signed(folder), World()

    @contextmanager
    def server(self, lua: str, kind: str = "submissions", **sections: Any) -> Iterator[Receiving]:
        (self.folder / "main.lua").write_text(lua, "utf-8")
        rules = Rules.load(sections.pop("rules_settings", settings.Rules(path=str(self.folder))), self.world)
        listener = settings.Listener(kind=kind, tls=settings.ListenerTls(*self.pair))
        with Receiving(rules=rules, certificate=self.pair, listener=listener, **sections) as server:
            yield server

    @contextmanager
    def talk(self, lua: str, **sections: Any) -> Iterator[tuple[Talk, Receiving]]:
        with self.server(lua, **sections) as server:
            client = Talk(trusting().wrap_socket(server.connect()))
            yield client, server
            client.close()
            server.settle()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def at(stage: str, body: str, name: str = "") -> str:
    return rule(body, stage, name or stage)


ANYBODY = at("authenticate", "return accept()")


def test_what_a_rule_sees(house: House) -> None:
    lua = at(
        "authenticate",
        """
        local shown = mail.credentials
        log.info(shown.mechanism .. " " .. shown.user .. " " .. tostring(shown.identity) .. " " .. tostring(mail.user))
        assert(mail.helo == "there.example" and mail.tls:find("TLS") and shown.password == 'correct "horse"\\\\ é')
        return accept()
        """,
    ) + at("mail", 'log.info(mail.user); assert(mail.user == "Änn@b.test")')
    with house.talk(lua) as (client, server):
        assert "250-AUTH PLAIN LOGIN\r\n" in client.hello
        assert client.say(plain("Änn@b.test")) == "235 2.7.0 Welcome\r\n"
        assert client.say("MAIL FROM:<a@b.test>").startswith("250")
    assert [event["message"] for event in server.events("rule_log")] == [
        "PLAIN Änn@b.test nil nil",
        "Änn@b.test",
    ]
    assert server.events("rule_failed") == []


@pytest.mark.parametrize("stage", ["mail", "helo"])
def test_credentials_cannot_be_read_at_another_stage(house: House, stage: str) -> None:
    with (
        pytest.raises(RulesError, match=r"mail\.credentials is (not )?known"),
        house.server(at(stage, "log.info(mail.credentials.user)")),
    ):
        raise AssertionError("the rules were loaded")


def test_credentials_that_a_rule_kept_are_gone(house: House) -> None:
    lua = (
        "local kept, held\n"
        + at("authenticate", "kept, held = mail.credentials, mail; return accept()")
        + at("mail", "assert(pcall(function() return held.credentials.password end) == false); log.info(kept.password)")
    )
    with house.talk(lua) as (client, server):
        assert client.say(plain("ann")).startswith("235")
        assert client.say("MAIL FROM:<a@b.test>").startswith("451")
    (failed,) = server.events("rule_failed")
    assert failed["error"] == "this mail is over"


def test_a_name_without_a_password_and_the_name_of_another_are_refused_unasked(house: House) -> None:
    with house.talk(ANYBODY, smtp=settings.Smtp(max_auth_failures=9)) as (client, server):
        nobody = ["AUTH PLAIN AAA=", plain("", "x"), plain("ann", ""), "AUTH PLAIN Ym9iAGFubgB4"]
        assert [client.say(line)[:9] for line in nobody] == ["535 5.7.8"] * 4
        assert client.say("AUTH PLAIN " + base64.b64encode(b"ann\0ann\0x").decode()).startswith("235")
    assert len(server.events("logged_in")) == 1


def test_what_rules_noted_while_logging_in_outlives_another_hello(house: House) -> None:
    lua = (
        at("helo", "mail.vars.helo = mail.helo")
        + at("authenticate", 'mail.vars.group = "staff"; return accept()')
        + at("mail", 'log.info(tostring(mail.vars.group) .. " " .. mail.vars.helo .. " " .. mail.user)')
    )
    with house.talk(lua) as (client, server):
        assert client.say(plain("ann")).startswith("235")
        for name in ("one", "two"):
            assert client.say(f"EHLO {name}").startswith("250")
            assert client.say("MAIL FROM:<a@b.test>").startswith("250")
    assert [event["message"] for event in server.events("rule_log")] == ["staff one ann", "staff two ann"]


@pytest.mark.parametrize(("on_error", "code"), [("defer", "451"), ("deny", "554"), ("continue", "535")])
def test_a_rule_that_fails_lets_nobody_in(house: House, on_error: str, code: str) -> None:
    wanted = settings.Rules(path=str(house.folder), on_error=on_error)
    with house.talk(at("authenticate", "error(mail.credentials.password)"), rules_settings=wanted) as (client, server):
        assert client.say(plain("ann"))[:3] == code
        assert client.say("MAIL FROM:<a@b.test>").startswith("530")
    assert server.events("rule_failed")[0]["error"] == "***"


def test_the_password_is_in_no_line_of_the_log(house: House) -> None:
    """Not if a rule logs it, fails with it, or asks a service that fails with it."""
    angry = Answer(code=1, stderr=f"not {PASSWORD}!".encode(), failed=f"exit code 1 with {PASSWORD!r}")
    service = FakeService(angry)
    house.world.services = Services({"check": settings.Service(fault="ignore")}, {"check": service}, house.world.log)
    lua = at("authenticate", "mail.vars.tried = mail.credentials.password", "notes it") + at(
        "authenticate",
        """
        local shown = mail.credentials
        log.info("tried", "with " .. shown.password)
        log.debug(shown.password)
        store.set("tried/" .. shown.password, shown.password)
        service.check { password = shown.password, text = shown.password }
        error("wrong: " .. shown.password)
        """,
    )
    with house.talk(lua) as (client, server):
        assert client.say(plain("ann")).startswith("451")
        assert client.say("AUTH LOGIN YW5u").startswith("334")
        assert client.say(base64.b64encode(PASSWORD.encode()) + b"\r\n").startswith("451")
    assert service.requests[0].text == PASSWORD.encode()
    text = json.dumps(server.log, ensure_ascii=False)
    assert "horse" not in text and base64.b64encode(PASSWORD.encode()).decode() not in text
    assert [event["message"] for event in server.events("rule_log")][:1] == ["with ***"]
    judged = next(event for event in server.events("judged") if event["stage"] == "authenticate")
    assert judged["asked"][0][:2] == ["store.set", ["tried/***", "***"]]
    assert judged["changed"] == ['+ vars.tried = "***"']
    assert server.events("service_failed")[0]["said"] == "not ***!"
    assert server.events("rule_failed")[0]["error"] == "wrong: ***"


def test_a_line_of_a_megabyte(house: House) -> None:
    with house.talk(ANYBODY) as (client, server):
        long = b"QUFB" * (1 << 17)  # half of one: this is read on to its end
        assert client.say(b"AUTH PLAIN " + long + b"\r\n").startswith("500 5.5.6")
        assert client.say("AUTH LOGIN").startswith("334")
        assert client.say(b"A" * 12_287 + b"\r\n").startswith("500 5.5.6")  # and so close that we hang up
        assert client.say("NOOP") == ""
    assert "QUFB" not in json.dumps(server.log)
    with house.talk(ANYBODY) as (client, _):
        assert client.say("AUTH LOGIN").startswith("334")
        assert client.say(b"QUFB" * 330_000).startswith("500 5.5.6")  # its end is not read on to
        assert client.say("NOOP") == ""


def test_an_answer_of_the_longest_length(house: House) -> None:
    with house.talk(ANYBODY) as (client, _):
        assert client.say("AUTH LOGIN YW5u").startswith("334")
        assert client.say(b"A" * 12_284 + b"\r\n").startswith("501 5.5.2 Control")  # read, and it is NULs
        assert client.say("AUTH LOGIN YW5u").startswith("334")
        assert client.say(base64.b64encode(b"x" * 9_213) + b"\r\n").startswith("235")


def test_who_says_nothing_in_the_middle_is_sent_away(house: House) -> None:
    with moved() as hands, house.talk(ANYBODY) as (client, server):
        assert client.say("AUTH LOGIN").startswith("334")
        hands.forward(settings.Smtp().command_timeout + 1)
        assert reply(client.replies).startswith(b"421 4.4.2")
    assert server.events("lost")[0]["stage"] == "authenticate"


def test_who_leaves_in_the_middle_leaves_nothing_behind(house: House) -> None:
    with house.talk(ANYBODY) as (client, server):
        assert client.say("AUTH LOGIN").startswith("334")
        client.close()
        until(lambda: server.events("closed"))
    assert server.events("logged_in") == [] and server.events("lost")[0]["stage"] == "authenticate"


def test_a_trusted_client_too_says_its_password_over_tls_only(house: House) -> None:
    server_ = settings.Server(name="mx.example.test", trusted=["192.0.2.1"])
    with house.server(ANYBODY, kind="relay", server=server_) as server:
        heard = server.talk("EHLO there", plain("ann"))
        assert b"AUTH" not in heard[1] and heard[2].startswith(b"538 5.7.11")


def test_a_mail_passes_between_two_logins_of_two_clients(house: House) -> None:
    """Each connection has its own user, whoever else is logged in at that moment."""
    lua = ANYBODY + at("mail", "log.info(mail.user)")
    with house.server(lua) as server:
        clients = [Talk(trusting().wrap_socket(server.connect())) for _ in range(2)]
        for name, client in zip(("ann", "bob"), clients, strict=True):
            assert client.say(plain(name)).startswith("235")
        for client in clients:
            assert client.say("MAIL FROM:<a@b.test>").startswith("250")
            assert client.say("RCPT TO:<eve@elsewhere.example>").startswith("250")
            client.close()
        server.settle()
        assert [event["message"] for event in server.events("rule_log")] == ["ann", "bob"]


def test_the_words_of_the_administrator(house: House) -> None:
    given = {"logged_in": "235 2.7.0 Come in", "not_logged_in": "535 5.7.8 Who?", "too_many_logins": "421 4.7.0 Enough"}
    lua = at("authenticate", 'if mail.credentials.user == "ann" then return accept() else return deny() end')
    with house.talk(lua, replies=given) as (client, _):
        assert client.say(plain("ann")) == "235 2.7.0 Come in\r\n"
    with house.talk(lua, replies=given) as (client, _):
        assert client.say(plain("bob")).startswith("535 5.7.8 Who? (")
        client.say(plain("bob"))
        assert client.say(plain("bob")).startswith("421 4.7.0 Enough (")
    with pytest.raises(ValueError, match="logged_in must be a 235"), house.server(lua, replies={"logged_in": "250 In"}):
        raise AssertionError("it was taken")


def test_a_long_value_in_the_log_ends_in_no_half_password() -> None:
    tx = Transaction("s-1")
    tx.credentials = Credentials("PLAIN", "ann", "opensesame")
    hearer = Hearer(tx)
    tx.vars = {"x": "a" * 180 + "opensesame"}
    assert "open" not in str(hearer.heard("authenticate")["changed"])
