"""Sessions written down as they go, for `mta replay`: one JSON file each, if [capture] says so.

A door that captures has a `Capture`. Each new session is shown to it once; one that is chosen is listened to
(session_record.py has the format), and what postq and delivery decide later stands beside it (queue_record.py).

Files are made in a thread, under a temporary name first; when the disk is full, or too slow, captures are lost and
counted, and mail goes on.
"""

from __future__ import annotations

import os
import random
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from mta import log
from mta import settings as settings_of
from mta.net import clock, offload
from mta.receive import queue_record
from mta.receive.door import trusts
from mta.receive.queue_record import Heard, Listening
from mta.receive.redaction import redacted
from mta.receive.session_record import Record, Watched, hear

if TYPE_CHECKING:
    from mta.receive.session import Session

OPEN = 64  # sessions of a worker captured at once
WRITING = 16  # files of a worker under way at once
LINES = 10_000  # of a transcript; a session that says more is not captured
QUIET = 60.0  # seconds between two complaints
PAUSES = 500  # of 2 ms, in which a process that ends waits for the files under way


class Capture:
    """Which sessions are written down, and where. One for a worker."""

    def __init__(self, settings: settings_of.Capture) -> None:
        self.settings = settings
        self._inside = trusts(settings.networks) if settings.networks else None
        self._open = self._writing = 0
        self._secret = secrets.token_bytes(16)
        self._lost, self._complained = 0, float("-inf")
        self.queue = Listening(Watched, self._add)

    def begin(self, session: Session) -> None:
        """A session begins. If it is to be captured, it is heard from now on."""
        if self._open >= OPEN or random.random() >= self.settings.sample:
            return
        if self._inside is not None and not self._inside(session.client.ip):
            return
        try:
            hear(session, Record(session, self.settings.size), self._finish)
            self._open += 1
            self.queue.begin(session.id)
        except Exception as error:  # a client must not notice
            log.bug(error, session=session.id)

    def end(self) -> None:
        """The process ends: what is being written is written first. Parks."""
        for _ in range(PAUSES):
            if not self._writing:
                return
            offload.pause(0.002)

    def _finish(self, record: Record) -> None:
        self._open -= 1
        wanted = self.settings.verdicts
        if (wanted and not record.said().intersection(wanted)) or len(record.transcript) > LINES:
            self.queue.drop(record.session)
            return
        if self._writing >= WRITING:
            self.queue.drop(record.session)
            self._complain("the disk is too slow")
            return
        self._writing += 1
        offload.background(self._write, record)

    def _write(self, record: Record) -> None:
        file = ""
        try:
            file = offload.run(self._file, record)
        except OSError as error:
            self._complain(error.strerror or str(error))
        except Exception as error:
            log.bug(error, session=record.session)
        finally:
            self._writing -= 1
        if file:
            log.event("captured", session=record.session, file=file)
            self.queue.written(record.session, file)
        else:
            self.queue.drop(record.session)

    def _add(self, heard: Heard) -> None:
        """The queue has said something."""
        if self._writing >= WRITING:
            heard.verdicts.clear()
            self._complain("the disk is too slow")
            return
        self._writing += 1
        heard.writing = True
        offload.background(self._write_queue, heard)

    def _write_queue(self, heard: Heard) -> None:
        try:
            while heard.verdicts:
                said, heard.verdicts = heard.verdicts, []
                offload.run(self._lines, queue_record.beside(heard.file), said)
        except OSError as error:
            self._complain(error.strerror or str(error))
        except Exception as error:
            log.bug(error, session=heard.session)
        finally:
            self._writing -= 1
            heard.writing = False

    def _complain(self, reason: str) -> None:
        self._lost += 1
        now = clock.monotonic()
        if now - self._complained >= QUIET:
            log.event("capture_failed", reason=reason, lost=self._lost)
            self._complained, self._lost = now, 0

    # -- in a thread ------------------------------------------------------------------------------------------------

    def _file(self, record: Record) -> str:
        """Write the file; its name, or "" when the folder is full. Raises OSError."""
        folder = self.settings.path
        try:
            if sum(name.endswith(".json") for name in os.listdir(folder)) >= self.settings.files:
                return ""
        except FileNotFoundError:
            os.makedirs(folder, 0o700, exist_ok=True)
        text = msgspec.json.encode(redacted(record.plain(), self.settings.redact, self._secret))
        name, new = os.path.join(folder, f"{record.session}.json"), os.path.join(folder, f".{record.session}.new")
        try:
            _put(new, text, os.O_EXCL)
            os.rename(new, name)
        except OSError:
            with suppress(OSError):
                os.unlink(new)
            raise
        return name

    def _lines(self, file: str, said: list[dict[str, Any]]) -> None:
        """Add what the queue said. Raises OSError."""
        bare: dict[str, Any] = {"mails": [], "transcript": [], "client": {}, "verdicts": said}
        told = redacted(bare, self.settings.redact, self._secret)["verdicts"]
        _put(file, b"".join(msgspec.json.encode(one) + b"\n" for one in told), os.O_APPEND)


def _put(file: str, text: bytes, how: int) -> None:
    """Write it into a file of ours. Raises OSError."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
    try:
        while text:
            text = text[os.write(fd, text) :]
    finally:
        os.close(fd)


def made_for(settings: settings_of.Settings) -> Capture | None:
    """The capture of a worker, or None while it is off."""
    return Capture(settings.capture) if settings.capture.sample > 0 else None
