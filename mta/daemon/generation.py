"""What the workers forked together have in common: settings, sockets, TLS contexts. It never changes."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mta import log
from mta.config import Config
from mta.daemon.listening import Bound
from mta.net import tls
from mta.settings import Listener, Settings

Contexts = dict[tuple[str, str], ssl.SSLContext]  # by (certificate, key)


class Generation(NamedTuple):
    number: int
    config: Config
    bound: list[tuple[Listener, Bound]]
    contexts: Contexts


def contexts(settings: Settings, old: Mapping[tuple[str, str], ssl.SSLContext]) -> Contexts:
    """One context a certificate, made before the fork so that all workers share its ticket keys (RFC 5077 5.5).

    A pair that `old` has keeps its context and loads the files anew: tickets stay good over a reload. Raises ValueError
    or OSError for files that do not fit.
    """
    made: Contexts = {}
    for listener in settings.listener:
        if listener.tls:
            pair = (listener.tls.certificate, listener.tls.key)
            if pair not in made:
                fresh = tls.server_context(*pair)
                made[pair] = old.get(pair) or fresh
                if made[pair] is not fresh:
                    tls.load(made[pair], *pair)
    return made


def certificates(settings: Settings) -> Iterator[str]:
    """The files of every certificate and key."""
    for listener in settings.listener:
        if listener.tls:
            yield from filter(None, (listener.tls.certificate, listener.tls.key))


class Ages:
    """Tells once a day of certificates that are near their end or past it: mail goes on, but others may mind."""

    def __init__(self) -> None:
        self._due = 0.0

    def look(self, settings: Settings, now: float) -> None:
        """`now` is monotonic. Files that cannot be read now are told by the next reload."""
        if now < self._due:
            return
        self._due = now + 86400.0
        for name in {listener.tls.certificate: None for listener in settings.listener if listener.tls}:
            try:
                reason = tls.ageing(name, time.time())
            except (OSError, ValueError):
                continue
            if reason:
                log.event("certificate_ages", certificate=name, reason=reason)
