"""Names for sessions and mails that stay unique across workers, restarts and clock jumps.

A writer (one process) draws 50 random bits once; its sessions count up behind it, a session's mails behind that:
`k3v9x0a2bq-1f` is a session, `k3v9x0a2bq-1f.2` its second mail. Only [a-z0-9.-] occur, so an id is a safe file name.
"""

from __future__ import annotations

import itertools
import re
import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: nothing to confuse when read aloud
SHAPE = re.compile(r"[0-9a-z]{10}-[0-9a-z]+(?:\.[0-9]+)?")


def base32(number: int) -> str:
    digits = ""
    while True:
        number, low = divmod(number, 32)
        digits = _ALPHABET[low] + digits
        if not number:
            return digits


class Ids:
    """The source of session names of one process. Make it after the fork."""

    def __init__(self) -> None:
        self.writer = "".join(secrets.choice(_ALPHABET) for _ in range(10))
        self._count = itertools.count(1)

    def session(self) -> str:
        return f"{self.writer}-{base32(next(self._count))}"


def mail(session: str, number: int) -> str:
    return f"{session}.{number}"
