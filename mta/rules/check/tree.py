"""A file of Lua as a syntax tree, and where things stand in it.

Trees deeper than DEEPEST are not looked at: reading them would take as many nested calls of Python. Lua itself stops at
200 levels, so only text that no person writes is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import tree_sitter_lua
from tree_sitter import Language, Node, Parser

ERROR, WARNING = "error", "warning"
DEEPEST = 200

_LUA = Language(tree_sitter_lua.language())
_ASCII = bytes(n if n < 128 else ord("x") for n in range(256))  # one byte stays one byte; Lua's names are ASCII


class Source(NamedTuple):
    """A file to look at. `name` is what findings call it; `rules`: it has `on`, else it is a module."""

    name: str
    text: bytes
    rules: bool = True


class Finding(NamedTuple):
    """`line` and `column` count from 1. `what` is wrong, `advice` is what to do about it."""

    file: str
    line: int
    column: int
    level: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.level}: {self.what} ({self.advice})"


class Tree:
    """A file that was read. `whole` is False when Lua will not take it, or it is too deep.

    `other_globals`: it speaks of _ENV, so nobody can tell what a global is.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.bytes = source, source.text.removeprefix(b"\xef\xbb\xbf")
        self.root = Parser(_LUA).parse(self.bytes.translate(_ASCII)).root_node
        self.other_globals = b"_ENV" in self.bytes
        self.whole = not self.root.has_error and not _deep(self.root)

    def text(self, node: Node) -> str:
        return self.bytes[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def place(self, node: Node) -> tuple[int, int]:
        """(line, column) in characters."""
        line, column = node.start_point
        start = node.start_byte - column
        return line + 1, len(self.bytes[start : node.start_byte].decode("utf-8", "replace")) + 1

    def finding(self, node: Node, level: str, what: str, advice: str) -> Finding:
        return Finding(self.source.name, *self.place(node), level, what, advice)

    def literal(self, node: Node | None) -> str | None:
        """The text a string in quotes stands for, its bytes as Latin-1; None for anything else."""
        if node is None or node.type != "string":
            return None
        raw = self.bytes[node.start_byte : node.end_byte].decode("latin-1")
        long = re.fullmatch(r"\[(=*)\[\r?\n?(.*)\]\1\]", raw, re.S)
        return long[2] if long else _ESCAPE.sub(_unescape, raw[1:-1])


_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|([0-9]{1,3})|u\{([0-9A-Fa-f]{1,8})\}|z\s*|(\r\n|.))", re.S)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\r\n": "\n"}


def _unescape(found: re.Match[str]) -> str:
    hexadecimal, decimal, point, letter = found.groups()
    if hexadecimal:
        return chr(int(hexadecimal, 16))
    if decimal:
        return chr(int(decimal) & 255)
    if point:
        number = int(point, 16)
        return chr(number).encode("utf-8", "replace").decode("latin-1") if number < 0x110000 else "?"
    return _LETTERS.get(letter, letter) if letter else ""


def _deep(root: Node) -> bool:
    cursor, depth = root.walk(), 0
    while True:
        if cursor.goto_first_child():
            depth += 1
            if depth > DEEPEST:
                return True
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return False
            depth -= 1


def named(node: Node | None) -> list[Node]:
    """Its parts, without punctuation and comments."""
    return (
        [] if node is None else [one for one in node.named_children if one.type not in ("comment", "empty_statement")]
    )


def arguments(call: Node) -> list[Node]:
    given = call.child_by_field_name("arguments")
    return [] if given is None else [given] if given.type in ("string", "table_constructor") else named(given)


def inside(node: Node, *, functions: bool = False) -> Iterator[Node]:
    """A node and all below it, in order; what functions hold only if asked for."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        if functions or one is node or one.type not in ("function_definition", "function_declaration"):
            waiting.extend(reversed(named(one)))


def span(node: Node) -> tuple[int, int]:
    """What tells a node from others of its kind."""
    return node.start_byte, node.end_byte
