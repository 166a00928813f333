"""The reference page of the rule language, made from the declared words and the table of verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mta.rules.pages import effects, wordbook
from mta.rules.transaction import GIVEN, LOGGED
from mta.rules.verdict import STAGES
from mta.rules.words.word import Word

HEAD = f"""\
The rule language
=================

.. Made by "python -m mta.rules.pages.shipped" from the declarations the rules are run by; changes here are lost.

``docs/first-filter.rst`` is the way in: a first rule, tried and tested, in ten minutes.

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

No rule can hold up the server: ``rules.instructions``, ``rules.growth``, ``rules.memory`` and ``rules.wall`` say what
it may take. Rules may put {GIVEN >> 20} MB into one mail, and {LOGGED >> 20} MB about it into the log. One that wants
more fails, and ``rules.on_error`` says what is done then.

.. contents::
   :local:
   :depth: 1

"""

FILES = """\
Files
-----

``rules/main.lua`` is asked first, at every stage of every mail; then one file of a domain of ours:
``domains/NAME/incoming.lua``, ``outgoing.lua`` or ``internal.lua`` (the setting ``rules.domains``). A domain
without a folder of its own finds that of the next domain above it; ``rules/fallback.lua`` speaks only where the
folder or the file is missing. ``accept`` in main.lua ends main.lua's part only; ``faccept``, and every other
verdict, ends both.

=============  =============  ==========================  ===========  ===============
the client is  the sender is  the recipient is            direction    whose folder
=============  =============  ==========================  ===========  ===============
a stranger     anybody        anybody                     incoming     the recipient's
ours           ours           ours, with the same folder  internal     the sender's
ours           ours           anybody else                outgoing     the sender's
ours           not ours       ours                        incoming     the recipient's
ours           not ours       not ours                    outgoing     nobody's
=============  =============  ==========================  ===========  ===============

A client is ours when it has logged in or is trusted. For the null sender stands the domain of the user's name, if
it has one. At connect, helo and authenticate only main.lua is asked, and at mail only main.lua and outgoing.lua (or
fallback.lua), for there the recipient is not known.

A mail has one set of rules. A stranger's recipient under other rules than the first one's is answered 452 4.5.3 and
comes again. The mail of our own people is split instead: rcpt and data ask the rules of everybody in question (one
no at data is a no to the command), preq is run for every copy before anything is stored. If one is deferred the
client hears that, and nothing is stored; if all are denied it hears the first denial; if some are, these come back
to the sender as a bounce. Each copy has an id of its own and the mail's as ``mail.origin``, its own vars and
header (both begin with what all rules said before), and keeps its file's rules for postq and delivery. What faccept,
quarantine and discard say at rcpt holds for the recipients under the same rules.

A folder must belong to a domain of the settings or to one above it, and no other Lua files may lie in it: what no
mail would ever meet is an error. ``require`` finds modules in ``rules/``, ``domains/`` and the library.

Lists
-----

A list is a file in the folder ``rules.lists``, with one entry a line; behind a ``#`` stands a comment. A map is a file
``NAME.csv`` with the entry in its first column and values in the others, quoted where they hold a comma.

=============================================================  =======================================================
``word``, ``two words``                                        that and nothing else
``ann@example.test``                                           this address
``ann@``                                                       this local part, whatever the domain is
``example.test``, ``@example.test``                            this domain, and the addresses in it
``.example.test``                                              this domain and all below it
``*.example.test``                                             what lies below this domain
``192.0.2.7``, ``192.0.2.0/24``, ``192.0.2.1-192.0.2.9``       IP addresses; so are ``2001:db8::1`` and its kin
=============================================================  =======================================================

Capitals make no difference, and a domain beyond ASCII is the same as its A-labels. If several entries fit, the nearest
is taken: first the address, then the local part, the domain, and the longest domain above it; of networks the smallest.
A file that changes is read again within a second; if there is something wrong with it, the log tells
(``list_rejected``) and what was read before stays. 32 MB and a million entries are the most.

"""

TITLES = {
    "mail": "The mail",
    "mail.headers": "The header",
    "mail.client": "The client",
    "mail.credentials": "Logging in",
    "address": "Addresses",
    "part": "Parts",
    "service": "Services",
}


def page() -> str:
    """The file lua/REFERENCE.rst."""
    out = [HEAD + FILES]
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
    if held := wordbook.held(one):
        yield from ("    These there are; [replies] has other words for them, and more of them::", "")
        yield from (f"        {name:<22}{text}" for name, text in held.items())
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
    yield ""


def _cells(stage: str) -> Iterator[str]:
    for row in effects.EFFECTS.values():
        hears, outcome = row[stage]
        yield f"{hears}, {outcome}" if hears else outcome if outcome != "-" else "\\-"
