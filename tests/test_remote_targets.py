"""Mail to hosts named by URLs: who gets the password and who does not, and what TLS has to prove."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_smtp import EXTENSIONS, FakeSmtp, certificate
from test_remote import World

from mta.net.tls import server_context, verifying_context

AUTH = (*EXTENSIONS, "AUTH PLAIN LOGIN")
PLAIN = "AUTH PLAIN " + base64.b64encode("\0ann\0söcret".encode()).decode()
LOGIN = {
    "AUTH LOGIN": "334 VXNlcm5hbWU6",
    base64.b64encode(b"ann").decode(): "334 UGFzc3dvcmQ6",
    base64.b64encode("söcret".encode()).decode(): "235 2.7.0 In",
}
URL_PASSWORD = "s%C3%B6cret"


class Secured(World):
    """Servers whose certificate says far.test; who asks for proof trusts exactly that one."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        super().__init__(stack)
        self.pem, key = certificate(folder, "far.test")
        self.context = server_context(self.pem, key)

    def trusting(self) -> ssl.SSLContext:
        context = verifying_context()
        context.load_verify_locations(self.pem)
        return context

    def say(self, *names: str, host: str = "") -> str:
        if self.outside is None:
            self.send("x@[127.0.0.250]", host="127.0.0.250:9")  # makes the worker
            assert self.outside is not None
            self.outside = self.outside._replace(verifying=self.trusting)
        return super().say(*names, host=host)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Secured]:
    with ExitStack() as stack:
        yield Secured(stack, tmp_path)


def auth(server: FakeSmtp) -> list[str]:
    return [line for line in server.commands if line.startswith("AUTH")]


def test_plain_under_verified_tls(world: Secured) -> None:
    server = world.server("far.test", 1, {"AUTH": "235 2.7.0 In"}, extensions=AUTH, tls=world.context)
    host = f"smtp://ann:{URL_PASSWORD}@far.test:{server.port}"
    assert world.say("bob@far.test", host=host) == "250 2.0.0 Kept"
    assert auth(server) == [PLAIN]
    assert server.secure == 1
    assert server.commands.index("STARTTLS") < server.commands.index(PLAIN)


def test_login_where_plain_is_not_known(world: Secured) -> None:
    for extension in ("AUTH LOGIN CRAM-MD5", "AUTH=LOGIN"):
        server = world.server("far.test", 1, dict(LOGIN), extensions=(*EXTENSIONS, extension), tls=world.context)
        host = f"smtp://ann:{URL_PASSWORD}@far.test:{server.port}"
        assert world.say("bob@far.test", host=host) == "250 2.0.0 Kept"
        assert "AUTH LOGIN" in server.commands
        server._server.stop()
        assert world.outside is not None
        world.outside.pool.close()


def test_tls_from_the_first_byte(world: Secured) -> None:
    server = world.server("far.test", 1, {"AUTH": "235 In"}, extensions=AUTH, tls=world.context, at_once=True)
    assert world.say("bob@far.test", host=f"smtps://ann:x@far.test:{server.port}") == "250 2.0.0 Kept"
    assert "STARTTLS" not in server.commands and len(auth(server)) == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_a_certificate_for_somebody_else(world: Secured, at_once: bool) -> None:
    server = world.server("other.test", 1, {"AUTH": "235 In"}, extensions=AUTH, tls=world.context, at_once=at_once)
    scheme = "smtps" if at_once else "smtp"
    said = world.say("bob@far.test", host=f"{scheme}://ann:secret@other.test:{server.port}")
    assert said.startswith("451 4.4.2 ") and "ertificate" in said.replace("CERTIFICATE", "certificate")
    assert not auth(server) and not server.mails
    said = world.say("bob@far.test", host=f"{scheme}://127.0.0.1:{server.port}?tls=required")
    assert said.startswith("451 4.4.2 ") and not server.mails
    assert world.say("bob@far.test", host=f"{scheme}://other.test:{server.port}?tls=optional") == "250 2.0.0 Kept"


def test_no_tls_no_password(world: Secured) -> None:
    server = world.server("far.test", 1, {"AUTH": "235 In"}, extensions=AUTH)
    for tls in ("", "?tls=required", "?tls=optional"):
        said = world.say("bob@far.test", host=f"smtp://ann:secret@far.test:{server.port}{tls}")
        assert said.startswith("454 4.7.4 far.test [127.0.0.1] offers no TLS"), said
    assert world.say("bob@far.test", host=f"smtp://far.test:{server.port}?tls=required").startswith("454 4.7.4 ")
    assert not auth(server) and not server.mails


def test_a_broken_handshake_is_no_reason_to_say_it_in_clear(world: Secured) -> None:
    server = world.server("far.test", 1, {"STARTTLS": "220 but no TLS"}, extensions=AUTH, tls=world.context)
    for tls in ("?tls=optional", "?tls=required"):
        said = world.say("bob@far.test", host=f"smtp://ann:secret@far.test:{server.port}{tls}")
        assert said[:3] in ("451", "454")
    assert not auth(server) and not server.mails
    assert world.say("bob@far.test", host=f"far.test:{server.port}") == "250 2.0.0 Kept", "in clear where nobody minds"


def test_in_clear_only_when_that_is_said(world: Secured) -> None:
    server = world.server("far.test", 1, {"AUTH": "235 In"}, extensions=AUTH, tls=world.context)
    host = f"smtp://ann:{URL_PASSWORD}@far.test:{server.port}?tls=none"
    assert world.say("bob@far.test", host=host) == "250 2.0.0 Kept"
    assert "STARTTLS" not in server.commands and auth(server) == [PLAIN]


@pytest.mark.parametrize("answer", ["535 5.7.8 No such ann:secret", "454 4.7.0 Later", "334 what else", "250 odd"])
def test_a_password_that_is_wrong_delays(world: Secured, answer: str) -> None:
    script = {"AUTH": answer, "*": "501 5.5.4 Then not"}
    server = world.server("far.test", 1, script, extensions=AUTH, tls=world.context)
    (result,) = world.send("bob@far.test", host=f"smtp://ann:secret@far.test:{server.port}?tls=none")
    assert str(result.reply).startswith("454 4.7.0 far.test [127.0.0.1] does not let us in")
    assert "secret" not in str(result) and not server.mails


def test_a_server_without_a_way_to_log_in(world: Secured) -> None:
    server = world.server("far.test", 1, extensions=(*EXTENSIONS, "AUTH GSSAPI"))
    said = world.say("bob@far.test", host=f"smtp://ann:secret@far.test:{server.port}?tls=none")
    assert said == "454 4.7.0 far.test [127.0.0.1] offers only GSSAPI; we know PLAIN and LOGIN"


def test_nobody_goes_out_under_another_ones_name(world: Secured) -> None:
    server = world.server("far.test", 1, {"AUTH": "235 In"}, extensions=AUTH)
    hosts = [f"{who}far.test:{server.port}?tls=none" for who in ("smtp://ann:a@", "smtp://eve:e@", "smtp://")]
    for _ in range(2):
        for host in hosts:
            assert world.say("bob@far.test", host=host) == "250 2.0.0 Kept"
    assert server.connections == 3, "kept, but each for itself"
    assert len(auth(server)) == 2
