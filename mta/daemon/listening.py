"""The sockets that take mail: bound once by the master, inherited by every worker, closed only when the server ends.

Our own: one SO_REUSEPORT socket a worker slot, so the kernel spreads connections evenly and nobody wakes in vain.
From systemd: one socket an address, shared by all workers. Closing a listening socket resets what waits in its queue;
so sockets are never closed while the server runs, and with fewer workers each watches several.

"[::]:25" takes IPv4 as well, unless another listener names an IPv4 address with that port: then each takes its own.
On a machine without IPv6 it is 0.0.0.0.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
from typing import NamedTuple

from gevent import monkey

from mta.config import address
from mta.settings import Listener

_plain = monkey.get_original("socket", "socket")
BACKLOG = 4096


class ListenError(Exception):
    """An address that cannot be had; says which and why."""


class Bound(NamedTuple):
    """The sockets of one configured address. Shared: all workers watch each; else number n belongs to slot n."""

    configured: str
    sockets: list[socket.socket]
    shared: bool

    def of(self, slot: int, workers: int) -> list[socket.socket]:
        """What the worker in `slot` of so many watches."""
        return self.sockets if self.shared else self.sockets[slot::workers]

    def names(self) -> list[str]:
        return sorted({name(made) for made in self.sockets})


def name(made: socket.socket) -> str:
    host, port = made.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _port(made: socket.socket) -> str:
    return str(made.getsockname()[1])


class Listening:
    """Every socket of the server, by the address as it is written in the file."""

    def __init__(self, handed_over: dict[str, list[socket.socket]]) -> None:
        self._handed_over = handed_over
        self._bound: dict[str, Bound] = {}

    def take(self, listeners: list[Listener], workers: int) -> list[tuple[Listener, Bound]]:
        """Bind what is not bound yet, enough for so many workers. All or nothing; raises ListenError.

        More sockets of an address that has some take no connections before `open`: nobody may accept them yet.
        """
        new: list[socket.socket] = []
        bound: list[tuple[Listener, Bound]] = []
        try:
            for listener in listeners:
                have = self._bound.get(listener.address) or self._from_systemd(listener.address)
                if have is None or (not have.shared and len(have.sockets) < workers):
                    have = self._bind(listener.address, have, workers, listeners, new)
                bound.append((listener, have))
        except ListenError:
            for made in new:
                made.close()
            raise
        for listener, have in bound:
            self._bound[listener.address] = have
        return bound

    def _from_systemd(self, configured: str) -> Bound | None:
        """What systemd holds for this address: by name, by name and port, or because it is the very address."""
        if configured.startswith("systemd:"):
            _, wanted, *port = configured.split(":")
            found = [made for made in self._handed_over.get(wanted, []) if not port or port == [_port(made)]]
            if not found:
                have = ", ".join(f"{each} {name(made)}" for each, these in self._handed_over.items() for made in these)
                raise ListenError(f"{configured}: systemd handed over no such socket (but {have or 'none'})")
        else:
            same = {configured} | ({configured.replace("[::]", "0.0.0.0")} if configured.startswith("[::]") else set())
            found = [made for these in self._handed_over.values() for made in these if name(made) in same]
        return Bound(configured, found, True) if found else None

    def unused(self) -> list[str]:
        """Addresses systemd handed over and no listener takes: clients would wait there for ever."""
        used = {made for bound in self._bound.values() for made in bound.sockets}
        return sorted(name(made) for these in self._handed_over.values() for made in these if made not in used)

    def _bind(
        self, configured: str, have: Bound | None, workers: int, listeners: list[Listener], new: list[socket.socket]
    ) -> Bound:
        host, port = address(configured)
        made = list(have.sockets) if have else []
        if made:
            port = made[0].getsockname()[1]
        try:
            family, where = _resolve(host, port)
            if not made and port:
                _free(family, where)
            only = family == socket.AF_INET6 and (host != "::" or _names_ipv4(listeners, port))
            while len(made) < workers:
                made.append(_bound(family, where, only))
                new.append(made[-1])
                if have is None:
                    made[-1].listen(BACKLOG)
                where = made[-1].getsockname()  # port 0 has become a number, and all slots share it
        except OSError as error:
            raise ListenError(f"{configured}: {_why(error, port)}") from None
        return Bound(configured, made, False)

    def open(self) -> None:
        """From now on all sockets take connections."""
        for bound in self._bound.values():
            if not bound.shared:
                for made in bound.sockets:
                    made.listen(BACKLOG)

    def back_to(self, bound: list[tuple[Listener, Bound]]) -> None:
        """A reload was given up: close what was bound for it."""
        kept = {have.configured: have for _, have in bound}
        for configured, now in self._bound.items():
            before = kept[configured].sockets if configured in kept else []
            if not now.shared:
                for made in now.sockets[len(before) :]:
                    made.close()
        self._bound = kept

    def only(self, bound: list[tuple[Listener, Bound]]) -> None:
        """In a worker: close what its generation does not have, or a port could never be given up."""
        kept = {made for _, have in bound for made in have.sockets}
        for have in self._bound.values():
            for made in have.sockets:
                if made not in kept:
                    made.close()

    def forget(self, listeners: list[Listener]) -> None:
        """Close what no listener names any more; call it when the workers that watched it are gone."""
        for gone in set(self._bound) - {listener.address for listener in listeners}:
            bound = self._bound.pop(gone)
            if not bound.shared:
                for made in bound.sockets:
                    made.close()

    def close(self) -> None:
        for bound in self._bound.values():
            for made in bound.sockets:
                made.close()
        self._bound = {}


def _resolve(host: str, port: int) -> tuple[int, tuple[str, int]]:
    """By the C library, not through gevent: the master must not wake a hub."""
    if host == "::" and not _has_ipv6():
        host = "0.0.0.0"
    try:
        found = _socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"{host}: {error.strerror}") from None
    family, _, _, _, where = found[0]
    return family, where  # type: ignore[return-value]


def _has_ipv6() -> bool:
    try:
        with _plain(socket.AF_INET6, socket.SOCK_STREAM) as made:
            made.bind(("::", 0))
    except OSError:
        return False
    return True


def _names_ipv4(listeners: list[Listener], port: int) -> bool:
    return any(":" not in host and number == port for host, number in (address(each.address) for each in listeners))


def _free(family: int, where: tuple[str, int]) -> None:
    """SO_REUSEPORT would let a second server of ours share the address unnoticed. Raises OSError."""
    with _plain(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(where)


def _bound(family: int, where: tuple[str, int], ipv6_only: bool) -> socket.socket:
    made = _plain(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        made.bind(where)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _why(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return 'another program has this address ("ss -ltnp" tells which)'
    if error.errno == errno.EACCES and port < 1024:
        if os.getuid() != 0:
            return "a port below 1024 needs root or systemd's socket; a running server has dropped root, so restart it"
        return "permission denied"
    return str(error.strerror or error)
