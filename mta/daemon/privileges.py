"""Stop being root, for good: user, groups and capabilities go, and it is checked that they cannot come back."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
from collections.abc import Iterable

_NO_NEW_PRIVILEGES = 38  # prctl(2) PR_SET_NO_NEW_PRIVS


class PrivilegeError(Exception):
    """Root's rights could not be given up, or what is needed cannot be reached without them."""


def account(user: str, group: str = "") -> tuple[int, int]:
    """(uid, gid) of names from server.user and server.group. Raises PrivilegeError."""
    try:
        person = pwd.getpwnam(user)
    except KeyError:
        raise PrivilegeError(f"server.user: there is no user {user}") from None
    if person.pw_uid == 0:
        raise PrivilegeError("server.user: root is what we want to stop being")
    try:
        return person.pw_uid, grp.getgrnam(group).gr_gid if group else person.pw_gid
    except KeyError:
        raise PrivilegeError(f"server.group: there is no group {group}") from None


def drop(uid: int, gid: int) -> None:
    """Become `uid` and `gid`, nothing else. Call with sockets bound, before any child is made."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # leaving uid 0 empties the permitted and effective capabilities (capabilities(7))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise PrivilegeError(f"prctl(PR_SET_NO_NEW_PRIVS): {os.strerror(ctypes.get_errno())}")
    check(uid, gid)


def check(uid: int, gid: int) -> None:
    """Believe nothing: raises PrivilegeError if any way back is left."""
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or set(os.getgroups()) - {gid}:
        raise PrivilegeError("user or groups did not change")
    for back in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
        try:
            back()
        except PermissionError:
            continue
        raise PrivilegeError("root could be taken back")
    with open("/proc/self/status") as status:
        held = {name: value.strip() for name, _, value in (line.partition(":") for line in status)}
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        if int(held.get(name, "0"), 16):
            raise PrivilegeError(f"capabilities are left ({name} {held[name]})")


def readable(files: Iterable[str]) -> None:
    """Keys and certificates must be readable as we are now, or the next renewal would fail. Raises PrivilegeError."""
    for name in files:
        try:
            with open(name, "rb"):
                pass
        except OSError as error:
            raise PrivilegeError(f"{name}: {error.strerror} as user {os.getuid()}; let its group read it") from None


def give(folder: str, uid: int, gid: int) -> None:
    """Make a folder if need be and hand it to the user we become. A symbolic link is refused, not followed."""
    os.makedirs(folder, mode=0o750, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid == 0:
            os.fchown(fd, uid, gid)
    finally:
        os.close(fd)
