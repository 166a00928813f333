"""Tests of rules written in Lua: `test("name", function(t) ... end)` in files *_test.lua.

    t:session { ip = "192.0.2.1", helo = "mx.example", from = "a@b.example", to = { "you@example.test" } }
    t:message "text of a mail"   t:mail { subject = "...", text = "...", attach = { ["a.exe"] = "MZ" } }
    t:load "a.eml"
    t:dns("b.example", "TXT", "v=spf1 -all")   t:service("clamav", { code = 1 })   t:list("blocked.txt", "b.example")
    t:store("key", 1)   t:clock("2026-01-01T10:00:00")   t:user("ann")
    t:run()   t:run("rcpt")   t:step()   t:back()
    t:expect("rcpt", "550 5.7.1*")   t:decided("rcpt", "rule", "deny")   t:reached("rule")   t:not_reached("rule")
    t:header("X-Spam", "yes*")   t:no_header("X-Spam")   t:envelope { sender = "...", recipients = { ... } }
    t:var("score", 3)   t:part("text/html", "*words*")   t:no_part("*.exe")   t:body("*words*")
    t:routed("you@example.test", "smtp relay.example*")   t:logged("rule_log", { message = "*" })   t:not_logged("...")
    t:asked("dns.lookup", "b.example")   t:not_asked("dns.lookup")   t:result("delivered")   t:equal(got, expected)

In what is expected, * stands for anything. Whatever looks at a result runs the session first, if nobody has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mta import settings
from mta.rules.engine.coverage import Coverage
from mta.rules.engine.crossing import said
from mta.rules.engine.engine import Rules
from mta.rules.engine.sandbox import BROKEN, DONE, WAITS
from mta.rules.outside.world import INSIDE
from mta.rules.trying.expected import Session
from mta.rules.trying.sketch import Sketch
from mta.rules.trying.trial_world import TrialWorld


class Outcome(NamedTuple):
    """How a test ended: `error` is "" where it passed, else "archive_test.lua:12: expected ..., got ..."."""

    name: str
    where: str
    error: str
    seconds: float


class ScriptError(Exception):
    """A file that cannot be read as tests: "archive_test.lua:3: what"."""


class Script:
    """One file of tests. `world()` makes a world, `load(world)` the rules in it. Raises ScriptError, OSError."""

    def __init__(
        self,
        path: Path,
        runner: Rules,
        world: Callable[[], TrialWorld],
        load: Callable[[TrialWorld], Callable[[], Rules]],
        sketch: Callable[[], Sketch],
        coverage: Coverage | None = None,
    ) -> None:
        self.path, self._world, self._load, self._sketch, self._coverage = path, world, load, sketch, coverage
        self._runtime = runner.runtime
        self._lua = self._runtime.tool("testing")
        self._read()

    def _read(self) -> None:
        text = self.path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("latin-1")
        answer = self._lua["load"](text, self.path.name)
        if answer != DONE:
            raise ScriptError(_placed(answer))
        found = json.loads(self._lua["names"]())["tests"]
        self.tests: list[tuple[str, str]] = [(said(name), said(where)) for name, where in found or []]

    def run(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Outcome]:
        """Run its tests, one after the other."""
        for number, (name, where) in enumerate(self.tests, 1):
            if wanted(name):
                began = time.perf_counter()
                error = self._one(number)
                yield Outcome(name, where, error, time.perf_counter() - began)

    def _one(self, number: int) -> str:
        played = Session(self.path.parent, self._world(), self._load, self._sketch())
        try:
            answer = self._in_lua(self._lua["start"], number)
            while answer != DONE and answer[0] == WAITS:
                _, word, text = answer[:3]
                tag, value = played.answer(word.removeprefix("t:"), text)
                answer = self._in_lua(self._runtime.step, 0, tag, value)
        finally:
            if self._coverage is not None:
                played.covered(self._coverage)
        return _placed(answer) if answer != DONE and answer[0] == BROKEN else ""

    def _in_lua(self, call: Callable[..., Any], *arguments: Any) -> Any:
        INSIDE.depth += 1
        try:
            return call(*arguments)
        finally:
            INSIDE.depth -= 1


def _placed(answer: Any) -> str:
    _, message, place, _, _ = answer
    text = said(message)
    return text if not place or text.startswith(said(place)) or ".lua:" in text[:80] else f"{said(place)}: {text}"


def runner(folder: Path) -> Rules:
    """The Lua that files of tests run in: the sandbox of rules, with no rules in it. `folder` is an empty one."""
    (folder / "main.lua").write_text("")
    return Rules.load(settings.Rules(path=str(folder), domains=str(folder / "none")), TrialWorld())
