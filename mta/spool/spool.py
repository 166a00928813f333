"""Mail at rest: the interface every spool honours, whatever it is made of. No place, file or slot leaves it.

A mail's states, and what moves it from one to the next:

=========  ========================================================================================================
state      how it is left
=========  ========================================================================================================
(nowhere)  commit(add)                                              -> waiting, or held if `envelope.held` is set
waiting    claim, once `next_try` has come                          -> leased
any        take, unless it is leased: by a person                   -> leased
leased     release                                                  -> waiting (nothing is written)
           commit(settle), its envelope replaced                    -> waiting or held; leased still with `keep`
           commit(drop)                                             -> gone
           the process dies                                         -> waiting at another, `deaths` one higher (a
                                                                       half if it was killed from outside, which is
                                                                       rarely a mail's fault); held as "poison" at two
held       commit(settle) with `held` empty: a person let it go     -> waiting
any        commit(drop): a person deleted it                        -> gone
=========  ========================================================================================================

Only who claimed a mail settles or drops it, or a person: the last commit wins, and what it does to a mail that is gone
already is passed over, so a deleted mail never comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from mta.message.envelope import Envelope
from mta.message.message import Message
from mta.message.reply import Refused

POISON = "poison"
DEATHS = 2.0  # of workers with a mail in hand, before it is held

FULL = "452 4.3.1 There is no space for mail here now"
TROUBLE = "451 4.3.0 Mail cannot be kept here now"


class Mail(NamedTuple):
    """A mail in the spool. Both belong to the spool once committed: change them only between claim and commit."""

    envelope: Envelope
    message: Message


class Settled(NamedTuple):
    """A mail's new envelope and, if that changed too, its new content. `keep`: stay leased, delivery goes on."""

    envelope: Envelope
    message: Message | None = None
    keep: bool = False


class Body(Protocol):
    """A mail too large for memory, growing while it arrives."""

    def write(self, piece: bytes) -> None:
        """Add to it, off the loop. Raises Refused (452, 451)."""

    def finish(self) -> Message:
        """The mail as it came. Commit it, or discard the body. Raises Refused."""

    def discard(self) -> None:
        """Throw it away; once it is committed this does nothing."""


class Spool(Protocol):
    on_due: Callable[[], None] | None  # called on the loop whenever a mail may have become due

    def commit(self, add: Sequence[Mail] = (), settle: Sequence[Settled] = (), drop: Sequence[str] = ()) -> None:
        """Keep, change and forget mails: all or nothing, durable when it returns. Parks the greenlet.

        Raises Refused (452 the disk is full, 451 it fails); then nothing is done. What also settles or drops may still
        pass on a full disk: it makes room. ValueError: an id to add is in use.
        """

    def claim(self, now: float, limit: int) -> list[Mail]:
        """Lease up to `limit` mails due at `now`, the longest due first. Parks the greenlet."""

    def release(self, id: str, next_try: float | None = None) -> None:
        """Give a lease back, to be due at `next_try` (None: as before). Nothing is written."""

    def next_due(self) -> float | None:
        """When the next mail that can be claimed is due, in seconds since 1970; None: there is none."""

    def find(self, wanted: Callable[[Envelope], bool] | None = None) -> Iterator[Envelope]:
        """The envelopes of all mails, leased and held ones too, in no order. Parks the greenlet."""

    def open(self, id: str) -> Message:
        """A mail's content. Raises KeyError. Parks the greenlet."""

    def look(self, id: str) -> Envelope:
        """A mail's envelope. Raises KeyError. Parks the greenlet."""

    def take(self, id: str) -> Envelope | None:
        """Lease a mail for a person, due or not, held or not; None: it is leased. Raises KeyError. Parks."""

    def body(self) -> Body:
        """Begin a mail that is too large for memory. Raises Refused."""

    def adopt(self, folder: str, guilty: bool = True) -> bool:
        """Take over what a dead process left in `folder`; False if somebody holds it. Raises OSError. Parks."""

    def counts(self) -> dict[str, int]:
        """How many: mails, leased, held, and what else the spool has to say of itself."""

    def close(self) -> None:
        """Let go of everything; leases end. The last call."""


def refused(error: OSError) -> Refused:
    """The answer to a client when the disk says no."""
    import errno

    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return Refused(FULL if full else TROUBLE, f"the spool: {error.strerror or error}")
