"""A question that waits for the outside, asked before a test that costs nothing and would have spared it.

if dns.listed(ip, zone) and mail.helo == "x" then        the second half first
local codes = dns.listed(ip, zone)                       the test of mail.user first
if mail.user then return end
"""

from __future__ import annotations

from collections.abc import Iterator

from tree_sitter import Node

from mta.rules.check.tree import WARNING, Finding, Tree, inside, named, span
from mta.rules.check.uses import Rule, Uses
from mta.rules.words.word import Word

COUNTS = ("rate", "store.set", "store.add", "store.increment", "store.delete")  # asked for what they do
HARMLESS = ("string.", "tostring", "tonumber", "type", "mail.headers:", "net.", "domain.", "mailbox.")


def look(tree: Tree, uses: Uses) -> Iterator[Finding]:
    order = _Order(tree, uses)
    for rule in {span(rule.function): rule for rule in uses.rules}.values():
        yield from order.conditions(rule)
        yield from order.statements(rule)


class _Order:
    def __init__(self, tree: Tree, uses: Uses) -> None:
        self.tree, self.uses = tree, uses

    def asked(self, node: Node) -> Word | None:
        """The first word in here that waits, whatever happens."""
        for one in inside(node):
            word = self.uses.calls.get(span(one))
            if word is not None and word.waits and ":" not in word.name and word.name not in COUNTS:
                return word
        return None

    def cheap(self, node: Node) -> bool:
        """Does this read the mail, and call nothing that may wait or count?"""
        reads = False
        for one in inside(node):
            if one.type == "function_call":
                word = self.uses.calls.get(span(one))
                callee = one.child_by_field_name("name")
                method = callee is not None and callee.type == "method_index_expression"
                if word is None and not method:
                    return False
                if word is not None and not word.name.startswith(HARMLESS):
                    return False
            reads = reads or span(one) in self.uses.facts
        return reads

    def conditions(self, rule: Rule) -> Iterator[Finding]:
        for node in inside(rule.function):
            condition = node.child_by_field_name("condition")
            if condition is None:
                continue
            for one in inside(condition):
                left, right = one.child_by_field_name("left"), one.child_by_field_name("right")
                if one.type != "binary_expression" or left is None or right is None:
                    continue
                if not any(sign.type in ("and", "or") for sign in one.children):
                    continue
                word = self.asked(left)
                if word is not None and self.asked(right) is None and self.cheap(right):
                    what = f"{word.name} waits for an answer, and only then comes a test that costs nothing"
                    yield self.tree.finding(left, WARNING, what, "put the test first")

    def statements(self, rule: Rule) -> Iterator[Finding]:
        word, asked = None, rule.function
        made: set[str] = set()  # names that depend on what came since
        for one in named(rule.function.child_by_field_name("body")):
            if word is not None and self._spares(one, made):
                line = self.tree.place(one)[0]
                what = f"{word.name} waits for an answer that the test in line {line} may not need"
                yield self.tree.finding(asked, WARNING, what, "put the test first")
                return
            unconditional = one.child_by_field_name("condition") if one.type == "if_statement" else one
            if one.type in ("while_statement", "for_statement", "repeat_statement") or unconditional is None:
                return
            if word is None:
                word, asked = self.asked(unconditional), one
            if one.type == "variable_declaration":
                lists = [below for below in inside(one) if below.type == "variable_list"]
                made |= {self.tree.text(name) for name in named(lists[0] if lists else None)}
            elif one.type != "if_statement":
                return

    def _spares(self, node: Node, made: set[str]) -> bool:
        condition, body = node.child_by_field_name("condition"), node.child_by_field_name("consequence")
        if node.type != "if_statement" or condition is None or not named(body):
            return False
        names = {self.tree.text(one) for one in inside(condition) if one.type == "identifier"}
        leaves = named(body)[-1].type == "return_statement"
        return leaves and not names & made and self.asked(condition) is None and self.cheap(condition)
