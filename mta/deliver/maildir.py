"""The transport that writes each mail as a file into a Maildir, durably before it says so.

Many files go to the disk together, in one thread. For each round of copies:

    1. write all to tmp/           2. one syncfs for each file system with 5 or more of them, else fdatasync each
    3. rename all into new/        4. sync the folders new/ the same way          5. only now the replies

A file's name is made of the mail's id and the recipient, so a delivery repeated after a crash replaces its own file
instead of adding a second. Measured in one run: 10,900 files/s with 50 together, 4,400/s with a sync for each of 50,
1,600/s one after the other.
"""

from __future__ import annotations

import ctypes
import errno
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from mta.deliver.transport import Result
from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Reply
from mta.message.trace import delivered_to, return_path
from mta.net import folders
from mta.net.offload import Batch

TOGETHER = 5  # from here on one syncfs costs less than so many fdatasyncs
ROUND = 100  # copies with their folders open at once
CHUNK = 1 << 20

DONE = Reply(250, "2.0.0", "Delivered")
LOOP = Reply(554, "5.4.6", "Mail loop: this mail was delivered to this address before")
FULL = Reply(452, "4.3.1", "There is no space for mail here now")
QUOTA = Reply(452, "4.2.2", "The mailbox is full")
TROUBLE = Reply(451, "4.3.0", "The mailbox cannot be written now")

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class Copy(NamedTuple):
    """One file to be: where, called what, and the lines on top of the mail."""

    base: str
    below: tuple[str, ...]
    name: str
    top: bytes
    message: Message


class Maildir:
    """The Maildirs of one path template. `batch` is shared by all of them: `Batch(write, "maildir")`."""

    name = "maildir"

    def __init__(
        self,
        path: str,
        batch: Batch[list[OSError | None]],
        host: str,
        mailbox: Callable[[Address], Address] = lambda address: address,
    ) -> None:
        """`mailbox` tells whose mailbox an address means; `host` ends the file names."""
        self._path, self._batch, self._mailbox = folders.Path(path), batch, mailbox
        self._host = folders.safe_name(host).replace(":", "%3A")

    def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
        marks = {mark.strip().lower() for mark in message.headers.all("delivered-to")}
        top = return_path(envelope.sender)
        copies: dict[tuple[tuple[str, ...], str], Copy] = {}
        files = []  # for each recipient, its copy
        for recipient in recipients:
            address = recipient.address
            text = str(address)
            if text.lower() in marks:
                yield Result(recipient, LOOP)
                continue
            below = self._path.below(self._mailbox(address))
            name = self._name(envelope, text)
            copies[below, name] = Copy(self._path.base, below, name, top + delivered_to(address), message)
            files.append((recipient, (below, name)))
        if not files:
            return
        outcomes = dict(zip(copies, self._batch.do(list(copies.values())), strict=True))
        for recipient, file in files:
            error = outcomes[file]
            if error is None:
                yield Result(recipient, DONE)
            else:
                yield Result(recipient, _reply(error), reason=_reason(error, copies[file]))

    def _name(self, envelope: Envelope, address: str) -> str:
        """Unique, and the same whenever this mail is delivered to this address again. Sorts by time of arrival."""
        seconds, fraction = divmod(envelope.arrived, 1)
        mark = zlib.crc32(address.lower().encode("utf-8", "surrogatepass"))
        return f"{int(seconds)}.M{int(fraction * 1e6):06d}_{envelope.id}_{mark:08x}.{self._host}"


def _reply(error: OSError) -> Reply:
    if error.errno == errno.ENOSPC:
        return FULL
    if error.errno == errno.EDQUOT:
        return QUOTA
    return TROUBLE


def _reason(error: OSError, copy: Copy) -> str:
    path = "/".join((copy.base.rstrip("/"), *copy.below))
    what = error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        todo = f"; let the user of uid {os.geteuid()} enter and write it, and every folder above it be entered"
    elif error.errno in (errno.ELOOP, errno.ENOTDIR):
        todo = f"; below {copy.base} there must be folders only, no symbolic links"
    elif error.errno == errno.EROFS:
        todo = "; the file system is mounted read-only"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        todo = "; make room"
    else:
        todo = ""
    return f"{path}: {what}{todo}"


# -- in the thread: no gevent, no log ------------------------------------------------------------------------------


class _Box:
    """An open Maildir."""

    def __init__(self, base: str, below: Sequence[str]) -> None:
        top = folders.open_base(base)
        try:
            box = folders.open_below(top, below)
        finally:
            os.close(top)
        try:
            self.tmp = folders.step(box, "tmp")
            try:
                os.close(folders.step(box, "cur"))
                self.new = folders.step(box, "new")
            except BaseException:
                os.close(self.tmp)
                raise
        finally:
            os.close(box)
        self.device = os.fstat(self.new).st_dev

    def close(self) -> None:
        os.close(self.tmp)
        os.close(self.new)


def write(mails: list[list[Copy]]) -> list[list[OSError | None]]:
    """Write all copies of all mails; for each copy None, or why it is not in its Maildir."""
    copies = [copy for mail in mails for copy in mail]
    outcomes: list[OSError | None] = []
    for start in range(0, len(copies), ROUND):
        outcomes += _Round(copies[start : start + ROUND]).run()
    found = iter(outcomes)
    return [[next(found) for _ in mail] for mail in mails]


class _Round:
    """Some copies on their way to the disk."""

    def __init__(self, copies: list[Copy]) -> None:
        self.copies = copies
        self.errors: list[OSError | None] = [None] * len(copies)
        self.boxes: dict[tuple[str, tuple[str, ...]], _Box | OSError] = {}
        self.written: dict[int, _Box] = {}  # number of the copy -> where it is, as long as all is well
        self.text: tuple[Message, bytes] | None = None  # the last small mail, with LF

    def run(self) -> list[OSError | None]:
        try:
            self._each(range(len(self.copies)), self._write)
            for device in self._devices():
                self._sync_files(device)
            self._each(list(self.written), self._rename)
            for device in self._devices():
                self._sync_folders(device)
        finally:
            for box in self.boxes.values():
                if isinstance(box, _Box):
                    box.close()
        return self.errors

    def _each(self, numbers: Sequence[int], do: Callable[[int], None]) -> None:
        for number in numbers:
            try:
                do(number)
            except OSError as error:
                self._failed(number, error)

    def _failed(self, number: int, error: OSError) -> None:
        self.errors[number] = error
        box = self.written.pop(number, None)
        if box is not None:
            try:
                os.unlink(self.copies[number].name, dir_fd=box.tmp)
            except OSError:
                pass

    def _box(self, copy: Copy) -> _Box:
        key = (copy.base, copy.below)
        box = self.boxes.get(key)
        if box is None:
            try:
                box = _Box(*key)
            except OSError as error:
                box = error
            self.boxes[key] = box
        if isinstance(box, OSError):
            raise box
        return box

    def _write(self, number: int) -> None:
        copy = self.copies[number]
        box = self._box(copy)
        try:
            fd = os.open(copy.name, _NEW_FILE, 0o600, dir_fd=box.tmp)
        except FileExistsError:  # a try that a crash cut short, or a trap: in both cases not to be written to
            os.unlink(copy.name, dir_fd=box.tmp)
            fd = os.open(copy.name, _NEW_FILE, 0o600, dir_fd=box.tmp)
        self.written[number] = box
        try:
            for text in self._texts(copy):
                rest = memoryview(text)
                while rest:
                    rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)

    def _texts(self, copy: Copy) -> Iterable[bytes]:
        """What the file holds: LF line ends, the marks on top."""
        top, message = copy.top.replace(b"\r\n", b"\n"), copy.message
        if message.size > CHUNK:
            return chain((top,), _unix(message.pieces()))
        if self.text is None or self.text[0] is not message:
            self.text = message, bytes(message).replace(b"\r\n", b"\n")
        return (top + self.text[1],)

    def _devices(self) -> list[int]:
        return sorted({box.device for box in self.written.values()})

    def _sync_files(self, device: int) -> None:
        numbers = [number for number, box in self.written.items() if box.device == device]
        if len(numbers) >= TOGETHER:
            self._together(numbers, self.written[numbers[0]].new)
            return
        self._each(numbers, self._sync_file)

    def _sync_file(self, number: int) -> None:
        fd = os.open(
            self.copies[number].name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.written[number].tmp
        )
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def _together(self, numbers: list[int], fd: int) -> None:
        """One syncfs for many. The descriptor was opened before they were written, so their errors are told here."""
        if _libc.syncfs(fd):
            error = ctypes.get_errno()
            for number in numbers:
                self._failed(number, OSError(error, os.strerror(error)))

    def _rename(self, number: int) -> None:
        name, box = self.copies[number].name, self.written[number]
        os.rename(name, name, src_dir_fd=box.tmp, dst_dir_fd=box.new)

    def _sync_folders(self, device: int) -> None:
        by_box: dict[int, list[int]] = {}
        for number, box in self.written.items():
            if box.device == device:
                by_box.setdefault(box.new, []).append(number)
        if len(by_box) >= TOGETHER:
            self._together([n for numbers in by_box.values() for n in numbers], next(iter(by_box)))
            return
        for fd, numbers in by_box.items():
            try:
                os.fsync(fd)
            except OSError as error:
                for number in numbers:
                    self._failed(number, error)


def _unix(pieces: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    """The pieces with CRLF turned into LF, a megabyte at a time."""
    held = b""  # a CR at the end of a chunk
    for piece in pieces:
        for start in range(0, len(piece), CHUNK):
            text = held + bytes(piece[start : start + CHUNK])
            held = b"\r" if text.endswith(b"\r") else b""
            yield text[: len(text) - len(held)].replace(b"\r\n", b"\n")
    yield held
