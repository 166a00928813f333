"""Where connections come in: many accepted at each wake-up, each served by a greenlet that is used again.

A new greenlet costs a memory mapping of its own; taken from a pool it costs nothing (20 us of a mail's 76). Sockets are
only borrowed: who made them closes them, so that a connection waiting in their queue is never cut off.
"""

from __future__ import annotations

import _socket
import errno
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub, getcurrent

from mta import log
from mta import settings as settings_of
from mta.domains import Domains
from mta.message.ids import Ids
from mta.net import clock
from mta.net.stream import Stream
from mta.receive import capture, replies
from mta.receive.door import Counts, Door, plain
from mta.receive.limits import Budget
from mta.receive.session import Draining, Session
from mta.spool.spool import Spool

if TYPE_CHECKING:
    from mta.rules.engine.engine import Rules

AT_ONCE = 16  # connections accepted at one wake-up, so that those already here are served too
IDLE = 200  # greenlets kept for later
BREATH = 0.2  # seconds without accepting when descriptors ran out
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Receiver:
    """All listeners of a worker and their sessions."""

    def __init__(
        self,
        settings: settings_of.Settings,
        domains: Domains,
        rules: Callable[[], Rules],
        spool: Spool,
        ids: Ids,
        tls: Callable[[settings_of.Listener], ssl.SSLContext | None],
    ) -> None:
        self.settings, self.domains, self.rules = settings, domains, rules
        self.spool, self.ids, self.tls = spool, ids, tls
        self.counts, self.budget = Counts(), Budget(settings.smtp.memory)
        replies.use(settings.replies)
        self.capture = capture.made_for(settings)
        self.doors: list[Door] = []
        self.sessions: set[Session] = set()
        self._idle: list[Any] = []
        self._watchers: dict[Any, Any] = {}  # by socket

    def listen(self, sock: Any, listener: settings_of.Listener) -> None:
        """Take connections from a bound and listening socket. Raises ValueError when a certificate is missing."""
        door = Door(
            self.settings, listener, self.domains, self.rules, self.spool, self.ids, self.tls, self.counts, self.budget
        )
        if listener.kind == "submissions" and door.tls() is None:
            raise ValueError(f"listener {listener.address}: submissions needs a certificate (tls = {{ ... }})")
        raw = getattr(sock, "_sock", sock)  # beneath gevent's socket
        raw.setblocking(False)
        raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)  # for its connections: no reply waits for an ACK
        watcher = get_hub().loop.io(raw.fileno(), 1)
        door.capture = self.capture
        self.doors.append(door)
        self._watchers[sock] = watcher
        watcher.start(self._accept, raw, door, watcher)

    def _accept(self, sock: Any, door: Door, watcher: Any) -> None:
        for _ in range(AT_ONCE):
            try:
                fd, address = sock._accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._rest(sock, door, watcher, error)
                    return
                continue  # the client has left the queue
            client = _socket.socket(fileno=fd, family=sock.family, type=_socket.SOCK_STREAM, proto=0)
            self.counts.connections += 1
            try:
                self._begin(client, door, address)
            except OSError:
                client.close()

    def _begin(self, client: Any, door: Door, address: tuple[Any, ...]) -> None:
        ip, port = plain(address[0]), address[1]
        if len(self.sessions) >= self.settings.smtp.max_sessions:
            reply = replies.TOO_MANY_SESSIONS
            log.event("refused", client=ip, stage="connect", reply=str(reply), reason="smtp.max_sessions")
            self.counts.refused += 1
            if door.listener.kind != "submissions":
                client.send(reply.wire)
            client.close()
            return
        session = Session(door, Stream(client), ip, port)
        if self._idle:
            self._idle.pop().switch(session)
        else:
            gevent.spawn_raw(self._serve, session)

    def _serve(self, session: Session | None) -> None:
        me, idle, sessions, hub = getcurrent(), self._idle, self.sessions, get_hub()
        while session is not None:
            sessions.add(session)
            try:
                session.run()
            except BaseException as error:  # run() promises not to; a greenlet must not end in the loop
                log.bug(error, session=session.id)
            sessions.discard(session)
            session = None  # an idle greenlet holds nothing
            if len(idle) >= IDLE:
                return
            idle.append(me)
            session = hub.switch()

    def _rest(self, sock: Any, door: Door, watcher: Any, error: OSError) -> None:
        """Without descriptors accept fails at once and for ever; do something else for a moment."""
        log.event("refused", stage="connect", reason=f"no more connections: {error.strerror}")
        watcher.stop()
        gevent.spawn_later(BREATH, self._resume, sock, door, watcher)

    def _resume(self, sock: Any, door: Door, watcher: Any) -> None:
        if watcher in self._watchers.values():
            watcher.start(self._accept, sock, door, watcher)

    # -- the end ----------------------------------------------------------------------------------------------------

    def stop_listening(self, sock: Any = None) -> None:
        """Take no more connections from a socket (None: from all). It stays open: it is not ours."""
        for known in list(self._watchers) if sock is None else [sock]:
            watcher = self._watchers.pop(known, None)
            if watcher is not None:
                watcher.stop()
                watcher.close()

    def drain(self, seconds: float) -> int:
        """Let every session finish its mail, then tell it to come again. How many were still open at the end."""
        self.stop_listening()
        for door in self.doors:
            door.draining = True
        for session in list(self.sessions):
            session.stream.wake(Draining(), partial(getattr, session, "idle"))
        until = clock.monotonic() + seconds
        while self.sessions and clock.monotonic() < until:
            gevent.sleep(0.02)
        left = list(self.sessions)
        for session in left:
            session.stream.wake(Draining())
        if left:
            gevent.sleep(0.02)
        return len(left)

    def status(self) -> dict[str, int]:
        """Numbers for people: sessions open now, and what has come in since the start."""
        counts = self.counts
        return {
            "sessions": len(self.sessions),
            "connections": counts.connections,
            "accepted": counts.accepted,
            "refused": counts.refused,
            "bytes": counts.bytes,
            "held": self.budget.held,
        }
