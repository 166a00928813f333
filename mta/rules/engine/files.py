"""The text of one generation of rules: main.lua, the domains' files, the modules they require. Read once, then kept."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from mta import resources, settings
from mta.rules.engine.crossing import LARGEST
from mta.rules.engine.folders import MAIN, FolderError, Folders

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")


class Files:
    """`folders` are the domains' files, `labels` what errors call each file that was read, `version` a hash over all.

    A second runtime of the same rules gets the same text, whatever stands in the files by then.
    """

    def __init__(self, settings: settings.Rules, domains: Collection[str] | None) -> None:
        """`domains` as in Folders. Raises FolderError."""
        self.settings, self.domains = settings, domains
        self.folders = Folders(settings, domains)
        self.labels: dict[Path, str] = {}
        self.version = ""  # until `complete`
        self._kept: dict[Path, tuple[os.stat_result, bytes]] = {}

    def rules(self) -> Iterator[tuple[str, Path]]:
        """The files that hold rules, in the order they are loaded."""
        yield MAIN, Path(self.settings.path) / MAIN
        yield from self.folders.files.items()

    def read(self, path: Path, label: str) -> str:
        """The text of a file, as it was when this generation was loaded. Raises OSError, ValueError."""
        kept = self._kept.get(path)
        if kept is None:
            if self.version:
                raise ValueError("the file was not there when the rules were loaded")
            with path.open("rb") as file:
                kept = (os.fstat(file.fileno()), file.read(LARGEST + 1))
            if len(kept[1]) > LARGEST:
                raise ValueError(f"the file is larger than {LARGEST} bytes")
            if kept[1].startswith(b"\x1b"):
                raise ValueError("this is compiled Lua; rules are read as text only")
            self._kept[path], self.labels[path] = kept, label
        return kept[1].removeprefix(b"\xef\xbb\xbf").decode("latin-1")

    def module(self, name: str) -> tuple[str | None, str]:
        """(text, file name) of a module, or (None, why not). Names are dotted words, so no name leads out of here."""
        if not _MODULE.fullmatch(name):
            return None, f'require "{name}": a module\'s name is made of words and dots'
        inside = name.replace(".", "/") + ".lua"
        for folder, prefix in (
            (Path(self.settings.path), ""),
            (Path(self.settings.domains), "domains/"),
            (resources.folder("lua") / "lib", "lib/"),
        ):
            path = folder / inside
            if path in self._kept or (not self.version and path.is_file()):
                try:
                    return self.read(path, prefix + inside), prefix + inside
                except (OSError, ValueError) as error:
                    return None, f"{prefix}{inside}: {getattr(error, 'strerror', None) or error}"
        return None, f'require "{name}": there is no {inside} in {self.settings.path}'

    def complete(self) -> None:
        """The rules are loaded: no other file belongs to them."""
        sums = [f"{label} {hashlib.sha256(self._kept[path][1]).hexdigest()}" for path, label in self.labels.items()]
        sums.sort()
        self.version = hashlib.sha256("\n".join(sums).encode()).hexdigest()[:12]

    def written_here(self) -> Iterator[tuple[str, Path, bytes]]:
        """(label, path, text) of what the administrator wrote: all but our own modules."""
        ours = resources.folder("lua")
        for path, (_, text) in self._kept.items():
            if not path.is_relative_to(ours):
                yield self.labels[path], path, text

    def changed(self) -> bool:
        """Whether a file that was read is no longer what it was, or a domain has another file than it had.

        Costs a stat each, and a read where that differs.
        """
        try:
            if Folders(self.settings, self.domains).files != self.folders.files:
                return True
        except (FolderError, OSError):
            return True
        for path, (stat, kept) in self._kept.items():
            try:
                now = path.stat()
                if (now.st_mtime_ns, now.st_size) == (stat.st_mtime_ns, stat.st_size):
                    continue
                if path.read_bytes() != kept:
                    return True
            except OSError:
                return True
            self._kept[path] = (now, kept)
        return False
