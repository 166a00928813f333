"""Mails read out of a spool's files while no server runs, or beside one that does. It changes nothing."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

from mta.message.envelope import Envelope
from mta.message.message import Message
from mta.spool import adoption, contents, reading
from mta.spool.bodies import missing
from mta.spool.disk import Disk
from mta.spool.reading import Job, Reader
from mta.spool.recovery import Recovered, recover

MANY = 500  # mails read at a time


class Resting:
    """The spool at `path`. What a living process changes meanwhile may be missed.

    `unread`: what could not be read, and why: folder or id -> error. There may be more mail than was found.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.unread: dict[str, OSError] = {}
        self._disk = Disk()

    @property
    def doubt(self) -> str:
        """What could not be read, as one line; "" if all could."""
        if not self.unread:
            return ""
        where, error = next(iter(self.unread.items()))
        more = f" (and {len(self.unread) - 1} more)" if len(self.unread) > 1 else ""
        return f"{where} cannot be read: {error.strerror or error}{more}"

    def envelopes(self) -> Iterator[Envelope]:
        """Of every mail."""
        for found in self._folders():
            jobs = [_job(found, id) for id in found.entries]
            for first in range(0, len(jobs), MANY):
                some = jobs[first : first + MANY]
                for job, envelope in zip(some, reading.envelopes(self._disk, some), strict=True):
                    if isinstance(envelope, OSError):
                        self.unread[job.id] = envelope
                    else:
                        yield envelope

    def mail(self, id: str) -> tuple[Envelope, Message] | None:
        """The mail of that id; None if there is none. Raises OSError for one that is damaged."""
        for found in self._folders():
            if id in found.entries:
                with Reader(self._disk) as reader:
                    stored = reader.stored(_job(found, id))
                files = _Files(self._disk, found.files)
                return stored.envelope, contents.message(stored.content, stored.own, files)
        return None

    def _folders(self) -> Iterator[Recovered]:
        try:
            names = self._disk.listed(self.path)[1]
        except FileNotFoundError:  # no server has ever run here
            return
        except OSError as error:
            self.unread[self.path] = error
            return
        for name in names:
            if name == adoption.NOBODYS:
                continue
            folder = os.path.join(self.path, name)
            try:
                yield recover(self._disk, folder)
            except FileNotFoundError:  # adopted or removed meanwhile
                continue
            except OSError as error:
                self.unread[folder] = error


def _job(found: Recovered, id: str) -> Job:
    entry = found.entries[id]
    return Job(id, found.segments.at(entry.at), found.segments.at(entry.content))


class _Files:
    """The body files of a folder, as far as contents.message asks."""

    def __init__(self, disk: Disk, folders: dict[str, str]) -> None:
        self._disk, self._folders = disk, folders

    def view(self, name: str) -> bytes | mmap.mmap:
        if name not in self._folders:
            raise missing(name)
        return self._disk.view(os.path.join(self._folders[name], name))
