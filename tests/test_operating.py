"""docs/operating.rst: every command it shows is understood, and every setting, event and file it names exists."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from pages import TREE, blocks

from mta import __main__ as program
from mta.cli.parser import Parser
from mta.config import read
from mta.events import EVENTS
from mta.settings import Settings

PAGE = (TREE / "docs" / "operating.rst").read_text("utf-8")


def commands() -> list[list[str]]:
    """Every command of ours on the page, in its blocks and between its words."""
    lines = [line for block in blocks(PAGE) if block.language == "sh" for line in block.text.split("\n")]
    lines += re.findall(r"``([^`\n]*mta [^`\n]*)``", PAGE)
    lines += re.findall(r"^ +(mta .*)$", PAGE, re.M)
    found = []
    for line in lines:
        for one in re.split(r"[|>]|&& ", line):
            words = shlex.split(one.partition("#")[0])
            words = words[words.index("mta") if "mta" in words and "xargs" in words else 0 :]
            if words[:1] and words[0] in ("mta", "/opt/mta/bin/mta") and words[1:2] != ["COMMAND"]:
                found.append([*words[1:], "ID"] if "xargs" in line and words[1:] == ["queue", "retry"] else words[1:])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_its_commands_are_understood(words: list[str]) -> None:
    verb, *rest = words
    parser = Parser(prog=f"mta {verb}")
    importlib.import_module(f"mta.cli.{verb}").arguments(parser)
    parser.parse_args(rest)
    assert verb in program.VERBS


def test_there_are_commands() -> None:
    assert len(commands()) > 15


def test_its_settings_events_and_files_exist() -> None:
    sections = Settings.__dataclass_fields__
    for section, name in re.findall(r"``(\w+)\.(\w+)", PAGE):
        if section in sections:
            made = sections[section].default_factory()
            assert hasattr(made, name), f"{section}.{name}"
    for event in re.findall(r"--event (\w+)", PAGE) + re.findall(r"^``(\w+)``  ", PAGE, re.M):
        assert event in EVENTS, event
    for event in re.findall(r"``(\w+_\w+)``", PAGE):
        fields = any(event in known.fields.split() for known in EVENTS.values())
        assert (
            fields or event in EVENTS or any(hasattr(sections[name].default_factory(), event) for name in sections)
        ), event
    for name in re.findall(r"``?((?:systemd|lua/examples|conf|docs)/[\w./-]+)", PAGE):
        assert (TREE / name).exists(), name


def test_its_configuration_is_one(tmp_path: Path) -> None:
    (text,) = [block.text for block in blocks(PAGE) if block.language == "toml"]
    file = tmp_path / "mta.toml"
    file.write_text(text)
    made = read(file).settings
    assert made.server.name == "mx.example.org"
    assert made.domain["example.org"].users.endswith("/users.txt")


def test_it_is_good_text() -> None:
    assert max(map(len, PAGE.splitlines())) <= 120
