"""Programs: how they are started, fed, heard and ended."""

import gc
import os
import signal
import sys
import time
from pathlib import Path

import gevent
import pytest
from daemon import alive
from receiving import PATIENCE, until
from timing import slowness

from mta.net import program
from mta.net.program import CLEAN, File, Places, fill, fill_environment, run


def sh(script: str, *arguments: str, **more) -> program.Ended:
    return run(["sh", "-c", script, "sh", *arguments], **more)


def fds() -> int:
    """How many descriptors are open. Those that other tests left behind may go at any time: only more are ours."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def children() -> set[int]:
    """Our children, also those that have ended and nobody has asked how."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(pid))
    return found


def test_exit_code_output_and_time() -> None:
    ended = sh("echo out; echo err >&2; exit 3")
    assert (ended.code, ended.signal, ended.stdout, ended.stderr) == (3, None, b"out\n", b"err\n")
    assert not ended.failed and not ended.timed_out and not ended.cut
    assert 0 < ended.ms < 1000 * PATIENCE


def test_no_shell_reads_the_arguments() -> None:
    nasty = "$(touch /tmp/never); `id` | cat > x * ' \" \\ \n end"
    assert run(["printf", "%s", nasty]).stdout == nasty.encode()


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "password")
    ended = run(["env"])
    assert sorted(ended.stdout.decode().split()) == sorted(f"{k}={v}" for k, v in CLEAN.items())
    assert run(["env"], environment={**CLEAN, "A": "b"}).stdout.count(b"A=b\n") == 1


def test_stdin_is_streamed_to_the_end() -> None:
    pieces = [b"x" * 1000, memoryview(b"y" * 3_000_000), b"", b"z"]
    ended = run(["sh", "-c", "wc -c; cat >/dev/null"], stdin=pieces)
    assert ended.stdout.split() == [b"3001001"]
    ended = run(["cat"], stdin=pieces, keep=10_000_000)
    assert ended.stdout == b"".join(bytes(p) for p in pieces)


def test_without_stdin_the_program_sees_an_empty_one() -> None:
    assert run(["cat"], timeout=PATIENCE).code == 0


def test_a_program_that_does_not_read_is_no_error() -> None:
    ended = run(["true"], stdin=[b"x" * 10_000_000])
    assert ended.code == 0 and not ended.failed


def test_what_is_read_for_stdin_may_fail_and_then_nothing_is_judged() -> None:
    def pieces():
        yield b"half"
        raise ZeroDivisionError("the disk is gone")

    before = fds()
    with pytest.raises(ZeroDivisionError):
        run(["cat"], stdin=pieces())
    assert fds() <= before


def test_output_beyond_the_limit_is_thrown_away() -> None:
    ended = sh("head -c 5000000 /dev/zero; echo >&2 done; exit 4", keep=1000)
    assert ended.code == 4 and ended.stdout == bytes(1000) and ended.cut and ended.stderr == b"done\n"
    assert not sh("head -c 1000 /dev/zero", keep=1000).cut


def test_time_limit_kills_the_whole_group() -> None:
    for limit in (0.3, 3.0, 30.0):  # the shell must have come so far
        began = time.monotonic()
        ended = sh("sleep 600 & echo $!; trap '' TERM; sleep 600", timeout=limit)
        if ended.stdout:
            break
    assert time.monotonic() - began < 300
    assert ended.timed_out and ended.failed == f"not done after {limit:g} s" and ended.code is None
    assert ended.signal == signal.SIGKILL
    until(lambda: not alive(int(ended.stdout)))


def test_what_stays_behind_holds_up_nobody_and_is_killed() -> None:
    began = time.monotonic()
    ended = sh("sleep 600 & echo $!; exit 5", timeout=600)
    assert time.monotonic() - began < 300
    assert ended.code == 5 and not ended.timed_out
    until(lambda: not alive(int(ended.stdout)))


def test_a_signal_is_told() -> None:
    ended = sh("kill -9 $$")
    assert (ended.code, ended.signal, ended.failed) == (None, 9, "killed by signal 9")


@pytest.mark.parametrize(
    ("arguments", "more", "said"),
    [
        (["no-such-program-here"], {}, "no such program"),
        (["/etc/passwd"], {}, "/etc/passwd: this may not be run (chmod +x)"),
        (["true"], {"folder": "/no/such/folder"}, "No such file"),
        (["true", "x" * 3_000_000], {}, "Argument list too long"),
    ],
)
def test_what_cannot_start_says_why(arguments: list[str], more: dict[str, str], said: str) -> None:
    before = fds()
    ended = run(arguments, **more)
    assert said in ended.failed and ended.code is None and ended.signal is None
    assert fds() <= before


def test_others_go_on_meanwhile(tmp_path: Path) -> None:
    def others() -> None:
        for _ in range(20):
            gevent.sleep(0.01)
        (tmp_path / "done").touch()

    gevent.spawn(others)
    assert sh('until [ -e "$1" ]; do sleep 0.01; done', str(tmp_path / "done"), timeout=PATIENCE).code == 0


def test_a_chatty_program_does_not_take_the_loop() -> None:
    worst = [0.0]

    def ticks():
        while True:
            began = time.process_time()  # what other programs do meanwhile does not count
            gevent.sleep(0.001)
            worst[0] = max(worst[0], time.process_time() - began)

    other = gevent.spawn(ticks)
    assert run(["yes"], timeout=0.5).timed_out
    other.kill()
    assert worst[0] < 0.2 * slowness()


def test_no_more_than_there_are_places() -> None:
    places = Places(2)
    began = time.monotonic()
    runs = [gevent.spawn(run, ["sleep", "0.3"], places=places) for _ in range(4)]
    gevent.joinall(runs)
    assert time.monotonic() - began >= 0.55
    assert all(r.value.code == 0 for r in runs)
    long = gevent.spawn(run, ["sleep", "600"], places=Places(1), timeout=0.2)
    assert long.get().timed_out
    full = Places(1)
    hog = gevent.spawn(run, ["sleep", "600"], places=full)
    gevent.sleep(0.05)
    late = run(["true"], places=full, timeout=0.1)
    assert late.timed_out and late.failed == "no place was free for 0.1 s"
    hog.kill()


def test_an_interrupted_call_leaves_nothing() -> None:
    before, others = fds(), children()
    running = gevent.spawn(sh, "echo $$; exec sleep 600")
    until(lambda: children() - others)
    running.kill()
    until(lambda: not children() - others)
    assert fds() <= before


def test_no_zombies_and_no_descriptors_are_left() -> None:
    sh("true")
    before, others = fds(), children()
    gevent.joinall([gevent.spawn(sh, "cat; exit 1", stdin=[b"x" * 100_000]) for _ in range(20)], raise_error=True)
    assert fds() <= before
    assert not children() - others


def test_no_descriptor_of_ours_is_inherited() -> None:
    with open("/etc/passwd") as file:
        os.set_inheritable(file.fileno(), True)
        ended = run([sys.executable, "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"])
    assert ended.stdout == b"[0, 1, 2]\n"


def test_files_in_memory_in_and_out() -> None:
    before = fds()
    given, made = File(b"from us"), File()
    ended = run(["cp", given, made])
    assert ended.code == 0, ended
    assert made.content == b"from us" and given.content == b"from us"
    assert fds() <= before


# -- what the network may put into an argument -------------------------------------------------------------------------

VALUES = {"sender": "a@b.test", "option": "-rf", "empty": "", "nul": "a\0b", "bytes": b"\xff\xfe"}


def test_placeholders() -> None:
    assert fill(["x", "--from={sender}", "{sender}", "-f{option}"], VALUES) == [
        b"x",
        b"--from=a@b.test",
        b"a@b.test",
        b"-f-rf",
    ]
    assert fill(["{bytes}"], VALUES) == [b"\xff\xfe"]
    assert fill(["{a b}", "{}", "{Upper}"], VALUES) == [b"{a b}", b"{}", b"{Upper}"]
    assert fill(["{sender}"], {"sender": "{option}", "option": "-x"}) == [b"{option}"]


@pytest.mark.parametrize("template", ["{option}", "{empty}{option}", "{empty}-x"])
def test_a_network_string_cannot_become_an_option(template: str) -> None:
    with pytest.raises(ValueError, match="would become an option"):
        fill(["x", template], VALUES)
    assert fill(["x", "--", template], VALUES)[2].startswith(b"-")


def test_what_no_argument_can_hold() -> None:
    with pytest.raises(ValueError, match="NUL"):
        fill(["{nul}"], VALUES)
    with pytest.raises(ValueError, match="NUL"):
        run(["true", "a\0b"])
    with pytest.raises(ValueError, match=r"\{other\} is not known"):
        fill(["{other}"], VALUES)
    assert fill_environment({"SENDER": "<{sender}>"}, VALUES) == {b"SENDER": b"<a@b.test>"}
    with pytest.raises(ValueError, match="NUL"):
        fill_environment({"X": "{nul}"}, VALUES)
