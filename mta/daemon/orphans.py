"""Spool folders without an owner: the master finds them, and live workers adopt them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mta.daemon.child import Child
from mta.spool.adoption import NEW, NOBODYS

EVERY = 2.0  # seconds between two looks, when nobody has died


class Orphans:
    """`guilty` are folders whose owner crashed or hung: what it had in hand may be why."""

    def __init__(self) -> None:
        self.guilty: set[str] = set()
        self._spools: set[str] = set()  # also one that a reload has left: its mail is still delivered
        self._at = 0.0

    def soon(self) -> None:
        """There may be new ones: look at once."""
        self._at = 0.0

    def give(self, now: float, spool: str, children: Iterable[Child], ready: Iterable[Child]) -> None:
        """Each to one of the ready workers in turn. One that is locked by others comes back."""
        if now < self._at:
            return
        self._at = now + EVERY
        takers = sorted(ready, key=lambda child: len(child.folders))
        if not takers:
            return
        owned = set().union(*(child.folders for child in children))
        for n, folder in enumerate(sorted(self._found(spool) - owned)):
            taker = takers[n % len(takers)]
            if taker.send(do="adopt", folder=folder, guilty=folder in self.guilty):
                taker.folders.add(folder)

    def left(self, spool: str, children: Iterable[Child]) -> int:
        """How many nobody has taken over yet: one that is given to a worker stays where it is until it begins."""
        made = {child.spool for child in children}
        return sum(1 for path in self._found(spool) - made if not os.path.basename(path).startswith(NEW))

    def _found(self, spool: str) -> set[str]:
        self._spools.add(spool)
        return {folder for path in self._spools for folder in folders(path)}


def folders(spool: str) -> list[str]:
    """The folders in a spool, each some writer's."""
    try:
        with os.scandir(spool) as found:
            return [entry.path for entry in found if entry.is_dir(follow_symlinks=False) and entry.name != NOBODYS]
    except OSError:
        return []
