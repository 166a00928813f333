"""What the session at the prompt is about: a mail, from a file or from the spool, and who sends it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from mta.cli.lua import showing, trying
from mta.cli.telling import paint
from mta.spool.resting import Resting

if TYPE_CHECKING:
    from mta.cli.lua.console import Console


def load(console: Console, rest: str) -> None:
    path = " ".join(shlex.split(rest))
    if not path:
        raise ValueError("which file?")
    message = trying.mail(path)
    found = trying.envelope_of(message)
    sketch = console.trial.sketch
    facts = {name: one for name, one in found.items() if not getattr(sketch, name)}
    console.file = path
    console.trial.change(message=message, **facts)
    console.say(paint(path, "bold"))
    for line in showing.outline(message):
        console.say(line)


def session(console: Console, rest: str) -> None:
    words: dict[str, str] = {}
    for one in shlex.split(rest):
        name, equals, value = one.partition("=")
        if not equals:
            raise ValueError(f"{one}: write NAME=VALUE; the names are {' '.join(trying.WORDS)}")
        words[name] = f"{words[name]},{value}" if name in ("rcpt", "to") and name in words else value
    if words:
        console.trial.change(**trying.session(words))
    sketch = console.trial.sketch
    always = {"ip": sketch.ip, "port": sketch.port, "helo": sketch.helo}
    sometimes = {
        "name": sketch.name,
        "tls": sketch.tls,
        "user": sketch.user,
        "password": "***" if sketch.password is not None else "",
        "trusted": "yes" if sketch.trusted else "",
        "from": "" if sketch.sender is None else f"<{sketch.sender}>",
    }
    mail = {"rcpt": ",".join(map(str, sketch.recipients)), "listener": sketch.listener}
    told = {**always, **{name: one for name, one in sometimes.items() if one}, **mail}
    console.say(" ".join(f"{name}={one}" for name, one in told.items()))


def queued(console: Console, rest: str) -> None:
    if not rest:
        raise ValueError("the id of which mail?")
    spool = Resting(console.settings.spool.path)
    found = spool.mail(rest)
    if found is None and spool.unread:
        raise ValueError(f"{rest} was not found, but {spool.doubt}")
    if found is None:
        raise ValueError(f"{rest} is not in {console.settings.spool.path}")
    envelope, message = found
    client = envelope.client
    facts = {"sender": envelope.sender, "recipients": [one.address for one in envelope.recipients]}
    if client is not None:
        facts |= {name: getattr(client, name) for name in ("ip", "port", "name", "helo", "user", "tls", "trusted")}
    console.file = rest
    console.trial.change(message=message, password=None, vars=dict(envelope.vars), **facts)
    session(console, "")
    for line in showing.outline(message):
        console.say(line)
