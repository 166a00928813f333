"""docs/first-filter.rst, done step by step against a server: every line of output it shows must appear, in order."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from daemon import PATIENCE
from pages import TREE, Block, Playground, blocks

from mta.rules.trying.dialogue import like

PAGE = (TREE / "docs" / "first-filter.rst").read_text("utf-8")
RULES = "> mta-dev/rules/main.lua"
LOOKS = ("cat mta-dev", "grep ", "mta log", "mta why")  # these may be asked again until the server has got so far


class Step:
    """A block of commands, and the lines the page shows below it."""

    def __init__(self, commands: str, shown: str) -> None:
        self.commands = commands
        self.shown = [line for line in shown.split("\n") if line.strip() and line != "..."]


def steps(page: list[Block]) -> list[Step]:
    made: list[Step] = []
    for number, block in enumerate(page):
        if block.language == "sh":
            after = page[number + 1] if number + 1 < len(page) else Block("", "")
            made.append(Step(block.text, after.text if after.language == "text" else ""))
    return made


def missing(shown: list[str], said: str) -> str:
    """The first line of the page that is not in what was said, below those before it; or ""."""
    lines = iter(said.splitlines())
    return next((line for line in shown if not any(like(one.rstrip(), line) for one in lines)), "")


def reloads(server: Playground) -> int:
    return len(server.events("reloaded")) + len(server.events("reload_failed"))


def take(server: Playground, first: str, step: Step, last: str) -> str:
    """Do a step as its reader would. Returns what was said; raises AssertionError when a line is missing."""
    server.until(lambda: server.waiting() == 0, "what was sent is not delivered")  # a reader takes his time
    before, until = reloads(server), time.monotonic() + PATIENCE
    commands = re.sub(r"\bID$", last, step.commands)
    do = server.saved if RULES in step.commands else server.shell
    while True:
        said = do(f"{first}\n{commands}")
        line = missing(step.shown, said)
        if not line or not step.commands.startswith(LOOKS) or time.monotonic() > until:
            break
        time.sleep(0.3)
    assert not line, f"after\n{step.commands}\nthe page shows\n{line}\nbut it was\n{said}"
    if RULES in step.commands:
        server.until(lambda: reloads(server) > before, "nobody noticed the new rules")
    return said


def test_the_ten_minutes(tmp_path: Path) -> None:
    path, dev, *rest = steps(blocks(PAGE))
    assert path.commands.startswith("export PATH=") and dev.commands == "mta dev"
    with Playground(tmp_path) as server:
        began = (server.folder / "output").read_text().replace(f"127.0.0.1:{server.port}", "127.0.0.1:2525")
        assert not missing(dev.shown, began), began
        last = "nothing"
        for step in rest:
            said = take(server, path.commands, step, last)
            last = (re.findall(r"\((\w+-\w+\.\d+); rule", said) or [last])[-1]


def test_a_line_that_does_not_appear_is_found() -> None:
    assert missing(["a *", "c"], "a 1\nb\nc\n") == ""
    assert missing(["a", "d"], "a\nb\n") == "d"
    assert missing(["b", "a"], "a\nb\n") == "a"


def test_the_page_shows_what_it_promises() -> None:
    made = steps(blocks(PAGE))
    assert len(made) > 15
    assert all(re.search(r"\w{2}", line) for step in made for line in step.shown), "a line that would fit anything"
    done = "\n".join(step.commands for step in made)
    for command in ("dev", "send", "log", "why", "lua repl", "lua check", "lua doc", "lua test", "replay"):
        assert f"mta {command}" in done, command


@pytest.mark.parametrize("page", ["README.rst", "lua/REFERENCE.rst"])
def test_it_is_found_from_elsewhere(page: str) -> None:
    assert "``docs/first-filter.rst``" in (TREE / page).read_text("utf-8")


def test_what_it_names_is_there() -> None:
    for name in re.findall(r"``((?:tests|lua|docs|README)[\w/.-]*)``", PAGE):
        assert (TREE / name).exists(), name
    assert max(map(len, PAGE.splitlines())) <= 120
