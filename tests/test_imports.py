"""The rooms of the house and who may look into which: imports look down only, and few know gevent or lupa."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mta

HOUSE = Path(mta.__file__).parent

FLOORS = [  # from the ground up; a room sees the rooms of the floors below it and nothing else
    ["message", "settings", "events", "toml"],
    ["net", "config", "log", "domains", "resources"],
    ["spool", "auth"],
    ["rules"],
    ["receive", "deliver"],
    ["daemon"],
    ["cli"],
    ["__main__"],
]
BESIDE = {("net", "log"), ("domains", "config"), ("domains", "net")}  # who may see whom on the same floor

GEVENT = ["net/", "receive/listener.py", "deliver/queue.py", "daemon/", "__main__.py"]
LUPA = ["rules/engine/engine.py", "rules/engine/sandbox.py"]

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

RULES = [  # the same inside rules/: its folders, and the modules that stand beside them
    ["transaction", "verdict"],
    ["outside"],
    ["words"],
    ["check", "pages"],
    ["engine"],
    ["trying"],
]
FLOOR_OF_RULES = {folder: number for number, folders in enumerate(RULES) for folder in folders}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(HOUSE.rglob("*.py")):
        yield path.relative_to(HOUSE).as_posix(), ast.parse(path.read_text("utf-8"))


def imported(name: str, tree: ast.Module) -> Iterator[str]:
    """The dotted names a module imports, wherever in it. `from mta import log` counts as mta.log."""
    package = ["mta", *name.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            if module in ("mta", "mta.rules"):
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module


def room(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def test_every_room_has_its_floor() -> None:
    assert {room(name) for name, _ in modules()} - {"__init__"} <= set(FLOOR)


def test_imports_look_down_only() -> None:
    wrong = []
    for name, tree in modules():
        if name == "__init__.py":
            continue
        here = room(name)
        for what in imported(name, tree):
            if not what.startswith("mta."):
                continue
            there = what.split(".")[1]
            if there not in FLOOR or there == here:  # mta.__version__, or the same room
                continue
            if FLOOR[there] >= FLOOR[here] and (here, there) not in BESIDE:
                wrong.append(f"mta/{name} imports {what}")
    assert not wrong, "imports look down only"


class Running(ast.NodeTransformer):
    """Takes out what is imported for its types alone: a lower floor may name what a higher one puts into its hands."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def test_inside_rules_imports_look_down_too() -> None:
    wrong = []
    for name, tree in modules():
        here = name.removeprefix("rules/").split("/")[0].removesuffix(".py")
        if not name.startswith("rules/") or here == "__init__":
            continue
        assert here in FLOOR_OF_RULES, f"which floor of rules is mta/{name} on?"
        for what in imported(name, Running().visit(tree)):
            there = what.removeprefix("mta.rules.").split(".")[0]
            if what.startswith("mta.rules.") and there != here and FLOOR_OF_RULES[there] >= FLOOR_OF_RULES[here]:
                wrong.append(f"mta/{name} imports {what}")
    assert not wrong, "imports look down only"


def test_receive_and_deliver_meet_in_the_spool_alone() -> None:
    assert FLOOR["receive"] == FLOOR["deliver"]
    assert not BESIDE & {("receive", "deliver"), ("deliver", "receive")}


def knowing(library: str, allowed: list[str]) -> list[str]:
    return [
        f"mta/{name}"
        for name, tree in modules()
        if any(what.split(".")[0] == library for what in imported(name, tree))
        and not any(name == place or (place.endswith("/") and name.startswith(place)) for place in allowed)
    ]


def test_few_know_gevent() -> None:
    assert not knowing("gevent", GEVENT)


def test_only_the_engine_and_the_sandbox_know_lupa() -> None:
    assert not knowing("lupa", LUPA)


def test_nobody_knows_asyncio() -> None:
    assert not knowing("asyncio", [])
