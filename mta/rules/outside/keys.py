"""The keys rules sign, encrypt, decrypt and verify with: files in one folder, read again when they change.

    keys/NAME.pem        S/MIME: certificates, and for signing and decrypting the private key beside them
    keys/NAME.asc        OpenPGP: keys, secret or public, one or many
    keys/NAME.password   the password of NAME's private key, if it has one: the first line

NAME is a word a rule chose, or an address, of which capitals that a client writes make no other: a name without a file
is looked for in small letters. What the network sends never leads out of the folder.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from cryptography import x509

    from mta.message.smime import Identity

T = TypeVar("T")

NAME = re.compile(r"[!-\-0-\[\]-~][!-.0-\[\]-~]{0,200}")  # ASCII, no blank, no slash, no dot first
MAX_SIZE = 16 << 20  # bytes of a keyring


class NoKey(ValueError):
    """There is no key of that name."""


def _smime() -> Any:
    """Loaded late: cryptography takes its time, and most who know of keys never use one."""
    from mta.message import smime

    return smime


class Keys:
    """The folder of keys, or for tests {file name: what it holds}.

    What is asked for and not there, or cannot be read, raises ValueError (NoKey: not there).
    """

    def __init__(self, folder: str | Path | Mapping[str, bytes]) -> None:
        self._given = folder if isinstance(folder, Mapping) else None
        self._folder = Path("keys" if isinstance(folder, Mapping) else folder)
        self._kept: dict[tuple[str, str], tuple[tuple[float, int, str], Any]] = {}

    def identity(self, name: str) -> Identity:
        """Whoever signs or decrypts S/MIME under that name."""
        password = self._password(name)
        read = functools.partial(_smime().identity, password=password.encode() or None)
        return self._read(f"{name}.pem", "identity", read, password)

    def certificates(self, names: Iterable[str]) -> list[x509.Certificate]:
        """The first certificate of each name: to whom S/MIME is encrypted."""
        return [self._read(f"{name}.pem", "certificates", _smime().certificates)[0] for name in names]

    def authorities(self, name: str) -> list[x509.Certificate]:
        """All certificates of that name: whom a verification trusts."""
        return self._read(f"{name}.pem", "certificates", _smime().certificates)

    def pgp(self, name: str) -> tuple[bytes, str]:
        """(the OpenPGP keys of that name, the password of the secret ones)."""
        return self._read(f"{name}.asc", "keys", bytes), self._password(name)

    def ring(self, names: Iterable[str]) -> bytes:
        """The OpenPGP keys of all these names."""
        return b"\n".join(self._read(f"{name}.asc", "keys", bytes) for name in names)

    def has(self, kind: str, name: str) -> bool:
        """Is there a key ("smime" or "pgp") of that name?"""
        return bool(NAME.fullmatch(name)) and self._there(self._called(f"{name}.{'pem' if kind == 'smime' else 'asc'}"))

    def _there(self, file: str) -> bool:
        return file in self._given if self._given is not None else (self._folder / file).is_file()

    def _called(self, file: str) -> str:
        small = file.lower()
        return small if small != file and not self._there(file) and self._there(small) else file

    def _password(self, name: str) -> str:
        try:
            return self._read(f"{name}.password", "password", _first_line)
        except NoKey:
            return ""

    def _read(self, file: str, what: str, parse: Callable[[bytes], T], password: str = "") -> T:
        if not NAME.fullmatch(file):
            raise NoKey(f"{file!r} is not the name of a key")
        file = self._called(file)
        path = self._folder / file
        if self._given is not None:
            if file not in self._given:
                raise NoKey(f"there is no key {path}")
            return parse(self._given[file])
        try:
            with path.open("rb") as opened:
                stat = os.fstat(opened.fileno())
                mark = (stat.st_mtime, stat.st_size, password)
                kept = self._kept.get((file, what))
                if kept is not None and kept[0] == mark:
                    return cast(T, kept[1])
                if stat.st_size > MAX_SIZE:
                    raise ValueError(f"{path}: larger than {MAX_SIZE} bytes")
                made = parse(opened.read())
        except FileNotFoundError:
            raise NoKey(f"there is no key {path}") from None
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self._kept[file, what] = (mark, made)
        return made


def _first_line(text: bytes) -> str:
    return text.decode("utf-8", "replace").partition("\n")[0].rstrip("\r")
