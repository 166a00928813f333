"""A spool that forgets: for tests and for trying rules. What it promises is the journal's, but for the durability."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from mta.message.envelope import Envelope
from mta.message.message import Message
from mta.message.reply import Refused
from mta.net import offload
from mta.spool.index import Entry, Index
from mta.spool.spool import TROUBLE, Body, Mail, Settled

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Envelope).decode


class MemorySpool:
    def __init__(self) -> None:
        self.on_due: Callable[[], None] | None = None
        self._index = Index()
        self._mails: dict[str, tuple[bytes, bytes]] = {}  # id -> envelope, content
        self._closed = False

    def commit(self, add: Sequence[Mail] = (), settle: Sequence[Settled] = (), drop: Sequence[str] = ()) -> None:
        if self._closed:
            raise Refused(TROUBLE, "the spool is closed")
        for mail in add:
            if mail.envelope.id in self._mails:
                raise ValueError(f"a mail {mail.envelope.id} is in the spool already")
        added = [(mail.envelope, _encode(mail.envelope), bytes(mail.message)) for mail in add]
        settled = [
            (s.envelope, _encode(s.envelope), None if s.message is None else bytes(s.message), s.keep) for s in settle
        ]
        offload.pause(0)  # a commit parks
        for envelope, text, content in added:
            self._mails[envelope.id] = text, content
            self._index.put(_entry(envelope))
        for envelope, text, new, keep in settled:
            if envelope.id in self._mails:
                self._mails[envelope.id] = text, self._mails[envelope.id][1] if new is None else new
                self._index.put(_entry(envelope), keep=keep)
        for id in drop:
            self._mails.pop(id, None)
            self._index.remove(id)
        if (added or settled or self._index.next_suspect) and self.on_due is not None:
            self.on_due()

    def claim(self, now: float, limit: int) -> list[Mail]:
        return [Mail(self._envelope(entry), self.open(entry.id)) for entry in self._index.claim(now, limit)]

    def _envelope(self, entry: Entry) -> Envelope:
        envelope = _decode(self._mails[entry.id][0])
        envelope.next_try = entry.next_try
        return envelope

    def release(self, id: str, next_try: float | None = None) -> None:
        self._index.release(id, next_try)
        if self.on_due is not None:
            self.on_due()

    def next_due(self) -> float | None:
        return self._index.next_due()

    def find(self, wanted: Callable[[Envelope], bool] | None = None) -> Iterator[Envelope]:
        for entry in list(self._index.entries.values()):
            if entry.id in self._mails:
                envelope = self._envelope(entry)
                if wanted is None or wanted(envelope):
                    yield envelope

    def look(self, id: str) -> Envelope:
        return self._envelope(self._index.entries[id])

    def take(self, id: str) -> Envelope | None:
        entry = self._index.take(id)
        return None if entry is None else self._envelope(entry)

    def open(self, id: str) -> Message:
        return Message(self._mails[id][1])

    def body(self) -> Body:
        return _Body()

    def adopt(self, folder: str, guilty: bool = True) -> bool:
        return False

    def counts(self) -> dict[str, int]:
        index = self._index
        return {"mails": len(index.entries), "leased": len(index.leased), "held": index.held}

    def close(self) -> None:
        self._closed = True


class _Body:
    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def finish(self) -> Message:
        return Message(b"".join(self._pieces))

    def discard(self) -> None:
        self._pieces = []


def _entry(envelope: Envelope) -> Entry:
    return Entry(envelope.next_try, envelope.id, held=bool(envelope.held), deaths=envelope.deaths)
