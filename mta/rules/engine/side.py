"""What Lua knows of a transaction: told once when it first meets a rule, then only what has changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mta.message.address import NULL
from mta.rules.engine.crossing import short, utf8
from mta.rules.transaction import Asked, Step, Transaction

if TYPE_CHECKING:
    from mta.rules.engine.sandbox import Runtime


class Side:
    """What Lua knows of one transaction: its number there, and the facts that change, as they were last shown: `seen`.

    While a stage is under way: which, and of which transaction. `asked` and `mark` are for tracing.
    """

    __slots__ = ("asked", "book", "mark", "number", "over", "place", "runtime", "seen", "stage", "tx")

    def __init__(self, runtime: Runtime, tx: Transaction) -> None:
        self.runtime, self.seen = runtime, tx.changing
        self.tx: Transaction | None = None
        self.stage, self.place, self.over = "", 0, False
        self.book: int | None = None  # the domain's file that speaks after main.lua
        self.asked: list[Asked] = []
        self.mark = 0.0
        self.number = number = runtime.free.pop() if runtime.free else runtime.count()
        runtime.sides[number] = self
        recipient, sender, helo, user, mail_id, tls, ip, name, vars = self.seen
        local, domain = (None, None) if sender is None else (short(sender.local_part), short(sender.domain))
        to, at = (None, None) if recipient is None else (short(recipient.local_part), short(recipient.domain))
        runtime.begin(
            number, mail_id or tx.session, tx.origin or None, ip, tx.client.port, short(name) or None, tx.server,
            tx.listener, short(helo) or None, tls or None, utf8(user) or None, local, domain, to, at, bool(vars),
            tx.trusted,
        )  # fmt: skip

    def show(self, tx: Transaction) -> None:
        """Tell Lua what has changed since the last stage."""
        old, new = self.seen, tx.changing
        if new == old:
            return
        self.seen, number, runtime = new, self.number, self.runtime
        recipient, sender, helo, user, mail_id, tls, ip, name, vars = new
        if recipient != old[0]:
            if recipient is None:
                runtime.set_recipient(number, None, None)
            else:
                runtime.set_recipient(number, short(recipient.local_part), short(recipient.domain))
        if sender != old[1]:
            sender = sender or NULL
            runtime.set_sender(number, short(sender.local_part), short(sender.domain))
        if helo != old[2]:
            runtime.set(number, "helo", short(helo) or None)
        if user != old[3]:
            runtime.set(number, "user", utf8(user) or None)
        if mail_id != old[4]:
            runtime.set(number, "id", mail_id or tx.session)
        if tls != old[5]:
            runtime.set(number, "tls", tls or None)
        if ip != old[6] or name != old[7]:
            runtime.set_client(number, ip, tx.client.port, short(name) or None)
        if vars is not old[8]:
            runtime.forget_vars(number, bool(vars))

    def edited(self) -> None:
        """A rule changed the envelope: sender and recipient are shown anew at the next stage, or for the next one."""
        self.seen = ((), (), *self.seen[2:])

    def note(self, rule: str, where: str, kind: str, units: int) -> None:
        """A rule has spoken."""
        now = time.perf_counter()
        if self.tx is not None:
            self.tx.trace.append(Step(self.stage, rule, where, kind, (now - self.mark) * 1e6, units * 1000, self.asked))
        self.mark, self.asked = now, []

    def close(self) -> None:
        """The transaction is over; its number may be another's, once no stage of it is under way."""
        self.over = True
        if self.tx is None:
            runtime = self.runtime
            del runtime.sides[self.number]  # a runtime that nobody uses must not hold on to itself
            runtime.free.append(self.number)
