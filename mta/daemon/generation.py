"""What the workers forked together have in common: settings, sockets, TLS contexts. It never changes."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import NamedTuple

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
                    made[pair].load_cert_chain(*pair)
    return made


def certificates(settings: Settings) -> Iterator[str]:
    """The files of every certificate and key."""
    for listener in settings.listener:
        if listener.tls:
            yield from filter(None, (listener.tls.certificate, listener.tls.key))
