"""The laws that keep clear of lupa's memory bugs, each with a program that crashes an engine without it.

They run in a process of their own: a segfault or a Lua panic ends that process, and the test says so.
"""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rules_kit import Bench, rule

from mta.message.message import Message
from mta.rules.engine.called import Called
from mta.rules.engine.engine import Rules
from mta.rules.transaction import Transaction
from mta.rules.trying import example

ROOT = Path(__file__).parent.parent

HEAD = """
import faulthandler, sys, gc
from pathlib import Path
faulthandler.enable()
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from gevent import monkey
monkey.patch_all()
import gevent
from rules_kit import Bench, rule
from mta.rules.trying import example
folder = Path({folder!r})
"""

PROGRAMS = {
    # a switch of greenlets while Lua is on the stack: the guard turns it into an error of the rule
    "a callback that switches": """
from mta.rules.outside.world import LiveWorld
class World(LiveWorld):
    def __init__(self):
        self.events = []
        super().__init__(None)
        self.log = self.keep
    def keep(self, event, **fields):
        if event == "rule_log":
            gevent.sleep(0)
        self.events.append((event, fields))
world = World()
import mta.log
bugs = []
mta.log.bug = lambda error, **fields: bugs.append(error)
bench = Bench(folder, rule("for i = 1, 5 do pcall(log.info, 'x') end return accept()"), world)
def go():
    assert bench.rules.run("rcpt", example.transaction("rcpt")).kind == "accept"
gevent.joinall([gevent.spawn(go) for _ in range(50)], raise_error=True)
assert len(bugs) == 250 and "a wait inside a call of Lua" in str(bugs[0]), bugs[:1]
gevent.sleep(0)
""",
    # many values yielded at once are moved without a look at the stack
    "a yield of many values": """
many = "coroutine.yield(table.unpack({}, 1, 7000))"
bench = Bench(folder, rule(many) + rule(f"coroutine.wrap(function() {many} end)() return accept()", "mail"))
for _ in range(50):
    assert bench.run("rcpt").failed
    assert bench.run("mail").kind == "accept"
""",
    # a value of Lua used after the coroutine it came from: none ever leaves
    "values that outlive their coroutine": """
body = '''
  local co = coroutine.wrap(function()
    for i = 1, 20 do
      mail.vars["k" .. i] = {a = {i, "x" .. i}}
      local l = dns.lookup("example.com")
      log.info(tostring(l) .. mail.sender)
    end
  end)
  co()
  return deny("550 " .. mail.helo)'''
bench = Bench(folder, rule(body))
kept = []
for n in range(200):
    tx = example.transaction("rcpt")
    kept.append((bench.rules.run("rcpt", tx), tx))
    if n % 20 == 0:
        bench.rules._runtime.collect()
        gc.collect()
assert all(v.kind == "deny" and t.vars["k7"] == {"a": [7, "x7"]} for v, t in kept)
""",
    # the same callbacks, pushed while the collector is at work: wrong objects in a naive engine
    "calls under a busy collector": """
from mta.message.message import Message
body = '''
  for i = 1, 50 do
    local t = {}
    for k = 1, 20 do t[k] = {} end
    mail.headers:set("X-Number", tostring(mail.recipients[1].local_part))
    if mail.headers:get("X-Number") ~= mail.recipients[1].local_part then return deny("550 wrong") end
  end
  return accept()'''
bench = Bench(folder, rule(body, "preq"))
from mta.message.address import Address
for n in range(400):
    tx = example.transaction("preq")
    tx.recipients = [Address(f"u{n}", "x")]
    assert bench.rules.run("preq", tx).kind == "accept"
""",
    # Python never writes into a table a rule made, so its __newindex cannot raise into C
    "tables that resist": """
body = '''
  local t = setmetatable({}, {__newindex = function() error("no") end, __index = function() error("no") end})
  pcall(function() mail.vars.t = t end)
  pcall(function() mail.headers:append(t, t) end)
  pcall(function() dns.lookup(t) end)
  pcall(log.info, t)
  pcall(deny, t)
  return t'''
bench = Bench(folder, rule(body, "preq"))
for _ in range(50):
    assert bench.run("preq").failed
""",
    # a push at the limit of memory ends the process
    "answers at the limit of memory": """
bench = Bench(folder, rule('''
  local t = {}
  for i = 1, 400 do
    pcall(function() local s = "x" while #s < 2^25 do s = s .. s end t[#t + 1] = s end)
    pcall(function() t[#t + 1] = mail.headers:get("Big") .. i end)
    pcall(function() t[#t + 1] = dns.lookup("big", "TXT")[1] .. i end)
  end''', "preq") + rule("return accept()"), growth=4 << 20, memory=8 << 20)
from mta.message.message import Message
bench.world.dns["big"] = {"TXT": ["y" * 1_000_000]}
for _ in range(5):
    tx = example.transaction("preq")
    tx.message = Message(b"Big: " + b"x" * 1_000_000 + b"\\r\\n\\r\\n")
    assert bench.rules.run("preq", tx).failed
    assert bench.run("rcpt").kind == "accept"
""",
    # compiled Lua that is damaged crashes the interpreter; there is no way to run any
    "compiled Lua": """
from mta.rules.engine.engine import RulesError
for text in ("return load", "return string.dump"):
    bench = Bench(folder, rule("if " + text.split()[1] + " == nil then return accept() end"))
    assert bench.run("rcpt").kind == "accept"
(folder / "broken.lua").write_bytes(b"\\x1bLua\\x54\\x00\\x19\\x93\\r\\n\\x1a\\n" + b"\\xff" * 200)
try:
    Bench(folder, 'require "broken"')
    raise SystemExit("it was run")
except RulesError as error:
    assert "compiled" in str(error), error
""",
    # errors of every kind out of callbacks, through coroutines: never an exception on Lua's side
    "errors through coroutines": """
body = '''
  for i = 1, 100 do
    local co = coroutine.create(function() mail.headers:set("Bad Name", "x") end)
    local ok, why = coroutine.resume(co)
    assert(not ok and why == "main.lua:4: 'Bad Name' is not a header name", why)
    assert(select(2, pcall(mail.headers.set, mail.headers, "X", "a\\\\nb")):find("must be one line"))
  end
  return accept()'''
bench = Bench(folder, rule(body, "preq"))
for _ in range(20):
    assert bench.run("preq").kind == "accept", bench.failures
""",
    # deep recursion between Lua and C
    "deep recursion": """
bench = Bench(folder, rule("local function f(s) return (s:gsub('.', f)) end f('a')") + rule(
    "local function f() return pcall(f) end f() local t = {} setmetatable(t, {__index = t}) return t.x", "mail"
) + rule("local function f(n) return f(n + 1) + 1 end f(1)", "helo"))
for _ in range(10):
    assert bench.run("rcpt").failed
    bench.run("mail")
    assert bench.run("helo").failed
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_process_lives(name: str, tmp_path: Path) -> None:
    program = HEAD.format(root=str(ROOT), folder=str(tmp_path)) + PROGRAMS[name] + "\nprint('lives')\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert done.returncode == 0 and done.stdout.endswith("lives\n"), f"exit {done.returncode}\n{done.stderr[-3000:]}"


PLAIN = (str, int, float, bool, type(None))


def test_only_plain_values_cross(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument and result of every function between Lua and Python, in a mail that uses much of them."""
    crossed: list[Any] = []

    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        def seen(*args: Any) -> Any:
            result = function(*args)
            crossed.extend(args)
            crossed.extend(result if isinstance(result, tuple) else [result])
            return result

        return seen

    functions = Called.functions

    def watched(self: Called) -> dict[str, Callable[..., Any]]:
        return {name: watch(function) for name, function in functions(self).items()}

    monkeypatch.setattr(Called, "functions", watched)
    body = """
      mail.vars.x = {1, {a = true}}
      log.info(mail.size) print(mail, print)
      local h = mail.headers
      h:append("A", "1") h:set("A", "2") h:prepend("B", "3") h:rename("B", "C") h:has("C") h:count("C") h:remove("C")
      for _, v in ipairs(h:all("Received")) do log.debug(v) end
      pcall(function() return mail.nothing end)
      local l, why = dns.lookup("example.com", "MX")
      math.random() os.time() relay = relay
      return deny{"550 5.7.1 a", "b", close = true}"""
    bench = Bench(tmp_path, rule(body.replace(" relay = relay", ""), "preq"))
    runtime = bench.rules._runtime
    for name in ("start", "step", "begin", "set", "set_client", "set_sender", "set_recipient", "forget_vars"):
        setattr(runtime, name, watch(getattr(runtime, name)))
    tx = example.transaction("preq")
    tx.tracing = True
    assert bench.rules.run("preq", tx).kind == "deny", bench.failures
    assert len(crossed) > 100
    assert {type(value) for value in crossed} <= set(PLAIN)


def test_no_value_shown_is_larger_than_a_mebibyte(tmp_path: Path) -> None:
    body = 'log.info(#mail.helo .. " " .. tostring(#mail:raw() <= 1 << 20) .. tostring(mail.headers:get("Big")))'
    bench = Bench(tmp_path, rule(body, "preq"))
    tx = example.transaction("preq")
    tx.helo = "x" * 3_000_000
    tx.message = Message(b"Big: " + b"x" * 3_000_000 + b"\r\nBig: y\r\n\r\n")
    bench.run("preq", tx)
    assert bench.messages == ["1048576 truenil"], bench.failures


def test_all_bytes_go_both_ways(tmp_path: Path) -> None:
    """A header of any bytes comes out as it went in."""
    bench = Bench(tmp_path, rule('mail.headers:append("Copy", mail.headers:get("Odd"))', "preq"))
    odd = bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"").replace(b"\t", b"").strip()
    tx = example.transaction("preq")
    tx.message = Message(b"Odd: " + odd + b"\r\n\r\n")
    bench.run("preq", tx)
    assert bytes(tx.message).replace(b"\r\n ", b" ").count(odd) == 2


def test_a_runtime_is_gone_with_its_last_user_and_needs_no_collector(tmp_path: Path) -> None:
    """The collector comes late to a server: each reload would leave its Lua behind for minutes."""
    bench = Bench(tmp_path, rule("dns.lookup(mail.recipient.domain)"))
    runtime = weakref.ref(bench.rules._runtime)
    gc.collect()
    gc.disable()
    try:
        bench.run("rcpt")
        bench.rules = Rules.load(bench.settings, bench.world)
        assert runtime() is not None, "a transaction is in it"
        bench.tx = Transaction()
        assert runtime() is None
    finally:
        gc.enable()
