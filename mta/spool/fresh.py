"""Mails just added, kept in memory for a while, so that claiming one at once reads nothing from the disk."""

from __future__ import annotations

from mta.spool.spool import Mail

ROOM = 8 << 20  # bytes
LARGE = ROOM // 8  # a single mail beyond that is read back instead
MAPPED = 4096  # what a mail in a file of its own counts for


class Fresh:
    def __init__(self) -> None:
        self._mails: dict[str, Mail] = {}  # the oldest first
        self._bytes = 0

    def add(self, mail: Mail) -> None:
        size = _weight(mail)
        if size > LARGE:
            return
        self._mails[mail.envelope.id] = mail
        self._bytes += size
        while self._bytes > ROOM:
            self.pop(next(iter(self._mails)))

    def pop(self, id: str) -> Mail | None:
        mail = self._mails.pop(id, None)
        if mail is not None:
            self._bytes -= _weight(mail)
        return mail


def _weight(mail: Mail) -> int:
    return MAPPED if mail.message.file is not None else len(mail.message.raw) + 1000
