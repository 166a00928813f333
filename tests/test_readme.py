"""The README, done as it says: its commands are taken out of the text and run, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

from daemon import Server, free_ports

TREE = Path(__file__).parent.parent
README = (TREE / "README.rst").read_text("utf-8")

RUN = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/mta dev"
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest"


def blocks() -> list[str]:
    """The shell commands, one text for each block."""
    found = re.findall(r"\.\. code-block:: sh\n\n((?:   .*\n|\n)+)", README)
    return ["\n".join(line[3:] for line in block.rstrip().split("\n")) for block in found]


class Playground(Server):
    """What the first command leaves running: `mta dev` in an empty folder with a .venv, on a port that is free."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "mta-dev"
        self.wait, self.python, self.environment = 15.0, sys.executable, {}
        self.file = self.folder / "mta.toml"
        program = home / ".venv" / "bin" / "mta"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{TREE}" exec "{sys.executable}" -m mta "$@"\n')
        program.chmod(0o755)

    def start(self) -> Server:
        self.folder.mkdir()
        (port,) = free_ports(1)
        with (self.folder / "output").open("wb") as output:
            self.program = subprocess.Popen(
                ["sh", "-c", f"exec .venv/bin/mta dev --port {port}"], cwd=self.home, stdout=output, stderr=output
            )
        self.until(lambda: self.status().get("state") == "serving", "it did not start")
        return self

    def shell(self, commands: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "MTA_CONFIG"}
        done = subprocess.run(
            ["sh", "-c", commands], cwd=self.home, env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr


def test_the_two_commands() -> None:
    run, test, *_ = blocks()
    assert (run, test) == (RUN, TEST)
    assert TEST in (TREE / ".ci" / "run").read_text("utf-8"), "the proof runs exactly what the README says"


def test_the_minute(tmp_path: Path) -> None:
    _, _, send, write, again, other = blocks()
    with Playground(tmp_path) as server:
        sending, reading = send.split("\n", 1)
        assert server.shell(sending).startswith("accepted: 250 2.0.0 Kept as ")
        server.until(server.mails, "no mail came")
        read = server.shell(reading)
        assert "Subject: hi" in read and "Delivered-To: you@demo.test" in read
        assert " accepted " in read and " delivered " in read

        server.shell(write)
        server.until(lambda: server.events("reloaded"), "nobody noticed the new rule")
        refused = server.shell(again)
        assert "refused: 550 5.7.1 We prefer longer letters" in refused
        assert "no greetings" in refused and "main.lua:1" in refused
        assert re.search(r"refused .*rule=\"no greetings\" where=main\.lua:1", refused)

        passed = server.shell(other)
        assert passed.startswith("accepted: 250")
        assert " is serving, " in passed
        server.until(lambda: len(server.mails()) == 2, "the second mail did not come")


def test_what_the_readme_names_is_there() -> None:
    for name in re.findall(r"``((?:mta|systemd|tests|conf|lua|\.ci)(?:/[\w.*]+)*)``", README):
        assert list(TREE.glob(name)), name
    commands = set(re.findall(r"``mta ([a-z]+)", README))
    for command in commands:
        assert (TREE / "mta" / "cli" / f"{command}.py").exists(), command


def test_the_readme_is_good_text() -> None:
    assert max(map(len, README.splitlines())) <= 120
    assert not re.findall(r"[“”‘’]", README)
