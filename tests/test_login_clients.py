"""Logging in with clients that others wrote: smtplib, swaks, openssl; and the password is nowhere afterwards."""

from __future__ import annotations

import base64
import json
import os
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon import PATIENCE, Server
from receiving import self_signed, trusting
from rules_kit import shipped

PASSWORD = "correct-horse-battery"
FAR = "eve@elsewhere.example"
MAIL = "Subject: hi\n\nhello\n"

RULES = f"""
on.authenticate("ann", function(mail)
  log.debug("tried " .. mail.credentials.user .. " with " .. mail.credentials.password)
  if mail.credentials.user == "ann" and digest.equal(mail.credentials.password, "{PASSWORD}") then
    return accept()
  end
end)
on.preq("kept", function(mail)
  mail:write("export")
  mail:dump("export")
end)
"""

CONFIG = """
[[listener]]
address = "127.0.0.1:0"
tls = {{ certificate = "{0}", key = "{1}" }}
[[listener]]
address = "127.0.0.2:0"
kind = "submission"
tls = {{ certificate = "{0}", key = "{1}", policy = "required" }}
[[listener]]
address = "127.0.0.3:0"
kind = "submissions"
tls = {{ certificate = "{0}", key = "{1}" }}
[domain."example.test"]
path = "Maildir"
[route."*"]
transport = "discard"
[server]
name = "mx.example.test"
workers = 1
trusted = []
[log]
level = "debug"
[capture]
sample = 1.0
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with Server(folder, CONFIG.format(*self_signed(tmp_path_factory.mktemp("tls"))), RULES) as server:
        yield server


def relay(server: Server) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", server.ports[0], timeout=60)
    client.starttls(context=trusting())
    return client


def submission(server: Server) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.2", server.ports[1], timeout=60)
    client.starttls(context=trusting())
    return client


def submissions(server: Server) -> smtplib.SMTP:
    return smtplib.SMTP_SSL("127.0.0.3", server.ports[2], timeout=60, context=trusting())


DOORS = pytest.mark.parametrize("door", [relay, submission, submissions])
Door = Callable[[Server], smtplib.SMTP]


@DOORS
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("at_once", [True, False])
def test_smtplib(server: Server, door: Door, mechanism: str, at_once: bool) -> None:
    with door(server) as client:
        client.ehlo()
        client.user, client.password = "ann", PASSWORD  # type: ignore[attr-defined]
        say = client.auth_plain if mechanism == "PLAIN" else client.auth_login
        assert client.auth(mechanism, say, initial_response_ok=at_once) == (235, b"2.7.0 Welcome")  # type: ignore[arg-type]
        with pytest.raises(smtplib.SMTPException, match="not supported"):
            client.ehlo()
            client.login("ann", PASSWORD)
        assert client.sendmail("ann@example.test", [FAR], MAIL) == {}


@DOORS
def test_smtplib_chooses_what_is_offered(server: Server, door: Door) -> None:
    with door(server) as client:
        assert client.login("ann", PASSWORD)[0] == 235
        assert client.sendmail("ann@example.test", [FAR, "you@example.test"], MAIL) == {}
    server.until(server.mails, "nothing was delivered")
    assert b"with ESMTPSA (TLSv1." in server.mails()[0].read_bytes()


@DOORS
def test_a_stranger_relays_nothing_and_a_wrong_password_changes_nothing(server: Server, door: Door) -> None:
    with door(server) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login("ann", "wrong")
        assert refused.value.smtp_code == 535 and b"5.7.8" in refused.value.smtp_error  # type: ignore[operator]
        with pytest.raises((smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused)):
            client.sendmail("ann@example.test", [FAR], MAIL)


def test_without_tls_nobody_is_asked_for_a_password(server: Server) -> None:
    for n, port in enumerate(server.ports[:2], 1):
        with smtplib.SMTP(f"127.0.0.{n}", port, timeout=60) as client:
            with pytest.raises(smtplib.SMTPNotSupportedError):
                client.login("ann", PASSWORD)
            assert client.docmd("AUTH", "PLAIN " + base64.b64encode(b"\0ann\0x").decode())[0] == 538


@pytest.mark.needs("swaks")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(("listener", "tls"), [(0, "--tls"), (1, "--tls"), (2, "--tls-on-connect")])
def test_swaks(server: Server, mechanism: str, listener: int, tls: str) -> None:
    def swaks(password: str) -> subprocess.CompletedProcess[str]:
        words = [
            "swaks",
            "--server",
            f"127.0.0.{listener + 1}:{server.ports[listener]}",
            tls,
            "--pipeline",
            "--from",
            "ann@b.test",
        ]
        words += ["--to", FAR, "--auth", mechanism, "--auth-user", "ann", "--auth-password", password]
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)

    done = swaks(PASSWORD)
    if "Net::SSLeay" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip("swaks needs TLS: apt-get install libnet-ssleay-perl")
    assert done.returncode == 0 and "235 2.7.0" in done.stdout, done.stdout
    done = swaks("wrong")
    assert done.returncode == 28 and "535 5.7.8" in done.stdout, done.stdout  # its code for a failed login


@pytest.mark.needs("openssl")
def test_openssl(server: Server) -> None:
    lines = ["EHLO there", "AUTH PLAIN " + base64.b64encode(f"\0ann\0{PASSWORD}".encode()).decode(), "QUIT"]
    command = ["openssl", "s_client", "-quiet", "-crlf", "-connect", f"127.0.0.3:{server.ports[2]}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdin is not None and client.stdout is not None
        heard = client.stdout.readline()
        for line in lines:
            client.stdin.write(line.encode() + b"\n")
            client.stdin.flush()
            while True:
                heard = client.stdout.readline()
                if heard[3:4] != b"-":
                    break
            if line.startswith("AUTH"):
                assert heard == b"235 2.7.0 Welcome\r\n"
        assert heard.startswith(b"221")


def test_the_password_is_nowhere(server: Server) -> None:
    """Not in the log at debug, the spool, a capture, an exported mail, nor in what the server printed."""
    with submissions(server) as client:
        client.login("ann", PASSWORD)
        client.sendmail("ann@example.test", ["last@example.test"], MAIL)

    def sessions(event: str) -> set[str]:
        return {line["session"] for line in server.events(event)}

    server.until(
        lambda: "last@example.test" in [line["recipient"] for line in server.events("delivered")],
        "the last mail was not delivered",
    )
    server.until(lambda: sessions("connected") == sessions("captured"), "not every session was captured")
    assert any('"LOGIN"' in path.read_text() for path in (server.folder / "captures").glob("*.json"))
    forms = [
        PASSWORD.encode(),
        base64.b64encode(PASSWORD.encode()),
        base64.b64encode(f"\0ann\0{PASSWORD}".encode())[8:-4],
    ]
    seen = set()
    for path in server.folder.rglob("*"):
        if path.is_file() and path.parent.name != "rules":
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # a file of the spool, used again under another name
                continue
            seen.add(path.relative_to(server.folder).parts[0])
            assert not any(form in content for form in forms), path
    assert {"mta.log", "output", "spool", "captures", "export", "Maildir"} <= seen
    assert server.events("logged_in")[0]["user"] == "ann"
    assert {event["message"] for event in server.events("rule_debug")} >= {"tried ann with ***"}


def test_logins_are_counted_and_refused_ones_can_be_found(server: Server) -> None:
    with submissions(server) as client, pytest.raises(smtplib.SMTPAuthenticationError):
        client.login("mallory", "guess")
    server.until(
        lambda: any(
            event.get("reason", "").startswith("mallory could not log in") for event in server.events("refused")
        ),
        "the log does not tell who was refused",
    )
    refused = [
        event for event in server.events("refused") if event.get("reason", "").startswith("mallory could not log in")
    ]
    assert {event["stage"] for event in refused} == {"authenticate"}
    assert {event["client"] for event in refused} == {"127.0.0.1"}


SASLAUTHD = """#!/bin/sh
# Answers as testsaslauthd of Cyrus SASL 2.1.28 does.
case "$1 $2" in
"-uann -pcorrect-horse-battery") echo '0: OK "Success."'; exit 0 ;;
"-udown "*) echo 'connect() : No such file or directory' >&2; printf '0: '; exit 255 ;;
*) echo '0: NO "authentication failed"'; exit 255 ;;
esac
"""


def test_the_example_that_asks_saslauthd(tmp_path: Path) -> None:
    """lua/examples/accounts.lua with the settings it shows, and a program that answers as testsaslauthd does."""
    text = shipped("accounts")
    service = "\n".join(line.removeprefix("--").strip() for line in text.split("\n") if line.startswith("--   "))
    program = tmp_path / "testsaslauthd"
    program.write_text(SASLAUTHD)
    program.chmod(0o755)
    pair = self_signed(tmp_path)
    config = CONFIG.format(*pair) + service.replace('"testsaslauthd"', json.dumps(str(program)))
    with Server(tmp_path / "server", config, text) as server:
        with submissions(server) as client:
            assert client.login("ann", PASSWORD)[0] == 235
        for user, password, code in (("ann", "wrong", 535), ("down", "x", 454), ("eve", "-h", 535)):
            with submissions(server) as client, pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                client.login(user, password)
            assert refused.value.smtp_code == code, user
        assert PASSWORD not in (server.folder / "mta.log").read_text("utf-8")
        assert server.events("service_failed") == []


def test_a_login_lasts_as_long_as_its_connection_also_over_a_reload(server: Server) -> None:
    with submissions(server) as client:
        client.login("ann", PASSWORD)
        server.reload()
        assert client.sendmail("ann@example.test", [FAR], MAIL) == {}
