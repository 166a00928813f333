"""What systemd and we say to each other: sockets, readiness, the watchdog (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket as sockets
import time

from gevent import monkey

_socket = monkey.get_original("socket", "socket")  # the master has no hub, so no gevent socket either
FIRST_FD = 3


def listen_fds() -> dict[str, list[sockets.socket]]:
    """The sockets handed to us, by name; a service without names calls them all "unknown", as systemd does.

    The variables are taken out of the environment, so no child believes the sockets to be its own.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if not pid.isdigit() or int(pid) != os.getpid() or not count.isdigit():
        return {}
    called = names.split(":") if names else []
    found: dict[str, list[sockets.socket]] = {}
    for n in range(int(count)):
        fd = FIRST_FD + n
        os.set_inheritable(fd, False)
        made = _socket(fileno=fd)
        made.setblocking(False)
        found.setdefault(called[n] if n < len(called) else "unknown", []).append(made)
    return found


def notify(**states: str | int) -> bool:
    """Send READY=1, STATUS=..., WATCHDOG=1 and so on to the service manager; False when there is none.

    Never blocks and never raises: a manager that does not listen must not stop mail.
    """
    to = os.environ.get("NOTIFY_SOCKET", "")
    if not to.startswith(("/", "@")):
        return False
    text = "\n".join(f"{name}={value}" for name, value in states.items()).encode()
    try:
        with _socket(sockets.AF_UNIX, sockets.SOCK_DGRAM | sockets.SOCK_CLOEXEC | sockets.SOCK_NONBLOCK) as out:
            out.sendto(text, "\0" + to[1:] if to[0] == "@" else to)
    except OSError:
        return False
    return True


def watchdog() -> float | None:
    """Seconds after which systemd gives us up if nothing is heard; None when it does not watch."""
    limit, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not limit.isdigit() or int(limit) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(limit) / 1e6


def reloading() -> None:
    """RELOADING=1, with the time systemd 253 and later want beside it."""
    notify(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)


_alive_at = 0.0


def alive(now: float) -> None:
    """WATCHDOG=1 three times an interval; `now` is time.monotonic()."""
    global _alive_at
    every = watchdog()
    if every is not None and now >= _alive_at:
        _alive_at = now + every / 3
        notify(WATCHDOG=1)
