"""Has somebody saved a rule file? Looked up a few times a second, for `rules.watch`."""

from __future__ import annotations

import os
from collections.abc import Iterator

EVERY = 0.25  # seconds
DEEPEST = 8  # folders inside each other


class Watch:
    """Files with their times and sizes; a change is told when it stood still for one look (editors save in steps)."""

    def __init__(self, *folders: str) -> None:
        self._folders = folders
        self._told = self._seen = frozenset(self._look())
        self._next = 0.0

    def changed(self, now: float) -> bool:
        if now < self._next:
            return False
        self._next = now + EVERY
        found = frozenset(self._look())
        still = found == self._seen
        self._seen = found
        if still and found != self._told:
            self._told = found
            return True
        return False

    def _look(self) -> Iterator[tuple[str, int, int, int]]:
        for top in self._folders:
            for folder, names in walk(top):
                yield folder, 0, 0, 0
                for name in names:
                    path = os.path.join(folder, name)
                    try:
                        about = os.stat(path)
                    except OSError:
                        continue
                    yield path, about.st_ino, about.st_mtime_ns, about.st_size


def walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder below one, itself first, with its *.lua; a link to a folder is one (domains that share rules)."""
    for folder, folders, names in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if os.path.relpath(folder, top).count(os.sep) >= DEEPEST:  # links may lead round in a ring
            folders.clear()
        yield folder, [name for name in names if name.endswith(".lua") and not name.startswith(".")]
