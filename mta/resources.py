"""Where the files live that travel with the program: `lua/` and `conf/`, in a checkout and once installed."""

from __future__ import annotations

from pathlib import Path

HOUSE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder "lua" or "conf": beside the package in a checkout, inside it (`_lua`, `_conf`) once installed."""
    installed = HOUSE / f"_{name}"
    return installed if installed.is_dir() else HOUSE.parent / name
