"""Worlds that are written down and worlds made of what was written: the same rules hear the same answers."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rules_kit import rule

from mta import settings
from mta.rules.engine.engine import Rules
from mta.rules.outside.recording import Note, RecordingWorld, noting
from mta.rules.outside.services import Answer
from mta.rules.outside.services.fake import FakeService
from mta.rules.outside.world import FakeWorld
from mta.rules.trying import example
from mta.rules.trying.recorded import RecordedWorld
from mta.rules.verdict import Verdict

SERVICE = {"scan": settings.Service(arguments=["scan"]), "odd": settings.Service(arguments=["odd"])}


def live() -> FakeWorld:
    world = FakeWorld(
        {"b.test": {"MX": ["10 mx.b.test"], "TXT": "nobody can tell"}},
        lists={"blocked.txt": "192.0.2.66\n", "names.csv": "ann,Ann Example\n"},
        users={"you"},
        services={
            "scan": FakeService(Answer(code=0, stdout=b"clean \xff", ms=1.0), Answer(code=1, stdout=b"bad", ms=1.0)),
            "odd": FakeService(Answer(failed="it does not answer")),
        },
    )
    world.store.set("known", "a value")
    world.store.set("count", 41)
    return world


class Both:
    """Rules in a live world, recorded, and again, or others, in the world of the record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[Note] = []
        self.again = RecordedWorld(SERVICE)

    def live(self, lua: str, stage: str = "preq") -> Verdict:
        return self._run(lua, stage, RecordingWorld(live()), self.notes)

    def recorded(self, lua: str, stage: str = "preq") -> Verdict:
        notes = msgspec.json.decode(msgspec.json.encode(self.notes))  # as it comes from the file
        self.again.turn_to(notes, 1_700_000_000.0)
        return self._run(lua, stage, self.again, [])

    def _run(self, lua: str, stage: str, world: Any, notes: list[Note]) -> Verdict:
        (self.folder / "main.lua").write_text(rule(lua, stage), "utf-8")
        rules = Rules.load(settings.Rules(path=str(self.folder)), world, checked=False)
        with noting(notes):
            return rules.run(stage, example.transaction(stage))


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


EVERYTHING = """
local told = {}
local function tell(...) for _, one in ipairs(table.pack(...)) do told[#told + 1] = tostring(one) end end
tell(dns.lookup("b.test", "MX")[1], #dns.lookup("none.test"))
local none, why = dns.lookup("b.test", "TXT") tell(none == nil, why)
tell(store.get("known"), store.get("unknown") == nil, store.add("known", 1), store.add("new", 1), store.get("new"))
tell(store.increment("count"), store.increment("fresh", 5), store.delete("known"), store.get("known") == nil)
tell(rate("one", "1/1h"), rate("one", "1/1h"))
tell(lists.has("blocked.txt", "192.0.2.66"), lists.has("blocked.txt", "192.0.2.67"), lists.get("names.csv", "ann"))
tell(user_exists("you"), user_exists("nobody"))
tell(service.scan().stdout, service.scan().code)
tell(time.now(), random.number(1, 1000000), random.number(1, 1000000))
return deny("550 5.7.1 " .. table.concat(told, ";"):gsub("[^ -~]", "#"))
"""


def test_the_same_rules_hear_the_same(both: Both) -> None:
    first = both.live(EVERYTHING)
    assert first.reply is not None and "10 mx.b.test;0;true;" in str(first.reply), first
    again = both.recorded(EVERYTHING)
    assert str(again.reply) == str(first.reply)
    assert both.again.unknown == []
    kinds = {kind for kind, _, _ in both.notes}
    assert kinds >= {"dns", "store.get", "store.increment", "rate", "list", "user", "service", "now", "random"}


def test_questions_in_another_order(both: Both) -> None:
    """The store is a store, not a list of answers."""
    both.live('store.get("known") store.increment("count") store.get("unknown")')
    verdict = both.recorded(
        'assert(store.get("unknown") == nil and store.get("count") == 41 and store.get("known") == "a value")\n'
        'store.set("known", "other")\n'
        'assert(store.get("known") == "other" and store.increment("count", 9) == 50)\n'
        'return quarantine("fine")'
    )
    assert verdict.folder == "fine" and both.again.unknown == []


def test_what_nobody_asked_then_is_unknown(both: Both) -> None:
    both.live('dns.lookup("b.test", "MX") rate("one", "1/1h")')
    verdict = both.recorded(
        'assert(#dns.lookup("b.test", "A") == 0 and store.get("x") == nil and not lists.has("blocked.txt", "y"))\n'
        'assert(not user_exists("you") and rate("two", "1/1h") and rate("one", "1/1h") and rate("one", "1/1h"))\n'
        "random.number(1, 6)\n"
        'return quarantine("fine")'
    )
    assert verdict.folder == "fine", both.again.events
    assert both.again.unknown == [
        "dns b.test A",
        "store x",
        "list blocked.txt y",
        "account you",
        "rate two 1/1h",
        "rate one 1/1h",
        "a random number",
    ]


def test_a_service_without_an_answer_fails_as_its_setting_says(both: Both) -> None:
    both.live("service.scan()")
    verdict = both.recorded("service.scan() service.scan()")
    assert verdict.kind == "defer" and both.again.unknown == ["service scan"]


def test_a_service_that_failed_fails_again(both: Both) -> None:
    first = both.live("service.odd()")
    assert first.kind == "defer"
    again = both.recorded("service.odd()")
    assert str(again.reply) == str(first.reply) and both.again.unknown == []


def test_nothing_is_noted_outside_of_a_recorded_stage(both: Both) -> None:
    world = RecordingWorld(live())
    world.lookup("b.test", "MX")
    with noting(both.notes):
        world.lookup("b.test", "MX")
    world.lookup("b.test", "MX")
    assert both.notes == [["dns", ["b.test", "MX"], ["10 mx.b.test"]]]


def test_lists_can_be_tried_too(tmp_path: Path) -> None:
    world = RecordedWorld(lists={"blocked.txt": "192.0.2.1\n"})
    assert world.lists.find("blocked.txt", "192.0.2.1") == ("192.0.2.1",)
    assert world.unknown == []


def test_notes_are_json(both: Both) -> None:
    both.live(EVERYTHING)
    assert json.loads(msgspec.json.encode(both.notes))
