"""The declared words as people look for them: in groups, by name, with the nearest ones to a name that is none.

The reference page, the editor's annotations, `mta lua doc` and the REPL read words through here.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher, get_close_matches

from mta.rules.outside.facts import STANDARD
from mta.rules.verdict import STAGES
from mta.rules.words import api
from mta.rules.words.services import SERVICE
from mta.rules.words.word import Word

WORDS: dict[str, Word] = {**api.WORDS, SERVICE.name: SERVICE}

# groups a reader meets first, in this order
FIRST = ("Stages", "Verdicts", "mail", "mail.headers", "mail.client", "mail.credentials")
OWN, LUA = "Other words", "Lua's own functions"  # words that stand alone


def prefix(name: str) -> str:
    """What a word belongs to: "mail.headers" for "mail.headers:get", "" for "deny"."""
    return re.split(r"[.:](?=[^.:]*$)", name)[0] if re.search(r"[.:]", name) else ""


def group(one: Word) -> str:
    if one.kind in ("stage", "verdict"):
        return "Stages" if one.kind == "stage" else "Verdicts"
    return prefix(one.name) or ("mail" if one.name == "mail" else LUA if one.kind == "library" else OWN)


def groups() -> dict[str, list[Word]]:
    """Every word once, in the order a reader wants: what is ours first, Lua's own library last."""
    found: dict[str, list[Word]] = {}
    for one in WORDS.values():
        found.setdefault(group(one), []).append(one)

    def place(name: str) -> tuple[int, int, str]:
        of_mail = name in FIRST and FIRST.index(name)
        if name in FIRST:
            return 0, int(of_mail), ""
        kinds = {one.kind for one in found[name]}
        if "library" in kinds and kinds <= {"library", "field"}:
            return 3, 0, name.lower()
        return (1 if kinds & {"method", "field"} and name != OWN else 2), int(name == OWN), name.lower()

    return {name: found[name] for name in sorted(found, key=place)}


def held(one: Word) -> dict[str, str]:
    """What is in a table under names that are no words: the replies there are, whatever the settings add."""
    return STANDARD if one.name == "replies" else {}


def when(one: Word) -> str:
    """The stages of a word as people say it; "" for all of them."""
    return "" if len(one.stages) == len(STAGES) else api.span(one.stages)


def spell(name: str) -> str:
    """A name as it is looked for: case, the kind of dot, a call's arguments and an index make no difference."""
    return re.sub(r"\([^()]*\)|\[[^\[\]]*\]|[(\[].*", "", name.strip(), flags=re.S).replace(":", ".").lower()


def _through(wanted: str) -> str:
    """A path through fields as its word is called: mail.recipient.local_part is address.local_part."""
    owner, _, member = wanted.rpartition(".")
    if not owner or any(spell(one) == wanted for one in WORDS):
        return wanted
    owner = _through(owner)
    for one in WORDS.values():
        if spell(one.name) == owner and one.results:
            kind = one.results[0].strip("?[]").removesuffix("s")  # "headers" and "parts" are of many
            kinds = [spell(title) for title in groups() if title.removeprefix("mail.").removesuffix("s") == kind]
            return f"{kinds[0]}.{member}" if kinds else wanted
    return wanted


def find(name: str) -> list[Word]:
    """The word of that name, else the words of a group of that name, else those whose last part it is; or none."""
    wanted = _through(spell(name))
    by_name = [one for one in WORDS.values() if spell(one.name) == wanted]
    return (
        by_name
        or [one for title, words in groups().items() if spell(title) == wanted for one in words]
        or [one for one in WORDS.values() if spell(one.name).rpartition(".")[2] == wanted]
    )


def nearest(name: str) -> list[str]:
    """Words somebody may have meant."""
    wanted = _through(spell(name))
    known = {spell(one): one for one in WORDS} | {spell(one).rpartition(".")[2]: one for one in reversed(WORDS)}
    found = get_close_matches(wanted, known, 3, 0.6)
    best = SequenceMatcher(None, found[0], wanted).ratio() if found else 0  # next to a near one, far ones only distract
    near = [one for one in found if SequenceMatcher(None, one, wanted).ratio() > best - 0.1]
    return list(dict.fromkeys(known[one] for one in near))
