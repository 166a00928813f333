"""What is made from the declared words: it is current, it names every word, and Lua can read it."""

import itertools
import json
import re
from functools import partial
from pathlib import Path

import commands
import pytest
from lupa import lua54

from mta.rules.pages import effects, reference, shipped, stubs, wordbook
from mta.rules.verdict import STAGES
from mta.rules.words.library import LIBRARY

TREE = commands.TREE
mta = partial(commands.mta, cwd=TREE)


@pytest.mark.parametrize("path", shipped.FILES, ids=lambda path: path.name)
def test_it_is_current(path: Path) -> None:
    assert path.read_text("utf-8") == shipped.FILES[path](), "write it again: python -m mta.rules.pages.shipped"


def test_every_word_has_one_group() -> None:
    grouped = [one.name for words in wordbook.groups().values() for one in words]
    assert sorted(grouped) == sorted(wordbook.WORDS)


# -- the reference page ------------------------------------------------------------------------------------------------


def test_the_page_names_every_word_with_meaning_and_example() -> None:
    page = reference.page()
    for one in wordbook.WORDS.values():
        assert f"\n``{one.signature}``\n    " in page, one.name
        assert f"        {one.example.splitlines()[-1]}\n" in page, one.name
    for verdict in effects.EFFECTS:
        assert re.search(rf"^stage .* {verdict}\b", page, re.M)


def test_the_page_is_sound_rst() -> None:
    lines = reference.page().split("\n")
    for title, mark in itertools.pairwise(lines):
        if re.fullmatch(r"([=~-])\1{2,}", mark):
            assert len(title) == len(mark), title
    assert all(len(line) <= 200 for line in lines)


def test_outcomes_are_all_used_and_all_explained() -> None:
    used = {effect.outcome for row in effects.EFFECTS.values() for effect in row.values()}
    assert used == set(effects.OUTCOMES)
    assert all(list(row) == list(STAGES) or set(row) == set(STAGES) for row in effects.EFFECTS.values())


# -- for editors -------------------------------------------------------------------------------------------------------


def mail_classes() -> dict[str, set[str]]:
    """The members of mail's class at each stage, read as an editor reads them."""
    members: dict[str, set[str]] = {}
    parents: dict[str, list[str]] = {}
    current = ""
    for line in stubs.text().split("\n"):
        if found := re.match(r"---@class ([\w.]+)(?:: (.+))?", line):
            current = found[1]
            members[current], parents[current] = set(), (found[2] or "").split(", ")
        elif found := re.match(r"(?:---@field |function mta_known_\w+:)(\w+)", line):
            members[current].add(found[1])
    return {stage: set().union(*(members[parent] for parent in parents[f"mta.mail.{stage}"])) for stage in STAGES}


def test_an_editor_knows_what_mail_has_at_each_stage() -> None:
    known = mail_classes()
    for one in wordbook.WORDS.values():
        found = re.fullmatch(r"mail[.:](\w+)", one.name)
        if found:
            assert {stage for stage in STAGES if found[1] in known[stage]} == one.stages, one.name
    assert "recipient" not in known["connect"] and "recipient" in known["rcpt"]


def test_a_rule_has_the_class_of_its_stage() -> None:
    text = stubs.text()
    for stage in STAGES:
        assert f"---@param rule fun(mail: mta.mail.{stage}): mta.verdict?\nfunction on.{stage}(name, rule) end" in text


def test_lua_reads_the_annotations_and_finds_every_function() -> None:
    lua = lua54.LuaRuntime(encoding="latin-1")
    lua.execute("on, service = nil, nil")
    lua.execute(stubs.text().encode("utf-8").decode("latin-1"))
    beside = {"mail", "mail.client", "mail.credentials", "part", "address"}  # members of classes, no globals
    for one in wordbook.WORDS.values():
        if (
            one not in LIBRARY
            and one.name != "service.NAME"
            and ":" not in one.name
            and wordbook.group(one) not in beside
        ):
            assert lua.eval(one.name) is not None, one.name


def test_every_class_that_is_named_exists() -> None:
    text = stubs.text()
    made = set(re.findall(r"---@(?:class|alias) (mta\.[\w.]*\w)", text))
    code = "\n".join(line for line in text.split("\n") if line.startswith("---@"))
    annotated = re.sub(r"^(---@field \w+\??|---@\w+) ", "", code, flags=re.M)
    named = {
        one for line in annotated.split("\n") for one in re.findall(r"\bmta\.[a-z_.]*[a-z_]", line.partition(" ")[0])
    }
    assert named <= made


def test_stubs_beside_rules(tmp_path: Path) -> None:
    said = mta("lua", "stubs", str(tmp_path))
    settings = json.loads((tmp_path / ".luarc.json").read_text("utf-8"))
    assert said.split() == [str(tmp_path / ".mta" / "mta.lua"), str(tmp_path / ".luarc.json")]
    own, lib = settings["workspace.library"]
    assert (tmp_path / own / "mta.lua").read_text("utf-8") == stubs.text()
    assert (Path(lib) / "greylist.lua").is_file()
    assert "no such folder" in mta("lua", "stubs", str(tmp_path / "none"), code=3)


# -- mta lua doc -------------------------------------------------------------------------------------------------------


def test_doc_of_a_word() -> None:
    said = mta("lua", "doc", "mail.recipient")
    assert said.startswith("mail.recipient: address\n    The recipient in question. ") and "    At rcpt.\n" in said
    assert mta("lua", "doc", "RECIPIENT") == said
    assert mta("lua", "doc", "mail:headers.get()") == mta("lua", "doc", "mail.headers:get")


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("mail.recipient.local_part", "address.local_part"),
        ("mail.recipients[1].domain", "address.domain"),
        ("mail.client.ip", "mail.client.ip"),
        ("part.headers:get", "mail.headers:get"),
        ('mail:find("*.pdf").parent.filename', "part.filename"),
        ('mail:attach("text/plain", "x").headers:set("X-Y", "z")', "mail.headers:set"),
        ("mail.helo:lower()", "string.lower"),
        ("mail.headers:get", "mail.headers:get"),
    ],
)
def test_doc_through_a_field(path: str, word: str) -> None:
    assert [one.name for one in wordbook.find(path)] == [word]


def test_doc_through_a_field_that_has_no_such_member() -> None:
    assert wordbook.find("mail.recipient.subject") == [] and wordbook.find("mail.vars.seen") == []
    assert wordbook.nearest("mail.recipient.lokal_part")[0] == "address.local_part"


def test_doc_of_a_group() -> None:
    said = mta("lua", "doc", "store")
    for name in ("get", "set", "add", "increment", "delete"):
        assert f"\nstore.{name}(" in f"\n{said}"
    assert "    mail.headers:rename(" in mta("lua", "doc", "mail.headers")


def test_doc_of_a_word_that_is_none() -> None:
    assert "did you mean mail.recipient" in mta("lua", "doc", "mail.recipent", code=3)
    assert "there is no word qqqqqqqq\n" in mta("lua", "doc", "qqqqqqqq", code=3)


def test_doc_as_json() -> None:
    every = [json.loads(line) for line in mta("lua", "doc", "--json").splitlines()]
    assert [one["name"] for one in every] == list(wordbook.WORDS)
    (deny,) = [one for one in every if one["name"] == "deny"]
    assert deny["stages"] == list(STAGES) and deny["arguments"][0] == {
        "name": "reply",
        "type": "string",
        "optional": True,
    }


def test_doc_tells_what_tests_say() -> None:
    """Every word of `t`, and of conversations; who has installed mta has no source to look into."""
    from mta.rules.trying.expected import Session

    said = mta("lua", "doc", "test")
    for name in dir(Session):
        if name[0] != "_" and name not in ("answer", "covered", "entries", "headers", "reply", "only", "skip"):
            assert f"t:{name}" in said, name
    assert "then log refused" in mta("lua", "doc", "dialogue")
    assert "mta lua doc test" in mta("lua", "doc")
