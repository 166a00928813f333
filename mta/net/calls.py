"""Calls from one of our processes to another over a unix socket, many at a time on one connection.

`Caller` asks: it connects when first needed, again after the connection is lost, and each call has a time limit.
`answer_all` is the other side: it answers each call in a greenlet of its own, or at once for the words that never wait.
A call that was sent is never sent a second time unless it may be: it may have taken place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Any

import gevent
import gevent.socket
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool

from mta import log
from mta.net.frames import CallFailed, Frames, Unavailable, frame

__all__ = ["CallFailed", "Caller", "Unavailable", "answer_all"]

_RETRY = 0.05  # seconds between attempts to connect
TOGETHER = 1000  # calls of one connection that are answered at a time


class _Wire:
    """A connected socket: frames out in order, never two writers in the middle of one."""

    def __init__(self, sock: gevent.socket.socket) -> None:
        self.sock = sock
        self.open = True
        self.waiting: dict[int, AsyncResult] = {}  # calls sent here and not answered yet
        self._out: list[bytes] = []
        self._writing = False

    def send(self, message: bytes) -> None:
        """Whoever writes already takes this along. Raises OSError."""
        self._out.append(message)
        if self._writing:
            return
        self._writing = True
        try:
            while self._out and self.open:
                text, self._out = b"".join(self._out), []
                self.sock.sendall(text)
        except BaseException:  # also when the writer is interrupted: half a frame may be out, so nothing may follow it
            self.close()
            raise
        finally:
            self._writing = False

    def close(self) -> None:
        """Also wakes whoever reads."""
        self.open = False
        try:
            self.sock.shutdown(gevent.socket.SHUT_RDWR)
        except OSError:
            pass


class Caller:
    """The asking side, for all greenlets of a process. `path` is the unix socket, `name` says who answers there."""

    def __init__(self, path: str, name: str = "the registry", timeout: float = 5.0, waits: bool = True) -> None:
        self.path, self.name, self.timeout = path, name, timeout
        self.waits = waits  # for one who is not there yet; else that is told at once
        self.connections = 0  # how often a connection was made: a change means that the other side forgot us
        self._wire: _Wire | None = None
        self._connecting = BoundedSemaphore(1)
        self._number = 0
        self._closed = False

    def call(self, word: str, *arguments: Any, timeout: float | None = None, again: bool = False) -> Any:
        """Ask and wait for the answer. Raises Unavailable, CallFailed, ValueError (arguments that are no JSON).

        `again`: the call does no harm twice, so it is sent again, within its time, when the connection is lost.
        """
        limit = self.timeout if timeout is None else timeout
        end = time.monotonic() + limit
        while True:
            try:
                return self._call(word, arguments, limit)
            except Unavailable:
                limit = end - time.monotonic()
                if not again or limit < 2 * _RETRY:
                    raise
            gevent.sleep(_RETRY)

    def _call(self, word: str, arguments: tuple[Any, ...], limit: float) -> Any:
        self._number = number = self._number + 1
        message = frame([number, word, arguments])
        timer = gevent.Timeout.start_new(limit)
        wire = None
        try:
            wire = self._connected()
            answer = wire.waiting[number] = AsyncResult()
            wire.send(message)
            kind, result = answer.get()
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
            raise Unavailable(f"{self.name} gave no answer within {limit:g} s ({word})") from None
        except OSError as error:
            raise Unavailable(f"{self.name}: {error.strerror or error} ({self.path})") from None
        finally:
            timer.close()
            if wire is not None:
                wire.waiting.pop(number, None)
        if kind is not None:
            raise CallFailed(kind, result)
        return result

    def close(self) -> None:
        self._closed = True
        if self._wire is not None:
            self._wire.close()

    def _connected(self) -> _Wire:
        while True:
            wire = self._wire
            if wire is not None and wire.open:
                return wire
            if self._closed:
                raise Unavailable(f"the connection to {self.name} is closed")
            with self._connecting:
                if self._wire is None or not self._wire.open:
                    self._connect()

    def _connect(self) -> None:
        sock = gevent.socket.socket(gevent.socket.AF_UNIX, gevent.socket.SOCK_STREAM)
        try:
            sock.connect(self.path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            sock.close()  # it is being started, or started again; or so many connect that it must be tried again
            if not self.waits and not isinstance(error, BlockingIOError):
                raise
            gevent.sleep(_RETRY)
            return
        except BaseException:
            sock.close()
            raise
        self._wire = _Wire(sock)
        self.connections += 1
        gevent.spawn(self._read, self._wire)

    def _read(self, wire: _Wire) -> None:
        frames, why = Frames(), "the connection was lost"
        try:
            while arrived := wire.sock.recv(65536):
                for number, kind, result in frames.feed(arrived):
                    answer = wire.waiting.get(number)
                    if answer is not None:
                        answer.set((kind, result))
        except (OSError, ValueError, TypeError) as error:
            why = str(error)
        wire.close()
        wire.sock.close()
        if self._wire is wire:
            self._wire = None
        for answer in wire.waiting.values():
            if not answer.ready():
                answer.set_exception(Unavailable(f"{self.name}: {why}"))


def answer_all(
    sock: gevent.socket.socket, answer: Callable[[str, list[Any]], Any], at_once: Container[str] = ()
) -> None:
    """Answer the calls of one connection until it ends.

    `answer(word, arguments)` returns the result (JSON) or raises: CallFailed is passed on, an OSError or anything else
    too, by the name of its class, and the last is logged as a bug. Words in `at_once` must not wait. At most TOGETHER
    calls are under way; the rest stays unread.
    """
    wire, frames, pool = _Wire(sock), Frames(), Pool(TOGETHER)

    def one(number: int, word: str, arguments: list[Any]) -> None:
        try:
            message = frame([number, None, answer(word, arguments)])
        except CallFailed as error:
            message = frame([number, error.kind, error.text])
        except OSError as error:
            message = frame([number, "OSError", str(error)])
        except Exception as error:
            log.bug(error, stage=word)
            message = frame([number, "Bug", f"{type(error).__name__}: {error}"])
        try:
            wire.send(message)
        except OSError:
            pass  # the asker is gone, which the reader notices too

    try:
        while arrived := sock.recv(65536):
            for number, word, arguments in frames.feed(arrived):
                if word in at_once:
                    one(number, word, arguments)
                else:
                    pool.spawn(one, number, word, arguments)
    except (OSError, ValueError, TypeError):
        pass  # the other side died or talks nonsense: the connection ends
    finally:
        wire.close()
        pool.join()
        sock.close()
