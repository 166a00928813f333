"""Lets pytest collect tests of rules: conversations (*.smtp) and *_test.lua. In a conftest.py at the top:

    pytest_plugins = ["mta.cli.lua.collect"]

Each file is run by `mta lua test` in a process of its own, once, whatever else the tests around it do to theirs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name.endswith(("_test.lua", ".smtp")):
        return RuleFile.from_parent(parent, path=file_path)
    return None


class RuleFile(pytest.File):
    """One file of tests. `results` are there once one of them was asked for."""

    results: dict[str, dict[str, Any]] | None = None

    def collect(self) -> Iterator[RuleTest]:
        for one in self.said("--list"):
            yield RuleTest.from_parent(self, name=one["name"])

    def said(self, *words: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "mta", "lua", "test", "--json", *words, str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise Complaint(done.stderr.strip() or done.stdout.strip())
        return [json.loads(line) for line in done.stdout.splitlines()]

    def result(self, name: str) -> dict[str, Any]:
        if self.results is None:
            self.results = {one["name"]: one for one in self.said()}
        return self.results.get(name) or next(iter(self.results.values()))  # the file itself was wrong


class RuleTest(pytest.Item):
    """One test of a file."""

    def runtest(self) -> None:
        assert isinstance(self.parent, RuleFile)
        error = self.parent.result(self.name)["error"]
        if error:
            raise Complaint(error)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        if isinstance(excinfo.value, Complaint):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


class Complaint(Exception):
    """What a test of rules said."""
