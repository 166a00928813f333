"""Mails in files of their own: large ones, and old ones that a journal would have to carry on and on.

A body file is written once and never changed; records name it. It goes when the last mail that names it is gone. Names
are unique in a spool, so that a file may move with its folder. A file that nothing durable names is thrown away when
its folder is adopted: it died before its commit.

Threads read, move and remove files at the same time. From asking where one is until that is done it stays there.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from typing import NamedTuple

from mta.net import offload
from mta.spool.disk import Disk
from mta.spool.records import Buffer

FOLDER = "bodies"


class File(NamedTuple):
    """What a message says of where it lies (message.BodyFile)."""

    name: str
    size: int


class Bodies:
    """All body files a journal knows, and which mail names which."""

    def __init__(self, disk: Disk, folder: str, writer: str, large: int) -> None:
        """A mail of more than `large` bytes gets a file."""
        self.disk, self.folder, self._writer, self.large = disk, os.path.join(folder, FOLDER), writer, large
        self._count = 0
        self.where: dict[str, str] = {}  # name -> folder
        self._of: dict[str, str] = {}  # id -> name
        self._users: dict[str, int] = {}  # name -> mails
        self._unsynced: set[str] = set()
        self._spoiled: set[str] = set()  # their sync failed
        self._still = offload.lock()  # held while a file must stay where it is

    def new_name(self) -> str:
        self._count += 1
        return f"{self._writer}-{self._count}.body"

    def path(self, name: str) -> str:
        return os.path.join(self.where[name], name)

    def knows(self, name: str) -> bool:
        return name in self.where

    def view(self, name: str) -> bytes | mmap.mmap:
        """A file's bytes, mapped. Off the loop. Raises OSError."""
        with self._still:
            if name not in self.where:
                raise missing(name)
            return self.disk.view(self.path(name))

    def take(self, name: str, folder: str) -> None:
        """Move a file from the folder of a dead process into our own. Off the loop. Raises OSError."""
        with self._still:
            try:
                self.disk.rename(os.path.join(folder, name), os.path.join(self.folder, name))
            except FileNotFoundError:  # its last mail went at this moment
                return
            self.where[name] = self.folder

    def begun(self, name: str) -> None:
        self.where[name] = self.folder
        self._unsynced.add(name)

    def synced(self, name: str) -> bool:
        return name not in self._unsynced

    def sync(self, name: str) -> None:
        """Make a finished file durable, with its name. Off the loop. Raises OSError; then it is never tried again."""
        if name in self._spoiled:
            raise OSError(errno.EIO, f"{name} could not be made durable before")
        self._spoiled.add(name)
        fd = self.disk.open(self.path(name))
        try:
            self.disk.sync(fd)
        finally:
            self.disk.close(fd)
        self.disk.sync_folder(self.where[name])
        self._spoiled.discard(name)
        self._unsynced.discard(name)

    def store(self, name: str, buffers: Sequence[Buffer]) -> None:
        """Write a whole file, durably, or leave none. Off the loop. Raises OSError."""
        self.begun(name)
        try:
            fd = self.disk.make(self.path(name))
            try:
                self.disk.write(fd, buffers, 0)
            finally:
                self.disk.close(fd)
            self.sync(name)
        except OSError:
            self.remove(name)
            raise

    # -- who names what ----------------------------------------------------------------------------------------------

    def of(self, id: str) -> str:
        """The file of a mail, or ""."""
        return self._of.get(id, "")

    def named(self, id: str, name: str) -> str:
        """A mail's content lies in this file from now on ("": in none); the file nobody names any more, or ""."""
        old = self._of.get(id, "")
        if old == name:
            return ""
        if name:
            self._of[id] = name
            self._users[name] = self._users.get(name, 0) + 1
        else:
            del self._of[id]
        if not old:
            return ""
        self._users[old] -= 1
        if self._users[old]:
            return ""
        del self._users[old]
        return old

    def used(self, name: str) -> bool:
        return name in self._users

    def remove(self, name: str) -> None:
        """Off the loop; who comes second finds it gone. What is left after a failure is found at adoption."""
        with self._still:
            if name in self.where:
                try:
                    self.disk.unlink(self.path(name))
                except OSError:
                    pass
                del self.where[name]
        self._unsynced.discard(name)


def missing(name: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, f"the file {name} is missing")
