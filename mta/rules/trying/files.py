"""All rules of a folder: loaded as the server would load them, and every file looked at."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mta import settings
from mta.rules.check.look import is_rules, look
from mta.rules.check.names import named
from mta.rules.check.tree import ERROR, WARNING, Finding, Source, Tree
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.outside import facts
from mta.rules.outside.lists import Lists
from mta.rules.outside.services.fake import FakeService
from mta.rules.outside.services.request import Answer
from mta.rules.outside.world import FakeWorld
from mta.rules.pages.wordbook import WORDS

MEND = "the rules are not loaded until this is mended"


def findings(
    rules: settings.Rules,
    services: Mapping[str, settings.Service] | None = None,
    *,
    domains: Collection[str] | None = None,
    known: facts.Facts | None = None,
    only: str = "",
) -> list[Finding]:
    """What loading them says, then what each file shows, or `only` one.

    Without `services` any service may exist, without `domains` any domain of ours. `known` is what rules see of the
    settings.
    """
    world = FakeWorld(services=dict.fromkeys(services or {}, FakeService(Answer(code=0))))
    world.lists, world.facts = Lists([rules.lists]), known or facts.of(settings.Settings())
    words = {**WORDS, **named(world.facts), **{f"service.{name}": WORDS["service.NAME"] for name in services or {}}}
    found, loaded = [], set[Path]()
    try:
        loaded = set(Rules.load(rules, world, checked=False, domains=domains).files)
    except RulesError as error:
        file = _path(rules, error.file) if error.line else error.file
        found.append(Finding(file, error.line or 1, 1, ERROR, error.what, MEND))
    sources = [Source(str(path), path.read_bytes(), is_rules(path)) for path in paths(rules)]
    if only:
        sources = [one for one in sources if one.name == only]
    shown = look(sources, words, services=services is None)
    told = {(one.file, one.line) for one in shown if one.level == ERROR}
    found = [one for one in found if (one.file, one.line) not in told]
    return [*found, *shown, *(_unread(sources, loaded) if loaded else ())]


def in_file(
    file: Path,
    rules: settings.Rules,
    services: Mapping[str, settings.Service] | None = None,
    *,
    known: facts.Facts | None = None,
) -> list[Finding]:
    """The same for one file of rules; what it requires lies beside it."""
    with tempfile.TemporaryDirectory() as folder:
        for one in file.parent.iterdir():
            if one.is_dir() or (one.suffix == ".lua" and one.name not in ("main.lua", file.name)):
                (Path(folder) / one.name).symlink_to(one.resolve())
        main = Path(folder) / "main.lua"
        main.symlink_to(file.resolve())
        alone = dataclasses.replace(rules, path=folder, domains=os.path.join(folder, "domains"))
        found = findings(alone, services, known=known, only=str(main))
        names = {str(main): str(file)}
        return [one._replace(file=names.get(one.file, one.file.replace(folder, str(file.parent)))) for one in found]


def paths(rules: settings.Rules) -> Iterator[Path]:
    """Every file of Lua in the folders of the rules and the domains, but for their tests."""
    for top in (rules.path, rules.domains):
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            for name in sorted(names):
                if name.endswith(".lua") and not name.startswith(".") and not name.endswith("_test.lua"):
                    yield Path(folder, name)


def _path(rules: settings.Rules, label: str) -> str:
    """The path of a file as the engine names it."""
    first, slash, rest = label.partition("/")
    return os.path.join(rules.domains, rest) if slash and first == "domains" else os.path.join(rules.path, label)


def _unread(sources: list[Source], loaded: set[Path]) -> Iterator[Finding]:
    """Files nobody requires are not loaded; a slip in them is seen here alone."""
    for source in sources:
        if Path(source.name) not in loaded and Tree(source).root.has_error:
            yield Finding(
                source.name, 1, 1, WARNING, "this does not look like Lua", "no file requires it: take it away"
            )
