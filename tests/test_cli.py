"""The commands as a person meets them: help, exit codes, light starts, and what each prints."""

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import mta
from daemon import PATIENCE, Server, free_ports
from fake_smtp import FakeSmtp
from receiving import until
from timing import of_programs, slowness

from mta import __main__ as program
from mta.cli import dev, telling
from mta.cli import log as log_command

TREE = Path(__file__).parent.parent


def test_help_names_every_command_in_groups(tmp_path: Path) -> None:
    said = mta("--help", cwd=tmp_path)
    for group, verbs in program.GROUPS.items():
        assert f"\n{group}\n" in said
        for name in verbs:
            assert f"\n  {name} " in said
    assert max(map(len, said.splitlines())) <= 115
    assert mta(cwd=tmp_path, code=2) == said


@pytest.mark.parametrize("verb", sorted(program.VERBS))
def test_every_command_explains_itself(verb: str, tmp_path: Path) -> None:
    said = mta(verb, "--help", cwd=tmp_path)
    assert said.startswith(f"usage: mta {verb} ")
    assert "Exit codes" in said


def test_wrong_usage(tmp_path: Path) -> None:
    assert "did you mean reload?" in mta("relod", cwd=tmp_path, code=2)
    mta("reload", "--nothing", cwd=tmp_path, code=2)
    assert mta("--version", cwd=tmp_path).startswith("mta 0.")


def test_a_mistyped_word_hears_the_nearest_right_one(tmp_path: Path) -> None:
    for words, near in (
        (["queue", "lst"], "did you mean list?"),
        (["queue", "list", "--jsn"], "did you mean --json?"),
        (["lua", "repll"], "did you mean repl?"),
        (["log", "--level", "infoo"], "did you mean info?"),
        (["log", "--levl=info"], "did you mean --level?"),
    ):
        assert near in mta(*words, cwd=tmp_path, code=2)
    assert "did you mean" not in mta("queue", "list", "-x", cwd=tmp_path, code=2)
    for words in (["-c"], ["-c", "mta.toml"], ["--config="]):
        assert mta(*words, cwd=tmp_path, code=2) == "mta: -c is followed by a file and a command\n"


COMMON = [["queue"], ["queue", "list"], ["config"], ["config", "check"], ["lua"], ["lua", "check"], ["log"]]


@pytest.mark.parametrize("words", COMMON, ids=" ".join)
def test_the_configuration_is_named_anywhere(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "main.lua").write_text("")
    (tmp_path / "it.toml").write_text('[[listener]]\naddress = "127.0.0.1:1"\nkind = "none"\n')
    rest = ["check"] if words == ["config"] else ["check"] if words == ["lua"] else []
    for at in range(len(words) + 1):
        given = [*words[:at], "-c", "it.toml", *words[at:], *rest]
        assert "it.toml:3:" in mta(*given, cwd=tmp_path, code=1)
    assert "it.toml:3:" in mta("-c", "none.toml", *words, "-c", "it.toml", *rest, cwd=tmp_path, code=1), (
        "the last holds"
    )


def test_what_the_units_call_is_understood(tmp_path: Path) -> None:
    """A unit whose command is wrong never starts; systemd-analyze does not look at the words."""
    unit = (TREE / "systemd" / "mta.service").read_text("utf-8")
    (tmp_path / "mta.toml").write_text('[[listener]]\naddress = "127.0.0.1:1"\nkind = "none"\n')
    calls = re.findall(r"^Exec\w+=/opt/mta/bin/mta (.*)$", unit, re.M)
    assert len(calls) == 3
    for words in calls:
        code = 4 if words.startswith("reload") else 1
        said = mta(*words.replace("/etc/mta/mta.toml", "mta.toml").split(), cwd=tmp_path, code=code)
        assert "no server answers" in said or "mta.toml:3: [[listener]] kind" in said


def test_a_folder_that_cannot_be_made_is_told_by_name(tmp_path: Path) -> None:
    assert "at most 65535" in mta("dev", "--port", "99999", cwd=tmp_path, code=2)
    assert not (tmp_path / "mta-dev").exists(), "nothing is left that would be in the way of the next try"
    said = mta("dev", "--dir", "/proc/nothing", cwd=tmp_path, code=3)
    assert said == "mta: /proc/nothing: No such file or directory\n"


@pytest.mark.parametrize("words", [["--help"], ["log", "--help"], ["log"], ["config", "sample"]], ids=" ".join)
def test_output_that_goes_nowhere(words: list[str], tmp_path: Path) -> None:
    """A reader that has read enough, a full disk, a stream that was closed: no traceback."""
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')
    (tmp_path / "mta.log").write_text('{"event": "started"}\n' * 9999)
    here = {**os.environ, "PYTHONPATH": str(TREE)}
    line = f"{sys.executable} -m mta {' '.join(words)}{' -n 0' * (words == ['log'])}"
    for script, code, told in (
        (f"set -o pipefail; {line} | head -1", 0, ""),
        (f"{line} > /dev/full", 1, "No space left on device"),
        (f"{line} >&-", 0, ""),
    ):
        done = subprocess.run(
            ["bash", "-c", script],
            check=False,
            cwd=tmp_path,
            env=here,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code, (script, done.stderr)
        assert done.stderr == (f"mta: {told}\n" if code else ""), script


def test_any_locale(tmp_path: Path) -> None:
    """What the charset of the terminal lacks is no reason to fail; nor are words it cannot have held."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "main.lua").write_text("")
    odd = {**os.environ, "PYTHONPATH": str(TREE), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "mta", "lua", "repl", "rules", "-e", 'return "\u00fc\u2014"'],
        cwd=tmp_path,
        env=odd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, '"\\xfc\\u2014"\n', "")


def waits(pid: int, looks: int = 8) -> bool:
    """Whether a process sleeps, and has done nothing meanwhile."""
    seen = set()
    for _ in range(looks):
        state, *_, user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:13]
        seen.add((state, user, system))
        time.sleep(0.03)
    return len(seen) == 1 and seen.pop()[0] == "S"


@pytest.mark.parametrize("words", [["log", "-f"], ["lua", "repl"], ["lua", "test", "--watch"]], ids=" ".join)
def test_ctrl_c_is_quiet(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "main.lua").write_text("")
    (tmp_path / "a_test.lua").write_text('test("x", function(t) end)\n')
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')
    (tmp_path / "mta.log").write_text('{"event": "started"}\n')
    with subprocess.Popen(
        [sys.executable, "-m", "mta", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TREE), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdin and program.stdout and program.stderr
        if words[-1] == "repl":
            program.stdin.write(b"1+1\n")
            program.stdin.flush()
        assert program.stdout.readline()
        until(lambda: waits(program.pid))  # it has said its first line, and waits for more
        program.send_signal(signal.SIGINT)
        assert program.wait(PATIENCE) in (0, 130)
        assert program.stderr.read() == b""


def test_send_tells_every_no_in_the_servers_words(tmp_path: Path) -> None:
    to = ("--to", "a@b.test", "--server")
    with FakeSmtp({"EHLO": "450 4.7.1 Later", "HELO": "450 4.7.1 Later"}) as server:
        assert mta("send", *to, server.host, cwd=tmp_path, code=1) == "HELO was refused: 450 4.7.1 Later\n"
    with FakeSmtp({"greeting": "554 5.7.1 Go away"}) as server:
        assert "the connection was refused: 554 5.7.1 Go away" in mta("send", *to, server.host, cwd=tmp_path, code=1)
    with FakeSmtp({}) as server:
        assert "offers no STARTTLS" in mta("send", *to, server.host, "--tls", cwd=tmp_path, code=1)
    assert "only addresses in ASCII" in mta("send", "--to", "\u00fc@b.test", cwd=tmp_path, code=2)


def test_no_configuration_and_no_server(tmp_path: Path) -> None:
    if Path("/etc/mta/mta.toml").exists():
        pytest.skip("this machine has an mta of its own")
    said = mta("status", cwd=tmp_path, code=3)
    assert "mta dev" in said and max(map(len, said.splitlines())) <= 120
    assert "cannot be read" in mta("-c", "none.toml", "status", cwd=tmp_path, code=3)
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')
    for verb in ("status", "reload", "stop"):
        assert "no server answers at" in mta(verb, cwd=tmp_path, code=4)
    (tmp_path / "mta.toml").write_text("[server]\nnome = 3\n[[listener]]\naddress = '127.0.0.1:1'\n")
    assert "no server answers" in mta("status", cwd=tmp_path, code=4), "a file with a mistake does not stop the asking"
    assert "did you mean name?" in mta("send", "--to", "a@b.test", cwd=tmp_path, code=1)


LIGHT = [["--help"], ["config", "show"], ["status"], ["log"], ["queue"], ["reload"], ["stop"]]


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_light_commands_load_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')
    code = (
        "import sys, mta.__main__ as m\n"
        f"m.main({words!r})\n"
        "heavy = {'gevent', 'lupa', 'dns', 'cryptography', 'ssl', 'pythonjsonlogger'} & set(sys.modules)\n"
        "sys.exit(f'heavy: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TREE), "MTA_CONFIG": "mta.toml"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_light_commands_start_in_150_ms(tmp_path: Path) -> None:
    """Of CPU, for the machine may be busy; measured against a Python that does nothing."""
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')

    def spent(*words: str) -> float:
        environment = {**os.environ, "PYTHONPATH": str(TREE)}
        run = [sys.executable, *words]
        return of_programs(lambda: subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, check=False))

    limit = min(spent("-c", "") for _ in range(7)) + 0.15 * slowness()
    tries = (spent("-m", "mta", "-c", "mta.toml", "status") for _ in range(50))
    assert any(took < limit for took in tries), "neighbours share our caches, but not each time"


# -- a server to play with -------------------------------------------------------------------------------------------


class Dev(Server):
    """`mta dev` in a folder of its own."""

    def __init__(self, home: Path) -> None:
        (port,) = free_ports(1)
        self.home, self.dev_port = home, port
        self.folder, self.wait, self.python, self.environment = home / "mta-dev", PATIENCE, sys.executable, {}
        self.file = self.folder / "mta.toml"

    def start(self) -> Server:
        self.folder.mkdir()
        with (self.folder / "output").open("wb") as output:
            self.program = subprocess.Popen(
                [sys.executable, "-m", "mta", "dev", "--port", str(self.dev_port)],
                cwd=self.home,
                env={**os.environ, "PYTHONPATH": str(TREE)},
                stdout=output,
                stderr=output,
            )
        self.until(lambda: self.status().get("state") == "serving", "it did not start")
        return self


def test_dev_from_the_first_line_to_the_refusal(tmp_path: Path) -> None:
    with Dev(tmp_path) as server:
        first = (server.folder / "output").read_text().split("Ctrl-C")[0]
        for place in ("mta-dev/Maildir", "mta-dev/rules/main.lua", "mta-dev/mta.log"):
            assert place in first
        (line,) = [line for line in first.splitlines() if "send --to" in line]
        words = line.partition(" -m mta ")[2].split()
        assert "accepted: 250 2.0.0 Kept as " in mta(*words, cwd=tmp_path)
        server.until(server.mails, "no mail")
        assert "Subject: hi" in server.mails()[0].read_text()

        server.rules('on.preq("no hi", function(mail) return deny("550 5.7.1 Not hi again") end)\n')
        server.until(lambda: server.events("reloaded"), "it did not notice")
        said = mta(*words, cwd=tmp_path, code=1)
        assert "550" in said and "no hi" in said and "main.lua:1" in said
        server.until(lambda: server.events("refused"), "its line is not in the log")
        (refused,) = [
            json.loads(line) for line in mta("log", "--json", "--event", "refused", cwd=tmp_path).splitlines()
        ]
        assert (refused["rule"], refused["where"]) == ("no hi", "main.lua:1")
        assert "refused" in mta("log", refused["mail"], cwd=tmp_path)
        server.signal(signal.SIGINT)
        assert server.ended() == 0


def test_dev_keeps_what_is_there(tmp_path: Path) -> None:
    file = dev.prepare(tmp_path / "d", 2526)
    (tmp_path / "d" / "rules" / "main.lua").write_text("-- mine\n")
    file.write_text(file.read_text() + "\n# mine\n")
    assert dev.prepare(tmp_path / "d", None) == file
    assert dev.prepare(tmp_path / "d", 2526) == file
    assert file.read_text().endswith("# mine\n")
    assert (tmp_path / "d" / "rules" / "main.lua").read_text() == "-- mine\n"
    with pytest.raises(telling.Failed, match="listens elsewhere"):
        dev.prepare(tmp_path / "d", 2527)


# -- commands with a server ------------------------------------------------------------------------------------------


def test_send_and_queue_and_status(tmp_path: Path) -> None:
    (closed,) = free_ports(1)
    config = f"""
        [domain."away.test"]
        transport = "smtp"
        host = "127.0.0.1:{closed}"
        [domain."here.test"]
        path = "Maildir"
    """
    with Server(tmp_path, config) as server:
        said = server.mta("send", "--to", "a@here.test", "--to", "b@away.test", "--from", "", "--subject", "héllo")
        assert said.startswith("accepted: 250 2.0.0 Kept as ")
        server.until(lambda: server.mails() and "Connection refused" in server.mta("queue"), "it was not tried")
        (mail,) = server.queue()
        (line,) = server.mta("queue", "list").splitlines()
        name, _, _, tries, sender, recipients, why = line.split("\t")
        assert said.strip().endswith(name)
        assert (tries, sender, recipients) == ("1", "<>", "b@away.test")
        assert why.startswith("4")
        assert mail["recipients"][0]["address"] == "b@away.test"
        assert mail["next_try"] > mail["arrived"]

        assert "accepted" in server.mta("send", "--to", "x@elsewhere.test", "--from", "", "--helo", "h")

        (tmp_path / "raw.eml").write_bytes(b"Subject: raw\n\n.a line with a dot\n")
        server.mta("send", "--to", "c@here.test", "--eml", str(tmp_path / "raw.eml"), "-q")
        server.until(lambda: len(server.mails()) == 2, "the second mail is missing")
        assert any("\n.a line with a dot\n" in mail.read_text() for mail in server.mails())

        told = server.mta("status")
        assert f"127.0.0.1:{server.port} (relay)" in told
        rows = [line.split("\t") for line in told.splitlines() if line.startswith("worker ")]
        assert sum(int(row[5]) for row in rows) == 3
        assert json.loads(server.mta("status", "--json"))["state"] == "serving"
        assert f"stopped (pid {server.status()['pid']})" in server.mta("stop")
        assert server.ended() == 0
        (line,) = [
            line for line in server.mta("queue", "list").splitlines() if name in line
        ]  # out of the spool's files
        assert line.split("\t")[5] == "b@away.test"


def test_send_without_a_server(tmp_path: Path) -> None:
    (closed,) = free_ports(1)
    assert "refused" in mta("send", "--to", "a@b.test", "--server", f"127.0.0.1:{closed}", cwd=tmp_path, code=4)
    mta("send", "--to", "a@b.test", "--server", "nonsense:port:x", cwd=tmp_path, code=2)
    mta("send", "--to", "a@b.test", "--server", "127.0.0.1:1", "--eml", "none.eml", cwd=tmp_path, code=3)


# -- the log ---------------------------------------------------------------------------------------------------------

LINES = [
    {"time": "2026-01-02T03:04:05.678901Z", "level": "info", "event": "accepted", "session": "s-1", "mail": "s-1.1"},
    {"time": "2026-01-02T03:04:06.000000Z", "level": "info", "event": "refused", "reply": "550 5.7.1 No", "rule": "r"},
    {
        "time": "2026-01-02T03:04:07.000000Z",
        "level": "error",
        "event": "bug",
        "error": "X: y",
        "traceback": "one\ntwo\n",
    },
]


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')
    (tmp_path / "mta.log").write_text("".join(json.dumps(line) + "\n" for line in LINES) + "no json\n")
    return tmp_path


def test_log_is_plain_in_a_pipe(logged: Path) -> None:
    first, second, third, *trace, last = mta("log", cwd=logged).splitlines()
    assert first.split()[1:] == ["accepted", "mail=s-1.1"]
    assert second.split(maxsplit=2)[1:] == ["refused", 'reply="550 5.7.1 No" rule=r']
    assert third.endswith('error="X: y"')
    assert [line.strip() for line in trace] == ["one", "two"]
    assert last == "no json"


@pytest.mark.parametrize(
    ("words", "events"),
    [
        (["--event", "refused"], ["refused"]),
        (["--level", "warning"], ["bug"]),
        (["s-1.1"], ["accepted"]),
        (["-n", "2", "--level", "info"], ["refused", "bug"]),
        (["-n", "2"], ["bug", None]),
        (["550", "No"], ["refused"]),
    ],
)
def test_log_shows_what_is_asked_for(words: list[str], events: list[str | None], logged: Path) -> None:
    lines = mta("log", "--json", *words, cwd=logged).splitlines()
    assert [json.loads(line)["event"] if line[0] == "{" else None for line in lines] == events


def test_log_says_what_it_does_not_know(logged: Path) -> None:
    assert "no event refuse; did you mean refused?" in mta("log", "--event", "refuse", cwd=logged, code=2)
    assert max(map(len, mta("log", "--event", "xyzzyq", cwd=logged, code=2).splitlines())) <= 100
    (logged / "mta.log").unlink()
    assert "no such file yet" in mta("log", cwd=logged, code=3)


def test_log_shows_no_half_of_a_line(logged: Path) -> None:
    """A reader may see half of what the server is writing; who follows gets it when it is whole."""
    path, line = logged / "mta.log", json.dumps(LINES[1])
    with path.open("a") as file:
        file.write(line[:20])
    given = argparse.Namespace(lines=0, event=None, level="debug", words=[], json=True)
    lines, at = log_command._last(str(path), given)
    assert lines[-1] == "no json" and len(lines) == len(LINES) + 1
    with path.open("a") as file:
        file.write(line[20:] + "\n")
    assert next(log_command.follow(str(path), at, pause=0.01)) == line + "\n"


def test_nothing_a_stranger_said_steers_the_terminal(logged: Path, capsys: Any) -> None:
    """As in the reply of another server, which may hold anything but line ends."""
    odd = "\x1b]0;owned\x07\x9b2J\x7f\u202eab\rc"
    said = {"time": "2026-01-02T03:04:05Z", "level": "info", "event": "deferred", "reply": f"451{odd}", "n": {"a": odd}}
    told = [said, {**said, "reply": f"451 {odd}", "recipients": [odd, "a@b.test"], "traceback": f"one\n{odd}"}]
    text = "".join(json.dumps(line, ensure_ascii=escaped) + "\n" for line in told for escaped in (True, False))
    (logged / "mta.log").write_text(f"{text}{odd}\n", "utf-8", newline="")
    lines = mta("log", cwd=logged).splitlines()
    assert len(lines) == 9 and all(line.isprintable() for line in lines)
    assert 'reply="451\\u001b]0;owned\\u0007\\u009b2J\\u007f\\u202eab\\rc"' in lines[0]
    telling.table(["id", "why"], [["k-1.1", f"451 {odd}"]])
    assert capsys.readouterr().out == "k-1.1\t451 ?]0;owned??2J??ab?c\n"


def test_log_reads_a_pipe(tmp_path: Path) -> None:
    assert "refused" in mta("log", "--file", "-", cwd=tmp_path, given=json.dumps(LINES[1]) + "\n")


def test_log_follows_over_a_rotation(logged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is written into the old file just before, while nobody looks."""
    path = logged / "mta.log"

    def write(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    def pauses() -> Iterator[None]:
        yield write("half")
        yield write(" a line\n")
        write("the last\n")
        path.rename(logged / "mta.log.1")
        yield write("a new file\n")
        path.unlink()
        yield
        yield write("another\n")
        path.write_text("cut\n")
        yield

    meanwhile = pauses()
    monkeypatch.setattr(log_command, "time", SimpleNamespace(sleep=lambda _: next(meanwhile)))
    lines = log_command.follow(str(path), path.stat().st_size)
    told = ["half a line\n", "the last\n", "a new file\n", "another\n", "cut\n"]
    assert list(itertools.islice(lines, len(told))) == told


# -- how things are told ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0s"), (-3, "0s"), (100, "100s"), (150, "2m"), (7300, "2h"), (200000, "2d")]
)
def test_ages(seconds: float, told: str) -> None:
    assert telling.ago(seconds) == told


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0 bytes"), (999, "999 bytes"), (3500, "3.4K"), (12 << 20, "12M"), (5 << 40, "5.0T")]
)
def test_sizes(size: int, told: str) -> None:
    assert telling.bytes_of(size) == told


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    telling.table(["id", "size"], [["a-long-one", 1], ["b", 22]])
    assert capsys.readouterr().out == "id          size\na-long-one  1\nb           22\n"


def test_the_configuration_is_named_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "mta.toml").write_text('[server]\nname = "a.test"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTA_CONFIG", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    telling.configuration(argparse.Namespace(config=None))
    assert capsys.readouterr().err == "configuration: mta.toml (found here)\n"
