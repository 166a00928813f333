"""Connections to other servers that wait a few seconds for the next mail, so that it needs no greeting again.

Kept is only what ended its last mail properly. Taken is only what has been silent since: a word that nobody asked for,
or the end of the connection, would be read as the answer to the next command.
"""

from __future__ import annotations

from mta.deliver.client import Client
from mta.net import clock

MAILS = 100  # over one connection; servers suspect clients that never leave

Key = tuple[object, ...]  # IP address, port, and what else was agreed on


class Pool:
    """The idle connections of one worker. `keep`: for how many seconds; 0 keeps none."""

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self._idle: dict[Key, list[Client]] = {}  # the longest idle first

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))

    def take(self, key: Key) -> Client | None:
        """A conversation ready for MAIL, or None."""
        idle = self._idle.get(key)
        while idle:
            client = idle.pop()
            if not idle:
                del self._idle[key]
            if client.quiet and clock.monotonic() - client.idle_since < self.keep:
                return client
            client.close()
        return None

    def give(self, key: Key, client: Client) -> None:
        """Keep it for the next mail, or end it."""
        if self.keep <= 0 or client.mails >= MAILS or client.spoilt:
            client.quit()
            return
        client.idle_since = clock.monotonic()
        self._idle.setdefault(key, []).append(client)

    def sweep(self) -> None:
        """End what has been idle for too long. To be called about once a second."""
        since = clock.monotonic() - self.keep
        for key, idle in list(self._idle.items()):
            while idle and idle[0].idle_since <= since:
                idle.pop(0).quit()
            if not idle:
                del self._idle[key]

    def close(self) -> None:
        """End all."""
        for idle in self._idle.values():
            for client in idle:
                client.quit()
        self._idle.clear()
