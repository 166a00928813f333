"""Services: asked, timed, counted, logged, and what happens when they cannot be asked."""

import json
from pathlib import Path

import gevent
import pytest
from receiving import PATIENCE

from mta import config
from mta.log import log
from mta.message.message import Message
from mta.message.reply import Refused
from mta.rules.outside.services import Answer, Request, Services
from mta.rules.outside.services.fake import FakeService
from mta.settings import Service

CLAMSCAN = """#!/bin/sh
# clamscan's manners: 0 clean, 1 infected, 2 an error; "-" reads stdin; the finding goes to stdout.
for last; do :; done
[ "$last" = - ] || { echo "ERROR: this stand-in reads stdin only" >&2; exit 2; }
mail=$(cat)
case $mail in
*BROKEN-DATABASE*) echo "LibClamAV Error: cl_load(): No such file or directory" >&2; exit 2 ;;
*X5O!P%@AP*EICAR-STANDARD-ANTIVIRUS-TEST-FILE*) echo "stdin: Eicar-Test-Signature FOUND"; exit 1 ;;
*) echo "stdin: OK"; exit 0 ;;
esac
"""
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What is logged, from debug on."""
    seen: list[dict] = []
    monkeypatch.setattr(log, "sink", lambda text: seen.extend(map(json.loads, text.splitlines())))
    monkeypatch.setattr(log, "level", 10)
    monkeypatch.setattr(log, "schedule", None)
    return seen


def one(**setting) -> Services:
    return Services({"it": Service(**setting)})


def mail(body: bytes) -> Message:
    return Message(b"From: a@b.test\r\nSubject: hello\r\n\r\n" + body + b"\r\n")


# -- vSMTP's antivirus example -----------------------------------------------------------------------------------------


@pytest.fixture
def antivirus(tmp_path: Path) -> Services:
    scanner = tmp_path / "clamscan"
    scanner.write_text(CLAMSCAN)
    scanner.chmod(0o755)
    setting = Service(arguments=[str(scanner), "--no-summary", "-"], stdin="mail", codes=[0, 1], timeout=20.0)
    return Services({"clamscan": setting})


def test_antivirus(antivirus: Services, lines: list[dict]) -> None:
    about = {"mail": "k3v9x0a2bq-1f.1", "stage": "preq"}
    clean = antivirus.call("clamscan", Request(mail=mail(b"a letter").pieces(), about=about))
    assert clean.code == 0 and clean.stdout == b"stdin: OK\n" and not clean.failed
    infected = antivirus.call("clamscan", Request(mail=mail(EICAR).pieces(), about=about))
    assert infected.code == 1 and infected.stdout == b"stdin: Eicar-Test-Signature FOUND\n"
    assert [(e["event"], e["level"], e["service"], e["code"], e["mail"]) for e in lines] == [
        ("service_called", "debug", "clamscan", 0, "k3v9x0a2bq-1f.1"),
        ("service_called", "debug", "clamscan", 1, "k3v9x0a2bq-1f.1"),
    ]
    assert antivirus.status()["clamscan"]["calls"] == 2 and antivirus.status()["clamscan"]["faults"] == 0


def test_antivirus_that_fails_lets_nothing_pass(antivirus: Services, lines: list[dict]) -> None:
    with pytest.raises(Refused) as refused:
        antivirus.call("clamscan", Request(mail=mail(b"BROKEN-DATABASE").pieces()))
    assert refused.value.reply.code == 451
    assert refused.value.reason == "service clamscan: exit code 2"
    assert [(e["event"], e["reason"], e["said"], e["fault"]) for e in lines] == [
        ("service_failed", "exit code 2", "LibClamAV Error: cl_load(): No such file or directory", "defer")
    ]
    assert antivirus.status()["clamscan"]["faults"] == 1


def test_a_mail_as_it_is_now_is_what_the_scanner_reads(antivirus: Services) -> None:
    changed = mail(b"a letter")
    changed.headers.append("X-Note", EICAR.decode())
    assert antivirus.call("clamscan", Request(mail=changed.pieces())).code == 1


def test_a_large_mail_is_streamed(antivirus: Services) -> None:
    letter = mail(b"x" * 8_000_000)
    services = one(arguments=["wc", "-c"], stdin="mail")
    assert int(services.call("it", Request(mail=letter.pieces())).stdout) == letter.size


# -- what it reads, and what it is told --------------------------------------------------------------------------------


def test_stdin_is_what_the_settings_say() -> None:
    request = Request(mail=[b"the mail"], part=[b"the ", b"part"], text=b"the text")
    for stdin, seen in {"mail": b"the mail", "part": b"the part", "text": b"the text", "none": b""}.items():
        assert one(arguments=["cat"], stdin=stdin).call("it", request).stdout == seen
    for stdin in ("mail", "part", "text"):
        with pytest.raises(ValueError, match=stdin):
            one(arguments=["cat"], stdin=stdin).call("it", Request())


def test_facts_of_the_mail_in_arguments_and_environment() -> None:
    services = one(
        arguments=["sh", "-c", 'echo "$0 $1 $WHO $PATH"', "--from={sender}", "{size}"],
        environment=["WHO=<{sender}>", "PATH=/usr/bin:/bin"],
    )
    answer = services.call("it", Request(values={"sender": "a@b.test", "size": b"12"}))
    assert answer.stdout == b"--from=a@b.test 12 <a@b.test> /usr/bin:/bin\n"


def test_what_would_become_an_option_is_a_fault() -> None:
    request = Request(values={"sender": "-rf@evil.test"})
    with pytest.raises(Refused):
        one(arguments=["echo", "{sender}"]).call("it", request)
    answer = one(arguments=["echo", "{sender}"], fault="ignore").call("it", request)
    assert "would become an option" in answer.failed and answer.code is None
    assert one(arguments=["printf", "--", "{sender}"]).call("it", request).stdout == b"-rf@evil.test"


# -- faults ------------------------------------------------------------------------------------------------------------

MISSING = ["no-such-scanner"]


def test_fault_policies(lines: list[dict]) -> None:
    for fault, code in {"defer": 451, "deny": 554}.items():
        with pytest.raises(Refused) as refused:
            one(arguments=MISSING, fault=fault).call("it", Request())
        assert refused.value.reply.code == code
        assert "no-such-scanner" not in str(refused.value.reply)  # strangers need not know
    answer = one(arguments=MISSING, fault="ignore").call("it", Request())
    assert answer.failed == "no-such-scanner: no such program" and answer.code is None
    assert [e["fault"] for e in lines] == ["defer", "deny", "ignore"]
    assert {e["level"] for e in lines} == {"error"}


def test_time_limits() -> None:
    slow = one(arguments=["sleep", "60"], timeout=0.2, fault="ignore")
    answer = slow.call("it", Request())
    assert answer.timed_out and answer.failed == "not done after 0.2 s" and answer.ms >= 200
    slow = one(arguments=["sleep", "60"], timeout=30.0, fault="ignore")
    assert slow.call("it", Request(timeout=0.2)).failed == "not done after 0.2 s"


def test_a_killed_program_is_a_fault() -> None:
    answer = one(arguments=["sh", "-c", "kill -9 $$"], fault="ignore").call("it", Request())
    assert answer.signal == 9 and answer.failed == "killed by signal 9"


def test_exit_codes_without_a_list_are_all_answers() -> None:
    assert one(arguments=["sh", "-c", "exit 77"]).call("it", Request()).code == 77


def test_output_is_limited() -> None:
    answer = one(arguments=["head", "-c", "200000", "/dev/zero"], output=1000).call("it", Request())
    assert len(answer.stdout) == 1000 and answer.cut


def test_only_so_many_at_once(tmp_path: Path) -> None:
    alone = f"mkdir {tmp_path}/here && sleep 0.2 && rmdir {tmp_path}/here"
    services = one(arguments=["sh", "-c", alone], concurrency=1, timeout=PATIENCE)
    calls = [gevent.spawn(services.call, "it", Request()) for _ in range(3)]
    gevent.joinall(calls, raise_error=True)
    assert [(call.value.code, call.value.stderr) for call in calls] == [(0, b"")] * 3


# -- the seam ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({}, r"\[service.it\] arguments needs the program"),
        ({"arguments": ["{sender}"]}, "arguments begins with the program, which cannot depend on the mail"),
        ({"arguments": ["x"], "environment": ["WRONG"]}, '"NAME=value"'),
        ({"arguments": ["x\0y"]}, "NUL"),
    ],
)
def test_settings_that_cannot_work(setting: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        one(**setting)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[service.scan]\n", "mta.toml:1: [service.scan] arguments needs the program and its arguments"),
        ('[service.scan]\narguments = ["{x}"]', "mta.toml:2: [service.scan] arguments begins with the program"),
        (
            '[service.scan]\narguments = ["x"]\noutput = "1M"',
            "mta.toml:3: [service.scan] output must be greater than 0",
        ),
        ('[service."a-b"]\narguments = ["x"]', "'a-b' cannot be a word in rules"),
        ('[service.scan]\ntype = "ftp"', "type must be one of program"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mta.toml").write_text(text)
    with pytest.raises(config.ConfigError) as error:
        config.read(tmp_path / "mta.toml")
    assert said in str(error.value)


def test_an_answer_is_flat() -> None:
    flat = Answer(code=1, stdout=b"caf\xc3\xa9", ms=1.5).flat()
    assert flat["stdout"] == "caf\xc3\xa9" and flat["code"] == 1 and flat["signal"] is None
    assert all(value is None or type(value) in (str, int, float, bool) for value in flat.values())


def test_a_fake_answers_and_remembers(lines: list[dict]) -> None:
    fake = FakeService(Answer(code=1), lambda request: Answer(stdout=request.text or b""))
    services = Services({"it": Service()}, {"it": fake})
    assert services.call("it", Request(text=b"one")).code == 1
    assert services.call("it", Request(text=b"two")).stdout == b"two"
    assert services.call("it", Request(text=b"three")).stdout == b"three"
    assert [request.text for request in fake.requests] == [b"one", b"two", b"three"]
    assert list(services.names()) == ["it"] and services.status()["it"]["calls"] == 3
    with pytest.raises(KeyError):
        services.call("other", Request())
