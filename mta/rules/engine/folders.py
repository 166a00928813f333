"""Which file of rules a mail meets after main.lua: that of its direction, in the folder of one of its domains.

    client    sender      recipient               direction    whose folder
    stranger  any         any                     incoming     the recipient's
    ours      ours        ours, of the same home  internal     the sender's
    ours      ours        any other               outgoing     the sender's
    ours      not ours    ours                    incoming     the recipient's
    ours      not ours    not ours                outgoing     nobody's

A client is ours when it is authenticated or trusted: what a stranger writes behind MAIL FROM makes no mail outgoing.
For the null sender stands the domain of the user's name, if it has one. A domain's home is the nearest folder, its own
or that of the next domain above it; a domain without any is its own home. A folder belongs to a domain of ours or to
one above: what is not ours finds none. Where a mail finds no file, fallback.lua speaks instead, if there is one.

At MAIL the recipient is not known: our own people's mail is outgoing until then, a stranger's meets main.lua alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mta import settings
from mta.message.address import Address

DIRECTIONS = ("incoming", "outgoing", "internal")
MAIN, FALLBACK = "main.lua", "fallback.lua"

Find = Callable[[str], Any]  # a domain of ours, or None


class FolderError(Exception):
    """A file or folder that no mail would ever meet. `where` is it, `what` why."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = where, what
        super().__init__(f"{where}: {what}")


class Scope(NamedTuple):
    """What is chosen for one recipient: direction, domain, and the file's label; "" is main.lua alone."""

    direction: str = "incoming"
    domain: str = ""
    file: str = ""


class Folders:
    """The rule files beside main.lua. `files`: where each lies, by its label ("domains/example.test/incoming.lua")."""

    def __init__(self, settings: settings.Rules, domains: Collection[str] | None = None) -> None:
        """`domains`: those of the settings; None: any. Raises FolderError."""
        self._rules, self._domains = Path(settings.path), Path(settings.domains)
        self.files: dict[str, Path] = {}
        self._homes: set[str] = set()
        self._look(None if domains is None or "*" in domains else {name.lower() for name in domains})

    def __bool__(self) -> bool:
        return bool(self.files)

    def _look(self, ours: set[str] | None) -> None:
        fallback = self._rules / FALLBACK
        if fallback.is_file():
            self.files[FALLBACK] = fallback
        for folder in _entries(self._domains):
            if not os.path.isdir(folder):
                continue  # a module, a README
            domain, label = folder.name.lower(), f"domains/{folder.name}"
            if ours is not None and not any(name == domain or name.endswith("." + domain) for name in ours):
                raise FolderError(label, f'there is no [domain."{folder.name}"] in the settings')
            if domain in self._homes:
                raise FolderError(label, "there is another folder of that name, in other letters")
            self._homes.add(domain)
            for path in _entries(Path(folder.path)):
                stem, dot, kind = path.name.rpartition(".")
                if kind != "lua" or not dot or stem.endswith("_test"):  # what `mta lua test` plays
                    continue
                if stem not in DIRECTIONS:
                    raise FolderError(
                        f"{label}/{path.name}",
                        "no mail meets this file; those here are incoming.lua, outgoing.lua and internal.lua "
                        f"(what they require lies in {self._domains})",
                    )
                self.files[f"domains/{domain}/{path.name}"] = Path(path.path)

    # -- which file ---------------------------------------------------------------------------------------------------

    def home(self, domain: str) -> str:
        """The domain whose folder this one finds; itself, where there is none."""
        above = domain
        while above:
            if above in self._homes:
                return above
            above = above.partition(".")[2]
        return domain

    def file(self, direction: str, domain: str) -> str:
        """The label of the file a mail meets; "" for none."""
        if not self.files:
            return ""
        label = f"domains/{self.home(domain)}/{direction}.lua"
        return label if label in self.files else FALLBACK if FALLBACK in self.files else ""

    def scope(self, ours: bool, sender: Address, user: str, recipient: Address, find: Find) -> Scope:
        """What one recipient's mail is: see the table above."""
        of, to = _whose(sender, user) if ours else "", recipient.domain
        known = find(to) is not None
        if of and find(of) is not None:
            direction, domain = "internal" if known and self.home(of) == self.home(to) else "outgoing", of
        else:
            direction, domain = "outgoing" if ours and not known else "incoming", to if known else ""
        return Scope(direction, domain, self.file(direction, domain))

    def at_mail(self, ours: bool, sender: Address, user: str, find: Find) -> str:
        """The label of the file for the stage `mail`."""
        of = _whose(sender, user) if ours and self.files else ""
        return self.file("outgoing", of) if of and find(of) is not None else ""


def _whose(sender: Address, user: str) -> str:
    return sender.domain or (user.rpartition("@")[2].lower() if not sender and "@" in user else "")


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, by name, without what is hidden; nothing where there is none."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return iter(())
    return iter(sorted(entries, key=lambda entry: entry.name))


def misplaced(stage: str, label: str) -> str | None:
    """Why rules of a stage make no sense in a file, or None."""
    if stage in ("connect", "helo", "authenticate"):
        return f"on.{stage} belongs in main.lua: for which domain a mail will be is not known yet"
    if stage == "mail" and label.endswith(("/incoming.lua", "/internal.lua")):
        return "on.mail is asked in main.lua and outgoing.lua only: the recipient is not known yet; on.rcpt knows it"
    return None
