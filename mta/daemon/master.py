"""The master: binds the sockets, makes the processes, keeps them alive, changes them without losing a connection.

It has no event loop and runs no code of the mail path: it sleeps in sigtimedwait, wakes for signals (a message of a
child arrives as SIGIO) or a few times a second, and looks at everything. Nothing here may block or raise.

==========  ===================================  =======================================================
state       what the children do                 leaves it
==========  ===================================  =======================================================
starting    the first workers get ready          all ready -> serving; one failed -> the server ends with 1
serving     workers work; a dead one is          SIGTERM, SIGINT, mta stop -> stopping
            replaced, a neighbour watches its
            sockets, another adopts its spool
stopping    workers finish open work, the        all gone -> the end; a second signal hurries, a third kills
            registry goes last
==========  ===================================  =======================================================

A reload is a `Change` in hand beside that: rules and certificates are prepared in every worker and put in force only
when all of them agree; anything else is a new generation of workers, and the old one drains when the new one is ready.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import mta
from mta import config as configuration
from mta.daemon import channel, logs, privileges, registry, systemd, worker
from mta.daemon.change import Change, certificates
from mta.daemon.child import Child, Pulses
from mta.daemon.generation import Generation, contexts
from mta.daemon.listening import ListenError, Listening
from mta.daemon.watching import Watch
from mta.log import log
from mta.settings import Settings

SIGNALS = {signal.SIGCHLD, signal.SIGIO, signal.SIGHUP, signal.SIGTERM, signal.SIGINT}
TICK = 0.25  # seconds between two looks when nothing happens
SCAN = 2.0  # between two looks for spool folders nobody owns
PATIENCE = 30.0  # for new workers or new rules to be ready
REGISTRY = -1


class StartError(Exception):
    """The server cannot start; says why."""


class Master:
    def __init__(self, config: configuration.Config) -> None:
        self.config = config
        self.state = "starting"
        self.children: dict[int, Child] = {}
        self.generation: Generation
        self.change: Change | None = None
        self.asked: list[int | None] = []  # reloads asked for while one is in hand
        self.listening = Listening(systemd.listen_fds())
        self.pulses = Pulses()
        self.watch: Watch | None = None
        self.exit_code = 0
        self.began = time.time()
        self._signals = 0  # how often we were told to stop
        self._looked = time.monotonic()
        self._scan_at = 0.0
        self._respawn: dict[int, tuple[float, int]] = {}  # slot: (when, deaths in a row)

    @property
    def settings(self) -> Settings:
        return self.config.settings

    # -- the beginning -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop; the exit code. Raises StartError."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        signal.signal(signal.SIGIO, lambda *_: None)  # its default is death, should a library have started a thread
        self._open()
        self._fork(REGISTRY, self.generation)
        for slot in range(self.settings.server.workers):
            self._fork(slot, self.generation)
        try:
            while self.state != "ended":
                self._wait()
                self._reap()
                self._hear()
                self._look()
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
                for folder in (server.run, settings.spool.path, *logs.folders(settings.log)):
                    privileges.give(folder, *who)
                for name in logs.paths(settings.log):
                    if os.path.isfile(name) and not os.path.islink(name) and os.stat(name).st_uid == 0:
                        os.chown(name, *who)
                privileges.drop(*who)
            os.makedirs(settings.spool.path, mode=0o700, exist_ok=True)
            privileges.readable(certificates(settings))
            logs.in_master(settings.log)
            if settings.rules.watch:
                self.watch = Watch(settings.rules.path)
        except (ListenError, privileges.PrivilegeError, OSError, ValueError) as error:
            raise StartError(str(error)) from None

    def _first_generation(self) -> Generation:
        until = time.monotonic() + 3.0  # the workers of a master that was killed may still hold the addresses
        while True:
            try:
                bound = self.listening.take(self.settings.listener, self.settings.server.workers)
                break
            except ListenError:
                if time.monotonic() > until:
                    raise
                signal.sigtimedwait((), 0.1)
        return Generation(1, self.config, bound, contexts(self.settings, {}))

    # -- one turn ----------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        about = signal.sigtimedwait(SIGNALS, TICK)
        while about:
            if about.si_signo in (signal.SIGTERM, signal.SIGINT):
                self.stop(signal.Signals(about.si_signo).name)
            elif about.si_signo == signal.SIGHUP:
                self.reload(None)
            about = signal.sigtimedwait(SIGNALS, 0)

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
                log.event("worker_stuck", worker=child.slot, pid=child.pid, seconds=round(silent, 1))
                child.forgive(now)
                child.kill()
            elif child.killed_at is not None and now > child.killed_at:
                child.kill()
        if self.state == "serving":
            self._respawn_due(now)
            if now >= self._scan_at:
                self._give_folders(now)
            if self.watch and self.watch.changed(now):
                self.reload(None, what="rules")
        if self.change and now > self.change.until:
            self._give_up("the workers were not ready in time")
        if self.state != "starting":
            systemd.alive(now)

    # -- children ----------------------------------------------------------------------------------------------------

    def _fork(self, slot: int, generation: Generation) -> Child:
        here, there = channel.pair()
        pulse = self.pulses.take()
        gc.freeze()  # what the parent has made stays shared memory
        pid = os.fork()
        if pid == 0:
            here.close()
            for other in self.children.values():
                other.channel.close()  # else nobody would see an end of file when the master dies
            beat = lambda: self.pulses.beat(pulse)  # noqa: E731
            if slot == REGISTRY:
                self.listening.close()
                _in_child(lambda: registry.run(self.settings, there, beat))
            _in_child(lambda: worker.run(generation, slot, there, beat))
        there.close()
        here.signal_me()
        child = self.children[pid] = Child(pid, slot, generation.number if slot >= 0 else 0, here, pulse)
        return child

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
                child.folders.add(folder)
            case {"say": "not mine", "folder": str(folder)}:
                child.folders.discard(folder)
            case {"say": "prepared" | "in force", "error": str(error)} if self.change:
                if error:
                    self._give_up(error)
                elif self.change.heard(child.pid, words["say"]):
                    self._change_done()
            case {"ask": "reload", "id": int(asked)}:
                self.reload(asked)
            case {"ask": "stop", "id": int(asked)}:
                self._answer(asked, pid=os.getpid(), drain=self.settings.server.drain)
                self.stop("mta stop")
            case {"ask": "status", "id": int(asked)}:
                self._answer(asked, **self.status())

    def _ready(self, child: Child) -> None:
        if child.slot < 0:
            return
        log.event("worker_started", worker=child.slot, pid=child.pid, generation=child.generation)
        if self.change and self.change.new and child.generation == self.change.new.number:
            if self.change.heard(child.pid, "prepared"):
                self._change_done()
        elif self.state == "starting":
            if len(list(self.workers(state="ready"))) == self.settings.server.workers:
                self._serving()
        elif child.state == "ready":
            for other in self.workers(state="ready"):
                if other is not child:
                    other.send(do="unwatch", slot=child.slot)

    def _serving(self) -> None:
        self.state = "serving"
        addresses = [name for _, bound in self.generation.bound for name in bound.names()]
        log.event(
            "started",
            pid=os.getpid(),
            workers=self.settings.server.workers,
            version=mta.__version__,
            listeners=addresses,
        )
        systemd.notify(READY=1, STATUS=f"Taking mail on {', '.join(addresses) or 'no address'}")
        print(f"mta: taking mail on {', '.join(addresses) or 'no address'}", file=sys.stderr, flush=True)

    def _ended(self, child: Child, status: int) -> None:
        child.channel.close()
        self.pulses.give_back(child.pulse)
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        now = time.monotonic()
        self._scan_at = 0.0
        if child.state == "draining" and code == 0:
            if child.slot >= 0:
                log.event("worker_stopped", worker=child.slot, pid=child.pid, generation=child.generation)
        else:
            log.event("worker_died", worker=child.name, pid=child.pid, status=child.error or how)
        if self.change and child.pid in self.change.waiting:
            self._lost_in_change(child, how)
        if self.state == "starting" and child.state != "draining":
            print(f"mta: {child.error or f'{child.name} died at its start ({how})'}", file=sys.stderr)
            self.exit_code = 1
            self.stop("the start failed")
        elif self.state == "serving" and (child.slot < 0 or child.generation == self.generation.number):
            self._plan(child, now)
        elif self.state == "serving" and not any(
            other.slot >= 0 and other.generation != self.generation.number for other in self.children.values()
        ):
            self._old_gone()
        if self.state == "stopping":
            self._stopping()

    def _plan(self, child: Child, now: float) -> None:
        """A replacement: at once the first time, ever later if it keeps dying young."""
        deaths = self._respawn.get(child.slot, (0.0, 0))[1] + 1 if now - child.started < 10 else 1
        wait = 0.0 if deaths == 1 else min(30.0, 0.1 * 2**deaths)
        self._respawn[child.slot] = (now + wait, deaths)
        for neighbour in self.workers(state="ready"):
            neighbour.send(do="watch", slot=child.slot)
            break
        self._respawn_due(now)

    def _respawn_due(self, now: float) -> None:
        running = {child.slot for child in self.workers()} | {
            child.slot for child in self.children.values() if child.slot == REGISTRY
        }
        for slot, (when, _) in list(self._respawn.items()):
            if slot >= self.settings.server.workers:
                del self._respawn[slot]
            elif slot not in running and now >= when:
                self._fork(slot, self.generation)

    def _give_folders(self, now: float) -> None:
        """Spool folders without an owner go to the ready workers in turn. One that is locked by others comes back."""
        self._scan_at = now + SCAN
        ready = sorted(self.workers(state="ready"), key=lambda child: len(child.folders))
        owned = set().union(*(child.folders for child in self.children.values()))
        if not ready:
            return
        for n, folder in enumerate(sorted(set(worker.spool_folders(self.settings.spool.path)) - owned)):
            taker = ready[n % len(ready)]
            if taker.send(do="adopt", folder=folder):
                taker.folders.add(folder)

    # -- reload ------------------------------------------------------------------------------------------------------

    def reload(self, asked: int | None, what: str = "") -> None:
        """Read everything again. `asked` is the question to answer (None: a signal); `what` "rules": only those."""
        if self.state != "serving":
            self._answer(asked, error=f"the server is {self.state}")
            return
        if self.change:
            self.asked.append(asked)
            return
        systemd.reloading()
        try:
            config = self.config if what else configuration.read(self.config.path)
            self._fixed(config.settings)
            privileges.readable(certificates(config.settings))
            if config.settings == self.settings:
                contexts(config.settings, {})  # a pair that does not fit is refused before any worker sees it
                self._change_rules(asked)
            else:
                self._change_generation(asked, config)
        except (configuration.ConfigError, ListenError, privileges.PrivilegeError, OSError, ValueError) as error:
            self._reload_failed([asked], str(error))

    def _fixed(self, wanted: Settings) -> None:
        for name in ("run", "user", "group"):
            if getattr(wanted.server, name) != getattr(self.settings.server, name):
                raise ValueError(f"{self.config.path}: server.{name} cannot change while the server runs; restart it")

    def _change_rules(self, asked: int | None) -> None:
        ready = list(self.workers(state="ready"))
        self.change = Change([asked], None, {child.pid for child in ready}, time.monotonic() + PATIENCE)
        for child in ready:
            child.send(do="prepare")
        if not ready:
            self._change_done()

    def _change_generation(self, asked: int | None, config: configuration.Config) -> None:
        settings = config.settings
        made = contexts(settings, self.generation.contexts)
        bound = self.listening.take(settings.listener, settings.server.workers)
        new = Generation(self.generation.number + 1, config, bound, made)
        self.change = Change([asked], new, set(), time.monotonic() + PATIENCE)
        for slot in range(settings.server.workers):
            self.change.waiting.add(self._fork(slot, new).pid)

    def _change_done(self) -> None:
        """Everybody has agreed to the step in hand."""
        change = self.change
        if change is None:
            return
        if change.new is None and change.step == "prepared":
            ready = list(self.workers(state="ready"))
            change.next_step("in force", {child.pid for child in ready})
            for child in ready:
                child.send(do="commit")
            if ready:
                return
        self.change = None
        if change.new:
            self._replace(change.new)
        log.event("reloaded", what="settings" if change.new else "rules", generation=self.generation.number)
        systemd.notify(READY=1)
        for asked in change.asked:
            self._answer(asked, what="settings" if change.new else "rules", generation=self.generation.number)
        self._next_reload()

    def _replace(self, new: Generation) -> None:
        old = list(self.workers())
        self.generation, self.config = new, new.config
        self._respawn = {}
        self._scan_at = 0.0
        settings = self.settings
        self.watch = Watch(settings.rules.path) if settings.rules.watch else None
        logs.in_master(settings.log)
        for child in self.children.values():
            if child.slot == REGISTRY:
                child.send(do="log", to=settings.log.to, level=settings.log.level)
        for child in old:
            child.drain(settings.server.drain)
        if not old:
            self._old_gone()

    def _old_gone(self) -> None:
        if not self.change:
            self.listening.forget(self.settings.listener)

    def _lost_in_change(self, child: Child, how: str) -> None:
        if self.change and self.change.new:
            self._give_up(child.error or f"a new worker died at its start ({how})")
        elif self.change and self.change.heard(child.pid, self.change.step):
            self._change_done()

    def _give_up(self, error: str) -> None:
        change, self.change = self.change, None
        if change is None:
            return
        if change.new:
            for child in self.workers(change.new.number):
                child.state = "draining"
                child.kill()
            self.listening.back_to(self.generation.bound)
        else:
            for child in self.workers(state="ready"):
                child.send(do="abort")
        self._reload_failed(change.asked, error)

    def _reload_failed(self, asked: list[int | None], error: str) -> None:
        log.event("reload_failed", error=error)
        systemd.notify(READY=1, STATUS="The last reload was refused; see the log")
        for each in asked:
            self._answer(each, error=error)
        self._next_reload()

    def _next_reload(self) -> None:
        if self.asked and not self.change:
            asked, self.asked = self.asked, []
            self.reload(asked[0])
            if self.change:
                self.change.asked.extend(asked[1:])  # one reload answers all who asked before it began
            else:
                self.asked.extend(asked[1:])
                self._next_reload()

    def _answer(self, asked: int | None, **words: Any) -> None:
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
            ],
            "children": [
                {"name": c.name, "pid": c.pid, "state": c.state, "generation": c.generation, "folders": len(c.folders)}
                for c in self.children.values()
            ],
        }

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Finish open work within server.drain seconds; told again, hurry; told once more, kill."""
        self._signals += 1
        if self.state != "stopping":
            self.state = "stopping"
            log.event("stopping", pid=os.getpid(), reason=reason)
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
        log.schedule = None
        log.bug(error)
        log.flush()
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
