"""A word is called: may it be here, and like that?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tree_sitter import Node

from mta.rules import verdict
from mta.rules.check import written
from mta.rules.check.tree import ERROR, WARNING
from mta.rules.words import api
from mta.rules.words.word import Word

if TYPE_CHECKING:
    from mta.rules.check.uses import Uses


def look(uses: Uses, callee: Node, one: Word, given: list[Node]) -> None:
    last = callee.child_by_field_name("method") or callee.child_by_field_name("field") or callee
    stage, place = uses.stage_of(one), uses.place
    luas_next = one.name == "next" and bool(given)  # Lua's own function, no verdict
    if place.loading and one.kind == "verdict" and not luas_next:
        what = f"{one.name}() belongs inside a rule"
        uses.tell(callee, ERROR, what, "write on.STAGE(name, function(mail) ... end)")
    elif place.loading and one.waits:
        uses.tell(callee, ERROR, f"{one.name} can be asked inside a rule only", "move it into a rule or a function")
    elif stage is not None and one.kind not in ("method", "field") and not luas_next:
        uses.wrong_stage(last, one, api.wrong_stage(one.name, stage))
    elif one.name == "require" and place.stages is not None:
        uses.tell(callee, ERROR, "require belongs at the top of the file, outside any rule", "move it there")
    elif one.kind == "method" and callee.type == "dot_index_expression":
        uses.tell(last, ERROR, f"{one.name} is called with a colon", f'write "{one.name}(...)"')
    elif one.kind == "function" and callee.type == "method_index_expression":
        uses.tell(last, ERROR, f"{one.name} is called with a dot", f'write "{one.name}(...)"')
    elif one.name in written.LOOK:
        written.argument(uses, one, given)
    elif one.kind == "verdict" and one.name in verdict.CLASSES:
        written.reply(uses, one, given)
        if one.name == "faccept" and place.stages == frozenset(["authenticate"]):
            uses.tell(callee, WARNING, "faccept() lets nobody log in", "accept() does")


def rule(uses: Uses, call: Node, one: Word, given: list[Node]) -> None:
    """on.STAGE(name, function)."""
    if not uses.place.loading:
        uses.tell(call, ERROR, f"{one.name} belongs at the top of a file, outside any rule", "move it there")
    if len(given) != 2 or given[0].type == "function_definition":
        what = f"{one.name} takes a name and a function"
        uses.tell(call, ERROR, what, f'write {one.name}("what it does", function(mail) ... end)')
