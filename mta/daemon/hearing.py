"""A child's side of things all children have: the master's words, its pulse, unix sockets that answer calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
from gevent import get_hub
from gevent.server import StreamServer

from mta import log, settings
from mta.daemon import logs, signals
from mta.daemon.channel import Channel, Ended
from mta.daemon.control import Near
from mta.net import calls

PULSE = 0.2  # seconds


def begin(told: settings.Log, beat: Callable[[], None], on_term: Callable[[], None]) -> None:
    """First thing after the fork: a loop of our own, a pulse, our own signals."""
    gevent.reinit()
    for number in (signal.SIGHUP, signal.SIGINT):  # a terminal sends them to everybody; the master decides
        signal.signal(number, signal.SIG_IGN)
    gevent.signal_handler(signal.SIGTERM, on_term)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.BLOCKED)
    logs.in_child(told)
    pulse = get_hub().loop.timer(PULSE, PULSE)
    pulse.start(beat)
    beat()
    _kept.append(pulse)


_kept: list[Any] = []  # watchers that live as long as the process


def hear(channel: Channel, heard: Callable[[dict[str, Any]], None], gone: Callable[[], None]) -> None:
    """Call `heard` in a greenlet for each message of the master, in order; `gone` when the master is dead."""
    ready = get_hub().loop.io(channel.fileno(), 1)
    _kept.append(ready)

    def listen() -> None:
        while True:
            try:
                while words := channel.take():
                    heard(words)
            except Ended:
                gone()
                return
            except Exception as error:  # the next word may be to end, and has to be heard
                log.bug(error)
            get_hub().wait(ready)

    gevent.spawn(listen)


def serve(path: str, mode: int, answer: Callable[[str, list[Any]], Any]) -> StreamServer:
    """Answer calls on a unix socket. A path left by a dead process is taken over. Raises OSError."""
    return serve_each(path, mode, lambda made: calls.answer_all(made, answer))


def serve_each(path: str, mode: int, one: Callable[[gevent.socket.socket], None]) -> StreamServer:
    """Call `one` with each connection to a unix socket, in a greenlet of its own."""
    sock = gevent.socket.socket(gevent.socket.AF_UNIX, gevent.socket.SOCK_STREAM)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    with Near(path) as near:
        before = os.umask(0o777 & ~mode)
        try:
            sock.bind(near)
        finally:
            os.umask(before)
    sock.listen(128)
    server = StreamServer(sock, lambda made, _: one(made))
    server.start()
    return server
