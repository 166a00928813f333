"""What a word of the rule language means, from the same declarations the rules are run by."""

from __future__ import annotations

import argparse
import textwrap

from mta.cli import telling
from mta.rules.pages import wordbook
from mta.rules.trying import dialogue, scripts
from mta.rules.words.word import Word


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "word",
        nargs="?",
        help="like deny, mail.recipient or dns; test or dialogue: what tests say; without it all words",
    )
    telling.json_option(parser)


TOPICS = {"test": scripts, "dialogue": dialogue}  # what they say stands at the head of the file that reads them


def run(given: argparse.Namespace) -> int:
    if given.word in TOPICS:
        print((TOPICS[given.word].__doc__ or "").strip())
        return telling.FINE
    words = wordbook.find(given.word) if given.word else list(wordbook.WORDS.values())
    if not words:
        near = " or ".join(wordbook.nearest(given.word))
        hint = f"; did you mean {near}?" if near else ""
        raise telling.Failed(f"there is no word {given.word}{hint}", telling.NOT_FOUND)
    if given.json:
        for one in words:
            telling.print_json(record(one))
    elif given.word:
        print("\n\n".join(map(page, words)))
    else:
        for title, members in wordbook.groups().items():
            print(telling.paint(title, "bold"))
            for one in members:
                print(f"  {one.signature}")
        print(telling.paint("Tests", "bold"), "  mta lua doc test, mta lua doc dialogue", sep="\n")
    return telling.FINE


def page(one: Word) -> str:
    """A word's signature, meaning, stages and example."""
    lines = [telling.paint(one.signature, "bold"), *textwrap.wrap(one.meaning, 100)]
    notes = [f"At {wordbook.when(one)}." if wordbook.when(one) else "", "Waits for an answer." if one.waits else ""]
    lines += [" ".join(filter(None, notes))] if any(notes) else []
    members = [m for m in wordbook.groups().get(one.name, []) if m is not one]
    below = ["", *(f"    {m.signature}" for m in members)] if members else []
    below += ["", *(f"    {name:<22}{text}" for name, text in held.items())] if (held := wordbook.held(one)) else []
    return "\n".join(
        [lines[0], *textwrap.indent("\n".join([*lines[1:], "", one.example]), "    ").splitlines(), *below]
    )


def record(one: Word) -> dict[str, object]:
    return {
        "name": one.name,
        "kind": one.kind,
        "signature": one.signature,
        "meaning": one.meaning,
        "stages": [stage for stage in wordbook.STAGES if stage in one.stages],
        "arguments": [{"name": a.name, "type": a.type, "optional": a.optional} for a in one.arguments],
        "results": list(one.results),
        "waits": one.waits,
        "example": one.example,
    }
