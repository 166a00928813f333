"""Taking over the folder of a dead process: it is locked, moved whole into our own, read, and its mails become ours.

The move is one rename: from then on both folders have one owner for good. Were they apart, somebody could adopt the one
with a mail and another the one with the record that it was dropped. What we write about these mails goes to our own
segments, which all count as younger than the adopted ones.

Killed at any point, the next adopter finds the same and does the same: nothing but files without a mail is removed.
"""

from __future__ import annotations

import os

from mta.spool import hand
from mta.spool.bodies import FOLDER
from mta.spool.disk import Disk
from mta.spool.recovery import Recovered, recover

TRIES = 3
NEW = ".new-"  # a folder that is not made yet, or not any more: nothing in it is promised
NOBODYS = "lost+found"  # a folder that is no process's: a spool may have a file system of its own


def make(disk: Disk, spool: str, writer: str) -> tuple[str, int]:
    """A folder for a new process, which appears in the spool locked: (its path, the lock). Raises OSError."""
    try:
        disk.make_folder(spool)
        disk.sync_folder(os.path.dirname(spool) or ".")
    except FileExistsError:
        pass
    new, folder = os.path.join(spool, NEW + writer), os.path.join(spool, writer)
    for _ in range(TRIES):
        disk.make_folder(new)
        lock = None
        try:
            lock = disk.lock(new)
            disk.make_folder(os.path.join(new, FOLDER))
        except FileNotFoundError:  # taken for a dead one before it was locked, and removed
            if lock is not None:
                disk.close(lock)
            continue
        if lock is None:
            break
        disk.sync_folder(new)
        disk.rename(new, folder)
        disk.sync_folder(spool)
        return folder, lock
    raise FileExistsError(f"{new} is in use")


def take(disk: Disk, folder: str, ours: str) -> Recovered | None:
    """Move `folder` into `ours` and read it; None if somebody holds it or it is gone. Off the loop. Raises OSError."""
    folder = folder.rstrip("/")
    try:
        lock = disk.lock(folder)
    except FileNotFoundError:
        return None
    if lock is None:
        return None
    try:
        spool, name = os.path.split(folder)
        if name.startswith(NEW):
            remove(disk, folder)
            return Recovered()
        inside = os.path.join(ours, name)
        try:
            disk.rename(folder, inside)
        except FileNotFoundError:  # another was quicker
            return None
        try:
            disk.sync_folder(ours)
            disk.sync_folder(spool)
            recovered = recover(disk, inside)
            sweep(disk, inside, set(recovered.file_of.values()), spool if recovered.harm else "")
        except BaseException:
            disk.rename(inside, folder)  # somebody may try again
            raise
        return recovered
    finally:
        disk.close(lock)


def sweep(disk: Disk, folder: str, named: set[str], spool: str = "") -> None:
    """Remove what died with its process: body files nothing names, and the note of what was in hand.

    With `spool` the body files are set aside there: a record that was stepped over may have named them.
    """
    files, folders = disk.listed(folder)
    for inner in folders:
        path = os.path.join(folder, inner)
        if inner != FOLDER:
            sweep(disk, path, named, spool)
            continue
        for name in disk.listed(path)[0]:
            if name in named:
                continue
            if not spool:
                _unlink(disk, os.path.join(path, name))
                continue
            try:
                disk.rename(os.path.join(path, name), aside(spool, folder, name))
            except OSError:  # a full disk: no reason to keep the others waiting
                pass
    if hand.FILE in files:
        _unlink(disk, os.path.join(folder, hand.FILE))


def aside(spool: str, folder: str, name: str) -> str:
    """Where a file of a journal's folder goes in which there may be mails nobody could read: for a person."""
    return os.path.join(spool, f"damaged-{os.path.basename(folder)}-{name}")


def retire(disk: Disk, folder: str) -> None:
    """Remove our own folder, which is empty of mail, as far as that can be done.

    Its segments must go together: one that says what was dropped might vanish before the one with the mail. So the
    folder first gets a name under which nobody believes it.
    """
    spool, name = os.path.split(folder)
    new = os.path.join(spool, NEW + name)
    try:
        disk.rename(folder, new)
        disk.sync_folder(spool)
    except OSError:
        return
    remove(disk, new)


def remove(disk: Disk, folder: str) -> None:
    """Remove a folder with all that is in it, as far as that can be done."""
    try:
        files, folders = disk.listed(folder)
        for name in folders:
            remove(disk, os.path.join(folder, name))
        for name in files:
            _unlink(disk, os.path.join(folder, name))
        disk.remove_folder(folder)
    except OSError:
        pass


def _unlink(disk: Disk, path: str) -> None:
    try:
        disk.unlink(path)
    except OSError:
        pass
