"""Pauses, and the guard that forbids a switch of greenlets where it would crash: while Lua is on the C stack.

lupa gives every greenlet of a thread the same Lua state; a switch from inside a call of Lua, however it comes about,
mixes two C stacks (measured: a segfault with two greenlets). So whoever calls Lua says so in `Inside`, and the hub
refuses to be switched to meanwhile: the mistake becomes an error with a trace.
"""

from __future__ import annotations

from typing import Any, Protocol

import gevent
import gevent.hub
from gevent import get_hub


class Inside(Protocol):
    """`depth` is above 0 while foreign code that cannot survive a switch is on the C stack."""

    depth: int


class SwitchInside(RuntimeError):
    """Something waited where nothing may wait."""


_switch = gevent.hub.Hub.switch  # every wait of the server comes through here: no look-up of super() each time


class GuardedHub(gevent.hub.Hub):
    """The hub of gevent, but it refuses to run while foreign code is on the C stack."""

    inside: Inside

    def switch(self) -> Any:
        if self.inside.depth:
            raise SwitchInside("a wait inside a call of Lua: what waits has to leave Lua first")
        return _switch(self)


def guard(inside: Inside) -> None:
    """Make this thread's hub a guarded one."""
    hub = get_hub()
    hub.inside = inside
    if type(hub) is gevent.hub.Hub:
        hub.__class__ = GuardedHub


def pause(seconds: float) -> None:
    gevent.sleep(seconds)
