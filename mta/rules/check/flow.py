"""Which way a function can end, and what is therefore never reached.

outcome      a path
a verdict    returns deny(...), accept(...) and so on: it decides
"other"      returns something else, or nothing
"jump"       leaves by break or goto
"error"      calls error
"on"         goes on behind the statement
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tree_sitter import Node

from mta.rules.check.tree import WARNING, Finding, Tree, inside, named, span
from mta.rules.check.uses import Rule
from mta.rules.verdict import REFUSING, STAGES
from mta.rules.words.word import NUMBER, Word

GOES_ON = ("next", "relay")  # verdicts that decide nothing
FOR_GOOD = ("faccept", "discard")  # hold for the later stages too

Calls = Mapping[tuple[int, int], Word]


class Flow:
    """Reads functions; `dead` is code that is never reached."""

    def __init__(self, tree: Tree, calls: Calls) -> None:
        self.tree, self.calls = tree, calls
        self.dead: list[Node] = []

    def ends(self, body: Node | None) -> frozenset[str]:
        """The outcomes of a block."""
        found: set[str] = set()
        statements = named(body)
        for n, one in enumerate(statements):
            outcome = self.outcome(one)
            found |= outcome - {"on"}
            if "on" not in outcome:
                rest = statements[n + 1 :]
                label = any(below.type == "label_statement" for below in rest)
                if rest and not label:
                    self.dead.append(rest[0])
                return frozenset(found | ({"on"} if label else set()))
        return frozenset(found | {"on"})

    def outcome(self, node: Node) -> frozenset[str]:
        kind, body = node.type, node.child_by_field_name("body")
        if kind == "return_statement":
            return frozenset([self._returned(node)])
        if kind == "if_statement":
            branches = [node.child_by_field_name("consequence")]
            ways: set[str] = set()
            for other in node.children_by_field_name("alternative"):
                branches.append(other.child_by_field_name("consequence") or other.child_by_field_name("body"))
            for branch in branches:
                ways |= self.ends(branch)
            if not any(other.type == "else_statement" for other in node.children_by_field_name("alternative")):
                ways.add("on")
            return frozenset(ways)
        if kind == "do_statement":
            return self.ends(body)
        if kind in ("while_statement", "for_statement", "repeat_statement"):
            return self.ends(body) - {"jump"} | {"on"}
        if kind in ("break_statement", "goto_statement"):
            return frozenset(["jump"])
        if kind == "function_call":
            one = self.calls.get(span(node))
            return frozenset(["error" if one is not None and one.name == "error" else "on"])
        return frozenset(["on"])

    def _returned(self, node: Node) -> str:
        values = [value for one in named(node) for value in named(one)]
        one = self.calls.get(span(values[0])) if len(values) == 1 else None
        decides = one is not None and one.kind == "verdict" and one.name not in GOES_ON
        return one.name if one is not None and decides else "other"


def look(tree: Tree, rules: list[Rule], calls: Calls) -> Iterator[Finding]:
    flow = Flow(tree, calls)
    bodies = {span(rule.function): flow.ends(rule.function.child_by_field_name("body")) for rule in rules}
    for node in inside(tree.root, functions=True):
        if node.type in ("function_definition", "function_declaration") and span(node) not in bodies:
            flow.ends(node.child_by_field_name("body"))
    flow.ends(tree.root)
    for node in {span(node): node for node in flow.dead}.values():
        yield tree.finding(node, WARNING, "this is never reached", "take it away, or move it up")
    yield from _unasked(tree, rules, bodies)


def _unasked(tree: Tree, rules: list[Rule], bodies: Mapping[tuple[int, int], frozenset[str]]) -> Iterator[Finding]:
    """Rules that come after one that always decides."""
    first: dict[str, Rule] = {}  # the rule of a stage that always decides
    for rule in rules:
        known = first.get(rule.stage)
        if known is not None:
            yield _finding(tree, rule, known, "decides always")
        elif not bodies[span(rule.function)] & {"other", "on", "jump", "error"}:
            first[rule.stage] = rule
    for rule in rules:
        for stage in STAGES[: NUMBER[rule.stage]]:
            known = first.get(stage)
            if known is not None and _ends_all(stage, bodies[span(known.function)]):
                yield _finding(tree, rule, known, f"ends everything at {stage}")
                break


def _ends_all(stage: str, ways: frozenset[str]) -> bool:
    refuses = REFUSING if stage not in ("authenticate", "postq") else ()  # there a later stage comes all the same
    return ways <= {*FOR_GOOD, *refuses}


def _finding(tree: Tree, rule: Rule, known: Rule, why: str) -> Finding:
    line = tree.place(known.call)[0]
    what = f'the rule "{rule.name}" is never asked: "{known.name}" in line {line} {why}'
    return tree.finding(rule.call, WARNING, what, "move it up, or let that rule return nothing where it has no opinion")
