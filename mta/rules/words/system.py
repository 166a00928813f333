"""The machine we run on: its name, and the few variables of the environment a rule may see."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from mta.rules.words.pure import lua


@lua
def hostname() -> str:
    """The machine's own name; settings.server.name is what we say in the greeting."""
    return socket.gethostname()


@lua
def env(name: str, allowed: Sequence[str]) -> str | None:
    """A variable that `[rules] env` names, as UTF-8; None if it is not set."""
    if name not in allowed:
        raise ValueError(f"the variable {name[:60]!r} is not in [rules] env")
    value = os.environb.get(name.encode("latin-1", "replace"))
    return None if value is None else value.decode("latin-1")
