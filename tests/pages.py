"""Pages that are done as they say: their commands are taken out of the text and run, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from daemon import PATIENCE, Server, free_ports

TREE = Path(__file__).parent.parent


class Block(NamedTuple):
    """One block of a page: of which language ("sh", "text"), and its text without the indentation."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    found = re.findall(r"\.\. code-block:: (\w+)\n\n((?:   .*\n|\n)+)", page)
    return [Block(language, "\n".join(line[3:] for line in text.rstrip().split("\n"))) for language, text in found]


class Playground(Server):
    """What the first command leaves running: `mta dev` in an empty folder with a .venv, on a port that is free."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "mta-dev"
        self.wait, self.python, self.environment = PATIENCE, sys.executable, {}
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

    def saved(self, commands: str) -> str:
        """As `shell`, for commands that save rules: nobody looks before all is written, as few would see in time."""
        self.signal(signal.SIGSTOP)
        try:
            return self.shell(commands)
        finally:
            self.signal(signal.SIGCONT)

    def shell(self, commands: str) -> str:
        """What the commands print, on both ways out, in the order they print it."""
        done = subprocess.run(
            ["sh", "-c", commands],
            cwd=self.home,
            env={name: value for name, value in os.environ.items() if name not in ("MTA_CONFIG", "FORCE_COLOR")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        return done.stdout
