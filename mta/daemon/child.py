"""One process the master looks after, and its pulse in memory both see."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import time
from typing import Any

from mta.daemon.channel import Channel

_PULSE = struct.Struct("Q")
PLACES = 1024  # children at once, old generations included


class Pulses:
    """A counter for each child, in shared memory: a child counts up, the master looks whether it does."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, PLACES * _PULSE.size)
        self._free = list(range(PLACES))

    def take(self) -> int:
        """Raises OSError."""
        if not self._free:
            raise BlockingIOError(errno.EAGAIN, "too many processes that were told to end have not finished yet")
        return self._free.pop(0)

    def give_back(self, place: int) -> None:
        self._free.append(place)

    def beat(self, place: int) -> None:
        _PULSE.pack_into(self._memory, place * _PULSE.size, (self.read(place) + 1) % 2**64)

    def read(self, place: int) -> int:
        count: int = _PULSE.unpack_from(self._memory, place * _PULSE.size)[0]
        return count


class Child:
    """What the master knows of a process.

    =========  ==========================================================
    starting   forked; has not said that it is ready
    ready      does its work
    draining   was told to finish; `killed_at` is when patience ends
    =========  ==========================================================
    """

    def __init__(self, pid: int, slot: int, generation: int, channel: Channel, pulse: int) -> None:
        self.pid, self.slot, self.generation, self.channel, self.pulse = pid, slot, generation, channel, pulse
        self.state = "starting"
        self.started = time.monotonic()
        self.killed_at: float | None = None
        self.stuck = False  # it gave no sign of life and was killed for it
        self.error = ""  # what it said went wrong
        self.rules = ""  # the copy of the rules it has, or was told to prepare
        self.spool = ""  # the spool folder it made
        self.folders: set[str] = set()  # that, and those it was given or has adopted
        self._count = -1
        self._changed = self.started

    @property
    def name(self) -> str:
        return "registry" if self.slot < 0 else f"worker {self.slot}"

    @property
    def label(self) -> int | str:
        """Its name in the log."""
        return "registry" if self.slot < 0 else self.slot

    def send(self, **words: Any) -> bool:
        return self.channel.send(**words)

    def silent_for(self, pulses: Pulses, now: float) -> float:
        """Seconds since its last sign of life."""
        count = pulses.read(self.pulse)
        if count != self._count:
            self._count, self._changed = count, now
        return now - self._changed

    def forgive(self, now: float) -> None:
        """We were away ourselves (a suspended machine): start counting anew."""
        self._changed = now

    def prepare(self, rules: str) -> None:
        """Load these rules, unless it has them."""
        if self.rules != rules:
            self.rules = rules
            self.send(do="prepare", rules=rules)

    def drain(self, seconds: float, gently: bool = False) -> None:
        """Finish open work within so many seconds; 0 hurries. Gently: do not send clients away before it is time."""
        self.state = "draining"
        self.killed_at = time.monotonic() + seconds + 3.0
        self.send(do="drain", seconds=seconds, gently=gently)

    def kill(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
