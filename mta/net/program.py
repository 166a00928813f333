"""Run a program: no shell, a clean environment, its input streamed, its output and its time limited.

The calling greenlet waits, everyone else goes on. What a program leaves behind in its process group when it ends or
is out of time is killed with it; one that must live on has to leave the group (setsid).

The standard library starts it (vfork, nothing of Python runs in the child, so threads and a large worker do no harm);
that takes about a millisecond and never switches, so no call can be interrupted between fork and watcher. The loop
owns SIGCHLD and reaps every child, so no interrupted call leaves a zombie.

Text from the network may stand in an argument only through `fill`, which never lets it become an option.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original

from mta.net import offload

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLEAN = {"PATH": PATH, "LANG": "C.UTF-8"}  # all a program finds in its environment unless told otherwise
GRACE = 0.5  # seconds for output still on its way when the program itself has ended
_CHUNK = 65536  # what a pipe holds


_close = get_original("os", "close")  # gevent's own puts it off until the loop turns


def _unpatched() -> Any:
    """The standard library's `subprocess` as it is: gevent takes the fork out of the common copy, and its `os.close`
    would leave open the pipe which tells that the program has begun."""
    spec = importlib.util.find_spec("subprocess")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plain = types.ModuleType("os")
    vars(plain).update(vars(os), close=_close, waitpid=get_original("os", "waitpid"))
    vars(module)["os"] = plain
    return module


_subprocess = _unpatched()

Text = str | bytes  # str is written as UTF-8
Buffer = bytes | memoryview

_PLACE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


class Ended(NamedTuple):
    """How a program ended: `code` or `signal`, or neither if it never began. `failed` says what went wrong with the
    running of it ("" for nothing; an exit code is no such thing). `cut`: it wrote more than was kept. `ms`: how long
    it took, waiting for a place included."""

    code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False
    cut: bool = False
    failed: str = ""
    ms: float = 0.0


class File:
    """An argument that is a file: `content` in memory, which the program finds under a name of the form /dev/fd/N.

    After the run `content` is what the program left there, so that it also serves for output.
    """

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.fd = -1

    def open(self) -> bytes:
        self.fd = os.memfd_create("mta", os.MFD_CLOEXEC)
        rest = memoryview(self.content)
        while rest:
            rest = rest[os.write(self.fd, rest) :]
        return b"/dev/fd/%d" % self.fd

    def close(self) -> None:
        size = os.fstat(self.fd).st_size
        self.content = os.pread(self.fd, size, 0)
        _close(self.fd)
        self.fd = -1


class Places:
    """At most `number` programs at once; who comes later waits, and the wait counts as its time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._free = BoundedSemaphore(number)

    def take(self, timeout: float) -> bool:
        return bool(self._free.acquire(timeout=timeout))

    def give(self) -> None:
        self._free.release()


def fill(arguments: Sequence[str], values: Mapping[str, Text]) -> list[bytes]:
    """The arguments with `{name}` replaced. Raises ValueError for what must not reach a program.

    An argument that begins with a placeholder may not come out as an option ("-x"), unless it stands behind "--" or
    the option is spelt in the template ("--from={sender}", "-f{sender}").
    """
    out: list[bytes] = []
    free = False  # behind "--"
    for template in arguments:
        argument = _PLACE.sub(lambda place: _text(place[1], values), template)
        if argument.startswith("-") and not free and not template.startswith("-"):
            raise ValueError(f'{template} would become an option: {argument!r} (put "--" or "--name=" before it)')
        free = free or template == "--"
        out.append(_bytes(argument))
    return out


def fill_environment(environment: Mapping[str, str], values: Mapping[str, Text]) -> dict[bytes, bytes]:
    """The environment with `{name}` replaced in the values. Raises ValueError like `fill`."""
    return {_bytes(k): _bytes(_PLACE.sub(lambda place: _text(place[1], values), v)) for k, v in environment.items()}


def _text(name: str, values: Mapping[str, Text]) -> str:
    if name not in values:
        raise ValueError(f"{{{name}}} is not known here; known are {', '.join(sorted(values)) or 'none'}")
    value = values[name]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _bytes(text: Text) -> bytes:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    if b"\0" in raw:
        raise ValueError(f"a NUL cannot be given to a program: {text!r}")
    return raw


def run(
    arguments: Sequence[Text | File],
    *,
    stdin: Iterable[Buffer] = (),
    environment: Mapping[Text, Text] | Mapping[str, str] | Mapping[bytes, bytes] = CLEAN,
    folder: str = "/",
    timeout: float = 30.0,
    keep: int = 1 << 20,
    places: Places | None = None,
) -> Ended:
    """Run a program and wait for its end. Never raises for anything the program does.

    `arguments[0]` is a path, or a name looked for in PATH. `stdin` is streamed as the program reads it; `keep` bytes
    of stdout and of stderr each are kept, the rest is read and thrown away. `timeout` is in seconds, after which the
    whole process group is killed. Raises what reading `stdin` raises, and ValueError for a NUL in an argument.
    """
    began = time.monotonic()
    if places is not None and not places.take(timeout):
        return Ended(timed_out=True, failed=f"no place was free for {timeout:g} s", ms=_since(began))
    files: list[File] = []
    try:
        told: list[bytes] = []
        for argument in arguments:
            if isinstance(argument, File):
                files.append(argument)
                told.append(argument.open())
            else:
                told.append(_bytes(argument))
        environ = {_bytes(k): _bytes(v) for k, v in environment.items()}
        name = os.fsdecode(told[0])
        found = shutil.which(name, path=os.fsdecode(environ.get(b"PATH", os.fsencode(PATH))))
        if found is None:
            wrong = "this may not be run (chmod +x)" if "/" in name and os.path.exists(name) else "no such program"
            return Ended(failed=f"{name}: {wrong}", ms=_since(began))
        told[0] = os.fsencode(found)
        return _run(told, stdin, environ, folder, began, timeout, keep, [file.fd for file in files])
    finally:
        for file in files:
            if file.fd >= 0:
                file.close()
        if places is not None:
            places.give()


def _run(
    arguments: list[bytes],
    stdin: Iterable[Buffer],
    environment: dict[bytes, bytes],
    folder: str,
    began: float,
    timeout: float,
    keep: int,
    pass_fds: list[int],
) -> Ended:
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
    mine = [pipes[0][1], pipes[1][0], pipes[2][0]]
    try:
        program = _Program(arguments, environment, folder, theirs, pass_fds)
    except (OSError, _subprocess.SubprocessError) as error:
        for fd in mine:
            _close(fd)
        reason = error.strerror if isinstance(error, OSError) else error
        return Ended(failed=f"{os.fsdecode(arguments[0])}: {reason}", ms=_since(began))
    finally:
        for fd in theirs:
            _close(fd)
    for fd in mine:
        os.set_blocking(fd, False)
    out, err = _Kept(keep), _Kept(keep)
    writer = gevent.spawn(_write, mine[0], stdin, program)
    readers = [gevent.spawn(out.read, mine[1]), gevent.spawn(err.read, mine[2])]
    try:
        ended = program.ended.wait(max(0.0, began + timeout - time.monotonic()))
        if ended:
            gevent.joinall(readers, timeout=GRACE)
    finally:
        if not program.ended.is_set() or not all(reader.ready() for reader in readers):
            program.kill()
        gevent.killall([writer, *readers])
        for fd in mine[1:]:
            _close(fd)
    program.ended.wait()  # it is dead or dying: at most until the kernel says so
    if isinstance(writer.value, Exception):
        raise writer.value  # half a mail must not be judged
    failed = ""
    if not ended:
        failed = f"not done after {timeout:g} s"
    elif program.signal is not None:
        failed = f"killed by signal {program.signal}"
    return Ended(
        code=program.code,
        signal=program.signal,
        stdout=out.bytes(),
        stderr=err.bytes(),
        timed_out=not ended,
        cut=out.cut or err.cut,
        failed=failed,
        ms=_since(began),
    )


class _Program:
    """One running program. Raises OSError when it cannot be started."""

    def __init__(
        self, arguments: list[bytes], environment: dict[bytes, bytes], folder: str, pipes: list[int], keep: list[int]
    ) -> None:
        loop = gevent.get_hub().loop
        loop.install_sigchld()
        self.code: int | None = None
        self.signal: int | None = None
        self.ended = Event()
        self._popen = _subprocess.Popen(
            arguments,
            stdin=pipes[0],
            stdout=pipes[1],
            stderr=pipes[2],
            env=environment,
            cwd=folder,
            pass_fds=keep,
            start_new_session=True,  # a process group of its own, and no terminal
        )
        self._watcher = loop.child(self._popen.pid)
        self._watcher.start(self._on_end)

    def _on_end(self) -> None:
        code = os.waitstatus_to_exitcode(self._watcher.rstatus)
        self._popen.returncode = code  # reaped by the loop: the standard library need not look for it
        self.code, self.signal = (code, None) if code >= 0 else (None, -code)
        self._watcher.stop()
        self._watcher.close()
        self.ended.set()

    def kill(self) -> None:
        """Kill its whole process group. The kernel gives the number to no one else while the group has a member."""
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class _Kept:
    """The beginning of what a program writes."""

    def __init__(self, limit: int) -> None:
        self._room, self.cut = limit, False
        self._parts: list[bytes] = []

    def read(self, fd: int) -> None:
        with _Readiness(fd, 1) as ready:
            while True:
                ready.wait()  # every time: a chatty program must leave the others their turn
                try:
                    chunk = os.read(fd, _CHUNK)
                except BlockingIOError:
                    continue
                if not chunk:
                    return
                if len(chunk) > self._room:
                    self.cut = True
                    chunk = chunk[: self._room]
                self._room -= len(chunk)
                self._parts.append(chunk)

    def bytes(self) -> bytes:
        join = b"".join
        return join(self._parts) if len(self._parts) < 16 else offload.run(join, self._parts)


def _write(fd: int, buffers: Iterable[Buffer], program: _Program) -> Exception | None:
    """Feed a program. What goes wrong while reading the buffers is returned, after the program was killed."""
    try:
        with _Readiness(fd, 2) as ready:
            for buffer in buffers:
                rest = memoryview(buffer).cast("B")
                while rest:
                    ready.wait()
                    try:
                        rest = rest[os.write(fd, rest[:_CHUNK]) :]
                    except BlockingIOError:
                        continue
    except BrokenPipeError:
        pass  # it has read enough; its exit code says what it thinks
    except Exception as error:
        program.kill()
        return error
    finally:
        _close(fd)
    return None


class _Readiness:
    """A file descriptor's watcher, for the length of a `with`."""

    def __init__(self, fd: int, events: int) -> None:
        self._hub = gevent.get_hub()
        self._watcher = self._hub.loop.io(fd, events)

    def __enter__(self) -> _Readiness:
        return self

    def wait(self) -> None:
        self._hub.wait(self._watcher)

    def __exit__(self, *_: object) -> None:
        self._watcher.close()


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
