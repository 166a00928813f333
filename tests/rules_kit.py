"""What the tests of the rules share: rules from a text, a stage run on the example mail."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mta import resources, settings
from mta.rules.engine.engine import Rules
from mta.rules.outside.world import FakeWorld
from mta.rules.transaction import Transaction
from mta.rules.trying import example
from mta.rules.verdict import Verdict


def shipped(name: str) -> str:
    """The text of one of lua/examples/."""
    return (resources.folder("lua") / "examples" / f"{name}.lua").read_text("utf-8")


class Bench:
    """Rules in a folder of their own, a made-up world, and one transaction at a time.

    They are loaded unchecked, so that mistakes are met when they run.
    """

    def __init__(self, folder: Path, main: str, world: Any = None, **changes: Any) -> None:
        self.folder = folder
        self.world = world or example.world()
        (folder / "main.lua").write_text(main, "utf-8")
        self.settings = dataclasses.replace(settings.Rules(path=str(folder)), **changes)
        self.rules = Rules.load(self.settings, self.world, checked=False)
        self.tx = Transaction()

    def run(self, stage: str, tx: Transaction | None = None) -> Verdict:
        """Run a stage on the example mail, or on `tx`."""
        self.tx = tx or example.transaction(stage)
        return self.rules.run(stage, self.tx)

    @property
    def failures(self) -> list[dict[str, Any]]:
        assert isinstance(self.world, FakeWorld)
        return self.world.said("rule_failed")

    @property
    def failure(self) -> str:
        """ "main.lua:2: what" of the one rule that failed."""
        (one,) = self.failures
        return f"{one['where']}: {one['error']}"

    @property
    def messages(self) -> list[str]:
        """What rules said to the log."""
        assert isinstance(self.world, FakeWorld)
        return [
            fields["message"]
            for event, fields in self.world.events
            if event.startswith("rule_") and "message" in fields
        ]


def rule(body: str, stage: str = "rcpt", name: str = "a rule") -> str:
    """One rule; its body starts on line 2."""
    return f'on.{stage}("{name}", function(mail)\n{body}\nend)\n'
