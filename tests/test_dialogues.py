"""Every conversation in tests/dialogues, played by lines, byte by byte, pipelined, and against the real server.

The first three run in this process with a spool in memory, each dialogue with settings of its own. Against the real
server those that are content with common settings share one; the others start one each and are among the long rounds.
"""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from daemon import Server
from fake_dns import FakeDns
from receiving import PythonRules, Receiving, World, self_signed, trusting

from mta import settings
from mta.cli.lua.inprocess import EXAMPLE, with_lines
from mta.rules.engine.engine import Rules
from mta.rules.trying import dialogue
from mta.rules.trying.dialogue import Aftermath, Dialogue, DialogueError, Player

FOLDER = Path(__file__).parent / "dialogues"
FILES = sorted(FOLDER.glob("*.smtp"))


def zone(told: Dialogue) -> dict[str, dict[str, list[str]]]:
    """The `with dns NAME TYPE VALUE` lines."""
    made: dict[str, dict[str, list[str]]] = {}
    for record in told.all("dns"):
        name, kind, value = record.split(" ", 2)
        made.setdefault(name, {}).setdefault(kind, []).append(value.strip('"'))
    return made


def sections(told: Dialogue, folder: Path) -> dict[str, Any]:
    """The settings a dialogue is played with: one domain, example.test, and what its `with` lines say."""
    plain, made = settings.Settings(), with_lines(told, settings.Settings(**EXAMPLE), folder)
    names = [field.name for field in dataclasses.fields(made)]
    return {name: getattr(made, name) for name in names if getattr(made, name) != getattr(plain, name)}


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
    text = main(told)
    if not text and not told.all("file"):
        return PythonRules()
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "rules" / "main.lua").write_text(text)
    files(told, folder)
    wanted = settings.Rules(path=str(folder / "rules"), domains=str(folder / "domains"))
    lists = {name[6:]: text for name, text in given_files(told) if name.startswith("lists/")}
    world = World(zone(told), lists=lists)
    return Rules.load(wanted, world, domains=sections(told, folder)["domain"])


def main(told: Dialogue) -> str:
    """The text of main.lua: from the dialogue, or from a file of ours that it names."""
    text = told.one("rules")
    return shipped(text) if re.fullmatch(r"\S+\.lua", text) else text


def shipped(name: str) -> str:
    return (FOLDER.parent.parent / name).read_text("utf-8")


def given_files(told: Dialogue) -> Iterator[tuple[str, str]]:
    """Name and text of every `with file`."""
    for given in told.all("file"):
        name, same, of = given.partition(" = ")
        if same and "\n" not in name:
            yield name, shipped(of)
        else:
            name, _, text = given.partition("\n")
            yield name, text


def files(told: Dialogue, folder: Path) -> None:
    """Write the `with file` ones."""
    for name, text in given_files(told):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


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


# -- the real server ----------------------------------------------------------------------------------------------

LOCAL = "127.0.0.1"  # where the client comes from there


def told_locally(path: Path) -> Dialogue:
    return dialogue.parse(path.read_text("utf-8").replace("192.0.2.1", LOCAL), path.name)


def real() -> Iterator[Any]:
    for path in FILES:
        told = dialogue.read(path)
        if told.one("client") or told.one("slow"):
            continue  # an address or a delay that only a test of our own can arrange
        yield pytest.param(path, marks=[pytest.mark.long] if told.given else [], id=path.stem)


def configuration(told: Dialogue, folder: Path, certificate: tuple[str, str], dns: str) -> str:
    """mta.toml for the real server."""
    tables: dict[str, dict[str, Any]] = {
        "server": {"name": "mx.example.test", "workers": 1, "drain": "1s", "trusted": ["192.0.2.99"]},
        "listener": {"address": f"{LOCAL}:0"},
        "log": {"level": "debug"},
        "dns": {"servers": [dns]},
    }
    for word, rest in told.given:
        table, dot, key = word.partition(".")
        if dot:
            tables.setdefault(table, {})[key] = tomllib.loads(f"value {rest}")["value"]
    if told.one("tls"):
        names = zip(("certificate", "key", "policy"), (*certificate, told.one("tls")), strict=True)
        inner = ", ".join(f"{name} = {json.dumps(value)}" for name, value in names)
        tables["listener"]["tls"] = f"{{ {inner} }}"
    lines = []
    for table, values in tables.items():
        lines.append(f"[[{table}]]" if table == "listener" else f"[{table}]")
        lines += [f"{key} = {value if key == 'tls' else json.dumps(value)}" for key, value in values.items()]
    for name, domain in sections(told, folder)["domain"].items():
        lines += [f'[domain."{name}"]', f"users = {json.dumps(domain.users)}", 'path = "Maildir"']
    return "\n".join(lines)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[str, str]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with Server(folder, configuration(Dialogue("common"), folder, certificate, "127.0.0.1:9")) as server:
        yield server


@pytest.mark.parametrize("path", list(real()))
def test_dialogue_with_the_real_server(
    path: Path, tmp_path: Path, certificate: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    told = told_locally(path)
    if not told.given:
        play_real(told, request.getfixturevalue("shared"))
        return
    with FakeDns(zone(told)) as dns:
        config = configuration(told, tmp_path, certificate, dns.server)
        files(told, tmp_path)
        with Server(tmp_path, config, main(told) or None) as server:
            play_real(told, server)


def play_real(told: Dialogue, server: Server) -> None:
    before = len(server.events())
    play_against(told, told.ways[0], socket.create_connection((LOCAL, server.port)))

    def events() -> list[dict[str, Any]]:
        return server.events()[before:]

    server.until(lambda: any(event["event"] == "closed" for event in events()), "the session did not end")
    kept = [event["mail"] for event in events() if event["event"] == "accepted"]
    if any(then.subject in ("header", "no", "body") for then in told.then):
        done = {"delivered", "failed", "deferred"}
        server.until(
            lambda: set(kept) <= {event.get("mail") for event in events() if event["event"] in done},
            "not everything was delivered",
        )
    contents = [file.read_bytes().replace(b"\n", b"\r\n") for file in server.mails()]
    kept += [event["bounce"] for event in events() if event["event"] == "bounced" and event["mail"] not in kept]
    mails = [(None, next((c for c in contents if f" id {id}".encode() in c), b"")) for id in kept]
    told.then = [then for then in told.then if then.subject != "held"]  # only the spool knows
    dialogue.check(told, Aftermath(events(), mails))


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
