"""Which mails there are, when each is due, and who has one in hand: about 300 bytes for a mail.

A mail that was in hand when a process died is a *suspect*: of those only one at a time is given out, so that the one
which kills is found alone, and the innocent are not held for it.
"""

from __future__ import annotations

import heapq

import msgspec


class Entry(msgspec.Struct, order=True, gc=False):
    """One mail. `at` and `content` are places of its envelope and its content. Sorts by when it is due."""

    next_try: float
    id: str
    at: int = 0
    content: int = 0
    held: bool = False
    deaths: float = 0
    carried: int = 0


class Index:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.leased: set[str] = set()
        self.held = 0
        self._due: list[Entry] = []  # heaps; an entry that is no longer the one in `entries` is passed over
        self._suspects: list[Entry] = []
        self._suspect = ""  # the one in hand

    def put(self, entry: Entry, *, keep: bool = False) -> None:
        """A mail is new, or another than before. `keep`: it stays leased, if it is."""
        old = self.entries.get(entry.id)
        if old is not None and old.held:
            self.held -= 1
        self.entries[entry.id] = entry
        if entry.held:
            self.held += 1
        if keep and entry.id in self.leased:
            return
        self._back(entry)

    def remove(self, id: str) -> Entry | None:
        entry = self.entries.pop(id, None)
        if entry is not None and entry.held:
            self.held -= 1
        self._unlease(id)
        return entry

    def lease(self, entry: Entry) -> None:
        self.leased.add(entry.id)
        if entry.deaths:
            self._suspect = entry.id

    def take(self, id: str) -> Entry | None:
        """Lease this one, whatever its state; None if it is leased. Raises KeyError."""
        entry = self.entries[id]
        if id in self.leased:
            return None
        self.lease(entry)
        return entry

    def claim(self, now: float, limit: int) -> list[Entry]:
        claimed: list[Entry] = []
        while len(claimed) < limit:
            heap = self._first()
            if heap is None or heap[0].next_try > now:
                break
            entry = heapq.heappop(heap)
            self.lease(entry)
            claimed.append(entry)
        return claimed

    def release(self, id: str, next_try: float | None) -> None:
        entry = self.entries.get(id)
        if entry is None:
            return
        if next_try is not None and next_try != entry.next_try:
            entry = self.entries[id] = msgspec.structs.replace(entry, next_try=next_try)
        self._back(entry)

    @property
    def next_suspect(self) -> bool:
        """Whether one waits and none is in hand."""
        return bool(self._suspects) and not self._suspect

    def next_due(self) -> float | None:
        heap = self._first()
        return heap[0].next_try if heap else None

    def _back(self, entry: Entry) -> None:
        self._unlease(entry.id)
        if not entry.held:
            heap = self._suspects if entry.deaths else self._due
            heapq.heappush(heap, entry)
            if len(heap) > 2 * len(self.entries) + 1000:  # mostly entries of mails that are gone
                heap[:] = [e for e in heap if self._current(e)]
                heapq.heapify(heap)

    def _unlease(self, id: str) -> None:
        self.leased.discard(id)
        if id == self._suspect:
            self._suspect = ""

    def _current(self, entry: Entry) -> bool:
        return self.entries.get(entry.id) is entry and entry.id not in self.leased

    def _first(self) -> list[Entry] | None:
        """The heap on top of which the next mail lies."""
        best: list[Entry] | None = None
        for heap in (self._due, self._suspects):
            while heap and not self._current(heap[0]):
                heapq.heappop(heap)
            if not heap or (heap is self._suspects and self._suspect):
                continue
            if best is None or heap[0].next_try < best[0].next_try:
                best = heap
        return best
