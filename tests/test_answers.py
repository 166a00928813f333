"""Words that Python answers: every example runs, values cross as what they are, mistakes are the rule's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from mta import settings
from mta.net.dns import Resolver
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.outside.store import MemoryStore, StoreUnavailable
from mta.rules.outside.world import FakeWorld, LiveWorld, World
from mta.rules.trying import example
from mta.rules.verdict import Verdict
from mta.rules.words.answers import ANSWERED, bound
from mta.rules.words.word import Word

Run = Callable[..., Verdict]


@pytest.fixture
def world() -> FakeWorld:
    return example.world()


@pytest.fixture
def run(tmp_path: Path, world: FakeWorld) -> Run:
    def run(body: str, stage: str = "preq", top: str = "", world: World = world, **wanted: Any) -> Verdict:
        (tmp_path / "main.lua").write_text(f'{top}\non.{stage}("x", function(mail)\n{body}\nend)\n')
        rules = Rules.load(settings.Rules(path=str(tmp_path), **wanted), world)
        transaction = example.transaction(stage)
        verdict = rules.run(stage, transaction)
        transaction.close()
        return verdict

    return run


@pytest.mark.parametrize("word", ANSWERED, ids=lambda word: word.name)
def test_every_example_runs(word: Word, run: Run, world: FakeWorld) -> None:
    verdict = run(word.example, word.example_stage)
    assert not verdict.failed, world.said("rule_failed")


def test_every_word_has_its_function() -> None:
    assert set(bound(example.world(), settings.Rules())) == {word.name for word in ANSWERED}


def test_values_cross_as_what_they_are(run: Run, world: FakeWorld) -> None:
    verdict = run(
        """
local function same(value, kind)
  store.set("k", value)
  local got = store.get("k")
  assert(got == value and math.type(got) == math.type(value) and type(got) == (kind or type(value)), tostring(got))
end
same("text") same("") same("\\0\\255\\r\\n caf\\xc3\\xa9") same(("x"):rep(65536))
same(0) same(-7) same(math.maxinteger) same(1.5) same(1e300) same(2.0) same(true) same(false)
assert(store.get("none") == nil and select("#", store.get("none")) == 1)
local first, last, more = regex.find("abc", "b")
assert(first == 2 and last == 2 and more == nil and math.type(first) == "integer")
local a, b, c = regex.match("xz", "(x)(y)?(z)")
assert(a == "x" and b == false and c == "z")
local text, count = regex.replace("aaa", "a", "b")
assert(text == "bbb" and count == 3)
assert(regex.match("a\\0b\\xff", "(?s)a(.*)") == "\\0b\\xff")
"""
    )
    assert not verdict.failed, world.said("rule_failed")


def test_what_is_no_answer_comes_as_nil_and_why(run: Run, world: FakeWorld) -> None:
    verdict = run(
        """
local answer, why = net.version("nonsense")
assert(answer == nil and why:find("is not an IP address"))
answer, why = regex.matches("x", tostring("(")) -- written out, it would not load
assert(answer == nil and why:find("pattern"))
answer, why = dns.listed("192.0.2.7", "broken.example")
assert(answer == nil and why == nil)
answer, why = decode.base64("$")
assert(answer == nil and why == "this is no base64")
assert(dns.listed("bad.example", "zen.example.test") == nil)
"""
    )
    assert not verdict.failed, world.said("rule_failed")


def test_json_there_and_back(run: Run, world: FakeWorld) -> None:
    verdict = run(
        r"""
local function same(text)
  local again = json.encode(json.decode(text))
  assert(again == text, again)
end
same('{"a":[1,2.5,"x",true,false,{"b":[[1],[2]]}]}') same('"caf\xc3\xa9 \xe2\x82\xac"') same("5") same("true")
same('"\\u0000\\u001f\\u0022\\u005c"') same("[[1]]")
assert(json.decode('"\\u00e9 \\u20ac \\ud83d\\ude00"') == "é € 😀")
assert(json.decode(' [1, 1e2, null, 3] ')[4] == 3)
assert(json.decode("null") == nil and json.encode(nil) == "null" and json.encode(mail.user) == "null")
assert(json.encode({ 0.1, 2.4, 1e300, 3.0 }) == "[0.1,2.4,1e+300,3.0]")
assert(json.decode(json.encode(1 / 3)) == 1 / 3, "the next digits only where they are needed")
assert(json.encode("\xff") == '"\\u00ff"', "text that is no UTF-8 is Latin-1")
local long = ("["):rep(100000)
for _, bad in ipairs({ "", "{", "[1,]", "nul", "{'a':1}", "[1] x", '"\xff"', long, ("1"):rep(300000) }) do
  local value, why = json.decode(bad)
  assert(value == nil and why, bad:sub(1, 20))
end
for _, bad in ipairs({ print, { print }, { 1, [3] = 2 }, { [1.5] = 1 }, 0 / 0, 1 / 0 }) do
  assert(not pcall(json.encode, bad))
end
local loop = {}
loop.loop = loop
assert(not pcall(json.encode, loop))
assert(not pcall(json.encode, mail) and not pcall(json.encode, { mail.headers }))
assert(json.encode({ b = 1, a = { d = 2, c = 3 }, aa = 4 }) == '{"a":{"c":3,"d":2},"aa":4,"b":1}', "in order")
assert(json.encode({ mail.sender, all = nil }) == '["ann@example.com"]')
mail.vars.tried = { 1, 2 }
assert(json.encode(mail.vars) == '{"tried":[1,2]}' and json.encode({ mail.vars }) == '[{"tried":[1,2]}]')
assert(not pcall(function() mail.vars.from = mail.sender end), "a mail keeps plain values")
mail.vars.tried = nil
mail.vars.text = "caf\xe9"
"""
    )
    assert not verdict.failed, world.said("rule_failed")


@pytest.mark.parametrize(
    "line, error",
    [
        ("store.get()", "store.get: argument 1 must be a string, not nil"),
        ("store.get(5)", "store.get: argument 1 must be a string, not number"),
        ("store.get('')", "store.get: a key is text of 1 to 512 characters, not one of 0"),
        ("store.set('k', {})", "store.set: argument 2 must be a string or number or boolean, not table"),
        ("store.set('k', nil)", "store.set: argument 2 must be a string or number or boolean, not nil"),
        ("store.set('k', 'v', 'so' .. 'on')", 'store.set: \'soon\' is no duration (one is "30s", "5m", "2h" or "36d")'),
        ("store.set('k', 'v', -1)", "store.set: a time to live is a number of seconds above 0"),
        ("store.set('k', 0/0)", "store.set: nan cannot be kept"),
        ("store.set('k', ('x'):rep(65537))", "store.set: a value may have 65536 characters, this one has 65537"),
        ("store.set('k', 'v') store.increment('k')", "store.increment: 'k' holds 'v': that is no counter"),
        ("store.increment('k', math.maxinteger) store.increment('k')", "store.increment: 'k' would be 922"),
        ("lists.get('blocked.txt', 'x')", "lists.get: blocked.txt: a list without columns; a map is called NAME.csv"),
        ("store.increment('k', 1.5)", "store.increment: argument 2 must be a whole number, not number"),
        ("rate('k', tostring('often'))", "rate: 'often' is not a rate"),
        ("rate('k', '1/1s', -1)", "rate: the number must be 0 or more"),
        ("lists.has('none.txt', 'x')", "lists.has: none.txt: there is no such list"),
        ("time.seconds('x')", "time.seconds: 'x' is no duration"),
        ("dns.listed('192.0.2.66', 'zen.example.test', 'x' .. '')", "dns.listed: 'x' is no network"),
    ],
)
def test_a_mistake_is_told_with_its_line(run: Run, world: FakeWorld, line: str, error: str) -> None:
    assert run(line).failed
    (failed,) = world.said("rule_failed")
    assert failed["error"].startswith(error) and failed["where"] == "main.lua:3"


def test_words_that_do_not_wait_may_be_used_at_the_top_of_a_file(
    run: Run, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTA_TEST_SECRET", "hush")
    top = """
lists.load("blocked.txt")
local secret = env("MTA_TEST_SECRET")
local key = digest.sha256(secret or "")
"""
    assert run("assert(secret == 'hush' and #key == 64)", top=top, env=["MTA_TEST_SECRET"]).kind == "next"
    assert not world.said("rule_failed")
    with pytest.raises(RulesError, match=r"main\.lua:1: lists\.load: none\.txt: there is no such list"):
        run("", top='lists.load("none.txt")')
    with pytest.raises(RulesError, match=r"main\.lua:1: store\.get cannot be used while the rules are loaded"):
        run("", top='store.get("k")')


def test_a_store_that_does_not_answer_delays_the_mail_unless_the_rule_wants_otherwise(run: Run, world: Any) -> None:
    class Away(MemoryStore):
        def get(self, key: str) -> Any:
            raise StoreUnavailable("the store does not answer: the registry: no such file")

    world.store = Away()
    verdict = run('if store.get("k") then return deny() end')
    assert verdict.kind == "defer" and verdict.failed
    assert "the store does not answer" in world.said("rule_failed")[0]["error"]
    assert run('local ok, why = pcall(store.get, "k")\nassert(not ok and why:find("does not answer"))').kind == "next"


def test_lists_are_read_again_while_the_rules_stay(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "blocked.txt").write_text("example.org\n")
    (tmp_path / "main.lua").write_text(
        'on.mail("blocked", function(mail) if lists.has("blocked.txt", mail.sender) then return deny() end end)'
    )
    wanted = settings.Rules(path=str(tmp_path), lists=str(folder))
    world = LiveWorld(Resolver(settings.Dns(servers=["127.0.0.1:9"])), wanted)
    rules = Rules.load(wanted, world)

    def verdict() -> str:
        transaction = example.transaction("mail")
        kind = rules.run("mail", transaction).kind
        transaction.close()
        return kind

    assert verdict() == "next"
    (folder / "blocked.txt").write_text("example.org\nexample.com\n")
    until = time.monotonic() + 60
    while verdict() == "next" and time.monotonic() < until:
        gevent.sleep(0.1)
    assert verdict() == "deny"


def test_many_rules_may_wait_for_the_store_at_once(tmp_path: Path) -> None:
    (tmp_path / "main.lua").write_text(
        'on.mail("count", function(mail)\n'
        "  local before = store.get('n') or 0\n"
        "  local n = store.increment('n')\n"
        "  assert(n > before)\n"
        "  if rate('all', '100/1d') then return accept() end\n"
        "end)\n"
    )
    wanted = settings.Rules(path=str(tmp_path))
    world = LiveWorld(Resolver(settings.Dns(servers=["127.0.0.1:9"])), wanted)
    inner, seen = world.store, []

    class Slow:
        def __getattr__(self, word: str) -> Any:
            def call(*arguments: Any) -> Any:
                gevent.sleep(0.001)
                seen.append(word)
                return getattr(inner, word)(*arguments)

            return call

    world.store = world.rates.store = Slow()  # type: ignore[assignment]
    rules = Rules.load(wanted, world)
    verdicts: list[str] = []

    def one() -> None:
        transaction = example.transaction("mail")
        verdicts.append(rules.run("mail", transaction).kind)
        transaction.close()

    gevent.joinall([gevent.spawn(one) for _ in range(300)], raise_error=True)
    assert verdicts.count("accept") == 100 and verdicts.count("next") == 200
    assert inner.get("n") == 300 and seen.count("get") == 300
