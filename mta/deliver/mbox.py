"""The transport that appends mails to a file, each behind a line "From sender date", durably before it says so.

    lock      fcntl on the file, then FILE.lock beside it, both or neither: procmail, mail programs and Dovecot
              (fcntl, dotlock or both) then wait for us, and we for them
    look      a regular file with one name, the same one the folder still names
    append    the mails for it, together; ended with an empty line each
    sync      then only let go of the locks and answer

Whatever fails in between cuts the file back to the length it had. Who finds a lock comes again, up to `PATIENCE`
seconds; the thread never waits. A dot lock older than `STALE` seconds was forgotten by somebody who died.

In the file lines end with LF, and a line of the mail that begins with "From ", or with ">" before that, gets one ">"
more ("mboxrd": it can be undone). Fields that mean something in a mailbox are left out, as Dovecot does: a stranger's
"Status: RO" would show his mail as read. A delivery repeated after a crash may be there twice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mta.deliver.maildir import DONE, FULL, LOOP, QUOTA, TROUBLE
from mta.deliver.transport import Result
from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Reply
from mta.message.trace import delivered_to, return_path
from mta.net import clock, folders, offload
from mta.net.offload import Batch

PATIENCE = 30.0  # seconds
FIRST_WAIT, LONGEST_WAIT = 0.02, 0.5
STALE = 300.0
LOCK = ".lock"
CHUNK = 1 << 18

BUSY = Reply(451, "4.2.0", "The mailbox is in use now")

OURS = ("content-length", "status", "x-status", "x-uid", "x-keywords", "x-imap", "x-imapbase")

_FROM = re.compile(rb"^(>*From )", re.M)
_ODD = re.compile(r"[^!-~]")
_OPEN = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_LOCK = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Copy(NamedTuple):
    """One mail to be appended: to which file, and the lines on top of it."""

    base: str
    names: tuple[str, ...]  # folders below it, and the file
    top: bytes
    message: Message


class Locked(Exception):
    """Somebody else has the mailbox now."""


class Unsafe(OSError):
    """It is not a file of our own: a link, a device, or one with several names."""


Outcome = OSError | Locked | None


class Mbox:
    """The mailboxes of one path template. `batch` is shared by all of them: `Batch(write, "mbox")`."""

    name = "mbox"

    def __init__(
        self, path: str, batch: Batch[list[Outcome]], mailbox: Callable[[Address], Address] = lambda address: address
    ) -> None:
        """`mailbox` tells whose mailbox an address means."""
        self._path, self._batch, self._mailbox = folders.Path(path), batch, mailbox

    def deliver(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Result]:
        marks = {mark.strip().lower() for mark in message.headers.all("delivered-to")}
        top = separator(envelope.sender, clock.now()) + return_path(envelope.sender)
        left: list[tuple[Recipient, Copy]] = []
        for recipient in recipients:
            address = recipient.address
            if str(address).lower() in marks:
                yield Result(recipient, LOOP)
                continue
            base, names = self._place(self._mailbox(address))
            left.append((recipient, Copy(base, names, top + delivered_to(address), message)))
        until, wait = clock.monotonic() + PATIENCE, FIRST_WAIT
        while left:
            outcomes = self._batch.do([copy for _, copy in left])
            locked = []
            for (recipient, copy), outcome in zip(left, outcomes, strict=True):
                if outcome is None:
                    yield Result(recipient, DONE)
                elif not isinstance(outcome, Locked):
                    yield Result(recipient, _reply(outcome), reason=_reason(outcome, copy))
                elif clock.monotonic() >= until:
                    yield Result(recipient, BUSY, reason=f"{_file(copy)}: {outcome} for {PATIENCE:g} s")
                else:
                    locked.append((recipient, copy))
            left = locked
            if left:
                offload.pause(wait)
                wait = min(wait * 1.5, LONGEST_WAIT)

    def _place(self, mailbox: Address) -> tuple[str, tuple[str, ...]]:
        names = self._path.below(mailbox)
        if names:
            if names[-1].endswith(LOCK):  # the mailbox of "bob.lock" would be the lock of bob's, and fall with it
                names = (*names[:-1], names[-1].removesuffix(LOCK) + "%2E" + LOCK[1:])
            return self._path.base, names
        folder, name = os.path.split(os.path.abspath(self._path.base))
        return folder, (name,)


def separator(sender: Address, now: float) -> bytes:
    """The line before a mail: "From ann@far.test Thu Jan  1 10:00:00 2026", in UTC, as the time in it has no zone."""
    name = _ODD.sub("_", str(sender)) or "MAILER-DAEMON"
    return f"From {name} {time.asctime(time.gmtime(now))}\n".encode()


def _reply(error: OSError) -> Reply:
    if error.errno == errno.EDQUOT:
        return QUOTA
    return FULL if error.errno == errno.ENOSPC else TROUBLE


def _file(copy: Copy) -> str:
    return "/".join((copy.base.rstrip("/"), *copy.names))


def _reason(error: OSError, copy: Copy) -> str:
    todo = ""
    if isinstance(error, Unsafe):
        return f"{_file(copy)}: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM):
        todo = f"; let the user of uid {os.geteuid()} write it and make files beside it (in /var/mail: group mail)"
    elif error.errno in (errno.ELOOP, errno.ENOTDIR):
        todo = f"; below {copy.base} there must be no symbolic links"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        todo = "; make room"
    return f"{_file(copy)}: {error.strerror or error}{todo}"


# -- in the thread: no gevent, no log ------------------------------------------------------------------------------


def write(mails: list[list[Copy]]) -> list[list[Outcome]]:
    """Append all copies of all mails; for each copy None, or why it is not in its mailbox."""
    by_file: dict[tuple[str, tuple[str, ...]], list[tuple[int, int]]] = {}
    outcomes: list[list[Outcome]] = [[None] * len(mail) for mail in mails]
    for m, mail in enumerate(mails):
        for c, copy in enumerate(mail):
            by_file.setdefault((copy.base, copy.names), []).append((m, c))
    for (base, names), places in by_file.items():
        outcome: Outcome = None
        try:
            _append(base, names, [mails[m][c] for m, c in places])
        except (OSError, Locked) as error:
            outcome = error
        for m, c in places:
            outcomes[m][c] = outcome
    return outcomes


def _append(base: str, names: tuple[str, ...], copies: list[Copy]) -> None:
    """All of them or none. Raises OSError, Locked."""
    top = folders.open_base(base)
    try:
        folder = folders.open_below(top, names[:-1])
    finally:
        os.close(top)
    try:
        file, new = _open(folder, names[-1])
        try:
            _lock(file)  # gone when the file is closed
            _check(folder, names[-1], file)
            with _DotLock(folder, names[-1]):
                _write(file, copies)
                if new:
                    os.fsync(folder)
        finally:
            os.close(file)
    finally:
        os.close(folder)


def _open(folder: int, name: str) -> tuple[int, bool]:
    """The file, and whether it is new."""
    try:
        return os.open(name, _OPEN, dir_fd=folder), False
    except FileNotFoundError:
        try:
            return os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), True
        except FileExistsError:  # somebody was faster, or there is a link to nowhere
            return os.open(name, _OPEN, dir_fd=folder), False


def _lock(file: int) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise Locked("locked by another program") from None
        raise


def _check(folder: int, name: str, file: int) -> None:
    """What we opened is still what the folder names, and is called nothing else. Raises Unsafe, Locked."""
    ours = os.fstat(file)
    if not stat.S_ISREG(ours.st_mode):
        raise Unsafe(errno.EINVAL, "this is no regular file")
    if ours.st_nlink > 1:
        raise Unsafe(errno.EMLINK, "this file has another name too (a hard link); it is not written to")
    try:
        named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        raise Locked("replaced by another program") from None
    if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):  # a mail program put a new file there
        raise Locked("replaced by another program")


class _DotLock:
    """FILE.lock: that it exists is the lock. Raises Locked, OSError."""

    def __init__(self, folder: int, file: str) -> None:
        self._folder, self._name = folder, file + LOCK

    def __enter__(self) -> None:
        try:
            self._make()
        except FileExistsError:
            if not self._forgotten():
                raise Locked(f"locked by {self._name}") from None
            try:
                os.unlink(self._name, dir_fd=self._folder)
                self._make()
            except (FileExistsError, FileNotFoundError):
                raise Locked(f"locked by {self._name}") from None

    def _make(self) -> None:
        fd = os.open(self._name, _LOCK, 0o444, dir_fd=self._folder)
        try:
            os.write(fd, f"{os.getpid()}\n".encode())
        except OSError:  # a full disk: that it is there is enough
            pass
        finally:
            os.close(fd)

    def _forgotten(self) -> bool:
        try:
            return time.time() - os.stat(self._name, dir_fd=self._folder, follow_symlinks=False).st_mtime > STALE
        except FileNotFoundError:
            return False

    def __exit__(self, *_: object) -> None:
        try:
            os.unlink(self._name, dir_fd=self._folder)
        except FileNotFoundError:  # we were thought dead
            pass


def _write(file: int, copies: list[Copy]) -> None:
    size = os.fstat(file).st_size
    try:
        end = os.pread(file, 2, max(0, size - 2))
        if size and end != b"\n\n":  # who wrote the last mail was cut off, or thinks otherwise of its end
            _all(file, b"\n" if end.endswith(b"\n") else b"\n\n")
        for copy in copies:
            for piece in stored(copy.top, copy.message):
                _all(file, piece)
        os.fdatasync(file)
    except BaseException:
        os.ftruncate(file, size)
        os.fdatasync(file)
        raise


def _all(file: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(file, rest) :]


def stored(top: bytes, message: Message) -> Iterator[bytes]:
    """What the file gets for one mail: `top`, the mail with its "From " lines quoted, and an empty line."""
    if any(message.headers.has(name) for name in OURS):
        message = _without(message)
    yield top.replace(b"\r\n", b"\n")
    held = b""  # an unfinished line
    begun = False  # its beginning has been written
    for piece in message.pieces():
        for start in range(0, len(piece), CHUNK):
            text = held + bytes(piece[start : start + CHUNK])
            at = text.rfind(b"\n") + 1
            if not at and len(text) < CHUNK:
                held = text
                continue
            cut = at or len(text) - text.endswith(b"\r")
            yield _quoted(text[:cut], begun)
            held, begun = text[cut:], not at
    if held:
        yield _quoted(held, begun) + b"\n"
    elif begun:
        yield b"\n"
    yield b"\n"


def _quoted(text: bytes, begun: bool) -> bytes:
    text = text.replace(b"\r\n", b"\n")
    if not begun:
        return _FROM.sub(rb">\1", text)
    line, newline, rest = text.partition(b"\n")
    return line + newline + _FROM.sub(rb">\1", rest)


def _without(message: Message) -> Message:
    copy = Message(message.raw, message.file) if not message.changed else Message(bytes(message))
    for name in OURS:
        copy.headers.remove(name)
    return copy
