"""What a person may ask and order about one mail in the spool of a worker.

    word      what becomes of the mail                                                   refused while
    show      -                                                                          -
    body      -                                                                          -
    hold      held as "by hand" until somebody releases it                               it is being delivered
    release   tried at once; of one in quarantine no rule is asked any more, unless      it is being delivered,
              that is wished                                                             or not held
    retry     tried at once                                                              held, or being delivered
    delete    gone, nobody is told                                                       -

A mail that is leased is waited for a little: most attempts are over soon. What is done is durable when it is answered.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from mta import log
from mta.daemon.waiting import plain
from mta.message.envelope import Envelope
from mta.message.message import Message
from mta.message.reply import Refused
from mta.net import clock, offload
from mta.net.calls import CallFailed
from mta.spool.spool import Settled, Spool

PATIENCE = 1.0  # seconds; who asks waits for five
PAGE = 384 << 10  # bytes of a body in one answer
HEADER = 128 << 10  # bytes of a header shown

BY_HAND = "by hand"


class Desk:
    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def answer(self, word: str, id: str, *more: Any) -> Any:
        """The answer; None: there is no such mail here. Raises CallFailed."""
        try:
            match word, more:
                case "show", ():
                    return shown(self._spool.look(id), self._spool.open(id))
                case "body", (int(at),):
                    return page(self._spool.open(id), at)
                case "hold", ():
                    return self._hold(id)
                case "release", (bool(rules),):
                    return self._release(id, rules)
                case "retry", ():
                    return self._retry(id)
                case "delete", ():
                    return self._delete(id)
        except KeyError:
            return None
        except Refused as refused:  # the spool has no room for what was to be written
            raise CallFailed("Refused", f"{id}: {refused.reply}") from None
        raise CallFailed("NoSuchWord", f"nothing called {word!r} can be done with a mail")

    def _hold(self, id: str) -> dict[str, Any]:
        envelope = self._taken(id)
        if not envelope.held:
            envelope.held = BY_HAND
            self._settle(envelope)
            log.event("held", mail=id, reason=BY_HAND, **_about(envelope))
        else:
            self._spool.release(id)
        return plain(envelope)

    def _release(self, id: str, rules: bool) -> dict[str, Any]:
        envelope = self._taken(id)
        held = envelope.held
        if not held:
            self._give_back(id, f"{id} is not held")
        envelope.held, envelope.deaths = "", 0
        envelope.accepted = envelope.accepted or (held.startswith("quarantine") and not rules)
        self._at_once(envelope)
        log.event("released", mail=id, held=held, **_about(envelope))
        return plain(envelope)

    def _retry(self, id: str) -> dict[str, Any]:
        envelope = self._taken(id)
        if envelope.held:
            self._give_back(id, f"{id} is held ({envelope.held}); release it")
        self._at_once(envelope)
        log.event("retried", mail=id, **_about(envelope))
        return plain(envelope)

    def _delete(self, id: str) -> dict[str, Any]:
        envelope = self._spool.look(id)
        self._spool.commit(drop=[id])
        log.event("deleted", mail=id, held=envelope.held, **_about(envelope))
        return plain(envelope)

    # -- the lease ---------------------------------------------------------------------------------------------------

    def _taken(self, id: str) -> Envelope:
        """The envelope, ours to change. Raises KeyError, CallFailed."""
        until = clock.monotonic() + PATIENCE
        while (envelope := self._spool.take(id)) is None:
            if clock.monotonic() >= until:
                raise CallFailed("Busy", f"{id} is being delivered now")
            offload.pause(0.02)
        return envelope

    def _give_back(self, id: str, why: str) -> None:
        self._spool.release(id)
        raise CallFailed("Refused", why)

    def _at_once(self, envelope: Envelope) -> None:
        envelope.next_try, envelope.until, envelope.until_by = clock.now(), 0.0, ""
        for recipient in envelope.recipients:
            recipient.until, recipient.until_by = 0.0, ""
        self._settle(envelope)

    def _settle(self, envelope: Envelope) -> None:
        try:
            self._spool.commit(settle=[Settled(envelope)])
        except BaseException:
            self._spool.release(envelope.id)
            raise


def _about(envelope: Envelope) -> dict[str, Any]:
    return {"sender": str(envelope.sender), "recipients": [str(one.address) for one in envelope.recipients]}


def shown(envelope: Envelope, message: Message) -> dict[str, Any]:
    """All that is known of a mail but its body."""
    told = plain(envelope)
    client = envelope.client
    if client is not None:
        told["client"] = {name: getattr(client, name) for name in client.__struct_fields__}
    told.update(vars=envelope.vars, origin=envelope.origin, postq=envelope.postq, size=message.size)
    text, size = [], 0
    for piece in message.pieces():
        text.append(bytes(piece[: HEADER - size]))
        size += len(text[-1])
        if size >= HEADER:
            break
    header = b"".join(text).partition(b"\r\n\r\n")[0]
    told["header"] = header.decode("utf-8", "replace")
    return told


def page(message: Message, at: int) -> dict[str, Any]:
    """A piece of a mail from byte `at` on, and where the next one begins (0: there is none)."""
    piece = cut(message.pieces(), at, PAGE)
    after = at + len(piece)
    return {"text": base64.b64encode(piece).decode(), "next": after if after < message.size else 0}


def cut(pieces: Sequence[bytes | memoryview], at: int, size: int) -> bytes:
    found: list[bytes | memoryview] = []
    for piece in pieces:
        if at < len(piece) and size > 0:
            found.append(piece[at : at + size])
            size -= len(found[-1])
        at = max(0, at - len(piece))
    return b"".join(found)
