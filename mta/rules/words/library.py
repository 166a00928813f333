"""The part of Lua's own library that rules have; lua/library.lua bounds what could run long or take much."""

from __future__ import annotations

from mta.rules.words.word import Word, word


def _library(signature: str, meaning: str, example: str) -> Word:
    return word(signature, meaning, example, kind="library" if "(" in signature else "field")


LIBRARY = [
    _library("assert(value: any, message?: string) -> any", "An error unless value is true.", 'assert(1 == 1, "no")'),
    _library("error(message: any, level?: integer)", "Raise an error.", 'assert(not pcall(error, "no"))'),
    _library(
        "ipairs(list: table) -> function, table, integer",
        "Walk a list.",
        "for n, v in ipairs({ 5 }) do assert(v == 5) end",
    ),
    _library(
        "pairs(t: table) -> function, table, any",
        "Walk a table.",
        "for k, v in pairs({ a = 1 }) do assert(k == 'a') end",
    ),
    _library(
        "pcall(f: function, ...: any) -> boolean, any",
        "Call; false and the error if it failed. Never survives a limit.",
        'assert(pcall(error, "x") == false)',
    ),
    _library(
        "xpcall(f: function, handler: function, ...: any) -> boolean, any",
        "As pcall; the error goes through handler.",
        "assert(xpcall(function() end, print))",
    ),
    _library("rawequal(a: any, b: any) -> boolean", "Equal without metamethods.", "assert(rawequal(1, 1))"),
    _library("rawget(t: table, key: any) -> any", "Read without metamethods.", "assert(rawget({ a = 1 }, 'a') == 1)"),
    _library("rawlen(t: table) -> integer", "Length without metamethods.", "assert(rawlen({ 1 }) == 1)"),
    _library(
        "rawset(t: table, key: any, value: any) -> table",
        "Write without metamethods; not into what is read-only.",
        "assert(rawset({}, 'a', 1).a == 1)",
    ),
    _library(
        "select(n: any, ...: any) -> any",
        "The n-th argument and those behind it, or their number.",
        'assert(select("#", 1, 2) == 2)',
    ),
    _library("setmetatable(t: table, meta?: table) -> table", "Without __gc.", "setmetatable({}, { __index = {} })"),
    _library("getmetatable(t: any) -> table?", "Of tables only.", "assert(getmetatable({}) == nil)"),
    _library("tonumber(value: any, base?: integer) -> number?", "Read a number.", 'assert(tonumber("ff", 16) == 255)'),
    _library("tostring(value: any) -> string", "As text.", 'assert(tostring(mail.client.port) == "40000")'),
    _library("type(value: any) -> string", "The type of a value.", 'assert(type(mail) == "table")'),
    _library(
        "string.byte(s: string, i?: integer, j?: integer) -> integer",
        "The bytes from i to j.",
        'assert(("a"):byte() == 97)',
    ),
    _library("string.char(...: integer) -> string", "Text of these bytes.", 'assert(string.char(97) == "a")'),
    _library(
        "string.find(s: string, pattern: string, init?: integer, plain?: boolean) -> integer?, integer?, string",
        "Where a pattern is found.",
        'assert(("abc"):find("b") == 2)',
    ),
    _library(
        "string.format(form: string, ...: any) -> string",
        "Text from a form.",
        'assert(("%d %s"):format(1, "a") == "1 a")',
    ),
    _library(
        "string.gmatch(s: string, pattern: string, init?: integer) -> function",
        "Walk all matches.",
        'for w in ("a b"):gmatch("%a") do assert(#w == 1) end',
    ),
    _library(
        "string.gsub(s: string, pattern: string, by: any, max?: integer) -> string, integer",
        "Replace matches.",
        'assert(("aa"):gsub("a", "b") == "bb")',
    ),
    _library("string.len(s: string) -> integer", "Its length in bytes.", 'assert(("abc"):len() == 3)'),
    _library("string.lower(s: string) -> string", "In lower case.", 'assert(("ABC"):lower() == "abc")'),
    _library(
        "string.match(s: string, pattern: string, init?: integer) -> string?",
        "What a pattern captures.",
        'assert(("a=1"):match("=(%d)") == "1")',
    ),
    _library(
        "string.rep(s: string, n: integer, between?: string) -> string",
        "Repeated; at most 8 MiB.",
        'assert(("a"):rep(3) == "aaa")',
    ),
    _library("string.reverse(s: string) -> string", "Backwards.", 'assert(("abc"):reverse() == "cba")'),
    _library(
        "string.sub(s: string, i: integer, j?: integer) -> string", "A piece of it.", 'assert(("abc"):sub(2) == "bc")'
    ),
    _library("string.upper(s: string) -> string", "In upper case.", 'assert(("abc"):upper() == "ABC")'),
    _library(
        "table.concat(list: table, between?: string, i?: integer, j?: integer) -> string",
        "Joined.",
        'assert(table.concat({ 1, 2 }, ",") == "1,2")',
    ),
    _library(
        "table.insert(list: table, at: any, value?: any)",
        "Put in, at the end unless a place is given.",
        "local t = { 1 }\ntable.insert(t, 2)\nassert(#t == 2)",
    ),
    _library(
        "table.move(from: table, first: integer, last: integer, at: integer, to?: table) -> table",
        "Copy elements.",
        "assert(table.move({ 1, 2 }, 1, 2, 2)[3] == 2)",
    ),
    _library("table.pack(...: any) -> table", "The arguments as a list, with n.", "assert(table.pack(1, nil).n == 2)"),
    _library(
        "table.remove(list: table, at?: integer) -> any",
        "Take out, the last unless a place is given.",
        "assert(table.remove({ 1, 2 }) == 2)",
    ),
    _library(
        "table.sort(list: table, before?: function)",
        "Sort in place.",
        "local t = { 2, 1 }\ntable.sort(t)\nassert(t[1] == 1)",
    ),
    _library(
        "table.unpack(list: table, i?: integer, j?: integer) -> any",
        "The elements as values; at most 8,000.",
        "assert(select('#', table.unpack({ 1, 2 })) == 2)",
    ),
    _library("math.abs(x: number) -> number", "Without its sign.", "assert(math.abs(-1) == 1)"),
    _library("math.ceil(x: number) -> integer", "Rounded up.", "assert(math.ceil(1.5) == 2)"),
    _library("math.exp(x: number) -> number", "e to the power of x.", "assert(math.exp(0) == 1)"),
    _library("math.floor(x: number) -> integer", "Rounded down.", "assert(math.floor(1.5) == 1)"),
    _library("math.fmod(x: number, y: number) -> number", "The rest of a division.", "assert(math.fmod(5, 3) == 2)"),
    _library("math.huge: number", "More than any number.", "assert(math.huge > 1)"),
    _library("math.log(x: number, base?: number) -> number", "The logarithm.", "assert(math.log(8, 2) == 3)"),
    _library("math.max(x: number, ...: number) -> number", "The largest.", "assert(math.max(1, 2) == 2)"),
    _library("math.maxinteger: integer", "The largest whole number.", "assert(math.maxinteger > 0)"),
    _library("math.min(x: number, ...: number) -> number", "The smallest.", "assert(math.min(1, 2) == 1)"),
    _library("math.mininteger: integer", "The smallest whole number.", "assert(math.mininteger < 0)"),
    _library("math.modf(x: number) -> number, number", "Whole part and fraction.", "assert(math.modf(1.5) == 1)"),
    _library("math.pi: number", "3.14159...", "assert(math.pi > 3)"),
    _library(
        "math.random(low?: integer, high?: integer) -> number",
        "Chance: in [0, 1), or whole from low (1) to high.",
        "local n = math.random(6)\nassert(n >= 1 and n <= 6)",
    ),
    _library("math.sqrt(x: number) -> number", "The square root.", "assert(math.sqrt(9) == 3)"),
    _library(
        "math.tointeger(x: any) -> integer?", "As a whole number, if it is one.", "assert(math.tointeger(2.0) == 2)"
    ),
    _library("math.type(x: any) -> string?", "integer or float.", 'assert(math.type(1) == "integer")'),
    _library("math.ult(a: integer, b: integer) -> boolean", "Less, as unsigned numbers.", "assert(math.ult(1, -1))"),
    _library("utf8.char(...: integer) -> string", "Text of these code points.", "assert(#utf8.char(228) == 2)"),
    _library(
        "utf8.charpattern: string", "A pattern for one character.", 'assert(("ab"):match(utf8.charpattern) == "a")'
    ),
    _library(
        "utf8.codepoint(s: string, i?: integer, j?: integer) -> integer",
        "Code points from i to j.",
        'assert(utf8.codepoint("a") == 97)',
    ),
    _library(
        "utf8.codes(s: string) -> function",
        "Walk the code points.",
        'for _, c in utf8.codes("a") do assert(c == 97) end',
    ),
    _library("utf8.len(s: string) -> integer?", "Characters; nil if it is not UTF-8.", 'assert(utf8.len("abc") == 3)'),
    _library(
        "utf8.offset(s: string, n: integer, i?: integer) -> integer?",
        "Where the n-th character starts.",
        'assert(utf8.offset("abc", 2) == 2)',
    ),
    _library("os.time(t?: table) -> integer", "Seconds since 1970.", "assert(os.time() > 0)"),
    _library(
        "os.date(form?: string, time?: integer) -> string", "A time as text.", 'assert(os.date("!%Y", 0) == "1970")'
    ),
    _library(
        "coroutine.create(f: function) -> thread", "A coroutine of the rule's own.", "assert(coroutine.create(print))"
    ),
    _library(
        "coroutine.resume(co: thread, ...: any) -> boolean, any",
        "Let it go on.",
        "assert(coroutine.resume(coroutine.create(function() end)))",
    ),
    _library(
        "coroutine.wrap(f: function) -> function",
        "A coroutine as a function.",
        "assert(coroutine.wrap(function() return 1 end)() == 1)",
    ),
    _library(
        "coroutine.yield(...: any) -> any",
        "Hand over to who resumed it.",
        "assert(coroutine.wrap(function() coroutine.yield(2) end)() == 2)",
    ),
    _library(
        "coroutine.status(co: thread) -> string",
        "suspended, running, normal or dead.",
        'assert(coroutine.status(coroutine.create(print)) == "suspended")',
    ),
    _library("coroutine.isyieldable() -> boolean", "May what waits be used here?", "assert(coroutine.isyieldable())"),
    _library("coroutine.running() -> thread, boolean", "The coroutine that runs.", "assert(coroutine.running())"),
]
