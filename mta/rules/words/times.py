"""Dates and times. A time is seconds since 1970 in UTC, whole or not."""

from __future__ import annotations

import datetime
import email.utils
import functools
import zoneinfo

from mta.rules.words.pure import Declared, declare, lua

_FORMATS = frozenset("aAbBdDeFHIjmMpSTuUVwWyYzZ%GgnsXxc")


@functools.lru_cache(maxsize=50)
def _zone(name: str) -> datetime.tzinfo:
    if name in ("", "UTC"):
        return datetime.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f'no time zone {name[:40]!r} (one is "Europe/Paris")') from None


def _moment(when: float, zone: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromtimestamp(when, _zone(zone))
    except (OverflowError, OSError):
        raise ValueError(f"{when} is no time of the years 1 to 9999") from None


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def seconds(duration: float | str | None) -> float | None:
    """A duration as people write it ("30s", "5m", "2h", "36d") or as a number of seconds. Raises ValueError."""
    if not isinstance(duration, str):
        return duration
    try:
        return float(duration[:-1]) * _UNITS[duration[-1]]
    except (ValueError, KeyError, IndexError):
        raise ValueError(f'{duration[:20]!r} is no duration (one is "30s", "5m", "2h" or "36d")') from None


@lua
def date(when: float, zone: str = "") -> str:
    """ "2024-12-31", in UTC or a zone like "Europe/Paris"."""
    return _moment(when, zone).strftime("%Y-%m-%d")


@lua
def time(when: float, zone: str = "") -> str:
    """ "23:59:59"."""
    return _moment(when, zone).strftime("%H:%M:%S")


@lua
def iso(when: float, zone: str = "") -> str:
    """RFC 3339: "2024-12-31T23:59:59Z"."""
    return _moment(when, zone).isoformat(timespec="seconds").replace("+00:00", "Z")


@lua
def rfc5322(when: float, zone: str = "") -> str:
    """As in a Date field: "Tue, 31 Dec 2024 23:59:59 +0000"."""
    return email.utils.format_datetime(_moment(when, zone))


@lua
def format(when: float, shape: str, zone: str = "") -> str:
    """As strftime: format(now(), "%H:%M")."""
    if len(shape) > 200:
        raise ValueError("a shape of a time has at most 200 characters")
    for n, piece in enumerate(shape.split("%%")):
        for part in piece.split("%")[1:]:
            if part[:1] not in _FORMATS or not part:
                raise ValueError(f"no %{part[:1]} in the shape of a time (part {n + 1})")
    return _moment(when, zone).strftime(shape)


@lua
def weekday(when: float, zone: str = "") -> int:
    """1 for Monday to 7 for Sunday."""
    return _moment(when, zone).isoweekday()


@lua
def hour(when: float, zone: str = "") -> int:
    """0 to 23."""
    return _moment(when, zone).hour


@lua
def parse(text: str) -> float:
    """The time a text says: RFC 5322 (a Date field) or RFC 3339; without a zone it is UTC."""
    text = text.strip()[:100]
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            raise ValueError(f"{text[:60]!r} is no date") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    try:
        return moment.timestamp()
    except OverflowError:
        raise ValueError(f"{text[:60]!r} is no date") from None


_ZONE = 'in UTC unless a zone is given ("Europe/Paris")'

WORDS: list[Declared] = [
    declare(
        "time.seconds(duration: string|number) -> number",
        'A duration in seconds: "30s", "5m", "2h", "36d".',
        'assert(time.seconds("5m") == 300)',
        seconds,
    ),
    declare(
        "time.format(when: number, form: string, zone?: string) -> string?, string?",
        f"A time in a form of its own, as strftime does, {_ZONE}.",
        'assert(time.format(0, "%H:%M") == "00:00")',
        format,
    ),
    declare(
        "time.parse(text: string) -> number?, string?",
        "The time a Date field or an RFC 3339 text says.",
        'assert(time.parse("Thu, 01 Jan 1970 00:01:00 +0000") == 60)',
        parse,
    ),
]

OF_NOW: list[Declared] = [  # about a time which is now unless given
    declare(
        "time.date(when?: number, zone?: string) -> string?, string?",
        f"The date of a time, or of now, {_ZONE}.",
        'assert(time.date(0) == "1970-01-01")',
        date,
    ),
    declare(
        "time.time(when?: number, zone?: string) -> string?, string?",
        f"The time of day, {_ZONE}.",
        'assert(time.time(3661) == "01:01:01")',
        time,
    ),
    declare(
        "time.iso(when?: number, zone?: string) -> string?, string?",
        "Date and time as in RFC 3339.",
        'assert(time.iso(0) == "1970-01-01T00:00:00Z")',
        iso,
    ),
    declare(
        "time.rfc5322(when?: number, zone?: string) -> string?, string?",
        "As in a Date field.",
        'assert(time.rfc5322(0) == "Thu, 01 Jan 1970 00:00:00 +0000")',
        rfc5322,
    ),
    declare(
        "time.weekday(when?: number, zone?: string) -> integer?, string?",
        "1 for Monday to 7 for Sunday.",
        "assert(time.weekday(0) == 4)",
        weekday,
    ),
    declare(
        "time.hour(when?: number, zone?: string) -> integer?, string?",
        "0 to 23.",
        'assert(time.hour(0, "Europe/Paris") == 1)',
        hour,
    ),
]
