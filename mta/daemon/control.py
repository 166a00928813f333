"""Asking a running server from the command line: calls over the unix socket `control.sock` in the folder server.run.

Needs no loop and imports nothing heavy. Who may write to the socket (mode 0660) may command the server.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from mta.net.frames import CallFailed, Frames, Unavailable, frame

SOCKET = "control.sock"
_LONGEST = 100  # of the 108 bytes a unix address may have (unix(7))


def path(run: str) -> str:
    return os.path.join(run, SOCKET)


class Line:
    """A connection to the server. Raises Unavailable when nobody is there."""

    def __init__(self, run: str, timeout: float = 60.0) -> None:
        self.path = path(run)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout)
        self._frames = Frames()
        self._number = 0
        try:
            with Near(self.path) as near:
                self._sock.connect(near)
        except OSError as error:
            self._sock.close()
            raise Unavailable(f"no server answers at {self.path} ({error.strerror or error})") from None

    def ask(self, word: str, *arguments: Any) -> Any:
        """One question and its answer. Raises Unavailable, CallFailed."""
        self._number += 1
        try:
            self._sock.sendall(frame([self._number, word, arguments]))
            while arrived := self._sock.recv(65536):
                for number, kind, result in self._frames.feed(arrived):
                    if number == self._number and kind is not None:
                        raise CallFailed(kind, result)
                    if number == self._number:
                        return result
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self.path}: {error}") from None
        raise Unavailable(f"{self.path}: the server hung up")

    def until_gone(self, timeout: float) -> bool:
        """Wait until the server has ended and closed the line."""
        self._sock.settimeout(timeout)
        try:
            while self._sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Near:
    """A name for a unix socket's path that fits into its address, however deep the folder lies."""

    def __init__(self, path: str) -> None:
        self._path, self._fd = path, -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= _LONGEST:
            return self._path
        folder, name = os.path.split(self._path)
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{name}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
