"""What CONTRIBUTING.rst says is so: the command, the rooms, the dialogue it shows."""

import re
import textwrap
from pathlib import Path

TREE = Path(__file__).parent.parent
PAGE = (TREE / "CONTRIBUTING.rst").read_text("utf-8")


def test_the_one_command_is_the_one_the_proof_runs() -> None:
    (command,) = re.findall(r"^    (python3 -m venv .*pytest)$", PAGE, re.M)
    assert command in (TREE / ".ci" / "run").read_text("utf-8")


def test_every_room_is_on_the_plan() -> None:
    rooms = {path.parent.name for path in (TREE / "mta").glob("*/__init__.py")}
    assert set(re.findall(r"^``(\w+)/``", PAGE, re.M)) == rooms
    inside = {path.parent.name for path in (TREE / "mta" / "rules").glob("*/__init__.py")}
    assert set(re.findall(r"^``rules/(\w+)/``", PAGE, re.M)) == inside


def test_the_dialogue_shown_is_one_of_the_tests() -> None:
    _, _, rest = PAGE.partition("no Python is needed. ::\n\n")
    shown = textwrap.dedent(rest.partition("\n\n``with``")[0]).splitlines()
    played = (TREE / "tests" / "dialogues" / "rules-rcpt.smtp").read_text("utf-8").splitlines()
    for line in shown:
        assert any(there.strip().startswith(line.strip()) for there in played), line


def test_the_folders_of_tests_are_there() -> None:
    for folder in re.findall(r"^``tests/(\w+)/", PAGE, re.M):
        assert (TREE / "tests" / folder).is_dir()
