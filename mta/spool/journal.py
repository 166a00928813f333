"""The spool on this machine's disk: an append-only journal for each process, many commits to one fdatasync.

Where things are known, and by whom:

=================  ==================================================================================================
the loop           `Index`: which mails there are, where, when due, who has them in hand; `Segments`: who leans on what
one thread         `Writer`: the current segment; takes all commits handed over since its last turn (net.offload.Batch)
borrowed threads   reading mails back (`reading`), recovery (`recovery`), body files (`bodies`)
one greenlet       `Keeper`: reclaiming and carrying on, only while there is something to do
=================  ==================================================================================================

A commit is one record. It is handed to the thread, written and synced with its neighbours, and only then counted in the
index, before the greenlet that waited goes on; records are counted in the order in which they lie on the disk. What
failed but may be on the disk all the same is dropped by the next record that succeeds.

A folder `spool/WRITER/` belongs to one process, which holds its flock: segments, `bodies/`, the note of what is in
hand, and folders adopted from dead processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from mta import log
from mta.message.envelope import Envelope
from mta.message.message import Message
from mta.message.reply import Refused
from mta.net import clock, offload
from mta.settings import Spool as Settings
from mta.spool import adoption, contents, reading
from mta.spool.bodies import Bodies
from mta.spool.disk import Disk
from mta.spool.fresh import Fresh
from mta.spool.growing import Growing
from mta.spool.hand import FILE, Hand
from mta.spool.index import Entry, Index
from mta.spool.keeping import Keeper
from mta.spool.reading import Job
from mta.spool.records import Buffer, Put, Record
from mta.spool.segments import Segments
from mta.spool.spool import DEATHS, FULL, POISON, TROUBLE, Body, Mail, Settled
from mta.spool.writer import Writer

MANY = 500  # mails looked at between two chances for others


class JournalSpool:
    """A Spool. Make it after the fork, on the loop that will use it. Raises OSError."""

    def __init__(self, settings: Settings, writer: str, disk: Disk | None = None) -> None:
        self.on_due: Callable[[], None] | None = None
        self._disk = disk = disk or Disk()
        self._writer_name = writer
        self._folder, self._lock = adoption.make(disk, settings.path, writer)
        self._segments, self._index = Segments(), Index()
        self._bodies = Bodies(disk, self._folder, writer, settings.large)
        self._hand = Hand(disk, os.path.join(self._folder, FILE))
        self._writer = Writer(disk, self._folder, self._segments, settings.segment, settings.min_free)
        self._writer.start()
        self._writer.look()
        self._batch = offload.Batch[None](self._writer.work, "spool")
        self._fresh = Fresh()
        self._busy: dict[str, int] = {}  # ids with a commit under way -> how many
        self._dropping: set[str] = set()
        self._doubt: set[str] = set()  # refused, but perhaps on the disk
        self._keeper = Keeper(
            disk,
            self._index,
            self._segments,
            self._bodies,
            self._writer,
            lambda put, buffers: self._write(Record(put, (), buffers, urgent=False), put, (), ()),
            self._batch.do,
            lambda id: id in self._busy or id in self._dropping,
        )
        self._adopting = 0
        self._lasts = False  # there may be mail in our folder that the index does not know
        self._closed = False

    # -- commit ------------------------------------------------------------------------------------------------------

    def commit(self, add: Sequence[Mail] = (), settle: Sequence[Settled] = (), drop: Sequence[str] = ()) -> None:
        entries, dropping = self._index.entries, self._dropping
        if settle:
            settle = [s for s in settle if s.envelope.id in entries and s.envelope.id not in dropping]
        if drop:
            drop = [id for id in drop if id in entries]
        urgent = bool(settle or drop)
        if self._closed:
            raise Refused(TROUBLE, "the spool is closed")
        if drop and not add and not settle:
            self._leave(drop)
            return
        if not urgent and (not add or self._low()):
            if add:
                raise Refused(FULL, "the spool: less than spool.min_free is left")
            return
        put: list[Put] = []
        buffers: list[Buffer] = []
        keep = []
        try:
            for mail in add:
                if mail.envelope.id in entries:
                    raise ValueError(f"a mail {mail.envelope.id} is in the spool already")
                put.append(Put(mail.envelope, contents.told(mail.message, self._bodies, buffers)))
            for settled in settle:
                message = settled.message
                put.append(
                    Put(settled.envelope, None if message is None else contents.told(message, self._bodies, buffers))
                )
                if settled.keep:
                    keep.append(settled.envelope.id)
        except BaseException:
            self._remove_unnamed(put)
            raise
        gone = [*drop, *self._doubt.difference(self._busy, [p.envelope.id for p in put])] if self._doubt else drop
        self._write(Record(put, gone, buffers, urgent), put, keep, gone, add)
        for mail in add:
            if not mail.envelope.held and mail.envelope.id in entries:
                self._fresh.add(mail)
        if put and self.on_due is not None:
            self.on_due()

    def _write(
        self, record: Record, put: list[Put], keep: Sequence[str], drop: Sequence[str], add: Sequence[Mail] = ()
    ) -> None:
        """Hand a record to the thread, wait, and count what it says once it is durable. Raises Refused."""
        if self._closed:
            raise Refused(TROUBLE, "the spool is closed")
        busy = self._busy
        added = {mail.envelope.id for mail in add}
        for id in added:
            if id in busy:
                raise ValueError(f"a mail {id} is being added already")
        ids = [p.envelope.id for p in put]
        ids += [id for id in drop if id in self._index.entries]  # what is in doubt may be added again behind this
        for id in ids:
            busy[id] = busy.get(id, 0) + 1
        self._dropping.update(drop)
        try:
            self._batch.do(record)
        finally:
            for id in ids:
                left = busy[id] - 1
                if left:
                    busy[id] = left
                else:
                    del busy[id]
            self._dropping.difference_update(drop)
            if record.segment is not None:
                self._count(record, put, keep, drop)
            elif record.doubt:
                self._doubt |= added
            else:
                self._remove_unnamed(put)
            if self._writer.errors:
                self._tell_errors()

    def _leave(self, ids: Sequence[str]) -> None:
        """Forget mails. All that leave at about this moment do so in one record, counted by who came first."""
        batch, dropping, busy = self._batch, self._dropping, self._busy
        dropping.update(ids)
        record: Record | None = batch.open
        if record is not None and not (busy and any(id in busy for id in ids)):  # a change under way lies behind it
            record.drop += ids
            batch.along()
            return
        record = Record([], [*ids, *self._doubt.difference(busy)] if self._doubt else ids, [], urgent=True)
        try:
            batch.do(record, patient=True)
        finally:
            dropping.difference_update(record.drop)
            if record.segment is not None:
                self._count(record, [], (), record.drop)
            if self._writer.errors:
                self._tell_errors()

    def _count(self, record: Record, put: list[Put], keep: Sequence[str], drop: Sequence[str]) -> None:
        index, segments, hand = self._index, self._segments, self._hand
        segment = record.segment
        assert segment is not None
        segment.applied += len(put)
        place = segment.place(record.at)
        unnamed = []
        for p in put:
            envelope = p.envelope
            id = envelope.id
            old = index.entries.get(id)
            segment.puts += 1 if p.content is None else 2
            if old is None and (p.content is None or p.carried):  # it was deleted while this was under way
                continue
            self._doubt.discard(id)
            if p.content is not None:
                content, carried = place, p.carried
                if p.content.file or self._bodies.of(id):
                    unnamed.append(self._bodies.named(id, p.content.file))
            elif old is not None:
                content, carried = old.content, old.carried
            entry = Entry(envelope.next_try, id, place, content, bool(envelope.held), envelope.deaths, carried)
            segments.lean(entry)
            if old is not None:
                segments.leave(old)
            if old is not None and p.carried:  # the same mail elsewhere
                old.at, old.content, old.carried = place, content, carried
                continue
            if old is not None:
                self._fresh.pop(id)
            index.put(entry, keep=id in keep)
            if id not in keep:
                hand.give(id)
        for id in drop:
            old = index.remove(id)
            if old is not None:
                segments.leave(old)
                hand.give(id)
                self._fresh.pop(id)
                if self._bodies.of(id):
                    unnamed.append(self._bodies.named(id, ""))
            else:
                self._doubt.discard(id)
        if drop and index.next_suspect and self.on_due is not None:  # it had to wait for one that is gone
            self.on_due()
        for name in unnamed:
            if name:
                offload.background(offload.run, self._bodies.remove, name)
        self._keeper.look()

    def _remove_unnamed(self, put: Sequence[Put]) -> None:
        """Files made for a record that is not there."""
        for p in put:
            name = p.content.file if p.content is not None else ""
            if name and not self._bodies.used(name):
                offload.background(offload.run, self._bodies.remove, name)

    def _low(self) -> bool:
        """Less than min_free is left. Once that is so, every question looks again."""
        return self._writer.low and self._writer.look()

    def _tell_errors(self) -> None:
        errors, self._writer.errors = self._writer.errors, []
        for reason in errors:
            log.event("spool_failed", reason=reason)

    # -- claim -------------------------------------------------------------------------------------------------------

    def claim(self, now: float, limit: int) -> list[Mail]:
        claimed = self._index.claim(now, limit)
        found: dict[str, Mail] = {}
        cold = []
        for entry in claimed:
            self._hand.take(entry.id)
            mail = self._fresh.pop(entry.id)
            if mail is not None:
                mail.envelope.next_try = entry.next_try
                found[entry.id] = mail
            else:
                cold.append(entry)
        if cold:
            found.update(self._read(cold))
        return [found[entry.id] for entry in claimed if entry.id in found]

    def _read(self, entries: list[Entry]) -> dict[str, Mail]:
        at = self._segments.at
        jobs = [Job(entry.id, at(entry.at), at(entry.content)) for entry in entries]
        found = self._reading(contents.mails, jobs, self._bodies)
        read: dict[str, Mail] = {}
        for entry, mail in zip(entries, found, strict=True):
            there = self._index.entries.get(entry.id)
            if there is None:  # deleted meanwhile
                continue
            if isinstance(mail, OSError):
                log.event("spool_damaged", writer=self._writer_name, reason=f"{entry.id} cannot be read: {mail}")
                held = Entry(there.next_try, there.id, there.at, there.content, True, there.deaths, there.carried)
                self._index.put(held)  # in memory only: the next process tries again
                self._hand.give(entry.id)
                continue
            envelope, message = mail
            envelope.next_try = there.next_try
            read[entry.id] = Mail(envelope, message)
        return read

    def _reading(self, read: Callable[..., list], jobs: list[Job], *more: object) -> list:
        """Run `read` off the loop; no segment it reads goes away meanwhile."""
        pinned = {segment for job in jobs for segment in (job.envelope[0], job.content[0])}
        for segment in pinned:
            segment.readers += 1
        try:
            return offload.run(read, self._disk, *more, jobs)
        finally:
            for segment in pinned:
                segment.readers -= 1

    def release(self, id: str, next_try: float | None = None) -> None:
        self._hand.give(id)
        self._index.release(id, next_try)
        if self.on_due is not None:
            self.on_due()

    def next_due(self) -> float | None:
        return self._index.next_due()

    def find(self, wanted: Callable[[Envelope], bool] | None = None) -> Iterator[Envelope]:
        ids = list(self._index.entries)
        for first in range(0, len(ids), MANY):
            entries = [e for id in ids[first : first + MANY] if (e := self._index.entries.get(id)) is not None]
            at = self._segments.at
            jobs = [Job(entry.id, at(entry.at), at(entry.at)) for entry in entries]
            for entry, envelope in zip(entries, self._reading(reading.envelopes, jobs), strict=True):
                if isinstance(envelope, OSError):
                    continue
                envelope.next_try = entry.next_try
                if wanted is None or wanted(envelope):
                    yield envelope

    def look(self, id: str) -> Envelope:
        entry = self._index.entries[id]
        place = self._segments.at(entry.at)
        envelope: Envelope | OSError = self._reading(reading.envelopes, [Job(id, place, place)])[0]
        if isinstance(envelope, OSError):
            raise KeyError(id) from envelope
        envelope.next_try = entry.next_try
        return envelope

    def take(self, id: str) -> Envelope | None:
        if self._index.take(id) is None:
            return None
        try:
            return self.look(id)
        except BaseException:
            self.release(id)
            raise

    def open(self, id: str) -> Message:
        entry = self._index.entries[id]
        job = Job(id, self._segments.at(entry.at), self._segments.at(entry.content))
        mail = self._reading(contents.mails, [job], self._bodies)[0]
        if isinstance(mail, OSError):
            raise KeyError(id) from mail
        return mail[1]

    def body(self) -> Body:
        return Growing(self._bodies, self._low)

    # -- the dead ----------------------------------------------------------------------------------------------------

    def adopt(self, folder: str, guilty: bool = True) -> bool:
        if self._closed:
            return False
        self._adopting += 1
        try:
            return self._adopt(folder.rstrip("/"), guilty)
        except BaseException:
            self._lasts = True
            raise
        finally:
            self._adopting -= 1

    def _adopt(self, folder: str, guilty: bool) -> bool:
        began = clock.monotonic()
        found = offload.run(adoption.take, self._disk, folder, self._folder)
        if found is None:
            return False
        writer = os.path.basename(folder)
        for harm in found.harm:
            log.event("spool_damaged", writer=harm.writer, segment=harm.segment, offset=harm.offset, reason=harm.reason)
        self._bodies.where.update((name, found.files[name]) for name in found.file_of.values())
        for id, name in found.file_of.items():
            self._bodies.named(id, name)
        self._segments.adopt(found.segments.order)
        in_hand = [found.entries[id] for id in dict.fromkeys(found.in_hand) if id in found.entries]
        in_hand = [found.entries.pop(entry.id) for entry in in_hand if not entry.held]
        for entry in in_hand:
            self._index.entries[entry.id] = entry
            self._index.leased.add(entry.id)
        for n, entry in enumerate(found.entries.values()):
            self._index.put(entry)
            if n % MANY == MANY - 1:
                offload.pause(0)
        for first in range(0, len(in_hand), MANY):
            self._count_deaths(in_hand[first : first + MANY], 1.0 if guilty else 0.5)
        self._keeper.look()
        if found.segments.order:
            ms = round((clock.monotonic() - began) * 1000)
            mails = len(found.entries) + len(in_hand)
            log.event("spool_recovered", writer=writer, mails=mails, bytes=found.bytes, ms=ms)
        elif os.path.dirname(folder) == os.path.dirname(self._folder):
            offload.run(self._keeper.clear, os.path.join(self._folder, writer))
        if self.on_due is not None:
            self.on_due()
        return True

    def _count_deaths(self, entries: list[Entry], blame: float) -> None:
        """These were in hand when a process died: once more, and a person must look."""
        at = self._segments.at
        jobs = [Job(entry.id, at(entry.at), at(entry.at)) for entry in entries]
        settle = []
        for entry, envelope in zip(entries, self._reading(reading.envelopes, jobs), strict=True):
            if isinstance(envelope, OSError):
                self._index.put(entry)  # claiming it will tell
                continue
            envelope.deaths += blame
            if envelope.deaths >= DEATHS and not envelope.held:
                envelope.held = POISON
                log.event(
                    "held",
                    mail=envelope.id,
                    sender=envelope.sender.shown,
                    recipients=[str(r.address) for r in envelope.recipients],
                    reason=f"{POISON}: in hand when processes died (blame {envelope.deaths:g})",
                )
            settle.append(Settled(envelope))
        try:
            self.commit(settle=settle)
        except Refused as refusal:
            log.event("spool_failed", reason=f"deaths cannot be noted: {refusal.reason}")
            for settled in settle:
                e, old = settled.envelope, self._index.entries[settled.envelope.id]
                self._index.put(Entry(e.next_try, e.id, old.at, old.content, bool(e.held), e.deaths, old.carried))

    def counts(self) -> dict[str, int]:
        index = self._index
        return {
            "mails": len(index.entries),
            "leased": len(index.leased),
            "held": index.held,
            "segments": len(self._segments.order),
            "adopting": self._adopting,
            "low": int(self._writer.low),
        }

    def close(self) -> None:
        """Leases end, and the folder goes if it is empty; else it is there to be adopted. Raises nothing."""
        while self._adopting and not self._closed:  # its mails lie in our folder, and nobody has counted them yet
            offload.pause(0.001)
        if self._closed:
            return
        self._keeper.end()
        if self._closed:
            return
        self._closed = True
        self._batch.close()
        while self._busy or self._dropping:  # what the thread has kept is still to be counted
            offload.pause(0.001)
        self._writer.close()
        self._hand.close()
        self._lasts |= any(s.damaged or s.written != s.applied for s in self._segments.order)
        if not self._index.entries and not self._lasts:
            adoption.retire(self._disk, self._folder)
        else:
            try:
                self._disk.unlink(os.path.join(self._folder, FILE))
            except OSError:
                pass
        self._disk.close(self._lock)
