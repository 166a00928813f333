"""A note of the mails in hand that outlives the process: memory shared with a file, a slot for each id.

Nothing syncs it, so it says what was in hand when the process died, not what was when the power went; a note of another
boot is not believed. A store into it costs 0.3 us.
"""

from __future__ import annotations

import mmap

from mta.spool.disk import Disk

FILE = "in-hand"
SLOT = 48
SLOTS = 2048  # what is in hand beyond that, or has a longer id, is not noted

_BOOT = "/proc/sys/kernel/random/boot_id"


def boot() -> bytes:
    """Which boot of the machine this is; empty where that cannot be told."""
    try:
        with open(_BOOT, "rb") as file:
            return file.read().strip()[:SLOT]
    except OSError:
        return b""


class Hand:
    def __init__(self, disk: Disk, path: str) -> None:
        self._memory = disk.shared(path, (SLOTS + 1) * SLOT)
        self._memory[:SLOT] = boot().ljust(SLOT, b"\0")
        self._free = list(range(SLOTS, 0, -1))
        self._slots: dict[str, int] = {}

    def take(self, id: str) -> None:
        if self._free and len(id) <= SLOT and id not in self._slots:
            slot = self._slots[id] = self._free.pop()
            at = slot * SLOT
            self._memory[at : at + SLOT] = id.encode("ascii", "replace").ljust(SLOT, b"\0")

    def give(self, id: str) -> None:
        slot = self._slots.pop(id, 0)
        if slot:
            self._memory[slot * SLOT] = 0
            self._free.append(slot)

    def close(self) -> None:
        self._slots.clear()
        self._free.clear()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()


def read(memory: bytes) -> list[str]:
    """The ids that were in hand when the process died that wrote `memory`."""
    if memory[:SLOT] != boot().ljust(SLOT, b"\0"):
        return []
    slots = (memory[at : at + SLOT] for at in range(SLOT, len(memory), SLOT))
    return [slot.rstrip(b"\0").decode("ascii", "replace") for slot in slots if slot[:1] > b"\0"]
