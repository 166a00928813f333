"""Find, read and check mta.toml; every complaint says file, line, key and what to do.

A file becomes the frozen `Settings` of settings.py. All complaints are collected, so one look at a file mends it whole.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

from mta import toml
from mta.message import target
from mta.message.address import parse_domain
from mta.message.reply import Refused, Reply
from mta.settings import Domain, Listener, Route, Settings
from mta.toml import Key

PLACES = ("mta.toml", "mta-dev/mta.toml", "/etc/mta/mta.toml")

# Known to come, so that nobody wonders about the spelling; never silently ignored.
NOT_BUILT_VALUES = {
    ("kind", "lmtp"): "lmtp listeners are not built yet",
    ("transport", "lmtp"): "the lmtp transport is not built yet",
    ("transport", "program"): "the program transport is not built yet",
}
NOT_BUILT_LOGS = ("journal:", "syslog:")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)B?", re.I)
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class ConfigError(Exception):
    """What is wrong with a file: `complaints`, each one line that begins with file and line."""

    def __init__(self, *complaints: str) -> None:
        self.complaints = complaints
        super().__init__("\n".join(complaints))


class Config(NamedTuple):
    """A file that was read. `lines` holds the line of every key it sets."""

    settings: Settings
    path: Path
    lines: dict[Key, int]


def seconds(text: str) -> float:
    """ "30s", "5m", "2h", "5d", "1h 30m" -> seconds. Raises ValueError."""
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError('must be a duration like "30s", "5m", "2h" or "5d"')
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def size(text: str) -> int:
    """ "500K", "10M", "2G" -> bytes (K is 1024). Raises ValueError."""
    shape = _SIZE.fullmatch(text.strip())
    if not shape:
        raise ValueError('must be a size like "500K", "10M" or "2G"')
    return int(shape[1]) * _BYTES[shape[2].upper()]


def find(given: str | None = None) -> tuple[Path, str]:
    """The file to read and why it was chosen. Raises ConfigError when there is none."""
    if given:
        return Path(given), "-c"
    if os.environ.get("MTA_CONFIG"):
        return Path(os.environ["MTA_CONFIG"]), "$MTA_CONFIG"
    for place in PLACES:
        if os.path.isfile(place):
            return Path(place), "found here" if not place.startswith("/") else "the system's"
    raise ConfigError(
        "no configuration: looked for -c FILE, $MTA_CONFIG, ./mta.toml, ./mta-dev/mta.toml and /etc/mta/mta.toml;\n"
        '"mta dev" makes one to play with, "mta config sample" prints one'
    )


def read(path: str | os.PathLike[str]) -> Config:
    """Read and check one file. Raises ConfigError with every complaint."""
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 (byte {error.start})") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\s*\(at line (\d+), column \d+\)", str(error))
        line = where[1] if where else str(text.count("\n") + 1)
        raise ConfigError(f"{path}:{line}: {re.sub(r' *[(]at .*[)]', '', str(error))}") from None
    reader = _Reader(path, toml.line_numbers(text))
    settings = reader.table(Settings, table, ())
    reader.whole(settings)
    if reader.complaints:
        raise ConfigError(*(text for _, text in sorted(reader.complaints, key=lambda complaint: complaint[0])))
    return Config(settings, path, reader.lines)


def run_folder(path: Path) -> str:
    """server.run alone, so that a server can be asked and stopped while its file has mistakes. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return read(path).settings.server.run  # says what is wrong
    server = table.get("server")
    run = server.get("run", "run") if isinstance(server, dict) else "run"
    return os.path.join(os.path.abspath(path.parent), str(run))


class _Reader:
    """Builds settings out of a table, noting every complaint."""

    def __init__(self, path: Path, lines: dict[Key, int]) -> None:
        self.path, self.lines, self.complaints = path, lines, list[tuple[int, str]]()
        self.wrong: list[Key] = []

    def sound(self, *at: str | int) -> bool:
        """Nothing was said about this key, its table, or what is below it, so its value is what it should be."""
        return not any(key[: len(at)] == at or at[: len(key)] == key for key in self.wrong)

    def complain(self, at: Key, what: str) -> None:
        self.wrong.append(at)
        line = self.line(at)
        complaint = line, f"{self.path}:{line}: {section(at[:-1])}{what}"
        if complaint not in self.complaints:
            self.complaints.append(complaint)

    def line(self, at: Key) -> int:
        """Where a key stands; for one that is not there, where its table does."""
        while at:
            if at in self.lines:
                return self.lines[at]
            below = [line for key, line in self.lines.items() if key[: len(at)] == at]
            if below:
                return min(below)
            at = at[:-1]
        return 1

    def table(self, kind: Any, given: Any, at: Key) -> Any:
        if not isinstance(given, dict):
            self.complain(at, f"{at[-1]} must be a table")
            given = {}
        hints = typing.get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        made = {}
        for key, value in given.items():
            here = (*at, key)
            if key not in fields:
                self.complain(here, unknown(key, list(fields), "setting" if at else "section"))
            else:
                made[key] = self.value(hints[key], value, here, fields[key].metadata)
        for key, field in fields.items():
            if key not in made and key not in given:
                if dataclasses.is_dataclass(hints[key]):
                    made[key] = self.table(hints[key], {}, (*at, key))
                elif field.metadata["unit"] == "path":
                    made[key] = self.beside(default(field), field.metadata)
        return kind(**made)

    def beside(self, path: Any, about: Any) -> Any:
        """A path, or a list of them, beside the file it stands in."""
        if isinstance(path, list):
            return [self.beside(one, about) for one in path]
        return os.path.join(os.path.abspath(self.path.parent), path) if path and path not in about["words"] else path

    def value(self, kind: Any, given: Any, at: Key, about: Any) -> Any:
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if origin is types.UnionType:  # Something | None
            return self.value(inner[0], given, at, about)
        if dataclasses.is_dataclass(kind):
            return self.table(kind, given, at)
        if origin is dict:
            if not isinstance(given, dict):
                self.complain(at, f'write [{at[-1]}."name"]')
                return {}
            if dataclasses.is_dataclass(inner[1]):
                return {name.lower(): self.table(inner[1], below, (*at, name)) for name, below in given.items()}
            return {name: self.named(inner[1], below, (*at, name), about) for name, below in given.items()}
        if origin is list:
            if not isinstance(given, list):
                sections = dataclasses.is_dataclass(inner[0])
                self.complain(at, f"write [[{at[-1]}]]" if sections else f"{at[-1]} must be a list")
                return []
            return [
                self.value(inner[0], value, (*at, n) if dataclasses.is_dataclass(inner[0]) else at, about)
                for n, value in enumerate(given)
            ]
        return self.plain(kind, given, at, about)

    def named(self, kind: Any, given: Any, at: Key, about: Any) -> Any:
        """A value under a name the administrator chose."""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(at[-1])):
            self.complain(at, f"{at[-1]!r} cannot be a word in rules; write it with letters, digits and _")
        if kind is not Any:
            return self.plain(kind, given, at, about)
        if isinstance(given, list):
            return [self.named(kind, one, at, about) for one in given]
        if not isinstance(given, str | int | float):
            self.complain(at, f"{at[-1]} must be text, a number, true or false, or a list of them")
        return given

    def plain(self, kind: type, given: Any, at: Key, about: Any) -> Any:
        """One string, number or boolean. A wrong one is noted and given back as it is."""
        unit = about["unit"]
        try:
            if unit == "seconds" and isinstance(given, str):
                given = seconds(given)
            elif unit == "bytes" and isinstance(given, str):
                given = size(given)
            elif kind is float and type(given) is int:
                given = float(given)
        except ValueError as error:
            self.complain(at, f"{at[-1]} {error}")
            return given
        if type(given) is not kind:
            wanted = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}[kind]
            extra = {"seconds": ' (seconds) or a duration like "30s"', "bytes": ' (bytes) or a size like "10M"'}
            self.complain(at, f"{at[-1]} must be {wanted}{extra.get(unit, '')}")
            return given
        missing = NOT_BUILT_VALUES.get((str(at[-1]), str(given)))
        if at[:2] == ("log", "to") and str(given).startswith(NOT_BUILT_LOGS):
            missing = f"logging to {given} is not built yet"
        complaint = missing or (about["check"](given) if about["check"] else None)
        if complaint:
            self.complain(at, complaint if missing else f"{at[-1]} {complaint}")
        elif unit == "path" and not (given or about["empty"]):
            self.complain(at, f"{at[-1]} must not be empty")
        elif unit == "path" and "\0" in str(given):
            self.complain(at, f"{at[-1]} cannot hold a NUL")
        elif unit == "path":
            return self.beside(given, about)
        return given

    def whole(self, settings: Settings) -> None:
        """What can only be judged with several settings in sight."""
        if self.sound("server", "trusted"):
            for network in settings.server.trusted:
                self.network(network, ("server", "trusted"))
        if self.sound("server", "name"):
            self.domain_name(settings.server.name, ("server", "name"))
        if self.sound("queue", "retry"):
            self.waits(settings.queue.retry, ("queue", "retry"))
        if self.sound("dns", "servers"):
            for server in settings.dns.servers:
                self.name_server(server, ("dns", "servers"))
        taken: dict[str, int] = {}
        for n, listener in enumerate(settings.listener):
            if self.sound("listener", n):
                self.listener(listener, ("listener", n))
                first = taken.setdefault(listener.address, n)
                if first != n:
                    self.complain(("listener", n, "address"), f"{listener.address} has a listener already")
        for name, domain in settings.domain.items():
            if self.sound("domain", name):
                self.place(domain, ("domain", name))
                if domain.transport == "smtp" and not domain.host:
                    self.complain(("domain", name, "transport"), "smtp needs a host")
        for name, route in settings.route.items():
            if self.sound("route", name):
                self.place(route, ("route", name))
                if name in settings.domain:
                    self.complain(("route", name), f"{name} is a domain of ours; set transport there")
        for name, text in settings.replies.items():
            if self.sound("replies", name):
                try:
                    Reply.parse(text)
                except ValueError as error:
                    self.complain(("replies", name), f"{name}: {error}")
        for name, service in settings.service.items():
            at = ("service", name)
            if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
                self.complain(at, f"{name!r} cannot be a word in rules; write it with letters, digits and _")
            elif self.sound(*at):
                wrong = service.complaint()
                if wrong:
                    self.complain((*at, wrong[0]), " ".join(wrong))

    def network(self, text: str, at: Key) -> None:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            try:
                advice = f"write {str(ipaddress.ip_network(text, strict=False))!r}"  # 10.0.0.5/24 is 10.0.0.0/24
            except ValueError:
                advice = 'write "192.0.2.1" or "192.0.2.0/24"'
            self.complain(at, f"{at[-1]}: {text!r} is not a network; {advice}")

    def waits(self, retry: list[str], at: Key) -> None:
        for wait in retry:
            try:
                if not seconds(wait):
                    raise ValueError("would try again without end; wait at least a moment")
            except ValueError as error:
                self.complain(at, f"retry: {wait!r} {error}")
        if not retry:
            self.complain(at, "retry needs at least one wait")

    def name_server(self, text: str, at: Key) -> None:
        try:
            host, _ = address(f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text, port=53)
            ipaddress.ip_address(host)
        except ValueError:
            self.complain(at, f'servers: {text!r} is not an address; write "192.0.2.1" or "192.0.2.1:53"')

    def listener(self, listener: Listener, at: Key) -> None:
        try:
            address(listener.address)
        except ValueError as error:
            self.complain((*at, "address"), str(error))
        tls = listener.tls
        if tls is None and listener.kind == "submissions":
            self.complain((*at, "kind"), "submissions speaks TLS at once: add tls = { certificate = ..., key = ... }")
        if tls is not None and not tls.certificate:
            self.complain((*at, "tls"), "tls needs a certificate")

    def place(self, place: Domain | Route, at: Key) -> None:
        if at[-1] != "*":
            self.domain_name(str(at[-1]), at)
        wrong = target.complaint(place.host) if place.host else None
        if wrong:
            self.complain((*at, "host"), wrong)

    def domain_name(self, name: str, at: Key) -> None:
        try:
            parse_domain(name)
        except Refused:
            self.complain(at, f"{name!r} is not a domain name")


def default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def place(made: Config, *at: str | int) -> str:
    """The beginning of a complaint about a key of a file that was read: 'mta.toml:7: [[listener]] '."""
    line = next((made.lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in made.lines), 1)
    return f"{made.path}:{line}: {section(at[:-1])}"


def section(at: Key) -> str:
    """How a person writes the place of a key: "[smtp] ", "[[listener]] ", '[domain."example.test"] '."""
    if not at:
        return ""
    if len(at) > 1 and isinstance(at[1], int):
        return f"[[{at[0]}]] " + "".join(f"{key}: " for key in at[2:])
    return "[" + ".".join(key if re.fullmatch(r"[\w-]+", str(key)) else f'"{key}"' for key in map(str, at)) + "] "


def unknown(word: str, known: list[str], what: str) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.5)
    return f"there is no {what} {word}" + (f"; did you mean {near[0]}?" if near else f" (there are {', '.join(known)})")


def address(text: str, port: int | None = None) -> tuple[str, int]:
    """ "host:port" or "[address]:port" -> (host, port); what begins with "systemd:" -> (itself, 0). Raises ValueError.

    Without `port` (the default one) the text must name a port.
    """
    if text.startswith("systemd:"):
        return text, 0
    shape = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\[\]:\s/@]+))(?::(\d+))?", text)
    if not shape or (shape[3] is None and port is None):
        raise ValueError(f'{text!r} is not an address; write "host:port" or "[::1]:port"')
    number = int(shape[3]) if shape[3] is not None else port or 0
    if number > 65535:
        raise ValueError(f"{text!r}: a port is at most 65535")
    return shape[1] or shape[2], number
