"""The line between the master and one child: small JSON messages over a pair of sockets that keep message borders.

The master has no event loop: the kernel sends it SIGIO when something lies ready (O_ASYNC). A child waits in its loop.
When one side dies the other reads an end of file; so a child always knows whether its master lives.
"""

from __future__ import annotations

import _socket
import fcntl
import json
import os
from typing import Any

Words = dict[str, Any]
LARGEST = 100_000


class Ended(Exception):
    """The other side is gone."""


class Channel:
    """One end. Never blocks."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, **words: Any) -> bool:
        """False when the other side is gone or does not read."""
        try:
            self._sock.send(json.dumps(words).encode())
        except OSError:
            return False
        return True

    def take(self) -> Words | None:
        """The next message, or None. Raises Ended."""
        try:
            text = self._sock.recv(LARGEST)
        except BlockingIOError:
            return None
        except OSError:
            raise Ended from None
        if not text:
            raise Ended
        words: Words = json.loads(text)
        return words

    def signal_me(self) -> None:
        """SIGIO to this process for every message from now on."""
        fcntl.fcntl(self._sock, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._sock, fcntl.F_SETFL, fcntl.fcntl(self._sock, fcntl.F_GETFL) | os.O_ASYNC)

    def close(self) -> None:
        self._sock.close()


def pair() -> tuple[Channel, Channel]:
    """(the master's end, the child's end)."""
    here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return Channel(here), Channel(there)
