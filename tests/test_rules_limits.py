"""Nothing a rule does holds the server: every program here tries, and every one is ended in time.

They were found by trying: loops that swallow the error, run where no hook runs, hide in C functions, eat memory. A
regression would hang the test, so a watchdog ends the whole run with a trace instead.
"""

import faulthandler
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rules_kit import Bench, rule
from stalls import worst_stall
from timing import slowness

from mta.rules import transaction
from mta.rules.trying import example

ENDLESS = {
    "loop": "while true do end",
    "loop in pcall": "while true do pcall(function() while true do end end) end",
    "pcall in pcall": "local function r(n) while true do pcall(r, n) end end r(1)",
    "handler of xpcall": "while true do xpcall(function() error() end, function(e) while true do end end) end",
    "error in a handler": "while true do xpcall(error, error) end",
    "coroutines": "while true do local co = coroutine.wrap(function() while true do end end) pcall(co) end",
    "short coroutines": "while true do coroutine.wrap(function() for i = 1, 100 do end end)() end",
    "stored coroutines": """
      local t = {}
      for i = 1, 5 do
        t[i] = coroutine.create(function() while true do pcall(function() while true do end end) end end)
      end
      while true do for i = 1, 5 do coroutine.resume(t[i]) end end""",
    "coroutine in coroutine": """
      local function r() while true do pcall(coroutine.wrap(r)) end end r()""",
    "yields": "local f = coroutine.wrap(function() while true do coroutine.yield() end end) while true do f() end",
    "close while ended": """
      local x <close> = setmetatable({}, {__close = function() while true do end end})
      while true do end""",
    "close": "local x <close> = setmetatable({}, {__close = function() while true do end end})",
    "close in pcall": """
      while true do
        pcall(function()
          local x <close> = setmetatable({}, {__close = function() while true do pcall(error) end end})
          error("x")
        end)
      end""",
    "sort": "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function(a, b) while true do end end)",
    "sort a million": "local t = {} for i = 1, 100000 do t[i] = i end while true do table.sort(t) end",
    "gsub": 'string.gsub("abc", "%w", function() while true do end end)',
    "gsub in gsub": """
      local function r()
        while true do pcall(string.gsub, "aaaa", ".", function() while true do pcall(r) end end) end
      end
      r()""",
    "tostring": "tostring(setmetatable({}, {__tostring = function() while true do end end}))",
    "index": """
      local t
      t = setmetatable({}, {__index = function(_, k) while true do pcall(function() return t[k] end) end end})
      return t.x""",
    "tail calls": "local function f() return f() end while true do pcall(f) end",
    "recursion": "local function f() f() f() end while true do pcall(f) end",
    "metamethods": """
      local mt = {}
      mt.__add = function(a, b) return a + b end
      local x = setmetatable({}, mt)
      while true do pcall(function() return x + x end) end""",
    "iterator": "for _ in function() return 1 end do end",
    "ipairs": "for _ in ipairs(setmetatable({}, {__index = function() return 1 end})) do end",
    "pattern": 'local s = ("a"):rep(200) while true do s:find(".-.-.-.-b") end',
    "pattern of two": 'local s = ("a"):rep(4000) s:find(".*.*.*b")',
    "pattern of maybes": 'local s = ("a"):rep(30) s:find(("a?"):rep(30) .. ("a"):rep(30) .. "b")',
    "balanced": 'local s = ("("):rep(100000) s:find("%b()%b()%b()")',
    "gmatch": 'local s = ("a"):rep(100000) for _ in s:gmatch(".-b") do end',
    "gsub of a pattern": 'local s = ("a"):rep(100000) s:gsub(".-b", "")',
    "back reference": 'local s = ("a"):rep(20000) s:find("(.-)%1b")',
    "words of the API": "while true do mail.headers:get('Subject') end",
    "words in pcall": "while true do pcall(mail.headers.append, mail.headers, 'A', ('x'):rep(1000)) end",
    "log": "while true do log.info(('x'):rep(8000)) end",
    "many waits with work": "while true do dns.lookup('example.com') for i = 1, 1e8 do end end",
    "formats": 'local s = ("x"):rep(1000000) while true do local _ = ("%s%s%s"):format(s, s, s) end',
    "lower": 'local s = ("x"):rep(8000000) while true do local _ = s:lower() end',
    "joins": 'local s = ("x"):rep(4000000) while true do local _ = s .. "x" end',
    "repeats": 'while true do local _ = ("x"):rep(8000000) end',
    "insert": "local t = {} for i = 1, 100000 do t[i] = i end while true do table.insert(t, 1, 1) end",
    "move": "local t = {1} while true do table.move(t, 1, 1000000, 2) end",
    "concat": 'local s = ("x"):rep(1000000) while true do table.concat({s, s, s, s}) end',
    "load": "while true do pcall(load or error) end",
}

HEAVY = {
    "table": "local t = {} while true do t[#t + 1] = {} end",
    "text": 'local s = "x" while true do s = s .. s end',
    "text in pcall": 'while true do pcall(function() local s = "x" while true do s = s .. s end end) end',
    "kept text": 'local t = {} while true do pcall(function() t[#t + 1] = ("x"):rep(1000000) .. #t end) end',
    "closures": "local f = function() end while true do local g = f f = function() return g end end",
    "coroutines": "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
    "vars": "for i = 1, 1e7 do mail.vars['k' .. i] = 'x' end",
}

REFUSED = {
    "rep": ('("x"):rep(1e9)', "string.rep would make more than"),
    "rep between": ('("x"):rep(3, ("y"):rep(8000000))', "string.rep would make more than"),
    "gc": ("setmetatable({}, {__gc = function() while true do end end})", "__gc is not allowed"),
    "move": ("table.move({}, 1, 1e9, 2)", "1000000 elements"),
    "insert": ("table.insert(setmetatable({}, {__len = function() return 1e9 end}), 1, 1)", "without a metatable"),
    "unpack": ("table.unpack({}, 1, 1e6)", "8000 values"),
    "unpack with numbers as text": ('table.unpack({}, 1, "900000")', "8000 values"),
    "byte with numbers as text": ('(("x"):rep(100000)):byte("1", "90000")', "8000 values"),
    "byte": ('(("x"):rep(100000)):byte(1, -1)', "8000 values"),
    "concat": ('local s = ("x"):rep(8000000) table.concat({s, s})', "table.concat would make more"),
    "format": ('local s = ("x"):rep(8000000) string.format("%s%s", s, s)', "string.format would make more"),
    "yield": ("coroutine.yield(1)", "outside a coroutine of the rule's own"),
    "string": ("string.rep = nil", "string is read-only"),
    "metatable of text": ('getmetatable("").__index = {}', "attempt to index a nil value"),
    "metatable of mail": ("setmetatable(mail, {})", "protected metatable"),
    "rawset": ('rawset(string, "rep", 1)', "read-only"),
    "rawset of globals": ('rawset(_G, "x", 1)', "read-only"),
    "error object": ("error({code = 1})", "the error is a table"),
    "no error object": ("error()", "the error is a nil"),
}

FORBIDDEN = (
    "python io debug package load loadstring dofile loadfile collectgarbage warn getfenv setfenv newproxy module "
    "string.dump os.exit os.execute os.getenv os.remove os.clock math.randomseed coroutine.close"
)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_ended(name: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(ENDLESS[name], "preq") + rule("return accept()", "rcpt"), instructions=1_000_000)
    began = time.process_time()
    verdict = bench.run("preq")
    took = time.process_time() - began
    assert verdict.kind == "defer" and verdict.failed, bench.world.events[-1:]
    assert "did not come to an end" in bench.failure or "memory" in bench.failure
    assert took < 5 * slowness(), f"{took:.1f} s of CPU"
    assert bench.run("rcpt").kind == "accept", "the next mail is served"


@pytest.mark.parametrize("name", HEAVY)
def test_what_eats_memory_is_ended(name: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(HEAVY[name], "preq") + rule("return accept()", "rcpt"), growth=4 << 20, memory=8 << 20)
    for _ in range(3):
        verdict = bench.run("preq")
        assert verdict.kind == "defer" and verdict.failed
        assert bench.run("rcpt").kind == "accept"
    for failure in bench.failures:
        assert (
            "memory" in failure["error"] or "did not come to an end" in failure["error"] or "65536" in failure["error"]
        )


@pytest.mark.parametrize("name", REFUSED)
def test_what_c_would_do_for_ever_is_refused(name: str, tmp_path: Path) -> None:
    body, what = REFUSED[name]
    bench = Bench(tmp_path, rule(body))
    assert bench.run("rcpt").failed
    assert what in bench.failure
    assert bench.failure.startswith("main.lua:2: ")


@pytest.mark.parametrize("name", FORBIDDEN.split())
def test_what_is_not_there(name: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f"assert({name} == nil) return accept()"))
    assert bench.run("rcpt").kind == "accept", bench.world.events


@pytest.mark.parametrize(
    "body",
    [
        'local f = ("").rep return getmetatable("") == nil and ("a"):rep(3) == "aaa" and accept()',
        "local t = setmetatable({}, {__index = function(_, k) return k end}) if t.a == 'a' then return accept() end",
        "local a <const> = 5 if a == 5 then return accept() end",
        "local ok, e = pcall(error, {code = 1}) if not ok and e.code == 1 then return accept() end",
        "local _, e = xpcall(function() error('x') end, function(e) return 'seen ' .. e end)\n"
        "if e == 'seen main.lua:2: x' then return accept() end",
        "local ok, e = pcall(string.rep) if e:find('^main.lua:2: string.rep needs') then return accept() end",
        "local n = 0 for _ in pairs(string) do n = n + 1 end if n > 10 then return accept() end",
        "local t = {3, 1, 2} table.sort(t) if table.concat(t, ',') == '1,2,3' then return accept() end",
        "if type(_G) == 'table' and _G.string == string and rawget(_G, 'string') == nil then return accept() end",
        "local co = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b * 2 end)\n"
        "if co(1) == 2 and co(5) == 10 then return accept() end",
        "for i = 1, 300 do coroutine.wrap(function() pcall(function() coroutine.yield(i) end) end)() end\n"
        "return accept()",
        "local f = coroutine.wrap(function() return select(2, coroutine.running()), coroutine.running() end)\n"
        "local main, own = f() local stage, top = coroutine.running()\n"
        "if main == false and own ~= stage and top == true then return accept() end",
        "if ('abc'):byte('2') == 98 and ('abc'):byte(-1) == 99 and select('#', table.unpack({1, 2})) == 2 then\n"
        "return accept() end",
        "if next({a = 1}) == 'a' and next({}) == nil then return accept() end",
        "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(1000) .. i end return accept()",
        "for i = 1, 500 do local s = ('x'):rep(100000) .. i end return accept()",
    ],
)
def test_what_is_allowed_works(body: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(body))
    assert bench.run("rcpt").kind == "accept", bench.world.events


GIVING = {
    "attachments": "local s = ('x'):rep(100000) while true do mail:attach('text/plain', s) end",
    "the same part again": "local s = ('x'):rep(100000) while true do mail:find('text/*'):set_bytes(s) end",
    "fields": "local s = ('x'):rep(1000) while true do mail.headers:append('A', s) dns.lookup('x') end",
    "empty fields": "while true do for i = 1, 500 do mail.headers:prepend('A', '') end dns.lookup('x') end",
    "names of fields": "local s = ('x'):rep(100000)\n"
    "for i = 1, 30 do mail.headers:append('A', '') mail.headers:rename('A', s) dns.lookup('x') end",
    "fields of a part": "local s = ('x'):rep(1000) while true do mail:find('text/*').headers:append('A', s) end",
    "caught": "local s = ('x'):rep(100000) for i = 1, 1000 do pcall(mail.attach, mail, 'text/plain', s) end\n"
    "mail:attach('text/plain', s)",
}


@pytest.mark.parametrize("name", GIVING)
def test_rules_put_only_so_much_into_a_mail(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python keeps it, where no limit of Lua sees it; and each wait gives the rule a new budget."""
    monkeypatch.setattr(transaction, "GIVEN", 2 << 20)
    bench = Bench(tmp_path, rule(GIVING[name], "preq"), wall=20.0)
    assert bench.run("preq").failed
    assert "rules have put more than 2 MB into this mail" in bench.failure
    assert bench.tx.message is not None and bench.tx.message.size < 4 << 20


LOGGING = {
    "each wait gives units": "local s = ('x'):rep(8000) while true do log.info(s) dns.lookup('x') end",
    "short lines": "while true do for i = 1, 500 do print('') end dns.lookup('x') end",
    "caught": "local s = ('x'):rep(8000) for i = 1, 1000 do pcall(log.error, s) dns.lookup('x') end log.warning('')",
}


@pytest.mark.parametrize("name", LOGGING)
def test_rules_write_only_so_much_to_the_log(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "LOGGED", 1 << 20)
    bench = Bench(tmp_path, rule(LOGGING[name]), wall=20.0)
    assert bench.run("rcpt").failed
    assert "rules have written more than 1 MB about this mail to the log" in bench.failure
    assert 0 < sum(200 + len(message) for message in bench.messages) <= 1 << 20


def test_swallowing_the_error_of_a_limit_is_of_no_use(tmp_path: Path) -> None:
    body = "local ok = pcall(function() while true do end end) return accept()"
    bench = Bench(tmp_path, rule(body), instructions=100_000)
    assert bench.run("rcpt").failed


def test_a_small_budget_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("for i = 1, 100000 do end return accept()"), instructions=50_000)
    assert bench.run("rcpt").failed
    bench = Bench(tmp_path, rule("for i = 1, 10000 do end return accept()"), instructions=50_000)
    assert bench.run("rcpt").kind == "accept"


BUSY = "x.{0,500}y"  # a pattern of 4,506 instructions, nearly all of them at work at each byte of the text below
TEXT = "".join(random.Random(1).choices("xz", k=60_000))


@pytest.mark.parametrize(
    "body",
    [
        f'assert(regex.matches(mail.vars.text, "{BUSY}") == false)',
        f'assert(regex.find(mail.vars.text, "{BUSY}") == nil)',
        f'assert(regex.replace(mail.vars.text, "{BUSY}", "") == mail.vars.text)',
        'assert(not regex.replace(("x"):rep(12000), "x.*y|x", ""))',
        f'assert(coroutine.wrap(function() return regex.matches(mail.vars.text, "{BUSY}") end)() == false)',
    ],
)
def test_a_text_made_for_a_pattern_stops_nobody(tmp_path: Path, body: str) -> None:
    bench = Bench(tmp_path, rule(body))
    tx = example.transaction("rcpt")
    tx.vars["text"] = TEXT
    assert worst_stall(lambda: bench.run("rcpt", tx), under=0.05) < 0.05
    assert not bench.failures


def test_where_a_rule_cannot_wait_a_pattern_is_still_answered(tmp_path: Path) -> None:
    found = f'regex.matches(("xz"):rep(1000), "{BUSY}")'
    main = f"assert({found} == false)\n" + rule(f'local _ = ("a"):gsub(".", function() assert({found} == false) end)')
    bench = Bench(tmp_path, main)
    bench.run("rcpt")
    assert not bench.failures


def test_a_pattern_that_is_too_large_for_a_text_fails_the_rule(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f'local found = regex.matches(("x"):rep(1000000), "{BUSY}")'))
    assert bench.run("rcpt").kind == "defer", "for nobody could say that it is not in there"
    assert "regex.matches: the pattern 'x.{0,500}y' is too large for a text of 1000000 bytes" in bench.failure
