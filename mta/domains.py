"""Which domains are ours, and who exists in them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from mta.message.address import Address
from mta.message.reply import Refused
from mta.net import clock
from mta.settings import Domain, Settings

LOOK = 1.0  # seconds between two looks whether a file of users has changed


class Domains:
    """The domains of the settings. `"*"` among them stands for every domain there is."""

    def __init__(self, settings: Settings | Mapping[str, Domain]) -> None:
        domains = settings.domain if isinstance(settings, Settings) else settings
        self._domains = {name.lower(): domain for name, domain in domains.items()}
        self._any = self._domains.get("*")
        self._users = {d.users: Users(d.users) for d in self._domains.values() if d.users != "any"}

    @property
    def first(self) -> str:
        """The domain that <Postmaster> without a domain stands for, or nothing."""
        return next((name for name in self._domains if name != "*"), "")

    def find(self, domain: str) -> Domain | None:
        """The settings of a domain of ours (given in lower case), or None: somebody else's."""
        return self._domains.get(domain, self._any)

    def knows(self, address: Address) -> bool:
        """Somebody of ours has this address. Raises Refused (451) while a file of users cannot be read."""
        domain = self.find(address.domain)
        if domain is None:
            return False
        local = address.local_part.lower()
        if local == "postmaster":  # RFC 5321 4.5.1
            return True
        if domain.users == "any":
            return bool(local)
        users = self._users[domain.users]
        return local in users or ("+" in local and local.partition("+")[0] in users)

    def lists(self, address: Address) -> bool:
        """This very address is written down somewhere; a domain where anybody exists lists nobody."""
        domain = self.find(address.domain)
        if domain is None or domain.users == "any":
            return False
        return address.local_part.lower() in self._users[domain.users]


class Users:
    """Who exists: the accounts of this machine ("passwd"), or the lines of a file, read again when it changes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._looked = float("-inf")
        self._seen: tuple[int, int, int] | None = None
        self._names: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        if self.source == "passwd":
            try:
                return bool(pwd.getpwnam(name))
            except KeyError:
                return False
        now = clock.monotonic()
        if now - self._looked >= LOOK:
            self._look()
            self._looked = now
        return name in self._names

    def _look(self) -> None:
        try:
            stat = os.stat(self.source)
            seen = stat.st_mtime_ns, stat.st_size, stat.st_ino
            if seen == self._seen:
                return
            with open(self.source, encoding="utf-8") as file:
                lines = [line.partition("#")[0].strip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise Refused("451 4.3.0 Who exists here is not known now", f"{self.source}: {error}") from None
        self._names, self._seen = frozenset(line.lower() for line in lines if line), seen
