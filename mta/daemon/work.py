"""A worker's rooms, wired."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub

from mta.daemon.generation import Generation
from mta.settings import Listener


class Work:
    def __init__(self, generation: Generation, owns: Callable[[str], Any]) -> None:
        self._w = {}
        self.live = set()

    def start(self) -> None: ...

    def listen(self, sock: socket.socket, listener: Listener) -> None:
        w = get_hub().loop.io(sock.fileno(), 1)

        def on():
            try:
                c, a = sock.accept()
            except BlockingIOError:
                return
            gevent.spawn(self.one, c)

        w.start(on)
        self._w[sock] = w

    def one(self, c):
        from gevent import socket as gs

        c = gs.socket(fileno=c.detach())
        self.live.add(c)
        try:
            c.sendall(b"220 hi\r\n")
            while d := c.recv(1000):
                if d.startswith(b"QUIT"):
                    c.sendall(b"221 bye\r\n")
                    break
                if d.startswith(b"SPIN"):
                    while True:
                        pass
                c.sendall(b"250 %d\r\n" % os.getpid())
        except OSError:
            pass
        finally:
            c.close()
            self.live.discard(c)

    def stop_listening(self, sock: socket.socket) -> None:
        w = self._w.pop(sock, None)
        if w:
            w.stop()
            w.close()

    def adopt(self, folder: str) -> bool:
        return True

    def prepare(self) -> str:
        return ""

    def commit(self) -> None: ...
    def abort(self) -> None: ...
    def status(self) -> dict[str, Any]:
        return {"sessions": len(self.live)}

    def queue_first(self) -> Any:
        return {"mails": [], "cursor": 0}

    def queue_next(self, cursor: int) -> Any:
        return {"mails": [], "cursor": 0}

    def drain_in(self, seconds: float) -> None:
        while self.live:
            gevent.sleep(0.05)

    def drain_out(self, seconds: float) -> None: ...
    def close(self) -> None: ...
