"""Walks a file once from top to bottom and looks at every name, field and call: does it exist, and at this stage?

Where the walk stands is a `Place`: outside of rules while the file is loaded, inside the rule of a stage, or inside a
function of which nobody knows when it is called. Inside `pcall(function() ... end)` nothing is told: what fails there
is meant to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tree_sitter import Node

from mta.rules.check import calls, written
from mta.rules.check.names import PLAIN, UNKNOWN, Local, Means, Scopes, Words
from mta.rules.check.tree import ERROR, WARNING, Finding, Tree, arguments, named, span
from mta.rules.verdict import STAGES
from mta.rules.words import api
from mta.rules.words.word import NUMBER, Word

GUARDS = ("pcall", "xpcall")


class Place(NamedTuple):
    """`stages`: those the code here may run at, None if nobody knows."""

    stages: frozenset[str] | None = None
    loading: bool = False
    guarded: bool = False


class Rule(NamedTuple):
    stage: str
    name: str
    call: Node
    function: Node


class Uses:
    """What one walk has found. `calls` and `facts`: the words called and the fields of mail read, by where they stand.

    `seen` is what an earlier walk over the same file learnt: which locals and globals are assigned anywhere in it, and
    at which stages a local function is a rule.
    """

    def __init__(self, tree: Tree, words: Words, seen: Uses | None = None) -> None:
        self.tree, self.words, self.scopes = tree, words, Scopes()
        self.findings: list[Finding] = []
        self.rules: list[Rule] = []
        self.calls: dict[tuple[int, int], Word] = {}
        self.facts: set[tuple[int, int]] = set()
        self.changed: set[int] = seen.changed if seen else set()  # where locals begin that are assigned again
        self.globals: set[str] = seen.globals if seen else set()
        self.named: dict[int, set[str]] = seen.named if seen else {}  # where functions begin -> the stages of the rules
        self.place = Place(loading=True)
        self._titles: dict[tuple[str, str], int] = {}

    def walk(self) -> Uses:
        self.block(self.tree.root)
        return self

    # -- telling -------------------------------------------------------------------------------------------------------

    def tell(self, node: Node, level: str, what: str, advice: str) -> None:
        if not self.place.guarded:
            self.findings.append(self.tree.finding(node, level, what, advice))

    def stage_of(self, one: Word) -> str | None:
        """A stage at which this word cannot be used here; None if it can be, as far as is known."""
        here = self.place.stages
        wrong = here - one.stages if here is not None else frozenset[str]()
        return min(wrong, key=lambda stage: NUMBER[stage]) if wrong else None

    # -- statements ----------------------------------------------------------------------------------------------------

    def block(self, node: Node | None) -> None:
        for one in named(node):
            self.statement(one)

    def scoped(self, node: Node | None) -> None:
        self.scopes.enter()
        self.block(node)
        self.scopes.leave()

    def statement(self, node: Node) -> None:
        kind = node.type
        own: Callable[[Node], None] | None = getattr(self, f"_{kind}", None)
        if own:
            own(node)
        elif kind in ("block", "do_statement", "else_statement"):
            self.scoped(node.child_by_field_name("body") or node)
        elif kind == "function_call":
            self._thrown_away(node, self.value(node))
        elif kind not in ("goto_statement", "label_statement", "break_statement", "attribute", "hash_bang_line"):
            for one in named(node):
                if one.type.endswith(("statement", "declaration")) or one.type == "block":
                    self.statement(one)
                else:
                    self.value(one)

    def _variable_declaration(self, node: Node) -> None:
        (inner, *_) = named(node) or [node]
        if inner.type == "assignment_statement":
            targets, values = named(inner)[0], named(inner)[1] if len(named(inner)) > 1 else None
        else:
            targets, values = inner, None
        given = [(self.value(one), one) for one in named(values)]
        for n, name in enumerate(one for one in named(targets) if one.type == "identifier"):
            means, value = given[n] if n < len(given) else (UNKNOWN, None)
            function = value if value is not None and value.type == "function_definition" else None
            self.declare(name, means, function)

    def declare(self, name: Node, means: Means = UNKNOWN, function: Node | None = None) -> None:
        if name.start_byte in self.changed:
            means, function = UNKNOWN, None
        self.scopes.add(self.tree.text(name), Local(name, means, function))

    def _assignment_statement(self, node: Node) -> None:
        parts = named(node)
        for one in named(parts[1]) if len(parts) > 1 else []:
            self.value(one)
        for target in named(parts[0]) if parts else []:
            if target.type == "identifier":
                self.assign(target)
            else:
                self.value(target.child_by_field_name("table"))
                if target.type == "bracket_index_expression":
                    self.value(target.child_by_field_name("field"))

    def assign(self, target: Node) -> None:
        name = self.tree.text(target)
        local = self.scopes.find(name)
        if local is not None:
            self.changed.add(local.node.start_byte)
            return
        if self.place.loading or self.tree.other_globals:
            self.globals.add(name)
        elif self.place.stages is not None:
            what = f"a rule cannot assign the global {name}"
            self.tell(target, ERROR, what, f'write "local {name}", or keep it in mail.vars or store')
        else:
            self.globals.add(name)
            what = f"the global {name} is assigned inside a function, which fails once the rules are loaded"
            self.tell(target, WARNING, what, f'write "local {name}", or keep it in mail.vars or store')

    def _function_declaration(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        local = node.children[0].type == "local"
        if name is not None and name.type == "identifier":
            if local:
                self.declare(name, UNKNOWN, node)
            else:
                self.assign(name)
        elif name is not None:
            self.value(name.child_by_field_name("table"))
        self.function(node, method=name is not None and name.type == "method_index_expression")

    def _for_statement(self, node: Node) -> None:
        clause, body = node.child_by_field_name("clause"), node.child_by_field_name("body")
        self.scopes.enter()
        if clause is not None and clause.type == "for_generic_clause":
            lists = named(clause)
            values = [(self.value(one), one) for one in named(lists[1])] if len(lists) > 1 else []
            element = self._element(values[0][1], values[0][0]) if values else UNKNOWN
            keyed = bool(values) and self._keyed(values[0][1])
            for n, name in enumerate(named(lists[0])):
                self.declare(name, element if n == int(keyed) else UNKNOWN)
        elif clause is not None:
            first, *rest = named(clause)
            for one in rest:
                self.value(one)
            self.declare(first)
        self.block(body)
        self.scopes.leave()

    def _keyed(self, node: Node) -> bool:
        one = self.calls.get(span(node))
        return one is not None and one.name == "ipairs"

    def _element(self, node: Node, means: Means) -> Means:
        """What a loop over this gives: ipairs of a list, or a list that walks itself."""
        if self._keyed(node):
            (given, *_) = arguments(node) or [node]
            means = self.quiet(given)
        return Means(None, means.home[:-2], means.sure) if means.home.endswith("[]") else UNKNOWN

    def _repeat_statement(self, node: Node) -> None:
        self.scopes.enter()
        self.block(node.child_by_field_name("body"))
        self.value(node.child_by_field_name("condition"))
        self.scopes.leave()

    def _return_statement(self, node: Node) -> None:
        for one in named(node):
            for value in named(one):
                self.value(value)

    def _thrown_away(self, call: Node, means: Means) -> None:
        one = self.calls.get(span(call))
        if self.place.loading:
            return  # said already
        if one is not None and one.kind == "verdict" and one.name not in ("next", "relay"):
            self.tell(call, WARNING, f"the verdict of {one.name}() is thrown away", f'write "return {one.name}..."')

    # -- functions -----------------------------------------------------------------------------------------------------

    def function(self, node: Node, stages: frozenset[str] | None = None, *, method: bool = False) -> None:
        before = self.place
        known = stages or frozenset(self.named.get(node.start_byte, ()))
        if known:
            self.place = Place(known, guarded=before.guarded)
        elif before.stages is None:
            self.place = Place(guarded=before.guarded)
        self.scopes.enter()
        names = [one for one in named(node.child_by_field_name("parameters")) if one.type == "identifier"]
        for n, name in enumerate(names):
            guess = not known and before.stages is None and self.tree.text(name) == "mail"
            mail = guess or (known and n == 0 and not method)
            self.declare(name, Means(None, "mail", sure=not guess) if mail else UNKNOWN)
        self.block(node.child_by_field_name("body"))
        self.scopes.leave()
        self.place = before

    # -- values --------------------------------------------------------------------------------------------------------

    def quiet(self, node: Node | None) -> Means:
        """What something means, when it was looked at already."""
        findings, self.findings = self.findings, []
        try:
            return self.value(node)
        finally:
            self.findings = findings

    def value(self, node: Node | None) -> Means:
        if node is None:
            return UNKNOWN
        kind = node.type
        if kind == "identifier":
            return self.name(node)
        if kind in ("dot_index_expression", "method_index_expression", "bracket_index_expression"):
            return self.member(node)
        if kind == "function_call":
            return self.call(node)
        if kind == "function_definition":
            self.function(node)
            return UNKNOWN
        if kind == "parenthesized_expression":
            found = [self.value(one) for one in named(node)]
            return found[0] if found else UNKNOWN
        if kind == "string":
            return Means(None, self.words.of_type("string"))
        if kind == "field":
            name = node.child_by_field_name("name")
            if name is not None and node.children[0].type == "[":
                self.value(name)
            self.value(node.child_by_field_name("value"))
            return UNKNOWN
        both = [(one, self.value(one)) for one in named(node)]
        sign = next((one.type for one in node.children if one.type in ("==", "~=")), "")
        if kind == "binary_expression" and sign:
            self._compared(node, sign, both)
        return UNKNOWN

    def _compared(self, node: Node, sign: str, both: list[tuple[Node, Means]]) -> None:
        """An address is a thing of its own: Lua says it differs from any text, and the rule would never match."""
        if {means.home for _, means in both} == {"address", "string"}:
            written = {means.home: self.tree.text(one) for one, means in both}
            address, text = written["address"], written["string"]
            advice = f"write mailbox.same({address}, {text}), which ignores capitals"
            if text in ('""', "''"):  # the null sender is no mailbox
                advice = f"write tostring({address}) {sign} {text}"
            level = ERROR if all(means.sure for _, means in both) else WARNING
            self.tell(node, level, "an address is never equal to a text", advice)

    def name(self, node: Node) -> Means:
        name = self.tree.text(node)
        local = self.scopes.find(name)
        if local is not None:
            return local.means
        if name in self.globals or name in PLAIN or self.tree.other_globals:
            return UNKNOWN
        if name == "on" and not self.tree.source.rules:
            self.tell(node, ERROR, "a module has no on", "let it return a function, and write the rule in a rule file")
            return UNKNOWN
        if name in self.words.roots:
            return self.words.global_(name)
        self.missing(node, name)
        return UNKNOWN

    def missing(self, node: Node, name: str) -> None:
        """A global nobody has made: an error where it is called or indexed, for then it fails."""
        used = _used(node)
        near = api.nearest(name)
        if name == "mail":
            what = f"there is no global {name}: a rule has it as its argument"
            advice = "write on.STAGE(name, function(mail) ... end)"
        else:
            what = f"there is no global {name}" + ("" if used else ", so this is nil")
            advice = f"did you mean {near}?" if near and near != name else f'make it with "local {name} = ..."'
        self.tell(node, ERROR if used else WARNING, what, advice)

    def member(self, node: Node) -> Means:
        base = self.value(node.child_by_field_name("table"))
        field = node.child_by_field_name("method") or node.child_by_field_name("field")
        if field is None:
            return UNKNOWN
        if node.type == "bracket_index_expression":
            self.value(field)
            key = self.tree.literal(field)
            if base.home.endswith("[]") and field.type == "number":
                return Means(None, base.home[:-2], base.sure)
        else:
            key = self.tree.text(field)
        if not base.home or key is None:
            return UNKNOWN
        found = self.words.member(base.home, key)
        if found is None:
            self.unknown(node, field, base, key)
            return UNKNOWN
        if base.home == "on":
            return found
        if found.word is not None and base.home.partition(".")[0] == "mail":
            self.facts.add(span(node))
            stage = self.stage_of(found.word)
            if stage is not None and base.sure and not (base.word and self.stage_of(base.word)):
                self.wrong_stage(field, found.word, api.unknown(base.home, key, stage))
        return found._replace(sure=base.sure)

    def unknown(self, node: Node, field: Node, base: Means, key: str) -> None:
        """A member nobody has declared. Of Lua's own tables it may be asked for, and is nil."""
        what = api.unknown(base.home, key, None).partition("; ")[0]
        near = "".join(f"did you mean {one}?" for one in self.words.near(base.home, key))
        advice = near or f'"mta lua doc {base.home}" lists what there is'
        if base.home == "on":
            what, advice = what.partition(" (")[0], near or f"the stages are {', '.join(STAGES)}"
        elif base.home == "service":
            advice = f"add [service.{key}] to the configuration"
        sure = base.sure and (_used(node) or base.home not in self.words.open)
        self.tell(field, ERROR if sure else WARNING, what, advice)

    def wrong_stage(self, node: Node, one: Word, what: str) -> None:
        advice = f"move it into a rule at {api.span(one.stages)}"
        several = self.place.stages is not None and len(self.place.stages) > 1
        self.tell(node, WARNING if several else ERROR, what, advice)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def call(self, node: Node) -> Means:
        callee = node.child_by_field_name("name")
        means = self.value(callee)
        one, given = means.word, arguments(node)
        before = self.place
        if one is not None and one.kind == "stage":
            self.rule(node, one, given)
            return UNKNOWN
        if one is not None:
            self.calls[span(node)] = one
            if one.name in GUARDS:
                self.place = before._replace(guarded=True)
        for each in given:
            self.value(each)
        self.place = before
        if callee is not None:
            written.pattern(self, callee, one, given)
        if one is not None and means.sure and callee is not None:
            calls.look(self, callee, one, given)
        return self.words.result(means)

    def rule(self, call: Node, one: Word, given: list[Node]) -> None:
        """on.STAGE(name, function)."""
        calls.rule(self, call, one, given)
        stage = one.name.removeprefix("on.")
        title = self.tree.literal(given[0]) if given else None
        if title is not None:
            self._title(given[0], stage, title)
        function = given[1] if len(given) > 1 else None
        if function is None:
            pass
        elif function.type == "function_definition":
            self.rules.append(Rule(stage, title or "", call, function))
            self.function(function, frozenset([stage]))
        else:
            self.value(function)
            local = self.scopes.find(self.tree.text(function)) if function.type == "identifier" else None
            if local is not None and local.function is not None:
                self.named.setdefault(local.function.start_byte, set()).add(stage)
                self.rules.append(Rule(stage, title or "", call, local.function))

    def _title(self, node: Node, stage: str, title: str) -> None:
        line = self._titles.setdefault((stage, title), self.tree.place(node)[0])
        if line != self.tree.place(node)[0]:
            name = self.tree.text(node)[1:-1]
            what = f'there is a rule "{name}" at {stage} already, in line {line}'
            self.tell(node, ERROR, what, "give it another name")


def _used(node: Node) -> bool:
    """Is this called, or asked for a member? With nil that fails."""
    parent = node.parent
    if parent is None:
        return False
    called = parent.type == "function_call" and parent.child_by_field_name("name") == node
    return called or (parent.type.endswith("index_expression") and parent.child_by_field_name("table") == node)


def walk(tree: Tree, words: Words) -> Uses:
    """Look once, and where something is assigned that may mean more than one thing once more, knowing that."""
    first = Uses(tree, words).walk()
    return Uses(tree, words, first).walk() if first.changed or first.globals or first.named else first
