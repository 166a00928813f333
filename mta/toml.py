"""Where each table and key of a TOML document stands: tomllib does not tell, so the text is read once more for that."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

Key = tuple[str | int, ...]  # ("listener", 0, "tls", "key")


def line_numbers(text: str) -> dict[Key, int]:
    """Where each table and key of a TOML document stands (first line is 1)."""
    found: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    lines = text.split("\n")
    n = 0
    while n < len(lines):
        line, here = lines[n].strip(), n + 1
        n += 1
        if line.startswith("["):
            name = re.match(r"(\[\[?)(.*?)\]", line)
            keys = _keys(name[2]) if name else ()
            if name and name[1] == "[[":
                counts[keys] = counts.get(keys, -1) + 1
                keys = (*keys, counts[keys])
            elif keys[:1] and keys[:1] in counts:  # [listener.tls] belongs to the last [[listener]]
                keys = (keys[0], counts[keys[:1]], *keys[1:])
            table = keys
            found.setdefault(table, here)
        elif line and line[0] != "#" and "=" in line:
            name_, value = _assignment(line)
            while n < len(lines) and not _whole(value):  # arrays and long strings run over lines
                value += "\n" + lines[n]
                n += 1
            found.setdefault((*table, *name_), here)
            for inner in _inner(value):
                found.setdefault((*table, *name_, *inner), here)
    return found


def _assignment(line: str) -> tuple[Key, str]:
    quoted = re.match(r"""((?:"[^"]*"|'[^']*'|[^="'])+)=(.*)""", line, re.S)
    return (_keys(quoted[1]), quoted[2]) if quoted else ((), "")


def _keys(dotted: str) -> Key:
    return tuple(a or b or c for a, b, c in re.findall(r"""\s*(?:"([^"]*)"|'([^']*)'|([\w-]+))\s*\.?""", dotted))


def _whole(value: str) -> bool:
    try:
        tomllib.loads(f"x = {value}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def _inner(value: str) -> Iterator[Key]:
    """The keys of an inline table."""

    def walk(value: Any, at: Key) -> Iterator[Key]:
        if isinstance(value, dict):
            for key, below in value.items():
                yield (*at, key)
                yield from walk(below, (*at, key))

    return walk(tomllib.loads(f"x = {value}")["x"], ())
