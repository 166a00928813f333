"""Check, show and explain the configuration, and print a sample of it."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import pwd
import shutil
import textwrap
import time
import typing
from collections.abc import Iterator
from typing import Any

from mta import config
from mta.cli import telling
from mta.message import target
from mta.settings import Listener, ListenerTls, Settings
from mta.toml import Key

# What a server of the system has elsewhere than beside its file (systemd/mta.service makes these folders).
INSTALLED = {
    ("server", "run"): "/run/mta",
    ("spool", "path"): "/var/lib/mta/spool",
    ("rules", "export"): ["/var/lib/mta/export"],
    ("rules", "mailboxes"): ["/var/lib/mta/mail"],
    ("store", "path"): "/var/lib/mta/store",
    ("capture", "path"): "/var/lib/mta/captures",
    ("log", "to"): ["/var/log/mta/mta.log"],
    ("domain", "path"): "/var/lib/mta/mail/{domain}/{local_part}",
}

HEAD = """\
# The configuration of mta: facts. Decisions are written in Lua, in the folder [rules] names.
# A line that is commented out shows the default. Durations: "30s", "5m", "2h", "5d". Sizes: "500K", "10M", "2G".
# Relative paths lie beside this file. "mta config check" checks it, "mta reload" puts it in force.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("check", help="read it, its certificates and its rules, and say what is wrong")
    show = verbs.add_parser("show", help="every value, and where it comes from")
    show.add_argument("--changed", action="store_true", help="only what the file sets")
    telling.json_option(show)
    explain = verbs.add_parser("explain", help="what a setting means")
    explain.add_argument("key", nargs="?", help="like smtp.max_size, or smtp; without it all of them")
    sample = verbs.add_parser("sample", help="print a sample with every setting")
    sample.add_argument("--installed", action="store_true", help="with the places of an installed system")


def run(given: argparse.Namespace) -> int:
    if given.verb == "sample":
        print(sample(INSTALLED if given.installed else {}), end="")
        return telling.FINE
    if given.verb == "explain":
        return _explain(given.key)
    if given.verb == "show":
        return _show(given)
    return _check(given)


def _check(given: argparse.Namespace) -> int:
    made = telling.configuration(given)
    wrong = [*_certificates(made), *_rules(made.settings), *_users(made), *_replies(made), *_account(made)]
    for complaint in [*wrong, *(f"{warning} (a warning)" for warning in _warnings(made))]:
        print(complaint)
    if not wrong:
        print(f"{made.path}: fine")
    return telling.FINDING if wrong else telling.FINE


def _replies(made: config.Config) -> Iterator[str]:
    from mta.receive import replies

    for name, text in made.settings.replies.items():
        try:
            replies.use({name: text})
        except ValueError as error:
            yield config.place(made, "replies", name) + str(error).removeprefix("[replies] ")


def _certificates(made: config.Config) -> Iterator[str]:
    from mta.net.tls import server_context

    for n, listener in enumerate(made.settings.listener):
        try:
            if listener.tls:
                server_context(listener.tls.certificate, listener.tls.key)
        except (ValueError, OSError) as error:
            yield f"{config.place(made, 'listener', n, 'tls')}{error}"


def _rules(settings: Settings) -> Iterator[str]:
    from mta.rules.check import ERROR
    from mta.rules.outside import facts
    from mta.rules.trying import files

    known = facts.of(settings)
    for one in files.findings(settings.rules, settings.service, domains=settings.domain, known=known):
        if one.level == ERROR:
            yield str(one)


def _users(made: config.Config) -> Iterator[str]:
    for name, domain in made.settings.domain.items():
        if domain.users not in ("any", "passwd"):
            try:
                with open(domain.users, "rb"):
                    pass
            except OSError as error:
                yield f"{config.place(made, 'domain', name, 'users')}users: {domain.users}: {error.strerror}"


def _account(made: config.Config) -> Iterator[str]:
    from mta.daemon import privileges

    server = made.settings.server
    try:
        if server.user:
            privileges.account(server.user, server.group)
    except privileges.PrivilegeError as error:
        yield config.place(made, "server", "user") + str(error).removeprefix("server.")


def _warnings(made: config.Config) -> Iterator[str]:
    """What works, but hardly as it was meant."""
    from mta.net.tls import ageing

    if not made.settings.listener:
        yield f"{made.path}: there is no [[listener]], so the server takes no mail"
    for n, listener in enumerate(made.settings.listener):
        try:
            old = listener.tls and ageing(listener.tls.certificate, time.time())
        except (OSError, ValueError):
            continue  # the complaints say it
        if listener.tls and old:
            yield f"{config.place(made, 'listener', n, 'tls')}{listener.tls.certificate}: {old}"
    settings = made.settings
    for key, folder in (
        (("server", "run"), settings.server.run),
        (("spool", "path"), settings.spool.path),
        (("store", "path"), settings.store.path),
        *((("log", "to"), os.path.dirname(name)) for name in settings.log.to if not name.endswith(":")),
        *(
            (("domain", name, "path"), os.path.dirname(domain.path.partition("{")[0]))  # up to what depends on the mail
            for name, domain in settings.domain.items()
            if domain.transport in ("maildir", "mbox")
        ),
    ):
        if not _writable(folder):
            yield f"{config.place(made, *key)}{key[-1]}: {folder}: {_asker()}, who asks, may not write there"
    for name, service in made.settings.service.items():
        if not shutil.which(service.arguments[0]):
            at = config.place(made, "service", name, "arguments")
            yield f"{at}{service.arguments[0]}: there is no such program here, or it may not be run"


def _asker() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container nobody may have named it
        return f"user {os.geteuid()}"


def _writable(folder: str) -> bool:
    """We may write there, or make it."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder) or "."
    return os.access(folder, os.W_OK | os.X_OK) and os.path.isdir(folder)


# -- show ------------------------------------------------------------------------------------------------------------


def _show(given: argparse.Namespace) -> int:
    made = telling.configuration(given, quiet=given.json)
    for section, at, values in tables(made.settings):
        shown = []
        for name, value in values.items():
            line = made.lines.get((*at, name))
            if line or not given.changed:
                shown.append((name, value, f"{made.path}:{line}" if line else "default"))
        if given.json:
            for name, value, origin in shown:
                telling.print_json({"section": section, "key": name, "value": value, "from": origin})
        elif shown:
            print(section)
            for name, value, origin in shown:
                print(f"{name} = {toml(value):<40} {telling.paint(f'# {origin}', 'dim')}".rstrip())
            print()
    return telling.FINE


def tables(settings: Settings) -> Iterator[tuple[str, Key, dict[str, Any]]]:
    """(heading, key, values) of each section of some settings."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, list):
            for n, one in enumerate(value):
                yield f"[[{field.name}]]", (field.name, n), _values(one)
        elif field.name in NAMED:
            if value:
                yield f"[{field.name}]", (field.name,), value
        elif isinstance(value, dict):
            for name, one in value.items():
                yield f'[{field.name}."{name}"]', (field.name, name), _values(one)
        else:
            yield f"[{field.name}]", (field.name,), _values(value)


def _values(section: Any) -> dict[str, Any]:
    return {
        field.name: dataclasses.asdict(value)
        if isinstance(value, ListenerTls)
        else target.masked(value)  # it may be piped anywhere
        if field.name == "host"
        else value
        for field in dataclasses.fields(section)
        if (value := getattr(section, field.name)) is not None
    }


def toml(value: Any) -> str:
    """A value as it is written in the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else str(int(value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


# -- explain ---------------------------------------------------------------------------------------------------------


def _explain(key: str | None) -> int:
    known = {f"{section}.{field.name}": (kind, field) for section, kind in sections() for field in kind_fields(kind)}
    wanted = [name for name in known if key in (None, name, name.partition(".")[0])]
    named = [field for field in dataclasses.fields(Settings) if field.name in NAMED and key in (None, field.name)]
    if not wanted and not named:
        near = difflib.get_close_matches(key or "", [*known, *NAMED], 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise telling.Failed(f"there is no setting {key}{hint}", telling.NOT_FOUND)
    for name in wanted:
        kind, field = known[name]
        print(telling.paint(name, "bold"))
        print(textwrap.fill(field.metadata["meaning"], 100, initial_indent="    ", subsequent_indent="    "))
        print(f"    {_kind(kind, field)}, by default {_default(field)}\n")
    for field in named:
        print(telling.paint(field.name, "bold"))
        print(textwrap.fill(field.metadata["meaning"], 100, initial_indent="    ", subsequent_indent="    "))
        print(f"    values under names of your own, like {toml(field.metadata['example'])}\n")
        if field.name == "replies" and key:
            _names()
    return telling.FINE


def _names() -> None:
    """The replies there are: what [replies] may have other words for."""
    from mta.receive import replies
    from mta.rules.outside.facts import STANDARD

    ours = {name.lower(): str(reply) for name, reply in replies.OURS.items()}
    for title, known in (("What the server says:", ours), ("What rules find there:", STANDARD)):
        print(f"    {title}")
        print("\n".join(f"      {name:<22}{text}" for name, text in known.items()), end="\n\n")


def sections() -> Iterator[tuple[str, Any]]:
    """Each section's name and class."""
    hints = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        kind = hints[field.name]
        inner = typing.get_args(kind)
        if field.name not in NAMED:
            yield field.name, inner[-1] if inner else kind


def kind_fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def _kind(kind: Any, field: dataclasses.Field[Any]) -> str:
    hint = typing.get_type_hints(kind)[field.name]
    units = {"seconds": "a duration", "bytes": "a size", "path": "a path"}
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list[str]: "a list of texts"}
    if hint == list[str] and field.metadata["unit"] == "path":
        return "a list of paths"
    return units.get(field.metadata["unit"]) or names.get(hint, "a table")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.metadata["example"] is not None:
        return f"this machine's (like {toml(field.metadata['example'])})"
    value = config.default(field)
    return "none" if value in (None, "") else _written(field, value)


def _written(field: dataclasses.Field[Any], value: Any) -> str:
    """A default in the words of the file: 300 seconds as "5m"."""
    unit = field.metadata["unit"]
    if unit == "seconds":
        for letter, size in (("d", 86400), ("h", 3600), ("m", 60)):
            if value and value % size == 0:
                return f'"{value // size:g}{letter}"'
        return f'"{value:g}s"'
    if unit == "bytes":
        for letter, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
            if value and value % size == 0 and value // size < 10_000:
                return f'"{value // size}{letter}"'
    return toml(value)


# -- sample ----------------------------------------------------------------------------------------------------------

SHOWN: dict[str, dict[str, Any]] = {  # what is not commented out, so that the sample works as it is
    "server": {"name": "mx.example.test"},
    "listener": {"address": "[::]:25", "kind": "relay"},
    "domain": {"users": "any", "transport": "maildir", "path": "mail/{domain}/{local_part}"},
}
NAMES = {"domain": "example.test", "route": "*", "service": "example"}  # sections that come once for each name
NAMED = ("replies", "app")  # sections whose keys are the administrator's own


def sample(places: dict[tuple[str, str], Any] | None = None) -> str:
    """conf/mta.toml: every setting with its meaning and default. `places`: values to write out."""
    places = places or {}
    lines = [HEAD]
    for section, kind in sections():
        shown = SHOWN.get(section, {}) | {key: value for (where, key), value in places.items() if where == section}
        off = "# " if section in NAMES and section not in SHOWN else ""
        heading = f'[{section}."{NAMES[section]}"]' if section in NAMES else f"[{section}]"
        lines.append(f"# {kind.__doc__}" + (" One section for each." if kind is Listener or section in NAMES else ""))
        lines.append(f"{off}[[{section}]]" if kind is Listener else off + heading)
        for field in kind_fields(kind):
            lines += textwrap.wrap(field.metadata["meaning"], 100, initial_indent="# ", subsequent_indent="# ")
            if field.name in shown:
                lines.append(f"{field.name} = {toml(shown[field.name])}")
            else:
                lines.append(f"# {field.name} = {_sample_value(field)}")
        lines.append("")
    for field in dataclasses.fields(Settings):
        if field.name in NAMED:
            lines += textwrap.wrap(field.metadata["meaning"], 100, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"# [{field.name}]")
            lines += [f"# {name} = {toml(value)}" for name, value in field.metadata["example"].items()]
            lines.append("")
    return "\n".join(lines)


def _sample_value(field: dataclasses.Field[Any]) -> str:
    if field.metadata["example"] is not None:
        return toml(field.metadata["example"])
    if field.name == "tls":
        return '{ certificate = "tls/fullchain.pem", key = "tls/key.pem", policy = "optional" }'
    return _written(field, config.default(field))
