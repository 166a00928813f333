"""The way out of the spool: claims due mail and has it delivered, many mails at once.

One greenlet claims: woken by the spool, by a timer for the next due mail, by a place that became free. Up to
`queue.concurrency` pooled greenlets deliver, a mail each. Wake-ups are callbacks that look whether the claimer is
parked, so a stale one does nothing; and many of one loop turn are one.

A stranger can make us write to servers of his that answer slowly, one word in five minutes. So a mail that has been
under way for `SLOW` seconds gives its place to another one; only `SLOW_ONES` times as many as there are places may.

    start -> claiming -> drain: claims no more, waits for what is under way -> ended
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub, getcurrent

from mta import log, settings
from mta.deliver import maildir, mbox
from mta.deliver.courier import Courier, Rules, local_trouble
from mta.deliver.discard import Discard
from mta.deliver.maildir import Maildir
from mta.deliver.mbox import Mbox
from mta.deliver.remote import Outside, Remote
from mta.deliver.route import Domains
from mta.deliver.transport import Transport
from mta.message.envelope import Route
from mta.message.ids import Ids
from mta.net import clock
from mta.net.dns import Resolver
from mta.net.offload import Batch
from mta.spool.spool import Mail, Spool

LOOK = 30.0  # seconds at most until we look for due mail: the clock may be set
SOON = 0.05  # seconds at least
BROKEN = 300.0  # seconds until a mail is tried again that met a bug
SLOW, SLOW_ONES = 30.0, 10
TRANSPORTS = 1000  # kept; rules may name any number of routes


class Queue:
    """Delivers the mail of one spool. Make it after the fork."""

    def __init__(
        self,
        settings: settings.Settings,
        spool: Spool,
        rules: Callable[[], Rules | None],
        resolver: Resolver,
        ids: Ids,
        domains: Domains,
    ) -> None:
        self._settings, self._spool = settings, spool
        self._places = settings.queue.concurrency
        self._courier = Courier(settings, spool, rules, domains, ids, self._transport)
        self._outside = Outside.of(settings, resolver)
        self._transports: dict[Route, Transport] = {}
        self._batches: dict[str, Batch[Any]] = {}  # by the transport's name
        self._hub = get_hub()
        self._claimer: Any = None
        self._parked = False  # the claimer waits to be woken
        self._woken = False  # something may be due
        self._busy = 0  # mails under way
        self._began: dict[Any, float] = {}  # the greenlet of each -> when, the oldest first
        self._slow = 0  # so many of them have given their place away,
        self._slow_until = 0.0  # which are all that began no later than this
        self._idle: list[Any] = []  # greenlets without a mail
        self._timer: Any = None
        self._timer_at = 0.0  # what it is for, seconds since 1970
        self._sweeper: Any = None
        self._draining = False

    def start(self) -> None:
        """Begin to deliver."""
        self._sweeper = self._hub.loop.timer(1.0, 1.0, ref=False)
        self._sweeper.start(self._sweep)
        self._claimer = gevent.spawn(self._claim)
        self._spool.on_due = self.wake

    def wake(self) -> None:
        """Something may have become due. On the loop; cheap."""
        if not self._woken:
            self._woken = True
            self._hub.loop.run_callback(self._resume)

    def drain(self, seconds: float) -> bool:
        """Claim no more and finish what is under way; False if that took longer than `seconds`. Parks."""
        self._draining = True
        self._spool.on_due = None
        self.wake()
        until = clock.monotonic() + seconds
        while (self._busy or self._claimer) and clock.monotonic() < until:
            gevent.sleep(0.01)
        self._courier.end()
        self._outside.pool.close()
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.close()
        self._timer = self._sweeper = None
        if not self._busy:
            for batch in self._batches.values():
                batch.close()
        return not self._busy

    def status(self) -> dict[str, int]:
        """Mails under way, idle connections, and what has become of recipients and mails since the start."""
        return {"under_way": self._busy, "connections": len(self._outside.pool), **self._courier.counts}

    # -- claiming -----------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        if self._parked:
            self._claimer.switch()

    def _claim(self) -> None:
        while not self._draining:
            self._woken = False
            room = self._places + self._slow - self._busy
            if room > 0:
                self._take(room)
            if not self._woken:
                self._parked = True
                try:
                    self._hub.switch()
                finally:
                    self._parked = False

    def _take(self, room: int) -> None:
        try:
            mails = self._spool.claim(clock.now(), room)
            due = self._spool.next_due() if len(mails) < room else None
        except Exception as error:
            log.bug(error, stage="claim")
            self._wake_at(clock.now() + 1.0)
            return
        if self._draining:
            for mail in mails:
                self._spool.release(mail.envelope.id)
            return
        if mails:
            self._busy += len(mails)
            self._hub.loop.run_callback(self._hand_out, mails)
        if due is not None:
            self._wake_at(due)
        elif len(mails) == room and self._busy < self._places + self._slow:
            self._woken = True  # places became free while the spool was read, and more may be due

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            if due == self._timer_at:
                return
            self._timer.close()
        self._timer_at = due
        self._timer = self._hub.loop.timer(min(max(due - clock.now(), SOON), LOOK))
        self._timer.start(self._due)

    def _due(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self.wake()

    # -- delivering ---------------------------------------------------------------------------------------------------

    def _hand_out(self, mails: list[Mail]) -> None:
        """On the loop: each switch comes back here when that greenlet first waits."""
        idle = self._idle
        for mail in mails:
            if idle:
                idle.pop().switch(mail)
            else:
                gevent.spawn_raw(self._work, mail)

    def _work(self, mail: Mail | None) -> None:
        me, hub, deliver = getcurrent(), self._hub, self._courier.deliver
        while mail is not None:
            self._began[me] = clock.monotonic()
            try:
                deliver(mail)
            except Exception as error:
                self._broken(mail, error)
            full = self._busy >= self._places + self._slow
            self._busy -= 1
            if self._began.pop(me) <= self._slow_until and self._slow:  # its place is another one's
                self._slow -= 1
            if full:
                self.wake()
            if self._draining or len(self._idle) >= self._places:
                return
            mail = None  # an idle greenlet keeps no mail alive
            self._idle.append(me)
            mail = hub.switch()

    def _sweep(self) -> None:
        self._outside.pool.sweep()
        since, most, slow = clock.monotonic() - SLOW, self._places * SLOW_ONES, 0
        for began in self._began.values():
            if began > since or slow == most:
                break
            self._slow_until = began
            slow += 1
        if slow > self._slow:
            self.wake()
        self._slow = slow

    def _broken(self, mail: Mail, error: Exception) -> None:
        """Our own mistake: the mail stays as it is and comes again."""
        log.bug(error, mail=mail.envelope.id, stage="delivery")
        try:
            self._spool.release(mail.envelope.id, clock.now() + BROKEN)
        except Exception as worse:
            log.bug(worse, mail=mail.envelope.id, stage="release")

    def _transport(self, route: Route) -> Transport:
        known = self._transports.get(route)
        if known is None:
            if len(self._transports) >= TRANSPORTS:
                self._transports.clear()
            known = self._transports[route] = self._make(route)
        return known

    def _make(self, route: Route) -> Transport:
        if route.transport == "discard":
            return Discard()
        if route.transport == "smtp":
            try:
                return Remote(route.host, self._outside)
            except ValueError as error:
                raise local_trouble(str(error)) from None
        if route.transport == "maildir" and route.path:
            batch = self._batch("maildir", maildir.write)
            return Maildir(route.path, batch, self._settings.server.name, self._courier.router.mailbox)
        if route.transport == "mbox" and route.path:
            return Mbox(route.path, self._batch("mbox", mbox.write), self._courier.router.mailbox)
        raise local_trouble(f"there is no transport {route.transport!r} with these settings")

    def _batch(self, name: str, write: Callable[[list[Any]], list[Any]]) -> Batch[Any]:
        """The thread that writes for all transports of a kind, made when first needed."""
        if name not in self._batches:
            self._batches[name] = Batch(write, name)
        return self._batches[name]
