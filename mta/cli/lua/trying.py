"""What repl, run and test begin with: the settings, the rules that were meant, and a made-up world for them."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mta import config, settings
from mta.cli import telling
from mta.domains import Domains
from mta.message.address import NULL, Address, parse
from mta.message.message import Message
from mta.message.reply import Refused
from mta.rules.engine.coverage import Coverage
from mta.rules.engine.engine import Rules
from mta.rules.outside import facts
from mta.rules.trying.dialogue import Dialogue
from mta.rules.trying.sketch import Sketch
from mta.rules.trying.trial_world import TrialWorld


def settings_of(given: argparse.Namespace, rules: str | None) -> tuple[settings.Settings, bool]:
    """The settings to try rules under, and whether a configuration was found. Raises Failed.

    `rules` is a folder or its main.lua; without it the configuration says where they are, or ./rules does.
    """
    try:
        path, _ = config.find(given.config)
        made, found = telling.configuration(given, quiet=True).settings, path.exists()
    except config.ConfigError:
        if given.config:
            raise telling.Failed(f"{given.config}: there is no such file", telling.NOT_FOUND) from None
        made, found = settings.Settings(), False
    if rules is None and not found:
        rules = "rules" if os.path.exists("rules/main.lua") else "."
    if rules is not None:
        folder = Path(rules)
        if folder.is_file():
            folder = folder.parent
        if not (folder / "main.lua").is_file() and (folder / "rules" / "main.lua").is_file():
            folder = folder / "rules"
        if not (folder / "main.lua").is_file():
            hint = "; name the folder of the rules" if rules == "." else ""
            raise telling.Failed(f"{rules}: there is no main.lua{hint}", telling.NOT_FOUND)
        beside = folder.parent / "domains"
        changed: dict[str, Any] = {"path": str(folder)}
        if not found:
            changed |= {"domains": str(beside), "lists": str(folder.parent / "lists")}
        made = dataclasses.replace(made, rules=dataclasses.replace(made.rules, **changed))
    return made, found


def settings_for(given: argparse.Namespace, told: Dialogue) -> tuple[settings.Settings, bool]:
    """The same for a dialogue, which may bring its rules along, or need none. Raises Failed."""
    if given.rules is None and (told.one("rules") or told.all("file")):
        return settings.Settings(), False
    try:
        return settings_of(given, given.rules)
    except telling.Failed:
        if given.rules or given.config:
            raise
        return settings.Settings(rules=settings.Rules(path="")), False


def world_of(made: settings.Settings, found: bool) -> TrialWorld:
    """A made-up world for these settings; the real one is there for who asks for it.

    Without a configuration every service that rules name is one.
    """

    def live() -> Any:
        from mta.net.dns import Resolver
        from mta.rules.outside.world import LiveWorld

        return LiveWorld(Resolver(made.dns), made.rules, None, made.service, made.keys.path, facts.of(made))

    keys = made.keys.path if os.path.isdir(made.keys.path) else ""
    return TrialWorld(made.rules, made.service, keys, live, facts.of(made), () if found else _services(made.rules))


def _services(made: settings.Rules) -> set[str]:
    names: set[str] = set()
    for folder in (made.path, made.domains):
        for path in Path(folder).rglob("*.lua") if folder else ():
            names |= set(re.findall(r"\bservice\s*\.\s*(\w+)", path.read_text("utf-8", "replace")))
    return names


def saved(files: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """When each file was saved, and its size."""
    found = {}
    for one in files:
        try:
            about = one.stat()
        except OSError:  # an editor that saves by renaming is at it
            continue
        found[one] = (about.st_mtime_ns, about.st_size)
    return found


def loader(
    made: settings.Settings, world: TrialWorld, found: bool, coverage: Coverage | None = None
) -> Callable[[], Rules]:
    """How the rules are loaded; raises RulesError."""
    names = list(made.domain) if found else None
    return lambda: Rules.load(made.rules, world, domains=names, coverage=coverage)


def sketch_of(made: settings.Settings, found: bool) -> Sketch:
    """A session with nobody in it yet. Without a configuration every domain is ours."""
    return Sketch(server=made.server.name, domains=Domains(made)) if found else Sketch()


# -- what people write -----------------------------------------------------------------------------------------------

WORDS = ("ip", "port", "name", "helo", "from", "rcpt", "tls", "user", "password", "listener", "server", "trusted")


def session(words: Mapping[str, str]) -> dict[str, Any]:
    """`ip=... from=... rcpt=a,b` as the fields of a Sketch. Raises ValueError."""
    made: dict[str, Any] = {}
    for word, value in words.items():
        if word in ("from", "sender"):
            made["sender"] = address(value)
        elif word in ("rcpt", "to"):
            made["recipients"] = [address(one) for one in value.split(",") if one]
        elif word == "tls":
            made["tls"] = "" if value in ("", "no", "off") else f"TLSv{value}" if value[:1].isdigit() else value
        elif word == "port":
            made["port"] = int(value)
        elif word == "trusted":
            made["trusted"] = value not in ("", "no", "off", "false", "0")
        elif word in WORDS:
            made[word] = value
        else:
            raise ValueError(f"a session has no {word}; it has {', '.join(WORDS)}")
    return made


def address(text: str) -> Address:
    text = text.strip().removeprefix("<").removesuffix(">")
    if not text:
        return NULL
    try:
        return parse(text)
    except Refused as refused:
        raise ValueError(f"{text}: {refused.reply.text}") from None


def mail(path: str) -> Message:
    """A mail from a file; LF line ends become CRLF. Raises OSError."""
    return message(Path(path).read_bytes())


def message(raw: bytes) -> Message:
    if raw.startswith(b"From ") and b"\n" in raw:  # a mail saved from an mbox
        raw = raw.partition(b"\n")[2]
    if raw.count(b"\n") != raw.count(b"\r\n"):
        raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return Message(raw)


def envelope_of(message: Message) -> dict[str, Any]:
    """Sender and recipients as the header names them, for a mail that came without an envelope."""
    from mta.message import addresses

    found: dict[str, Any] = {}
    for field, names in (("sender", ("Return-Path", "From")), ("recipients", ("Delivered-To", "To", "Cc"))):
        known: list[Address] = []
        for name in names:
            for value in message.headers.all(name):
                for box in addresses.parse(value):
                    try:
                        known.append(parse(box.address))
                    except Refused:
                        continue
            if known and name != "To":
                break
        if known:
            found[field] = known[0] if field == "sender" else list(dict.fromkeys(known))
    return found


def moment(text: str) -> float:
    """A date as a trial's clock takes it. Raises ValueError."""
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC).timestamp()
