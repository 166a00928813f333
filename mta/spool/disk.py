"""Every call the journal makes to the file system, behind one object, so that tests can record, cut off and break it.

Nothing here decides anything; all of it may raise OSError and may block.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from posix import close as _close  # os.close, as gevent patches it, closes folders late: a lock would be held on

Buffers = Sequence[bytes | memoryview]

_ZEROS = memoryview(bytes(1 << 20))
_MOST = 1024  # buffers of one pwritev (IOV_MAX)


class Disk:
    # -- folders -----------------------------------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        os.mkdir(path, 0o700)

    def remove_folder(self, path: str) -> None:
        os.rmdir(path)

    def listed(self, path: str) -> tuple[list[str], list[str]]:
        """(names of files, names of folders), sorted."""
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(path) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
        return sorted(files), sorted(folders)

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable: what was made, renamed and removed there."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            _close(fd)

    def lock(self, path: str) -> int | None:
        """Hold a folder until the fd is closed (also by our death); None if another process holds it."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _close(fd)
            return None
        except BaseException:
            _close(fd)
            raise
        return fd

    def free(self, path: str) -> int:
        """Bytes that may still be written there."""
        there = os.statvfs(path)
        return there.f_bavail * there.f_frsize

    # -- files -------------------------------------------------------------------------------------------------------

    def make(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def open(self, path: str, *, write: bool = False) -> int:
        return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        _close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def allocate(self, fd: int, size: int) -> None:
        """Reserve space and write zeros to it, so that writing there cannot find the disk full, and asks nothing of the
        file system's own journal: ext4 marks blocks that are only reserved as written after a write, and when its
        journal fails just then, fdatasync has been seen to succeed although the bytes were lost."""
        os.posix_fallocate(fd, 0, size)
        for at in range(0, size, len(_ZEROS)):
            self.write(fd, [_ZEROS[: size - at]], at)

    def write(self, fd: int, buffers: Buffers, at: int) -> None:
        """Write all of it; a short write is an error (what is there then is not known)."""
        for first in range(0, len(buffers), _MOST):
            some = buffers[first : first + _MOST]
            wanted = sum(map(len, some))
            written = os.pwritev(fd, some, at)
            if written != wanted:
                raise OSError(errno.ENOSPC, f"only {written} of {wanted} bytes were written")
            at += written

    def read(self, fd: int, size: int, at: int) -> bytes:
        """Up to `size` bytes, fewer only at the end of the file."""
        return os.pread(fd, size, at)

    def sync(self, fd: int) -> None:
        """Make a file's bytes durable. An error means that they may be lost, and a second try would not tell.

        It is an error, too, if somebody has removed the file: it would be gone when we close it.
        """
        os.fdatasync(fd)
        if not os.fstat(fd).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "somebody has removed the file")

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    # -- memory ------------------------------------------------------------------------------------------------------

    def view(self, path: str) -> bytes | mmap.mmap:
        """A file's bytes, mapped."""
        fd = self.open(path)
        try:
            return mmap.mmap(fd, 0, access=mmap.ACCESS_READ) if os.fstat(fd).st_size else b""
        finally:
            _close(fd)

    def shared(self, path: str, size: int) -> bytearray | mmap.mmap:
        """New memory that outlives this process as a file. It is written, not just allocated: a full disk met at a
        later store into it would kill us (SIGBUS)."""
        fd = self.make(path)
        try:
            self.write(fd, [bytes(size)], 0)
            return mmap.mmap(fd, size)
        finally:
            _close(fd)
