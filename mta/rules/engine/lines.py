"""Keeps the line of `return deny("...")`: turns the tail calls in compiled Lua into plain calls.

A tail call takes its caller off the stack, so an error in the called function no longer knows which line called it, and
`return deny(...)` is the very idiom of our rules. In the byte code a tail call is the instruction TAILCALL followed by
the RETURN of all its results; put CALL (with all results) in its place and the same program keeps its frames. The
layout is that of Lua 5.4 (ldump.c, lopcodes.h); code of any other is left as it is, see `with_lines` in called.py.
"""

from __future__ import annotations

import struct

CALL, TAILCALL = 68, 69
NUMBER, INTEGER, SHORT, LONG = 0x13, 0x03, 0x04, 0x14  # tags of constants that have a value behind them
HEAD = 4 + 1 + 1 + 6 + 3 + 8 + 8 + 1  # signature, version, format, data, three sizes, two samples, upvalues


class Chunk:
    """A walk over compiled Lua that changes instructions where they stand."""

    def __init__(self, code: bytes) -> None:
        self.code, self.at = bytearray(code), HEAD

    def byte(self) -> int:
        self.at += 1
        return self.code[self.at - 1]

    def size(self) -> int:
        """Seven bits a byte, the highest first; the last byte has its top bit set."""
        number = 0
        while True:
            byte = self.byte()
            number = number << 7 | byte & 0x7F
            if byte & 0x80:
                return number

    def skip(self, each: int) -> None:
        number = self.size()
        self.at += number * each

    def text(self) -> None:
        length = self.size()  # one more than it has; 0 stands for none
        self.at += max(length - 1, 0)

    def function(self) -> None:
        self.text()  # source
        self.size(), self.size()  # first and last line
        self.at += 3  # parameters, vararg, stack
        self.instructions()
        self.constants()
        self.skip(3)  # upvalues
        for _ in range(self.size()):
            self.function()
        self.skip(1)  # a line for each instruction
        for _ in range(self.size()):
            self.size(), self.size()
        for _ in range(self.size()):  # local variables
            self.text()
            self.size(), self.size()
        for _ in range(self.size()):  # names of upvalues
            self.text()

    def instructions(self) -> None:
        for _ in range(self.size()):
            (word,) = struct.unpack_from("<I", self.code, self.at)
            if word & 0x7F == TAILCALL:  # keep A and B; C = 0 means all results, k belongs to TAILCALL alone
                struct.pack_into("<I", self.code, self.at, word & 0x00FF7F80 | CALL)
            self.at += 4

    def constants(self) -> None:
        for _ in range(self.size()):
            tag = self.byte()
            if tag in (NUMBER, INTEGER):
                self.at += 8
            elif tag in (SHORT, LONG):
                self.text()


def keep(code: bytes) -> bytes:
    """The same compiled chunk without tail calls. Raises IndexError or struct.error for another layout."""
    chunk = Chunk(code)
    chunk.function()
    if chunk.at != len(code):
        raise IndexError("not the layout of Lua 5.4")
    return bytes(chunk.code)
