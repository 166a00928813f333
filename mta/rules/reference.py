"""The reference page of the rule language, made from the declared words and the table of verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mta.rules import effects, wordbook
from mta.rules.verdict import STAGES
from mta.rules.word import Word

HEAD = """\
The rule language
=================

.. Made by "python -m mta.rules.shipped" from the declarations the rules are run by; changes here are lost.

A rule belongs to a stage and has a name, which is in every log line it causes::

    on.rcpt("no mail for the archive from outside", function(mail)
      if mail.recipient.local_part == "archive" and not mail.user then
        return deny("550 5.7.1 Not from outside")
      end
    end)

The rules of a stage are asked in the order they are written, until one returns a verdict. Rules are Lua 5.4; what is
not on this page does not exist for them. ``mta lua doc WORD`` shows a word in the terminal, ``mta lua check`` reads
rules and says what is wrong with them, ``mta lua stubs`` writes what an editor needs to complete and to underline.

``name?`` is an argument that may be left out, ``string?`` a value that may be nil, ``string[]`` a list. Where text is
taken, an address is too. A word that *waits* asks the outside: the other mails of the server go on meanwhile.

.. contents::
   :local:
   :depth: 1

"""

TITLES = {
    "mail": "The mail",
    "mail.headers": "The header",
    "mail.client": "The client",
    "address": "Addresses",
    "part": "Parts",
    "service": "Services",
}


def page() -> str:
    """The file lua/REFERENCE.rst."""
    out = [HEAD]
    for title, words in wordbook.groups().items():
        out += _heading(TITLES.get(title, title), "-")
        out += [line for one in words for line in _word(one)]
        if title == "Verdicts":
            out += _verdicts()
    return "\n".join(out).rstrip() + "\n"


def _heading(title: str, mark: str) -> list[str]:
    return [title, mark * len(title), ""]


def _word(one: Word) -> Iterator[str]:
    yield f"``{one.signature}``"
    notes = [f"At {wordbook.when(one)}." if wordbook.when(one) else "", "Waits." if one.waits else ""]
    meaning = " ".join(filter(None, [_escaped(one.meaning), *notes]))
    yield from textwrap.wrap(meaning, 114, initial_indent="    ", subsequent_indent="    ")
    yield from ("", "    ::", "")
    yield from textwrap.indent(one.example, "        ").splitlines()
    yield ""


def _escaped(text: str) -> str:
    """Plain text, whatever signs are in it."""
    for sign in "\\*`|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("_ ", "\\_ ")


# -- verdicts ----------------------------------------------------------------------------------------------------------


def _verdicts() -> Iterator[str]:
    yield from _heading("What each verdict does at each stage", "~")
    rows = [["stage", *effects.EFFECTS], *([stage, *_cells(stage)] for stage in STAGES)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    yield rule
    for n, row in enumerate(rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if n == 0:
            yield rule
    yield from (rule, "")
    yield "The number is what the client hears when the rule names no reply of its own."
    yield ""
    for name, meaning in effects.OUTCOMES.items():
        yield name if name != "-" else "\\-"
        yield from textwrap.wrap(meaning, 114, initial_indent="    ", subsequent_indent="    ")
        yield ""
    for note in effects.NOTES:
        yield from textwrap.wrap(note, 114, initial_indent="* ", subsequent_indent="  ")
    for stage in effects.NOT_ASKED:
        yield f"* The rules of {stage} are not asked yet: the server does not offer AUTH."
    yield ""


def _cells(stage: str) -> Iterator[str]:
    for row in effects.EFFECTS.values():
        hears, outcome = row[stage]
        yield f"{hears}, {outcome}" if hears else outcome if outcome != "-" else "\\-"
