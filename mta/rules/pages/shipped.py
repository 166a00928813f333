"""The files that are made from the declared words and travel with the program.

`python -m mta.rules.pages.shipped` writes them; a test compares them with what would be written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mta import resources
from mta.rules.pages import reference, stubs

LUA = resources.folder("lua")
FILES: dict[Path, Callable[[], str]] = {
    LUA / "meta" / "mta.lua": stubs.text,
    LUA / "REFERENCE.rst": reference.page,
    LUA.parent / ".luarc.json": lambda: stubs.settings(["lua/meta", "lua/lib"]),
}

if __name__ == "__main__":
    for path, text in FILES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text(), "utf-8")
        print(path)
