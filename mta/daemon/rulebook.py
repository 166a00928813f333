"""The rules in force, copied beside the running server, so that all workers have the same ones.

A worker that is forked later loads what the others have in force, not what somebody is just editing: a half-saved file
keeps no worker from being replaced. The copies lie in `server.run`/rules, a folder for each reload.
"""

from __future__ import annotations

import dataclasses
import os
import shutil

from mta import settings
from mta.daemon.watching import walk


class Rulebook:
    """Copies of the administrator's *.lua. `current` is the folder with those in force: rules, domains."""

    def __init__(self, run: str) -> None:
        self._folder = os.path.join(run, "rules")
        self._count = 0
        self.current = ""

    def copy(self, rules: settings.Rules) -> str:
        """Take the rules as they are saved now; the folder of the copy. Raises OSError."""
        if not self._count:  # what a server before us has left
            shutil.rmtree(self._folder, ignore_errors=True)
        self._count += 1
        made = os.path.join(self._folder, str(self._count))
        os.makedirs(made, mode=0o700)
        for part, path in (("rules", rules.path), ("domains", rules.domains)):
            for folder, names in walk(path):
                inside = os.path.join(made, part, os.path.relpath(folder, path))
                os.makedirs(inside, exist_ok=True)
                for name in names:
                    shutil.copyfile(os.path.join(folder, name), os.path.join(inside, name))
        return made

    @staticmethod
    def opened(rules: settings.Rules, folder: str) -> settings.Rules:
        """The settings with which a copy is loaded."""
        inside = os.path.join(folder, "rules"), os.path.join(folder, "domains")
        return dataclasses.replace(rules, path=inside[0], domains=inside[1])

    @staticmethod
    def named(rules: settings.Rules, folder: str, text: str) -> str:
        """What is said about a copy, with the names of the files as the administrator knows them."""
        text = text.replace(os.path.join(folder, "rules"), rules.path)
        return text.replace(os.path.join(folder, "domains"), rules.domains)

    def keep(self, folder: str) -> None:
        """This copy is in force; the others go."""
        self.current = folder
        for name in os.listdir(self._folder):
            if os.path.join(self._folder, name) != folder:
                shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)

    def drop(self, folder: str) -> None:
        """This copy was refused."""
        shutil.rmtree(folder, ignore_errors=True)
