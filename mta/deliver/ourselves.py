"""Whether a host that is to get mail is this very server: mail sent to oneself would come back for ever."""

from __future__ import annotations

import ipaddress
import socket

from mta import settings

SMTP = 25


class Ourselves:
    """Our name and our listening addresses, as the settings give them."""

    def __init__(self, settings: settings.Settings) -> None:
        self._name = settings.server.name.lower().rstrip(".")
        self._exact: set[tuple[str, int]] = set()
        self._any: set[int] = set()  # ports on every address of this machine
        for listener in settings.listener:
            host, _, port = listener.address.rpartition(":")
            if host == "systemd" or not port.isdecimal():
                self._any.add(SMTP)  # systemd knows which; that of other servers is always this
                continue
            host = host.strip("[]")
            if host in ("", "::", "0.0.0.0", "*"):
                self._any.add(int(port))
            else:
                self._exact.add((_plain(host), int(port)))

    def named(self, host: str) -> bool:
        return host.lower().rstrip(".") == self._name

    def at(self, ip: str, port: int) -> bool:
        """We listen there."""
        return (_plain(ip), port) in self._exact or (port in self._any and here(ip))


def here(ip: str) -> bool:
    """It is an address of this machine: only those can be bound."""
    address = ipaddress.ip_address(_plain(ip))
    if address.is_unspecified or address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(address), 0))
    except OSError:
        return False
    return True


def _plain(ip: str) -> str:
    """One spelling; ::ffff:192.0.2.1 is 192.0.2.1."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
