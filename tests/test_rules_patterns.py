"""The matcher that a budget can stop gives what Lua's own gives, for every function and every kind of pattern."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from lupa import lua54

from mta import resources

COMPARE = """
local P = ...
local function same(a, b)
  if not b[1] then -- Lua notices a malformed pattern only when it gets there; we read it first
    return not a[1] or b[2]:find("malformed") or b[2]:find("invalid") or b[2]:find("unfinished") or b[2]:find("missing")
  elseif not a[1] then
    return false
  elseif a.n ~= b.n then
    return false
  end
  for n = 2, a.n do
    if a[n] ~= b[n] then return false end
  end
  return true
end
local function walk(f, s, p)
  local out = {}
  for a, b in f(s, p) do
    out[#out + 1] = tostring(a) .. "," .. tostring(b)
    if #out > 50 then break end
  end
  return table.concat(out, ";")
end
local function differ(name, ...)
  local theirs, ours = string[name], P[name]
  if name == "gmatch" then
    theirs, ours = function(...) return walk(string.gmatch, ...) end, function(...) return walk(P.gmatch, ...) end
  end
  return not same(table.pack(pcall(theirs, ...)), table.pack(pcall(ours, ...)))
end
return function(s, p, init, by)
  if differ("find", s, p, init) then return "find" end
  if differ("match", s, p, init) then return "match" end
  if differ("gmatch", s, p) then return "gmatch" end
  if differ("gsub", s, p, by, init > 2 and init or nil) then return "gsub" end
  local up = function(x) if x ~= "b" then return "<" .. tostring(x) .. ">" end end
  if differ("gsub", s, p, up) then return "gsub with a function" end
end
"""

ITEMS = [
    "a", "b", ".", "%a", "%d", "[ab]", "[^a]", "%s", "(a)", "(.-)", "()", "%w", "x", "[%w_]", "[a-c]", "[]]", "[^]]",
    "%.", "%bab", "%f[a]", "%f[^a]", "(%a)%1", "^", "$", "-", "(a*)", "%D", "[%-]", "[a-]", "%", "[", "(", ")", "%2",
    "%z", "%Z",
]  # fmt: skip
QUANTIFIERS = ["", "", "*", "+", "-", "?"]


@pytest.fixture(scope="module")
def lua() -> lua54.LuaRuntime:
    return lua54.LuaRuntime(encoding="latin-1", unpack_returned_tuples=True)


def matcher(lua: lua54.LuaRuntime, worst: str = "0") -> Any:
    """patterns.lua over a kernel without budget, doing all the work itself."""
    folder = resources.folder("lua")
    words = (folder / "patterns.lua").read_text("utf-8").replace("WORST = 4e6", f"WORST = {worst}")
    load = lua.eval("function(text, ...) return assert(load(text))(...) end")
    kernel = lua.eval("{fail = function(text) error(text, 0) end, charge = function() end}")
    raw = lua.eval("{string.find, string.match, string.gmatch, string.gsub, string.byte, string.sub, string.char}")
    return load(words, kernel, load((folder / "matcher.lua").read_text("utf-8"), kernel, raw), raw)


def patterns(count: int) -> Iterator[tuple[str, str, int, str]]:
    chance = random.Random(5)
    for _ in range(count):
        parts = []
        for _ in range(chance.randint(1, 5)):
            item = chance.choice(ITEMS)
            parts.append(item + (chance.choice(QUANTIFIERS) if item[0] not in "(^$" else ""))
        pattern = "^" * (chance.random() < 0.2) + "".join(parts) + "$" * (chance.random() < 0.2)
        subject = "".join(chance.choice("abxz1 .-_]\0") for _ in range(chance.randint(0, 12)))
        yield subject, pattern, chance.choice([1, 1, 1, 2, 5, -2, 20]), chance.choice(["z", "%0%0", "<%1>", "%%", "%9"])


@pytest.mark.parametrize("count", [4000, pytest.param(40_000, marks=pytest.mark.long)])
def test_it_finds_what_lua_finds(lua: lua54.LuaRuntime, count: int) -> None:
    compare = lua.eval("function(text, P) return load(text)(P) end")(COMPARE, matcher(lua))
    wrong = [(*case, what) for case in patterns(count) if (what := compare(*case))]
    assert not wrong[:5]


def test_text_is_found_as_lua_finds_it(lua: lua54.LuaRuntime) -> None:
    source = matcher(lua)
    chance = random.Random(7)
    native = lua.eval("function(s, t, i) return string.find(s, t, i, true) end")
    ours = lua.eval("function(P, s, t, i) return P.find(s, t, i, true) end")
    for _ in range(500):
        s = "".join(chance.choice("ab") for _ in range(chance.randint(0, 20)))
        t = "".join(chance.choice("ab") for _ in range(chance.randint(0, 4)))
        init = chance.choice([1, 2, -3, 30])
        assert ours(source, s, t, init) == native(s, t, init)


def test_long_text_in_long_text(lua: lua54.LuaRuntime) -> None:
    """Lua's own search compares length * length bytes here."""
    ours = lua.eval("function(P, a, b) return P.find(a, b, 1, true) end")
    half = "a" * 30_000
    assert ours(matcher(lua), half + half + "b" + half, half + "b") == (30_001, 60_001)
    assert ours(matcher(lua), half + half, half + "b") is None


@pytest.mark.parametrize(
    ("subject", "pattern"),
    [
        ("a" * 200, ".-.-.-.-b"),
        ("a" * 4000, ".*.*b"),
        ("a" * 65536, ".-b"),
        ("a" * 30, "a?" * 30 + "a" * 30 + "b"),
        ("(" * 60_000, "%b()%b()"),
    ],
)
def test_what_may_take_long_is_not_given_to_c(lua: lua54.LuaRuntime, subject: str, pattern: str) -> None:
    """The kernel's hook must get its turn; here a hook that gives up stands for it."""
    run = lua.eval(
        """function(P, s, p)
          local turns = 0
          local co = coroutine.create(function() return P.find(s, p) end)
          debug.sethook(co, function() turns = turns + 1 if turns > 50 then error("stopped", 0) end end, "", 1000)
          local ok, said = coroutine.resume(co)
          return turns, said
        end"""
    )
    turns, said = run(matcher(lua, "4e6"), subject, pattern)
    assert turns > 50 and said == "stopped"
