"""The README, done as it says: its commands are taken out of the text and run, in order, in an empty folder."""

import re
from pathlib import Path

from pages import TREE, Playground, blocks

README = (TREE / "README.rst").read_text("utf-8")

RUN = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/mta dev"
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest"


def commands() -> list[str]:
    """The shell commands, one text for each block."""
    return [block.text for block in blocks(README) if block.language == "sh"]


def test_the_two_commands() -> None:
    run, test, *_ = commands()
    assert (run, test) == (RUN, TEST)
    assert TEST in (TREE / ".ci" / "run").read_text("utf-8"), "the proof runs exactly what the README says"


def test_the_minute(tmp_path: Path) -> None:
    _, _, send, write, again, other, repl, test, replay, why = commands()
    with Playground(tmp_path) as server:
        sending, reading = send.split("\n", 1)
        assert server.shell(sending).startswith("accepted: 250 2.0.0 Kept as ")
        server.until(server.mails, "no mail came")
        server.until(lambda: server.events("delivered"), "its line is not in the log")
        read = server.shell(reading)
        assert "Subject: hi" in read and "Delivered-To: you@demo.test" in read
        assert " accepted " in read and " delivered " in read

        server.saved(write)
        server.until(lambda: server.events("reloaded"), "nobody noticed the new rule")
        sending, reading = again.split("\n", 1)
        refused = server.shell(sending)
        server.until(lambda: server.events("refused"), "its line is not in the log")
        refused += server.shell(reading)
        assert "refused: 550 5.7.1 We prefer longer letters" in refused
        assert "no greetings" in refused and "main.lua:1" in refused
        assert re.search(r"refused .*rule=\"no greetings\" where=main\.lua:1", refused)

        passed = server.shell(other)
        assert passed.startswith("accepted: 250")
        assert " is serving, " in passed
        server.until(lambda: len(server.mails()) == 2, "the second mail did not come")

        tried = server.shell(repl)
        assert 'preq: deny by "no greetings" (main.lua:1)' in tried and '"HI"' in tried
        tested = server.shell(test)
        assert "2 passed in " in tested and "rules: 1 of 1 were asked" in tested
        replayed = server.shell(replay)
        assert "deny -> accept  1" in replayed and "accept -> deny  1" in replayed
        assert 'now  deny at preq by "nothing long" (main.lua:1): "550 5.7.1 Too long for us"' in replayed
        said = 'refused at preq by rule "no greetings" (main.lua:1)'
        server.until(lambda: said in server.shell(why), "nobody knows why")  # the log comes a moment after the reply


def test_what_the_readme_names_is_there() -> None:
    for name in re.findall(r"``((?:mta|systemd|tests|conf|lua|\.ci)(?:/[\w.*]+)*)``", README):
        assert list(TREE.glob(name)), name
    for command in set(re.findall(r"``mta ([a-z]+)", README)):
        assert (TREE / "mta" / "cli" / f"{command}.py").exists(), command


def test_the_readme_is_good_text() -> None:
    assert max(map(len, README.splitlines())) <= 120
    assert not re.findall(r"[“”‘’]", README)
