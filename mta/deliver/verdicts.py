"""What a verdict at postq or delivery means for a mail that is in the queue already. Pure.

    verdict                 for our own people's mail     for a stranger's mail
    next, accept, faccept   goes on                       goes on
    deny, a 5xx reply       fails: bounces                held as "quarantine denied" (bounces with bounce_strangers)
    defer, a 4xx reply      tried again later             tried again later
    quarantine NAME         held as "quarantine NAME"     held as "quarantine NAME"
    discard                 gone, nobody is told          gone, nobody is told

A stranger's mail is not bounced because its sender may be invented, and the bounce would hit someone who never wrote.
"""

from __future__ import annotations

from typing import NamedTuple

from mta.message.reply import Reply
from mta.rules.verdict import DEFER, DENY, Verdict


class Effect(NamedTuple):
    """`kind`: go | fail | later | hold | discard. `reply` for fail and later; `held` for hold."""

    kind: str
    reply: Reply | None = None
    held: str = ""


GO = Effect("go")


def effect(verdict: Verdict, *, bounces: bool) -> Effect:
    """`bounces`: a mail that fails may be bounced to its sender."""
    kind = verdict.kind
    if kind in ("next", "accept", "faccept"):
        return GO
    if kind == "quarantine":
        return Effect("hold", held=f"quarantine {verdict.folder or 'rules'}")
    if kind == "discard":
        return Effect("discard")
    reply = verdict.reply or (DEFER if kind == "defer" else DENY)
    if reply.temporary:
        return Effect("later", reply)
    return Effect("fail", reply) if bounces else Effect("hold", reply, "quarantine denied")
