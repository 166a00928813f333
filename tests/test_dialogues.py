"""Every conversation in tests/dialogues, played by lines, byte by byte, and pipelined, each on a connection of its own.

`test_daemon` plays the same texts against the real server: its fixture `daemon` stands in tests/test_daemon.py or a
conftest.py beside it (see `play_against`).
"""

from __future__ import annotations

import dataclasses
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from receiving import PythonRules, Receiving, self_signed, trusting

from mta import settings
from mta.rules import dialogue
from mta.rules.dialogue import Aftermath, Dialogue, DialogueError, Player
from mta.rules.engine import Rules
from mta.rules.world import Unanswered

FOLDER = Path(__file__).parent / "dialogues"
FILES = sorted(FOLDER.glob("*.smtp"))


class TableWorld:
    """A world in which the dialogue's `with dns NAME TYPE VALUE` lines are all there is."""

    def __init__(self, records: list[str]) -> None:
        self.records = [record.split(" ", 2) for record in records]

    def lookup(self, name: str, type: str) -> list[str]:
        found = [value.strip('"') for known, kind, value in self.records if (known, kind) == (name, type)]
        if "SERVFAIL" in found:
            raise Unanswered("SERVFAIL")
        gevent.sleep(0)
        return found

    def now(self) -> float:
        return time.time()

    def random(self) -> float:
        return 0.5

    def log(self, event: str, **fields: Any) -> None:
        from mta import log

        log.event(event, **fields)

    def within(self, seconds: float, work: Any, *args: Any) -> Any:
        return work(*args)

    def pause(self, seconds: float) -> None:
        gevent.sleep(seconds)


def sections(told: Dialogue, folder: Path) -> dict[str, Any]:
    """The settings a dialogue is played with: one domain, example.test, and what its `with` lines say."""
    made: dict[str, Any] = {
        "server": settings.Server(name="mx.example.test", trusted=["192.0.2.99"]),
        "domain": {"example.test": settings.Domain()},
    }
    known = {field.name: field.default_factory for field in dataclasses.fields(settings.Settings)}
    for line in told.all("domain"):
        name, _, users = line.partition(" users=")
        where = "any"
        if users:
            where = str(folder / f"users-{name}")
            Path(where).write_text("\n".join(users.split(",")))
        made["domain"][name] = settings.Domain(users=where)
    for word, rest in told.given:
        section, dot, key = word.partition(".")
        if dot and section != "listener":
            value = tomllib.loads(f"value {rest}")["value"]
            made[section] = dataclasses.replace(made.get(section) or known[section](), **{key: value})
    return made


def listener(told: Dialogue, certificate: tuple[str, str] | None) -> settings.Listener:
    made = settings.Listener()
    for word, rest in told.given:
        if word.startswith("listener."):
            made = dataclasses.replace(made, **{word[9:]: tomllib.loads(f"value {rest}")["value"]})
    if certificate:
        made = dataclasses.replace(made, tls=settings.ListenerTls(*certificate, policy=told.one("tls")))
    return made


def rules(told: Dialogue, folder: Path) -> Any:
    if told.one("slow") == "greeting":
        return PythonRules(connect=lambda _: gevent.sleep(0.2))
    text = told.one("rules")
    if not text:
        return PythonRules()
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "rules" / "main.lua").write_text(text)
    return Rules.load(settings.Rules(path=str(folder / "rules")), TableWorld(told.all("dns")))


def start_tls(sock: Any) -> Any:
    return trusting().wrap_socket(sock)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return self_signed(tmp_path_factory.mktemp("tls"))


def every() -> Iterator[Any]:
    for path in FILES:
        for way in dialogue.read(path).ways:
            yield pytest.param(path, way, id=f"{path.stem}-{way}")


@pytest.mark.parametrize(("path", "way"), list(every()))
def test_dialogue(path: Path, way: str, tmp_path: Path, certificate: tuple[str, str]) -> None:
    told = dialogue.read(path)
    pair = certificate if told.one("tls") else None
    with Receiving(
        rules=rules(told, tmp_path),
        client=told.one("client", "192.0.2.1"),
        certificate=pair,
        listener=listener(told, pair),
        **sections(told, tmp_path),
    ) as server:
        play_against(told, way, server.connect())
        server.settle()
        dialogue.check(told, Aftermath(server.log, server.mails))
    assert server.receiver.budget.held == 0


def play_against(told: Dialogue, way: str, sock: Any) -> None:
    """Play a dialogue on a connection to any server, this process's or the real daemon's."""
    Player(told, sock, way, start_tls).play()


def test_there_is_a_dialogue_for_every_theme() -> None:
    assert len(FILES) >= 25


# -- the notation itself ------------------------------------------------------------------------------------------


def test_escapes() -> None:
    assert dialogue.said(r"a\r\n\x00\0\\b{3}\{4}é") == b"a\r\n\0\0\\bbb{4}" + "é".encode()


def test_patterns() -> None:
    assert dialogue.like("250 2.0.0 Kept as x", "250 * Kept*")
    assert not dialogue.like("250 2.0.0 Kept as x", "250 * Thrown*")


def test_a_wrong_line_is_told_with_its_number() -> None:
    with pytest.raises(DialogueError, match=r"^x:2: not a line of a dialogue: 'D: what'"):
        dialogue.parse("# x\nD: what\n", "x")


def test_a_difference_is_told_with_both_texts() -> None:
    told = dialogue.parse("S: 220 *\nC: NOOP\nS: 251 *\n", "x.smtp")
    with Receiving() as server, pytest.raises(DialogueError) as caught:
        play_against(told, "lines", server.connect())
    assert str(caught.value).startswith("x.smtp:3: expected '251 *', got '250 2.0.0 Ok'\n  S: 220 ")


def test_an_unfulfilled_then_is_told() -> None:
    told = dialogue.parse("S: 220 *\nC: QUIT\nS: 221 *\nthen spool 1\n", "x.smtp")
    with Receiving() as server:
        play_against(told, "lines", server.connect())
        with pytest.raises(DialogueError, match=r"^x\.smtp:4: then spool 1: 0 mails were kept"):
            dialogue.check(told, Aftermath(server.log, server.mails))


def test_rules_may_stand_in_the_dialogue() -> None:
    told = dialogue.parse("with rules\n    one\n      two\n\n    three\nS: 220 *\n")
    assert told.one("rules") == "one\n  two\n\nthree\n"
    assert len(told.steps) == 1
