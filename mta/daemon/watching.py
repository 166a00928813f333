"""Has somebody saved a rule file? Looked up a few times a second, for `rules.watch`."""

from __future__ import annotations

import os
from collections.abc import Iterator

EVERY = 0.25  # seconds


class Watch:
    """Files with their times and sizes; a change is told when it stood still for one look (editors save in steps)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
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
        for folder, _, names in os.walk(self._folder):
            for name in names:
                if not name.startswith(".") and name.endswith(".lua"):
                    path = os.path.join(folder, name)
                    try:
                        about = os.stat(path)
                    except OSError:
                        continue
                    yield path, about.st_ino, about.st_mtime_ns, about.st_size
