"""Folders named after addresses: safe names, and a way down to them that follows no symbolic link.

A path like "/var/mail/{domain}/{local_part}" has two parts. What stands before the first placeholder is the
administrator's word and is opened as it is. Below it every name may have been chosen by a stranger and every folder may
belong to a user: so names are encoded, each step is opened relative to the one before, and a link is an error. Two
slashes say that this begins there already ("/var/mail//lists/{domain}").
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from mta.message.address import Address

_UNSAFE = re.compile(r"[^A-Za-z0-9!#$&'()+,\-.=@\[\]^_{}~:]")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def why(error: Exception) -> str:
    """What an error says to people: "/var/lib/mta/spool: Permission denied" instead of Python's "[Errno 13] ..."."""
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def safe_name(text: str) -> str:
    """`encoded` in lower case: addresses are the same whatever their case."""
    return encoded(text.lower())


def encoded(text: str) -> str:
    """A file name that says `text` and nothing else: what could mean more is percent-encoded.

    Two texts get two names; none is empty, "." or "..", begins with a dot or has a "/".
    """
    name = _UNSAFE.sub(lambda c: "".join(f"%{byte:02X}" for byte in c[0].encode("utf-8", "surrogatepass")), text)
    if name.startswith("."):
        name = "%2E" + name[1:]
    return name or "%"


class Path:
    """A path with {domain} and {local_part} in it."""

    def __init__(self, template: str) -> None:
        parts = template.split("/")
        first = next((n for n, part in enumerate(parts) if _begins(n, part)), len(parts))
        self.base = "/".join(parts[:first]) or ("/" if template.startswith("/") else ".")
        self._below = [part for part in parts[first:] if part and part != "."]

    def below(self, address: Address) -> tuple[str, ...]:
        """The names under `base` for an address."""
        domain, local = safe_name(address.domain), safe_name(address.local_part)
        return tuple(part.replace("{domain}", domain).replace("{local_part}", local) for part in self._below)


def _begins(n: int, part: str) -> bool:
    """The administrator's word ends before this part."""
    return "{domain}" in part or "{local_part}" in part or (n > 0 and not part)


def open_base(path: str) -> int:
    """A descriptor of the folder; it and its parents are made where missing. Raises OSError."""
    try:
        return os.open(path, _FOLDER)
    except FileNotFoundError:
        parent = os.path.dirname(os.path.abspath(path))
        above = open_base(parent)
        try:
            _make(os.path.basename(os.path.abspath(path)), above)
        finally:
            os.close(above)
        return os.open(path, _FOLDER)


def open_below(folder: int, names: Sequence[str]) -> int:
    """A descriptor of the folder `names` below `folder`, each made where missing. Raises OSError, for links too."""
    found = os.dup(folder)
    try:
        for name in names:
            deeper = step(found, name)
            os.close(found)
            found = deeper
    except BaseException:
        os.close(found)
        raise
    return found


def step(folder: int, name: str) -> int:
    """A descriptor of the folder `name` in `folder`, made (0700) where missing, never through a link."""
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        _make(name, folder)
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)


def keep(base: str, names: Sequence[str], name: str, pieces: Iterable[bytes | memoryview]) -> None:
    """A file `name` with that content in the folder `names` below `base`, durable when this returns. Raises OSError.

    It is written under another name and renamed: whoever finds it finds all of it. What had the name is replaced; of a
    link it is the link.
    """
    top = open_base(base)
    try:
        folder = open_below(top, names)
    finally:
        os.close(top)
    try:
        _keep(folder, name, pieces)
    finally:
        os.close(folder)


def _keep(folder: int, name: str, pieces: Iterable[bytes | memoryview]) -> None:
    draft = f".{name}.new"
    try:
        fd = os.open(draft, _NEW, 0o600, dir_fd=folder)
    except FileExistsError:  # left by a try that a crash cut short, or a trap
        os.unlink(draft, dir_fd=folder)
        fd = os.open(draft, _NEW, 0o600, dir_fd=folder)
    try:
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(fd, rest) :]
            os.fdatasync(fd)
        finally:
            os.close(fd)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except BaseException:
        try:
            os.unlink(draft, dir_fd=folder)
        except OSError:
            pass
        raise


def _make(name: str, folder: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:  # another worker was faster
        return
    os.fsync(folder)  # a mail in a folder that is gone after a power cut would be gone with it
