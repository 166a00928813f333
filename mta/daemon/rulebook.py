"""The rules in force, copied beside the running server, so that all workers have the same ones.

A worker that is forked later loads what the others have in force, not what somebody is just editing: a half-saved file
keeps no worker from being replaced. The copies lie in `server.run`/rules, a folder for each reload.
"""

from __future__ import annotations

import os
import shutil


class Rulebook:
    """Copies of the administrator's *.lua. `current` is the folder with those in force."""

    def __init__(self, run: str) -> None:
        self._folder = os.path.join(run, "rules")
        self._count = 0
        self.current = ""

    def copy(self, path: str) -> str:
        """Take the rules as they are saved now; the folder of the copy. Raises OSError."""
        if not self._count:  # what a server before us has left
            shutil.rmtree(self._folder, ignore_errors=True)
        self._count += 1
        made = os.path.join(self._folder, str(self._count))
        os.makedirs(made, mode=0o700)
        for folder, _, names in os.walk(path):
            inside = os.path.join(made, os.path.relpath(folder, path))
            for name in names:
                if name.endswith(".lua") and not name.startswith("."):
                    os.makedirs(inside, exist_ok=True)
                    shutil.copyfile(os.path.join(folder, name), os.path.join(inside, name))
        return made

    def keep(self, folder: str) -> None:
        """This copy is in force; the others go."""
        self.current = folder
        for name in os.listdir(self._folder):
            if os.path.join(self._folder, name) != folder:
                shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)

    def drop(self, folder: str) -> None:
        """This copy was refused."""
        shutil.rmtree(folder, ignore_errors=True)
