"""A reload in hand: who has still to agree, and whom to tell."""

from __future__ import annotations

from collections.abc import Iterator

from mta.daemon.generation import Generation
from mta.settings import Settings


class Change:
    """`new` is the generation that is getting ready; None: rules and certificates change inside the workers.

    Steps: "prepared" (everybody could load it), then, for rules, "in force" (everybody has switched).
    """

    def __init__(self, asked: list[int | None], new: Generation | None, waiting: set[int], until: float) -> None:
        self.asked, self.new, self.waiting, self.until = asked, new, waiting, until
        self.step = "prepared"

    def heard(self, pid: int, step: str) -> bool:
        """A worker agrees (or is gone). True when it was the last one of this step."""
        if step != self.step or pid not in self.waiting:
            return False
        self.waiting.discard(pid)
        return not self.waiting

    def next_step(self, step: str, waiting: set[int]) -> None:
        self.step, self.waiting = step, waiting


def certificates(settings: Settings) -> Iterator[str]:
    """The files of every certificate and key."""
    for listener in settings.listener:
        if listener.tls:
            yield from filter(None, (listener.tls.certificate, listener.tls.key))
