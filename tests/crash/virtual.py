"""A disk in memory that remembers every step, and can show what a power cut after any step may have left.

What is promised, and nothing more: bytes of a file after its sync, names of a folder after the folder's sync (a rename
from one folder to another after both). Whatever else was done may be there, may be missing, and a write may be there in
part, in blocks of 512 or 4,096 bytes. `states()` goes through the steps and yields such leftovers as disks.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mta.spool.disk import Buffers, Disk

ROOT = 0


class Step(NamedTuple):
    kind: str  # make, write, allocate, sync, sync_folder, rename, unlink, mark
    nodes: tuple[int, ...] = ()  # the file, or the folders
    names: tuple[str, ...] = ()
    at: int = 0
    bytes: bytes = b""
    what: Any = None


class State:
    """Files and folders as nodes: a folder is a dict of names, a file its bytes."""

    def __init__(self) -> None:
        self.nodes: dict[int, dict[str, int] | bytearray] = {ROOT: {}}

    def copy(self) -> State:
        other = State()
        other.nodes = {n: dict(node) if isinstance(node, dict) else node[:] for n, node in self.nodes.items()}
        return other

    def apply(self, step: Step, blocks: tuple[int, Callable[[int], bool]] | None = None) -> None:
        """Do a step; of a write only the blocks (size, wanted) if given. What has lost its ground is passed over."""
        nodes = self.nodes
        if step.kind == "make":
            folder, node = step.nodes
            nodes.setdefault(node, {} if step.what else bytearray())
            nodes.setdefault(folder, {})[step.names[0]] = node  # type: ignore[index]
        elif step.kind == "unlink":
            nodes.setdefault(step.nodes[0], {}).pop(step.names[0], None)  # type: ignore[arg-type, call-arg]
        elif step.kind == "rename":
            old, new = (nodes.get(n) for n in step.nodes)
            if isinstance(old, dict) and isinstance(new, dict) and step.names[0] in old:
                new[step.names[1]] = old.pop(step.names[0])
        elif step.kind in ("write", "allocate"):
            file = nodes.setdefault(step.nodes[0], bytearray())
            assert isinstance(file, bytearray)
            stop = step.at + len(step.bytes)
            if len(file) < stop:
                file.extend(bytes(stop - len(file)))
            if step.kind == "allocate":
                return
            if blocks is None:
                file[step.at : stop] = step.bytes
                return
            size, wanted = blocks
            for n, at in enumerate(range(step.at, stop, size)):
                if wanted(n):
                    piece = step.bytes[at - step.at : at - step.at + size]
                    file[at : at + len(piece)] = piece


class Virtual(Disk):
    """`fail(kind, path)` may return an error to raise, a number of bytes to write before ENOSPC, or None."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self.steps: list[Step] = []
        self.begun_with = self.state.copy()
        self.fail: Callable[[str, str], OSError | int | None] | None = None
        self.space = 1 << 40
        self._next = max(self.state.nodes) + 1
        self._fds: dict[int, tuple[int, str]] = {}
        self._next_fd = 1000
        self._locked: dict[int, int] = {}  # fd -> folder

    def mark(self, what: Any) -> None:
        self.steps.append(Step("mark", what=what))

    def _do(self, step: Step) -> None:
        self.state.apply(step)
        self.steps.append(step)

    def _check(self, kind: str, path: str) -> None:
        error = self.fail(kind, path) if self.fail else None
        if isinstance(error, OSError):
            raise error

    def _folder(self, path: str) -> tuple[int, dict[str, int]]:
        at = ROOT
        for name in path.strip("/").split("/"):
            if name:
                node = self.state.nodes[at]
                if not isinstance(node, dict) or name not in node:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                at = node[name]
        folder = self.state.nodes[at]
        if not isinstance(folder, dict):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return at, folder

    def _find(self, path: str) -> tuple[int, str, int]:
        """(its folder, its name, itself)."""
        above, name = os.path.split(path)
        node, folder = self._folder(above)
        if name not in folder:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node, name, folder[name]

    def _make(self, path: str, folder: bool) -> int:
        above, name = os.path.split(path)
        at, there = self._folder(above)
        if name in there:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        node, self._next = self._next, self._next + 1
        self._do(Step("make", (at, node), (name,), what=folder))
        return node

    # -- Disk --------------------------------------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        self._check("make_folder", path)
        self._make(path, True)

    def remove_folder(self, path: str) -> None:
        at, name, node = self._find(path)
        if self.state.nodes[node]:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self._do(Step("unlink", (at,), (name,)))

    def listed(self, path: str) -> tuple[list[str], list[str]]:
        _, folder = self._folder(path)
        folders = [name for name, node in folder.items() if isinstance(self.state.nodes[node], dict)]
        return sorted(set(folder) - set(folders)), sorted(folders)

    def sync_folder(self, path: str) -> None:
        self._check("sync_folder", path)
        self.steps.append(Step("sync_folder", (self._folder(path)[0],)))

    def lock(self, path: str) -> int | None:
        node, _ = self._folder(path)
        if node in self._locked.values():
            return None
        self._next_fd += 1
        self._locked[self._next_fd] = node
        return self._next_fd

    def free(self, path: str) -> int:
        return self.space

    def make(self, path: str) -> int:
        self._check("make", path)
        return self._opened(self._make(path, False), path)

    def open(self, path: str, *, write: bool = False) -> int:
        self._check("open", path)
        return self._opened(self._find(path)[2], path)

    def _opened(self, node: int, path: str) -> int:
        self._next_fd += 1
        self._fds[self._next_fd] = node, path
        return self._next_fd

    def close(self, fd: int) -> None:
        if self._locked.pop(fd, None) is None:
            del self._fds[fd]

    def _bytes(self, fd: int) -> bytearray:
        file = self.state.nodes[self._fds[fd][0]]
        assert isinstance(file, bytearray)
        return file

    def size(self, fd: int) -> int:
        return len(self._bytes(fd))

    def allocate(self, fd: int, size: int) -> None:
        node, path = self._fds[fd]
        self._check("allocate", path)
        self._do(Step("allocate", (node,), bytes=bytes(size)))

    def write(self, fd: int, buffers: Buffers, at: int) -> None:
        node, path = self._fds[fd]
        text = b"".join(buffers)
        error = self.fail("write", path) if self.fail else None
        if error is not None:
            some = error if isinstance(error, int) else len(text) // 2
            self._do(Step("write", (node,), at=at, bytes=text[:some]))
            raise error if isinstance(error, OSError) else OSError(errno.ENOSPC, "short")
        self._do(Step("write", (node,), at=at, bytes=text))

    def read(self, fd: int, size: int, at: int) -> bytes:
        self._check("read", self._fds[fd][1])
        return bytes(self._bytes(fd)[at : at + size])

    def sync(self, fd: int) -> None:
        node, path = self._fds[fd]
        self._check("sync", path)
        self.steps.append(Step("sync", (node,)))

    def rename(self, old: str, new: str) -> None:
        self._check("rename", old)
        at, name, _ = self._find(old)
        above, new_name = os.path.split(new)
        self._do(Step("rename", (at, self._folder(above)[0]), (name, new_name)))

    def unlink(self, path: str) -> None:
        self._check("unlink", path)
        at, name, _ = self._find(path)
        self._do(Step("unlink", (at,), (name,)))

    def view(self, path: str) -> bytes:
        file = self.state.nodes[self._find(path)[2]]
        assert isinstance(file, bytearray)
        return bytes(file)

    def shared(self, path: str, size: int) -> bytearray:
        """As if no store into it ever reached the disk."""
        self._do(Step("write", (self._make(path, False),), bytes=bytes(size)))
        return bytearray(size)


class Leftover(NamedTuple):
    after: int  # steps done before the cut
    marks: list[Any]
    state: State
    how: str


def states(disk: Virtual, dice: random.Random, *, subsets: int, every: int = 1) -> Iterator[Leftover]:
    """What may be left after each step (each `every`th): all of what was not synced, nothing of it, each single thing
    lost or torn, and `subsets` random choices."""
    base = disk.begun_with.copy()
    open_steps: list[tuple[Step, set[int]]] = []  # what is not durable, and what must still be synced for it
    marks: list[Any] = []
    for n, step in enumerate(disk.steps, 1):
        if step.kind == "mark":
            marks.append(step.what)
        elif step.kind in ("sync", "sync_folder"):
            synced, left = step.nodes[0], []
            for waiting, needs in open_steps:
                needs.discard(synced)
                if needs:
                    left.append((waiting, needs))
                else:
                    base.apply(waiting)
            open_steps = left
        elif step.kind == "make":
            open_steps.append((step, {step.nodes[0]}))
        else:
            open_steps.append((step, set(step.nodes)))
        if (n % every and n < len(disk.steps)) or (step.kind == "mark" and step.what[0] != "acknowledged"):
            continue
        steps = [waiting for waiting, _ in open_steps]
        for how, choice in _choices(steps, dice, subsets):
            state = base.copy()
            for waiting, blocks in zip(steps, choice, strict=True):
                if blocks is not False:
                    state.apply(waiting, None if blocks is True else blocks)
            yield Leftover(n, marks, state, how)


def _choices(steps: list[Step], dice: random.Random, subsets: int) -> Iterator[tuple[str, list[Any]]]:
    whole: list[Any] = [True] * len(steps)
    yield "all", whole
    if not steps:
        return
    yield "none", [False] * len(steps)
    for n, step in enumerate(steps):
        yield f"{step.kind} {n} lost", [*whole[:n], False, *whole[n + 1 :]]
        yield f"only {step.kind} {n}", [m == n for m in range(len(steps))]
        if step.kind == "write":
            for block in (512, 4096):
                half = len(step.bytes) // block // 2
                for how, wanted in (
                    ("end", lambda b, half=half: b <= half),
                    ("beginning", lambda b, half=half: b > half),
                    ("first block", lambda b: b > 0),
                ):
                    yield (
                        f"write {n} torn, without its {how}, by {block}",
                        [*whole[:n], (block, wanted), *whole[n + 1 :]],
                    )
    for _ in range(subsets):
        yield "some", [_dare(step, dice) for step in steps]


def _dare(step: Step, dice: random.Random) -> Any:
    kind = dice.randrange(3)
    if kind == 2 and step.kind == "write":
        seed = dice.random()
        return dice.choice((512, 4096)), lambda block: random.Random(f"{seed}{block}").random() < 0.5
    return bool(kind)
