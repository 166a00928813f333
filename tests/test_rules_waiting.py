"""Rules that wait: many at once, each with its own answer; wherever in Lua they wait; cut when it takes too long."""

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from fake_dns import FakeDns
from gevent.event import Event
from receiving import until
from rules_kit import Bench, rule

from mta import settings
from mta.message.address import Address
from mta.net.dns import Resolver
from mta.rules.outside.world import INSIDE, LiveWorld, Unanswered
from mta.rules.transaction import Transaction
from mta.rules.trying import example


class Slowly:
    """A resolver that answers every name with itself, after a while, and when so many have waited together once."""

    def __init__(self, seconds: float = 0.005, together: int = 1) -> None:
        self.seconds, self.together, self.waiting, self.most = seconds, together, 0, 0
        self.met = Event()

    def lookup(self, name: str, type: str) -> list[str]:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        if self.most >= self.together:
            self.met.set()
        try:
            self.met.wait()
            gevent.sleep(random.random() * self.seconds)
        finally:
            self.waiting -= 1
        return [f"{type} of {name}"]


class Collecting(LiveWorld):
    """The live world, with the events kept."""

    def __init__(self, resolver: object) -> None:
        super().__init__(resolver)  # type: ignore[arg-type]
        self.events: list[tuple[str, dict[str, object]]] = []
        self.log = lambda event, **fields: self.events.append((event, fields))


def mail_from(name: str, stage: str = "rcpt") -> Transaction:
    tx = example.transaction(stage)
    tx.sender = Address(name, "example.com")
    return tx


@pytest.fixture
def watched() -> Iterator[None]:
    with gevent.Timeout(60):
        yield


def test_a_thousand_at_once_each_with_its_own_answer(tmp_path: Path, watched: None) -> None:
    body = """
      local seen = {}
      for n = 1, 5 do
        local name = mail.sender.local_part .. "." .. n
        local ok, answer = pcall(dns.lookup, name, "TXT")
        if answer[1] ~= "TXT of " .. name then return deny("550 " .. answer[1]) end
        seen[n] = answer[1]
      end
      mail.vars.seen = seen
      return accept("250 " .. mail.sender.local_part)"""
    resolver = Slowly(together=1000)
    bench = Bench(tmp_path, rule(body), Collecting(resolver))
    wrong = []

    def one(number: int) -> None:
        tx = mail_from(f"u{number}")
        verdict = bench.rules.run("rcpt", tx)
        if verdict.kind != "accept" or verdict.reply is None or verdict.reply.text != f"u{number}":
            wrong.append((number, verdict))
        if tx.vars != {"seen": [f"TXT of u{number}.{n}" for n in range(1, 6)]}:
            wrong.append((number, tx.vars))

    gevent.joinall([gevent.spawn(one, number) for number in range(1000)], raise_error=True)
    assert not wrong and resolver.most == 1000
    assert INSIDE.depth == 0


def test_what_a_parked_rule_weighs(tmp_path: Path, watched: None) -> None:
    resolver = Slowly(together=1001)
    bench = Bench(tmp_path, rule("local l = dns.lookup('x') return accept()"), Collecting(resolver))
    runtime = bench.rules._runtime
    runtime.collect()
    before = runtime.used()
    waiting = [gevent.spawn(bench.rules.run, "rcpt", mail_from(f"u{n}")) for n in range(1000)]
    until(lambda: resolver.waiting == 1000)
    runtime.collect()
    each = (runtime.used() - before) / 1000
    resolver.met.set()
    gevent.joinall(waiting, raise_error=True)
    assert all(w.value.kind == "accept" for w in waiting)
    assert 1000 < each < 8192, f"{each:.0f} bytes"


ANYWHERE = {
    "pcall": "local ok, l = pcall(dns.lookup, 'x') return ok and l[1]",
    "xpcall": "local ok, l = xpcall(dns.lookup, print, 'x') return l[1]",
    "pcall in pcall": "local _, _, l = pcall(pcall, dns.lookup, 'x') return l[1]",
    "coroutine": "return coroutine.wrap(function() return dns.lookup('x')[1] end)()",
    "coroutine in coroutine": """
      local inner = coroutine.create(function() coroutine.yield(1) return dns.lookup('x')[1] end)
      local outer = coroutine.wrap(function()
        assert(select(2, coroutine.resume(inner)) == 1)
        return select(2, coroutine.resume(inner))
      end)
      return outer()""",
    "generator": """
      local names = coroutine.wrap(function() for _, n in ipairs{'a', 'x'} do coroutine.yield(dns.lookup(n)[1]) end end)
      assert(names() == 'A of a')
      return names()""",
    "iterator": "for l in function() return dns.lookup('x') end do return l[1] end",
    "index": "return setmetatable({}, {__index = function(_, k) return dns.lookup(k)[1] end}).x",
    "newindex": "local v setmetatable({}, {__newindex = function(_, k) v = dns.lookup(k)[1] end}).x = 1 return v",
    "call": "return setmetatable({}, {__call = function(_, k) return dns.lookup(k)[1] end})('x')",
    "add": "return setmetatable({}, {__add = function(_, k) return dns.lookup(k)[1] end}) + 'x'",
    "concat": "return setmetatable({}, {__concat = function(_, k) return dns.lookup(k)[1] end}) .. 'x'",
    "unary": "return -setmetatable({}, {__unm = function() return dns.lookup('x')[1] end})",
    "length": "return #setmetatable({}, {__len = function() return dns.lookup('x')[1] end})",
    "less": "local t = setmetatable({}, {__lt = function() return dns.lookup('x') end}) return t < t and 'A of x'",
    "close": """
      local v
      do local c <close> = setmetatable({}, {__close = function() v = dns.lookup('x')[1] end}) end
      return v""",
    "pairs": """
      local t = setmetatable({}, {__pairs = function() return next, dns.lookup('x') end})
      for _, v in pairs(t) do return v end""",
    "after an error": "pcall(function() pcall(error) error('x') end) return dns.lookup('x')[1]",
}


@pytest.mark.parametrize("name", ANYWHERE)
def test_waiting_works_anywhere(name: str, tmp_path: Path, watched: None) -> None:
    main = f"local function find()\n{ANYWHERE[name]}\nend\n" + rule('return accept("250 " .. tostring(find()))')
    bench = Bench(tmp_path, main, Collecting(Slowly()))

    def one() -> str:
        return str(bench.rules.run("rcpt", mail_from("a")).reply)

    found = [gevent.spawn(one) for _ in range(20)]
    gevent.joinall(found, raise_error=True)
    assert {f.value for f in found} == {"250 A of x"}, bench.world.events[:1]


IN_C = {
    "sort": "table.sort({3, 1, 2}, function(a, b) dns.lookup('x') return a < b end)",
    "gsub": "string.gsub('abc', '%w', function(c) return dns.lookup(c)[1] end)",
    "tostring": "tostring(setmetatable({}, {__tostring = function() return dns.lookup('x')[1] end}))",
    "coroutine inside gsub": "string.gsub('abc', '%w', function(c) return coroutine.wrap(dns.lookup)(c)[1] end)",
}


@pytest.mark.parametrize("name", IN_C)
def test_where_c_waits_for_lua_it_is_an_error_that_says_so(name: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("\n" + IN_C[name]))
    assert bench.run("rcpt").failed
    assert bench.failure.startswith("main.lua:3: what waits cannot be used inside a function given to table.sort")


def test_a_rules_own_yield_is_not_taken_for_a_wait(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("coroutine.yield('dns.lookup', 'x')"))
    assert bench.run("rcpt").failed and "outside a coroutine" in bench.failure


def test_answers(tmp_path: Path) -> None:
    body = """
      local none, why = dns.lookup("nothing.example")
      assert(#none == 0 and why == nil)
      local later, why = dns.lookup("broken.example")
      assert(later == nil and why == "broken.example A: SERVFAIL")
      assert(dns.lookup("example.com")[1] == "192.0.2.7")
      assert(dns.lookup(mail.sender.domain, "MX")[1] == "10 mail.example.com")
      return accept()"""
    bench = Bench(tmp_path, rule(body))
    assert bench.run("rcpt").kind == "accept", bench.failures


def test_odd_answers_cross_unharmed(tmp_path: Path) -> None:
    odd = ["", "a:b", "5:hello", "x" * 300, "".join(map(chr, range(256))), "\0"]
    bench = Bench(tmp_path, rule('for _, t in ipairs(dns.lookup("odd", "TXT")) do mail.vars["k" .. #t] = t end'))
    bench.world.dns["odd"] = {"TXT": odd}
    bench.run("rcpt")
    assert bench.tx.vars == {"k0": "", "k3": "a:b", "k7": "5:hello", "k300": "x" * 300, "k256": odd[4], "k1": "\0"}


def test_too_many_answers_are_cut(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('log.info(#dns.lookup("big", "TXT"))'))
    bench.world.dns["big"] = {"TXT": ["x" * 300_000] * 10}
    bench.run("rcpt")
    assert bench.messages == ["3"]


def test_a_wait_is_cut_at_the_wall(tmp_path: Path, watched: None) -> None:
    world = Collecting(Slowly())
    world._resolver.lookup = lambda name, type: gevent.sleep(3600)  # type: ignore[attr-defined]
    bench = Bench(tmp_path, rule("\nlocal ok = pcall(dns.lookup, 'x')\nreturn accept()"), world, wall=0.2)
    began = time.monotonic()
    verdict = bench.rules.run("rcpt", mail_from("a"))
    assert 0.1 < time.monotonic() - began < 50 and verdict.failed
    ((event, fields),) = world.events
    assert (event, fields["where"], fields["rule"]) == ("rule_failed", "main.lua:3", "a rule")
    assert fields["error"] == "the stage took longer than 0.2 s (rules.wall)"


def test_the_wall_is_for_the_whole_stage(tmp_path: Path, watched: None) -> None:
    world = Collecting(Slowly())
    world._resolver.lookup = lambda name, type: gevent.sleep(0.05) or []  # type: ignore[attr-defined]
    bench = Bench(tmp_path, rule("for i = 1, 100000 do dns.lookup('x') end"), world, wall=0.3)
    began = time.monotonic()
    assert bench.rules.run("rcpt", mail_from("a")).failed
    assert time.monotonic() - began < 50


def test_whoever_waits_may_be_called_away(tmp_path: Path, watched: None) -> None:
    """The client is gone, or its deadline fires: the wait ends, Lua forgets it, the others go on."""
    resolver = Slowly(together=21)
    bench = Bench(tmp_path, rule("mail.vars.n = 1 dns.lookup('x') return accept()"), Collecting(resolver))
    txs = [mail_from(f"u{n}") for n in range(20)]
    waiting = [gevent.spawn(bench.rules.run, "rcpt", tx) for tx in txs]
    until(lambda: resolver.waiting == 20)
    for one in waiting[::2]:
        one.kill(block=False)
    until(lambda: resolver.waiting == 10)
    resolver.met.set()
    gevent.joinall(waiting)
    assert all(isinstance(w.value, gevent.GreenletExit) for w in waiting[::2])
    assert all(w.value.kind == "accept" for w in waiting[1::2])
    assert INSIDE.depth == 0
    again = bench.rules.run("rcpt", txs[0])
    assert again.kind == "accept", "and the same mail could go on"


def test_answers_that_are_here_already_let_nobody_work_for_ever(tmp_path: Path, watched: None) -> None:
    """What DNS said before is said again at once: nobody waits, and each answer gives the rule a new budget."""
    world = Collecting(Slowly())
    asked = itertools.count()

    def known(name: str, type: str) -> list[str]:
        if next(asked) > 500_000:
            pytest.fail("it is asked for ever")
        return ["192.0.2.1"]

    world._resolver.lookup = known  # type: ignore[attr-defined]
    bench = Bench(tmp_path, rule("while true do dns.lookup('x') end"), world, wall=0.5)
    others = []

    def other() -> None:
        while True:
            gevent.sleep(0)
            others.append(time.monotonic())

    beside = gevent.spawn(other)
    gevent.sleep(0)
    assert bench.rules.run("rcpt", mail_from("a")).failed
    beside.kill()
    ((_, fields),) = world.events
    assert "rules.wall" in fields["error"]  # type: ignore[operator]
    assert others, "nobody else had a turn meanwhile"


def test_the_coroutine_of_a_stage_is_no_rules_to_resume(tmp_path: Path, watched: None) -> None:
    """It serves another mail next, and whoever had stopped it somewhere would be handed that mail."""
    main = """
    local kept, got = {}, {}
    on.mail("keeps", function(mail)
      kept[#kept + 1] = coroutine.running()
      dns.lookup("x")
    end)
    on.rcpt("resumes", function(mail)
      for _, thread in ipairs(kept) do
        local ok, tag = coroutine.resume(thread, function() got[#got + 1] = {coroutine.yield()} end, {})
        assert(not ok and type(tag) == "string", tag)
      end
    end)
    on.preq("another mail", function(mail)
      dns.lookup("x")
      assert(#got == 0)
      return accept()
    end)
    """
    bench = Bench(tmp_path, main, Collecting(Slowly()))
    gevent.joinall([gevent.spawn(bench.rules.run, "mail", mail_from(f"u{n}", "mail")) for n in range(3)])
    assert bench.rules.run("rcpt", mail_from("eve")).kind == "next"
    others = [gevent.spawn(bench.rules.run, "preq", mail_from(f"v{n}", "preq")) for n in range(3)]
    gevent.joinall(others)
    assert [one.value.kind for one in others] == ["accept"] * 3


def test_nobody_answers_for_python_after_the_mail(tmp_path: Path, watched: None) -> None:
    """A coroutine of the rule's own waits when the client leaves; resumed at another mail it must not believe that."""
    main = """
    local kept = {}
    on.mail("waits in a coroutine", function(mail)
      kept[1] = coroutine.create(function() return dns.lookup("x") end)
      coroutine.resume(kept[1])
    end)
    on.rcpt("another mail", function(mail)
      local ok, why = coroutine.resume(kept[1], "json", '{"a": 1}')
      if type(why) == "table" then return deny("550 " .. tostring(why.a)) end
      if ok or not why:find("waits for an answer") then return deny("550 " .. tostring(why)) end
      return accept()
    end)
    """
    resolver = Slowly(together=2)
    bench = Bench(tmp_path, main, Collecting(resolver))
    waiting = gevent.spawn(bench.rules.run, "mail", mail_from("one", "mail"))
    until(lambda: resolver.waiting)
    waiting.kill()
    said = bench.rules.run("rcpt", mail_from("two"))
    assert said.kind == "accept", said


def test_an_endless_loop_does_not_stop_the_others(tmp_path: Path, watched: None) -> None:
    main = rule("while true do pcall(function() while true do end end) end", "helo") + rule(
        "dns.lookup('x') return accept()"
    )
    bench = Bench(tmp_path, main, Collecting(Slowly()))
    served = []

    def good(number: int) -> None:
        if bench.rules.run("rcpt", mail_from(f"u{number}")).kind == "accept":
            served.append(number)

    def bad() -> None:
        assert bench.rules.run("helo", example.transaction("helo")).failed

    all_of_them = [gevent.spawn(good, n) for n in range(50)] + [gevent.spawn(bad) for _ in range(3)]
    gevent.joinall(all_of_them + [gevent.spawn(good, n) for n in range(50, 100)], raise_error=True)
    assert sorted(served) == list(range(100))


def test_a_bug_of_ours_while_a_rule_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr("mta.log.bug", lambda error, **_: bugs.append(error))
    bench = Bench(tmp_path, rule("local l, why = dns.lookup('x') log.info(why) return accept()"))
    bench.world.lookup = lambda name, type: 1 / 0  # type: ignore[assignment]
    assert bench.run("rcpt").kind == "accept"
    assert bench.messages == ["the server failed"] and isinstance(bugs[0], ZeroDivisionError)


def test_a_live_world_asks_the_real_resolver(tmp_path: Path, watched: None) -> None:
    with FakeDns({"example.com": {"MX": ["10 mail.example.com."]}, "bad.example": {"A": "SERVFAIL"}}) as server:
        world = Collecting(Resolver(settings.Dns(servers=[server.server], timeout=60)))
        body = """
          assert(dns.lookup("example.com", "MX")[1] == "10 mail.example.com")
          assert(#dns.lookup("no.example.com") == 0)
          local l, why = dns.lookup("bad.example")
          assert(l == nil and why:find("SERVFAIL"))
          return accept()"""
        bench = Bench(tmp_path, rule(body), world)
        assert bench.rules.run("rcpt", mail_from("a")).kind == "accept", world.events


def test_unanswered_is_not_an_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("local l, why = dns.lookup('x') if not l then return defer('450 4.4.3 ' .. why) end"))

    def lookup(name: str, type: str) -> list[str]:
        raise Unanswered("nobody knows")

    bench.world.lookup = lookup  # type: ignore[method-assign]
    assert str(bench.run("rcpt").reply) == "450 4.4.3 nobody knows"


def test_without_a_hub(tmp_path: Path) -> None:
    """Tools load and run rules with no gevent in the process."""
    import subprocess
    import sys

    (tmp_path / "main.lua").write_text(rule("return deny('550 5.7.1 ' .. dns.lookup('example.com')[1])"))
    program = (
        "import sys\nfrom mta import settings\n"
        "from mta.rules.engine.engine import Rules\nfrom mta.rules.trying import example\n"
        f"rules = Rules.load(settings.Rules(path={str(tmp_path)!r}), example.world())\n"
        "print(rules.run('rcpt', example.transaction('rcpt')).reply, 'gevent' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "550 5.7.1 192.0.2.7 False", done.stderr
