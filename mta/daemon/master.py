"""The master: binds the sockets, makes the processes, keeps them alive, changes them without losing a connection.

It has no event loop and runs no code of the mail path: it sleeps, wakes for signals (a message of a child arrives as
SIGIO) or a few times a second, and looks at everything. Nothing here may block or raise.

==========  ===================================  =======================================================
state       what the children do                 leaves it
==========  ===================================  =======================================================
starting    registry and workers get ready       all ready -> serving; one failed -> the server ends with 1
serving     workers work; a dead one is          SIGTERM, SIGINT, mta stop -> stopping
            replaced, a neighbour watches its
            sockets, another adopts its spool
stopping    workers finish open work, the        all gone -> the end; a second signal hurries, a third kills
            registry goes last
==========  ===================================  =======================================================

Reloads go on beside that (reload.py).
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

import mta
from mta import config as configuration
from mta.daemon import channel, logs, privileges, registry, signals, systemd, worker
from mta.daemon.child import Child, Pulses
from mta.daemon.generation import Ages, Generation, certificates, contexts
from mta.daemon.listening import ListenError, Listening
from mta.daemon.orphans import Orphans
from mta.daemon.reload import Reloads
from mta.daemon.rulebook import Rulebook
from mta.daemon.watching import Watch
from mta.log import log, tell
from mta.net import folders
from mta.settings import Settings

TICK = 0.25  # seconds between two looks when nothing happens
SHORT, LONG = 3.0, 30.0  # seconds until an address that is taken is given up; long while workers of another master live
AGAIN = 1.0  # seconds until a process that could not be forked is tried again
REGISTRY = -1


class StartError(Exception):
    """The server cannot start; says why."""


class Master:
    def __init__(self, config: configuration.Config) -> None:
        self.config = config
        self.state = "starting"
        self.children: dict[int, Child] = {}
        self.generation: Generation
        self.reloads = Reloads(self)
        self.listening = Listening(systemd.listen_fds())
        self.pulses = Pulses()
        self.rulebook = Rulebook(config.settings.server.run)
        self.watch: Watch | None = None
        self.ages = Ages()
        self.exit_code = 0
        self.began = time.time()
        self._signals = 0  # how often we were told to stop
        self._looked = time.monotonic()
        self._bug = ""  # the last one told
        self.orphans = Orphans()
        self.respawn: dict[int, tuple[float, int]] = {}  # slot: (when, deaths in a row)

    @property
    def settings(self) -> Settings:
        return self.config.settings

    # -- the beginning -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop; the exit code. Raises StartError."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.BLOCKED)
        signal.signal(signal.SIGIO, lambda *_: None)  # its default is death, should a library have started a thread
        self._open()
        self.fork(REGISTRY, self.generation, "")
        for slot in range(self.settings.server.workers):
            self.fork(slot, self.generation, self.rulebook.current)
        try:
            while self.state != "ended":
                for step in (self._wait, self._reap, self._hear, self._look):
                    self._do(step)
        finally:
            for child in self.children.values():
                child.kill()
        return self.exit_code

    def _open(self) -> None:
        settings, server = self.settings, self.settings.server
        try:
            os.makedirs(server.run, mode=0o750, exist_ok=True)
            self._lock = _lock(os.path.join(server.run, "lock"))
            self.generation = self._first_generation()
            if os.getuid() == 0 and server.user:
                who = privileges.account(server.user, server.group)
                for folder in (server.run, settings.spool.path, settings.store.path, *logs.folders(settings.log)):
                    privileges.give(folder, *who)
                for name in logs.paths(settings.log):
                    if os.path.isfile(name) and not os.path.islink(name) and os.stat(name).st_uid == 0:
                        os.chown(name, *who)
                privileges.drop(*who)
            os.makedirs(settings.spool.path, mode=0o700, exist_ok=True)
            privileges.readable([str(self.config.path), *certificates(settings)])
            logs.in_master(settings.log)
            self.rulebook.keep(self.rulebook.copy(settings.rules))
            if settings.rules.watch:
                self.watch = Watch(settings.rules.path, settings.rules.domains)
        except (ListenError, privileges.PrivilegeError, OSError, ValueError) as error:
            raise StartError(folders.why(error)) from None

    def _first_generation(self) -> Generation:
        began = time.monotonic()
        while True:
            try:
                bound = self.listening.take(self.settings.listener, self.settings.server.workers)
                break
            except ListenError:  # the workers of a master that was killed may still hold the addresses
                left = any(registry.worker_sockets(self.settings.server.run).values())
                if time.monotonic() - began > (LONG if left else SHORT):
                    raise
                signal.sigtimedwait((), 0.1)
        return Generation(1, self.config, bound, contexts(self.settings, {}))

    # -- one turn ----------------------------------------------------------------------------------------------------

    def _do(self, step: Callable[[], None]) -> None:
        """A step of a turn. Our own mistake in it must not end the server and cut off all that is under way."""
        try:
            step()
        except Exception as error:
            if str(error) != self._bug:  # else it would be told at every turn
                self._bug = str(error)
                log.bug(error)

    def _wait(self) -> None:
        number = signals.wait(TICK)
        while number:
            if number in (signal.SIGTERM, signal.SIGINT):
                self.stop(signal.Signals(number).name)
            elif number == signal.SIGHUP:
                self.reloads.ask(None)
            number = signals.wait(0)

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            child = self.children.pop(pid, None)
            if child:
                self._take_messages(child)  # its last words may say why
                self._ended(child, status)

    def _hear(self) -> None:
        for child in list(self.children.values()):
            self._take_messages(child)

    def _take_messages(self, child: Child) -> None:
        try:
            while words := child.channel.take():
                self._heard(child, words)
        except channel.Ended:
            pass

    def _look(self) -> None:
        now = time.monotonic()
        away, self._looked = now - self._looked > self.settings.server.stuck / 2, now
        for child in list(self.children.values()):
            silent = child.silent_for(self.pulses, now)
            if away:
                child.forgive(now)
            elif silent > self.settings.server.stuck:
                log.event("worker_stuck", worker=child.label, pid=child.pid, seconds=round(silent, 1))
                child.forgive(now)
                child.stuck = True
                child.kill()
            elif child.killed_at is not None and now > child.killed_at:
                child.kill()
        if self.state == "serving":
            self._respawn_due(now)
            children, ready = self.children.values(), self.workers(state="ready")
            self.orphans.give(now, self.settings.spool.path, children, ready)
            self.ages.look(self.settings, now)
            if self.watch and self.watch.changed(now):
                self.reloads.ask(None, rules_only=True)
        self.reloads.look(now)
        if self.state != "starting":
            systemd.alive(now)

    # -- children ----------------------------------------------------------------------------------------------------

    def fork(self, slot: int, generation: Generation, rules: str) -> Child:
        """A new process. `rules` is the folder a worker loads them from; one of a generation that is not in force yet
        takes no connections until it is told to. Raises OSError."""
        with ExitStack() as undo:  # there may be no memory, too many files or processes
            pulse = self.pulses.take()
            undo.callback(self.pulses.give_back, pulse)
            here, there = channel.pair()
            undo.callback(here.close)
            undo.callback(there.close)
            gc.freeze()  # what the parent has made stays shared memory
            pid = os.fork()
            undo.pop_all()
        if pid == 0:
            here.close()
            _in_child(lambda: self._live(slot, generation, rules, there, partial(self.pulses.beat, pulse)))
        there.close()
        here.signal_me()
        child = self.children[pid] = Child(pid, slot, generation.number if slot >= 0 else 0, here, pulse)
        child.rules = rules
        return child

    def _live(
        self, slot: int, generation: Generation, rules: str, line: channel.Channel, beat: Callable[[], None]
    ) -> None:
        """The whole life of a child, in it."""
        for other in self.children.values():
            other.channel.close()  # else nobody would see an end of file when the master dies
        if slot == REGISTRY:
            self.listening.close()
            registry.run(self.settings, line, beat)
        else:
            self.listening.only(generation.bound)
            worker.run(generation, slot, rules, line, beat, waits=generation is not self.generation)

    def workers(self, generation: int | None = None, state: str = "") -> Iterator[Child]:
        """The workers of a generation (the one in force if not told), in a state if told."""
        wanted = self.generation.number if generation is None else generation
        for child in list(self.children.values()):
            if child.slot >= 0 and child.generation == wanted and (not state or child.state == state):
                yield child

    def _heard(self, child: Child, words: dict[str, Any]) -> None:
        match words:
            case {"say": "ready"}:
                child.state = "ready" if child.state == "starting" else child.state
                self._ready(child)
            case {"say": "failed", "error": str(error)}:
                child.error = error
            case {"say": "owns", "folder": str(folder)}:
                child.spool = folder
                child.folders.add(folder)
            case {"say": "not mine", "folder": str(folder)}:
                child.folders.discard(folder)
            case {"say": "prepared", "rules": str(rules), "error": str(error)}:
                self.reloads.prepared(child, rules, error)
            case {"say": "in force" | "quiet" as step}:
                self.reloads.heard(child, step)
            case {"ask": "reload", "id": int(asked)}:
                self.reloads.ask(asked)
            case {"ask": "stop", "id": int(asked)}:
                self.answer(asked, pid=os.getpid(), drain=self.settings.server.drain)
                self.stop("mta stop")
            case {"ask": "status", "id": int(asked)}:
                for worker in [each for each in self.children.values() if each.slot >= 0]:
                    self._take_messages(worker)  # one that is ready may have mail already
                self.answer(asked, **self.status())

    def _ready(self, child: Child) -> None:
        if child.slot >= 0:
            log.event("worker_started", worker=child.label, pid=child.pid, generation=child.generation)
        if self.state == "starting":
            if all(each.state == "ready" for each in self.children.values()):
                self._serving()
        elif child.slot < 0:
            return
        elif child.generation != self.generation.number:
            self.reloads.heard(child, "prepared")
        elif child.state == "ready":
            if child.rules != self.rulebook.current:  # they changed while it started
                child.prepare(self.rulebook.current)
                child.send(do="commit")
            for other in self.workers(state="ready"):
                if other is not child:
                    other.send(do="unwatch", slot=child.slot)

    def _serving(self) -> None:
        self.state = "serving"
        workers, addresses = self.settings.server.workers, self.addresses()
        log.event("started", pid=os.getpid(), workers=workers, version=mta.__version__, listeners=addresses)
        systemd.notify(READY=1, STATUS=self.taking())
        tell(self.taking())
        for name in self.listening.unused():
            tell(f"systemd hands over {name}, but no listener has it: clients wait there")

    def addresses(self) -> list[str]:
        return [name for _, bound in self.generation.bound for name in bound.names()]

    def taking(self) -> str:
        return f"taking mail on {', '.join(self.addresses()) or 'no address'}"

    def _ended(self, child: Child, status: int) -> None:
        child.channel.close()
        self.pulses.give_back(child.pulse)
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        now = time.monotonic()
        self.orphans.soon()
        if child.state == "draining" and code == 0:
            if child.slot >= 0:
                log.event("worker_stopped", worker=child.label, pid=child.pid, generation=child.generation)
        else:
            log.event("worker_died", worker=child.label, pid=child.pid, status=child.error or how)
            if code != -signal.SIGKILL or child.stuck:
                self.orphans.guilty |= child.folders
        self.reloads.died(child, how)
        if self.state == "starting" and child.state != "draining":
            tell(child.error or f"{child.name} died at its start ({how})")
            self.exit_code = 1
            self.stop("the start failed")
        elif self.state == "serving" and (child.slot < 0 or child.generation == self.generation.number):
            self._plan(child, now)
        elif self.state == "serving":
            self.reloads.forget_old()
        if self.state == "stopping":
            self._stopping()

    def _plan(self, child: Child, now: float) -> None:
        """A replacement: at once the first time, ever later if it keeps dying young."""
        deaths = self.respawn.get(child.slot, (0.0, 0))[1] + 1 if now - child.started < 10 else 1
        wait = 0.0 if deaths == 1 else min(30.0, 0.1 * 2**deaths)
        self.respawn[child.slot] = (now + wait, deaths)
        for neighbour in self.workers(state="ready"):
            neighbour.send(do="watch", slot=child.slot)
            break
        self._respawn_due(now)

    def _respawn_due(self, now: float) -> None:
        running = {child.slot for child in self.workers()} | {
            child.slot for child in self.children.values() if child.slot == REGISTRY
        }
        for slot, (when, deaths) in list(self.respawn.items()):
            if slot >= self.settings.server.workers:
                del self.respawn[slot]
            elif slot not in running and now >= when:
                self.respawn[slot] = (now + AGAIN, deaths)
                self.fork(slot, self.generation, self.rulebook.current)

    # -- what is asked ------------------------------------------------------------------------------------------------

    def answer(self, asked: int | None, **words: Any) -> None:
        for child in self.children.values():
            if asked is not None and child.slot == REGISTRY:
                child.send(answer=asked, **words)

    def status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "version": mta.__version__,
            "state": self.state,
            "since": self.began,
            "config": os.path.abspath(self.config.path),
            "generation": self.generation.number,
            "listeners": [
                {"address": bound.names(), "kind": listener.kind, "tls": listener.tls is not None}
                for listener, bound in self.generation.bound
                if self.state != "stopping"  # they are closed then
            ],
            "children": [
                {"name": c.name, "pid": c.pid, "state": c.state, "generation": c.generation, "folders": len(c.folders)}
                for c in self.children.values()
            ],
            "orphans": self.orphans.left(self.settings.spool.path, self.children.values()),
        }

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Finish open work within server.drain seconds; told again, hurry; told once more, kill."""
        self._signals += 1
        if self.state != "stopping":
            self.state = "stopping"
            log.event("stopping", pid=os.getpid(), reason=reason)
            self.reloads.stop()
            systemd.notify(STOPPING=1, STATUS="Finishing open work")
            self.listening.close()
        for child in self.children.values():
            if self._signals > 2:
                child.kill()
            elif child.slot >= 0:
                child.drain(self.settings.server.drain if self._signals == 1 else 0.0)
        self._stopping()

    def _stopping(self) -> None:
        if any(child.slot >= 0 for child in self.children.values()):
            return
        for child in self.children.values():
            if child.state != "draining":
                child.drain(0.0)
        if not self.children:
            log.event("stopped", pid=os.getpid())
            self.state = "ended"


def _in_child(work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        log.bug(error)
        logs.finish()
    finally:
        os._exit(code)


def _lock(name: str) -> int:
    """Held by this process alone (a POSIX lock is not inherited), so it goes with the master. Raises StartError."""
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.read(fd, 20).decode("ascii", "replace").strip()
        raise StartError(f"a server runs on this configuration already (pid {pid})") from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd
