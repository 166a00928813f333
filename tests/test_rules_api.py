"""Every word is declared once: all examples run, nothing else exists, and everything declared does."""

import re
from pathlib import Path

import pytest
from lupa import lua54
from rules_kit import Bench, rule

from mta import resources, settings
from mta.rules.engine.engine import Rules
from mta.rules.engine.sandbox import Runtime
from mta.rules.trying import example
from mta.rules.verdict import STAGES
from mta.rules.words import api
from mta.rules.words.word import stages_of, word

BLANK = "local _\n"
WORDS = [w for w in api.WORDS.values() if w.kind != "stage"]


@pytest.mark.parametrize("one", WORDS, ids=lambda w: w.name)
def test_the_example_runs(one: api.Word, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(one.example, one.example_stage))
    verdict = bench.run(one.example_stage)
    assert not bench.failures
    if one.kind == "verdict" and one.name not in ("next", "relay"):
        assert verdict.kind == one.name


@pytest.mark.parametrize("one", [w for w in api.WORDS.values() if w.kind == "stage"], ids=lambda w: w.name)
def test_the_example_of_a_stage_loads(one: api.Word, tmp_path: Path) -> None:
    bench = Bench(tmp_path, one.example)
    assert bench.rules.stages == {one.name.removeprefix("on.")}


@pytest.mark.parametrize("one", WORDS, ids=lambda w: w.name)
def test_the_example_uses_its_word(one: api.Word) -> None:
    last = re.split(r"[.:]", one.name)[-1]
    assert re.search(rf"\b{re.escape(last)}\b", one.example)


def test_declarations_are_whole() -> None:
    for one in api.WORDS.values():
        assert one.meaning.endswith((".", "?")), one.name
        assert one.stages <= frozenset(STAGES) and one.stages, one.name
        assert one.results or one.kind in ("function", "method", "library", "stage", "verdict"), one.name
        assert word(one.signature, "m.", "x").signature == one.signature


def test_a_declaration_that_is_none() -> None:
    for signature in ("dns lookup", "f(a)", "f(a: )", "x"):
        with pytest.raises(ValueError, match=r"signature|argument"):
            word(signature, "m.", "x")


def test_stages() -> None:
    assert stages_of("") == frozenset(STAGES)
    assert stages_of("preq..") == {"preq", "postq", "delivery"}
    assert stages_of("helo..mail") == {"helo", "authenticate", "mail"}
    assert stages_of("rcpt delivery") == {"rcpt", "delivery"}


def runtime(words: dict[str, api.Word]) -> Runtime:
    rules = Rules(settings.Rules(), example.world())
    return Runtime(settings.Rules(), example.world(), lambda _: (None, ""), words, rules._asks)


def test_what_is_declared_has_something_behind_it() -> None:
    extra = dict(api.WORDS)
    for signature in ("frobnicate() -> nil", "dns.frobnicate() -> nil", "mail.headers:frobnicate() -> nil"):
        one = word(signature, "m.", "x")
        with pytest.raises(LookupError, match="frobnicate"):
            runtime({**extra, one.name: one})


@pytest.mark.parametrize(
    "name", ["deny", "string.rep", "pcall", "log.info", "dns.lookup", "mail.headers:get", "mail.helo"]
)
def test_what_is_not_declared_does_not_exist(name: str) -> None:
    """Taken out of the declarations, it is gone from the rules' world too."""
    words = {n: w for n, w in api.WORDS.items() if n != name}
    box = runtime(words)
    body = {
        "mail.headers:get": "mail.headers:get('x')", "mail.helo": "local _ = mail.helo",
        "string.rep": "local _ = string.rep()",
        "log.info": "log.info('x')", "dns.lookup": "dns.lookup('x')",
    }.get(name, f"{name}('x')")  # fmt: skip
    assert box.load(rule(body, "preq"), "main.lua") == 0
    from mta.rules.engine.side import Side

    tx = example.transaction("preq")
    side = Side(box, tx)
    side.tx = tx
    answer = box.start(side.number, STAGES.index("preq"), 1, False)
    assert answer[0] == 2, "an error"


def names_in(bench_folder: Path) -> set[str]:
    """What a rule can really reach by name."""
    walk = """
      local seen = {}
      for _, name in ipairs { GLOBALS } do
        local value = _G[name]
        if type(value) == "table" and name ~= "_G" then
          for key in pairs(value) do seen[#seen + 1] = name .. "." .. key end
        elseif value ~= nil then
          seen[#seen + 1] = name
        end
      end
      log.info(table.concat(seen, " "))"""
    lua = lua54.LuaRuntime()
    standard = set(
        lua.eval(
            "(function() local t = {} for k in pairs(_G) do t[#t + 1] = k end return table.concat(t, ' ') end)()"
        ).split()
    )
    ours = {name.partition(".")[0].partition(":")[0] for name in api.WORDS}
    source = "".join(path.read_text("utf-8") for path in sorted(resources.folder("lua").glob("*.lua")))
    guessed = standard | ours | set(re.findall(r"\b[A-Za-z_]\w+\b", source))
    walk = walk.replace("GLOBALS", ", ".join(f'"{name}"' for name in sorted(guessed)))
    bench = Bench(bench_folder, rule(walk))
    bench.run("rcpt")
    assert not bench.failures
    return set(bench.world.said("rule_log")[0]["message"].split())


def test_the_world_holds_what_is_declared_and_nothing_else(tmp_path: Path) -> None:
    reached = names_in(tmp_path)
    declared = {
        name
        for name, one in api.WORDS.items()
        if one.kind != "stage" and not re.match(r"(mail|address|headers|part)\b", name)
    }
    reached = {name for name in reached if not name.startswith(("on.", "config.", "replies."))} - {"_G", "_VERSION"}
    assert reached == declared - {"config", "replies"} | {"service.clamscan"}  # the example world's one service


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("dns.lookup", "", "dns.lookup: argument 1 must be a string, not nil"),
        ("dns.lookup", "5", "dns.lookup: argument 1 must be a string, not number"),
        ("dns.lookup", "'x', {}", "dns.lookup: argument 2 must be a string, not table"),
        ("dns.lookup", "'x', 'NO SUCH'", "dns.lookup: NO SUCH is not a type of DNS record"),
        ("dns.lookup", "('x'):rep(2000000)", "dns.lookup: argument 1 is longer than 1048576 bytes"),
    ],
)
def test_arguments_are_checked(name: str, arguments: str, error: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f"{name}({arguments})"))
    assert bench.run("rcpt").failed and bench.failure == f"main.lua:2: {error}"


def test_messages_about_stages() -> None:
    assert api.span(frozenset(STAGES[2:])) == "authenticate and later"
    assert api.span(frozenset(["rcpt", "delivery"])) == "rcpt and delivery"
    assert api.span(frozenset(["helo", "authenticate", "mail"])) == "helo to mail"
