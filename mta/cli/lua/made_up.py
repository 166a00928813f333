"""What is made up at the prompt: DNS, the clock, the store, services and lists; or asked of the real ones."""

from __future__ import annotations

import datetime
import shlex
from typing import TYPE_CHECKING

from mta.cli.lua import showing, trying
from mta.rules.outside.lists import GivenLists
from mta.rules.outside.services.request import Answer
from mta.rules.words import times

if TYPE_CHECKING:
    from mta.cli.lua.console import Console


def dns(console: Console, rest: str) -> None:
    words, world = shlex.split(rest), console.trial.world
    if not words:
        for name, types in sorted(world.dns.items()):
            for kind, values in types.items():
                told = values if isinstance(values, str) else ", ".join(map(showing.value, values)) or "none"
                console.say(f"{name} {kind} {told}")
        return
    if len(words) < 3:
        raise ValueError("NAME TYPE VALUE ...; VALUE may be none, or fail for a name server that cannot tell")
    for value in words[2:]:
        world.record(words[0], words[1], None if value == "fail" else value)


def clock(console: Console, rest: str) -> None:
    world = console.trial.world
    if rest == "real":
        world.time = None
    elif rest[:1] in ("+", "-"):
        moved = times.seconds(rest[1:]) or 0.0
        world.time = world.now() + (moved if rest[0] == "+" else -moved)
    elif rest:
        world.time = trying.moment(rest)
    console.say(datetime.datetime.fromtimestamp(world.now(), datetime.UTC).isoformat(timespec="seconds"))


def store(console: Console, rest: str) -> None:
    words, store = shlex.split(rest), console.trial.world.store
    if len(words) == 2:
        text = words[1]
        store.set(words[0], int(text) if text.lstrip("-").isdigit() else text)
    elif words:
        console.say(showing.value(store.get(words[0])))
    else:
        for name in sorted(getattr(store, "names", list)()):
            console.say(f"{name} = {showing.value(store.get(name))}")


def service(console: Console, rest: str) -> None:
    words, world = shlex.split(rest), console.trial.world
    if not words:
        for name in sorted(world.services.names()):
            answer = world.answers.get(name)
            console.say(f"{name}: {showing.value(answer._asdict()) if answer else 'no answer made up'}")
        return
    if world.answer(words[0], answer_of(words[1:])):
        console.trial.reload()


def list_(console: Console, rest: str) -> None:
    words, texts = shlex.split(rest), console.trial.world.texts
    if len(words) < 2:
        raise ValueError("NAME ENTRY ...: what lists.has and lists.get find")
    before = texts.given.get(words[0], "")
    texts.given[words[0]] = before + "".join(f"{word}\n" for word in words[1:])
    console.trial.world.lists = GivenLists(texts)


def live(console: Console, rest: str) -> None:
    if rest:
        if rest not in ("on", "off"):
            raise ValueError(":live on asks the real DNS and services, :live off only what was made up")
        console.trial.world.live = rest == "on"
    console.say(f"live {'on' if console.trial.world.live else 'off'}")


def answer_of(words: list[str]) -> Answer:
    """`code=1 stdout=... failed=...` as a service's answer. Raises ValueError."""
    fields: dict[str, object] = {"code": 0}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in Answer._fields:
            raise ValueError(f"{word}: write NAME=VALUE; the names are {' '.join(Answer._fields)}")
        if name in ("code", "signal"):
            fields[name] = int(value)
        elif name in ("stdout", "stderr"):
            fields[name] = value.encode("utf-8")
        elif name in ("timed_out", "cut"):
            fields[name] = value not in ("", "no", "false", "0")
        elif name == "ms":
            fields[name] = float(value)
        else:
            fields[name] = value
    return Answer(**fields)  # type: ignore[arg-type]
