"""Dates and times. A time is seconds since 1970 in UTC, whole or not."""

from __future__ import annotations

import datetime
import email.utils
import functools
import zoneinfo

from mta.rules.words import word

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


@word
def date(when: float, zone: str = "") -> str:
    """ "2024-12-31", in UTC or a zone like "Europe/Paris"."""
    return _moment(when, zone).strftime("%Y-%m-%d")


@word
def time(when: float, zone: str = "") -> str:
    """ "23:59:59"."""
    return _moment(when, zone).strftime("%H:%M:%S")


@word
def iso(when: float, zone: str = "") -> str:
    """RFC 3339: "2024-12-31T23:59:59Z"."""
    return _moment(when, zone).isoformat(timespec="seconds").replace("+00:00", "Z")


@word
def rfc5322(when: float, zone: str = "") -> str:
    """As in a Date field: "Tue, 31 Dec 2024 23:59:59 +0000"."""
    return email.utils.format_datetime(_moment(when, zone))


@word
def format(when: float, shape: str, zone: str = "") -> str:
    """As strftime: format(now(), "%H:%M")."""
    if len(shape) > 200:
        raise ValueError("a shape of a time has at most 200 characters")
    for n, piece in enumerate(shape.split("%%")):
        for part in piece.split("%")[1:]:
            if part[:1] not in _FORMATS or not part:
                raise ValueError(f"no %{part[:1]} in the shape of a time (part {n + 1})")
    return _moment(when, zone).strftime(shape)


@word
def weekday(when: float, zone: str = "") -> int:
    """1 for Monday to 7 for Sunday."""
    return _moment(when, zone).isoweekday()


@word
def hour(when: float, zone: str = "") -> int:
    """0 to 23."""
    return _moment(when, zone).hour


@word
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
