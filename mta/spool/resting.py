"""One mail read out of a spool's files while no server runs, or beside one that does. It changes nothing."""

from __future__ import annotations

import os

from mta.message.envelope import Envelope
from mta.message.message import Message
from mta.spool import contents
from mta.spool.disk import Disk
from mta.spool.reading import Job, Reader
from mta.spool.recovery import recover


class _Files:
    """The body files of a folder, as far as contents.message asks."""

    def __init__(self, disk: Disk, folders: dict[str, str]) -> None:
        self.disk, self._folders = disk, folders

    def knows(self, name: str) -> bool:
        return name in self._folders

    def path(self, name: str) -> str:
        return os.path.join(self._folders[name], name)


def read_mail(path: str, id: str) -> tuple[Envelope, Message] | None:
    """The mail of that id in the spool at `path`; None if there is none. Raises OSError for one that is damaged."""
    disk = Disk()
    for name in disk.listed(path)[1]:
        try:
            found = recover(disk, os.path.join(path, name))
        except OSError:  # adopted or removed meanwhile
            continue
        entry = found.entries.get(id)
        if entry is None:
            continue
        at = found.segments.at
        with Reader(disk) as reader:
            stored = reader.stored(Job(id, at(entry.at), at(entry.content)))
        return stored.envelope, contents.message(stored.content, stored.own, _Files(disk, found.files))
    return None
