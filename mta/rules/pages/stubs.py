"""What an editor needs to know of the rule language, made from the declared words: annotations for LuaLS.

There is a class of `mail` for each stage, so that an editor underlines mail.recipient inside on.connect. What Lua
itself brings is left out, an editor knows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from mta import resources
from mta.rules.pages import wordbook
from mta.rules.verdict import STAGES
from mta.rules.words.library import LIBRARY
from mta.rules.words.word import Argument, Word

FOLDER = ".mta"  # beside a user's rules; a name with a dot, so that it is no rule itself

HEAD = """\
---@meta mta
-- The words of the rule language, for editors that speak LuaLS. Made by "mta lua stubs"; changes here are lost.

---@class mta.verdict
---@alias mta.text string|number|mta.address text, or what becomes text
---@alias mta.reply string|mta.lines
---@class mta.lines: { [integer]: string } a reply of several lines
---@field close? boolean hang up after it
---@alias mta.parts mta.part[]|(fun(): mta.part?)
---@alias mta.answer table
"""

KEYWORDS = ("and", "end", "for", "function", "in", "local", "not", "or", "repeat", "then", "until")
ABSENT = ("debug", "io", "package")  # parts of Lua's library that rules do not have
_LUAS = {one.name for one in LIBRARY} | {"print", "require"}
_TYPE = re.compile(r"[a-z_]+")
_OWN = {"verdict", "address", "part", "parts", "headers", "client", "credentials", "answer"}


def text() -> str:
    """The file lua/meta/mta.lua."""
    out = [HEAD]
    groups = wordbook.groups()
    for title in ("address", "part", "mail.client", "mail.credentials", "mail.headers"):
        out.append("\n".join(_class(f"mta.{title.removeprefix('mail.')}", groups.get(title, []))))
    out.append("\n".join(_mails([one for one in groups["mail"] if one.name != "mail"])))
    out.append("\n".join(_stages(groups["Stages"])))
    for title, words in groups.items():
        if title in ("Stages", "mail", "mail.headers", "mail.client", "mail.credentials", "address", "part", "service"):
            continue
        mine = [one for one in words if one.name not in _LUAS]
        tables = sorted({wordbook.prefix(one.name) for one in mine} - {""})
        out += [f"{name} = {{}}\n" for name in tables]
        out += ["\n".join(_global(one)) for one in mine]
    out.append(
        "\n".join([*_doc(wordbook.WORDS["service.NAME"]), "---@type table<string, fun(given?: table): mta.answer>"])
    )
    return "\n".join(out) + "\nservice = {}\n"


def settings(library: list[str]) -> str:
    """The file .luarc.json; `library` are the folders with annotations and modules."""
    made = {
        "runtime.version": "Lua 5.4",
        "runtime.path": ["?.lua"],
        "runtime.builtin": dict.fromkeys(ABSENT, "disable"),
        "workspace.library": library,
        "workspace.checkThirdParty": False,
        "diagnostics.globals": ["on"],
    }
    return json.dumps(made, indent=2) + "\n"


def write(folder: Path) -> list[Path]:
    """Both files into a folder of rules; what was written. Raises OSError."""
    (folder / FOLDER).mkdir(exist_ok=True)
    made = {
        folder / FOLDER / "mta.lua": text(),
        folder / ".luarc.json": settings([FOLDER, str(resources.folder("lua") / "lib")]),
    }
    for path, content in made.items():
        path.write_text(content, "utf-8")
    return list(made)


# -- classes -----------------------------------------------------------------------------------------------------------


def _class(name: str, words: list[Word]) -> Iterator[str]:
    local = re.sub(r"\W", "_", name)
    yield f"---@class {name}"
    if name == "mta.address":
        yield "---@operator concat(any): string"
    for one in words:
        if one.kind == "field":
            yield f"---@field {_last(one)} {_type(one.results[0])} {_line(one)}"
    yield f"local {local} = {{}}"
    for one in words:
        if one.kind != "field":
            yield from ("", *_function(one, f"{local}:{_last(one)}"))
    yield ""


def _mails(words: list[Word]) -> Iterator[str]:
    """A class for what is known at the same stages, and one for each stage that has all of them."""
    spans: dict[frozenset[str], list[Word]] = {}
    for one in words:
        spans.setdefault(one.stages, []).append(one)
    names = {span: f"mta.known.{_spell(span)}" for span in spans}
    for span, members in spans.items():
        yield from _class(names[span], members)
    for stage in STAGES:
        yield f"---@class mta.mail.{stage}: {', '.join(names[span] for span in spans if stage in span)}"
    yield ""


def _spell(span: frozenset[str]) -> str:
    """Stages as part of a name: always, from_preq, mail_to_postq, rcpt_delivery."""
    names = [stage for stage in STAGES if stage in span]
    first, last = STAGES.index(names[0]), STAGES.index(names[-1])
    if last - first + 1 > len(names) or len(names) < 3:
        return "_".join(names)
    return ("always" if not first else f"from_{names[0]}") if names[-1] == STAGES[-1] else f"{names[0]}_to_{names[-1]}"


def _stages(words: list[Word]) -> Iterator[str]:
    yield "on = {}"
    for one in words:
        stage = _last(one)
        yield ""
        yield from _doc(one)
        yield "---@param name string"
        yield f"---@param rule fun(mail: mta.mail.{stage}): mta.verdict?"
        yield f"function {one.name}(name, rule) end"
    yield ""


def _global(one: Word) -> Iterator[str]:
    if one.kind == "field":
        yield from (*_doc(one), f"---@type {_type(one.results[0])}", f"{one.name} = {{}}", "")
    else:
        yield from (*_function(one, one.name), "")


def _function(one: Word, name: str) -> Iterator[str]:
    yield from _doc(one)
    for argument in one.arguments:
        yield f"---@param {_name(argument)}{'?' if argument.optional else ''} {_taken(one, argument)}"
    if one.results:
        yield f"---@return {', '.join(map(_type, one.results))}"
    yield f"function {name}({', '.join(map(_name, one.arguments))}) end"


# -- words of an annotation --------------------------------------------------------------------------------------------


def _name(argument: Argument) -> str:
    return f"{argument.name}_" if argument.name in KEYWORDS else argument.name


def _last(one: Word) -> str:
    return re.split(r"[.:]", one.name)[-1]


def _line(one: Word) -> str:
    when = wordbook.when(one)
    return f"{one.meaning} (At {when}.)" if when else one.meaning


def _doc(one: Word) -> Iterator[str]:
    yield f"---{_line(one)}"
    yield "---```lua"
    yield from (f"---{line}" for line in one.example.split("\n"))
    yield "---```"


def _type(declared: str) -> str:
    return _TYPE.sub(lambda found: f"mta.{found[0]}" if found[0] in _OWN else found[0], declared)


def _taken(one: Word, argument: Argument) -> str:
    """What an argument may be: Python's words take an address, and numbers, where they need text."""
    if one.kind == "verdict":
        return "mta.reply" if argument.name == "reply" else "string"
    if argument.type in ("string", "string[]"):
        return "mta.text" if argument.type == "string" else "mta.text|mta.text[]"
    return _type(argument.type)
