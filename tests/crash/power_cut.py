"""A file system of our own whose power can be cut: ext4 in a file, mounted through a loop device (root only).

::

    with Machine(folder) as machine:          # a fresh file system at machine.path
        ... start something that writes below machine.path and tells what is acknowledged
        machine.cut()                         # nothing reaches the disk any more, what was not synced is gone
        ... kill what you started (kill -9), wait for its end
        machine.restart()                     # mounted again, its journal replayed; look at what is there

The cut is ext4's own shutdown call without flushing its log: like a power cut, but for the disk's own cache.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from types import TracebackType

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_LOG_FLUSH = 2
TRIES, PAUSE = 600, 0.1  # a minute for what takes a moment, but for busy machines


def why_not() -> str:
    """Why this cannot be done here; empty if it can."""
    if os.geteuid() != 0:
        return "cutting the power of a loop mount needs root"
    for program in ("mkfs.ext4", "mount", "umount", "losetup"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "this kernel has no loop devices"
    return ""


class Machine:
    """One file system. Every cut leaves the image as it is; `restart` mounts it again."""

    _count = 0

    def __init__(self, folder: Path, megabytes: int = 200) -> None:
        Machine._count += 1
        self._image = folder / f"disk-{os.getpid()}-{Machine._count}.img"  # never the same twice: loop devices linger
        self.path = folder / f"mounted-{os.getpid()}-{Machine._count}"
        self._megabytes = megabytes
        self._mounted = False

    def __enter__(self) -> Machine:
        with open(self._image, "wb") as image:
            image.truncate(self._megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", str(self._image))
        self.path.mkdir()
        self._mount()
        os.sync()
        return self

    def cut(self) -> None:
        """From now on every write fails, and what is only in memory is lost. Refuses any file system but our own."""
        here, root = os.stat(self.path).st_dev, os.stat("/").st_dev
        source = ""
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                if line.split()[2] == f"{os.major(here)}:{os.minor(here)}":
                    source = line.split(" - ")[1].split()[1]
        if here == root or not source.startswith("/dev/loop"):
            raise RuntimeError(f"{self.path} is on {source or 'an unknown device'}, not on a loop mount of ours")
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Mount it anew. Whatever had files open there must be dead."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.path), tries=TRIES)
        self._mounted = True

    def _unmount(self) -> None:
        if self._mounted:
            _run("umount", str(self.path), tries=TRIES)
            self._mounted = False
        for _ in range(TRIES):  # the loop device goes a little later, and with it the old file system's memory
            found = subprocess.run(["losetup", "-j", str(self._image)], capture_output=True, text=True, check=False)
            if not found.stdout.strip():
                return
            time.sleep(PAUSE)
        raise RuntimeError(f"the loop device of {self._image} does not go away")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._unmount()
        except RuntimeError:
            if error is None:
                raise
            _run("umount", "--lazy", str(self.path))  # a failed test may hold files open; its own error matters more
        self._image.unlink()
        self.path.rmdir()


def _run(*command: str, tries: int = 1) -> None:
    for left in reversed(range(tries)):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if left:
            time.sleep(PAUSE)
    raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
