"""The registry: one process for what all workers share, and the place where the command line is answered.

mta status, reload, stop  --control.sock-->  registry  --channel-->  master
mta queue                 --control.sock-->  registry  --worker.PID.sock-->  each worker
workers                   --registry.sock->  registry: words all workers share (`shared`), and the store
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import gevent.socket
from gevent.event import AsyncResult, Event

from mta import settings
from mta.daemon import control, hearing, logs
from mta.daemon.channel import Channel
from mta.daemon.store import DurableStore, StoreCalls
from mta.net import calls, folders
from mta.net.calls import Caller, CallFailed, Unavailable

SOCKET = "registry.sock"
TIMEOUT = 5.0  # seconds for one answer of a worker, which may be stuck


def worker_socket(run: str, pid: int) -> str:
    return os.path.join(run, f"worker.{pid}.sock")


def worker_sockets(run: str) -> dict[str, bool]:
    """The sockets of workers in the folder, and whether such a process lives."""
    found = glob.glob(glob.escape(run) + "/worker.*.sock")
    return {path: os.path.exists(f"/proc/{path.split('.')[-2]}") for path in found}


class Registry:
    def __init__(self, wanted: settings.Settings, channel: Channel) -> None:
        self.run_folder = wanted.server.run
        self.kept = wanted.store
        self.store: StoreCalls
        self.channel = channel
        self.ended = Event()
        self.shared: dict[str, Callable[..., Any]] = {}  # words of registry.sock
        self._answers: dict[int, AsyncResult] = {}
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Raises OSError."""
        for path, lives in worker_sockets(self.run_folder).items():
            if not lives:
                os.unlink(path)
        self.store = StoreCalls(DurableStore(self.kept.path, self.kept.memory))
        hearing.serve_each(os.path.join(self.run_folder, SOCKET), 0o600, self.meet_worker)
        hearing.serve(control.path(self.run_folder), 0o660, self.answer)
        hearing.hear(self.channel, self.heard, self.ended.set)
        self.channel.send(say="ready")

    def heard(self, words: dict[str, Any]) -> None:
        match words:
            case {"answer": int(number)}:
                waiting = self._answers.pop(number, None)
                if waiting:
                    waiting.set(words)
            case {"do": "log", "to": list(to), "level": str(level)}:
                logs.in_child(settings.Log(to=to, level=level))
            case {"do": "drain"}:
                self.ended.set()

    # -- what people ask ---------------------------------------------------------------------------------------------

    def answer(self, word: str, arguments: list[Any]) -> Any:
        match word, arguments:
            case "status", []:
                return self.status()
            case (("reload" | "stop"), []):
                return self.master(word)
            case "worker", [int(pid), str(what), list(rest)]:
                return self.worker(pid, what, *rest)
        raise CallFailed("NoSuchWord", f"the server has no word {word!r}")

    def meet_worker(self, connection: gevent.socket.socket) -> None:
        """Answer one worker's calls until it is gone; then what it was lent returns."""
        try:
            calls.answer_all(connection, partial(self.answer_worker, connection), StoreCalls.AT_ONCE)
        finally:
            self.store.gone(connection)

    def answer_worker(self, worker: object, word: str, arguments: list[Any]) -> Any:
        if word in StoreCalls.WORDS:
            return self.store.answer(worker, word, arguments)
        if word not in self.shared:
            raise CallFailed("NoSuchWord", f"the registry has no word {word!r}")
        return self.shared[word](*arguments)

    def master(self, word: str) -> dict[str, Any]:
        """Ask the master and wait. Raises CallFailed when it refuses."""
        number = next(self._numbers)
        waiting = self._answers[number] = AsyncResult()
        if not self.channel.send(ask=word, id=number):
            raise CallFailed("Unavailable", "the master is gone")
        words: dict[str, Any] = waiting.get()
        if words.get("error"):
            raise CallFailed("Refused", words["error"])
        return {key: value for key, value in words.items() if key != "answer"}

    def status(self) -> dict[str, Any]:
        """What the master knows, with what each worker tells of itself under `work`."""
        status = self.master("status")
        workers = [c for c in status["children"] if c["name"] != "registry" and c["state"] != "starting"]

        def ask(child: dict[str, Any]) -> None:
            try:
                child["work"] = self.worker(child["pid"], "status")
            except (Unavailable, CallFailed) as error:
                child["work"] = {"error": str(error)}

        gevent.joinall([gevent.spawn(ask, child) for child in workers])
        return status

    def worker(self, pid: int, word: str, *arguments: Any) -> Any:
        """One call of one worker. Raises Unavailable, CallFailed."""
        caller = Caller(worker_socket(self.run_folder, pid), f"worker {pid}", TIMEOUT, waits=False)
        try:
            return caller.call(word, *arguments)
        except Unavailable as error:
            raise CallFailed("Unavailable", str(error)) from None
        finally:
            caller.close()


def run(wanted: settings.Settings, channel: Channel, beat: Callable[[], None]) -> None:
    """The whole life of the process."""
    registry = Registry(wanted, channel)
    hearing.begin(wanted.log, beat, registry.ended.set)
    try:
        registry.start()
    except OSError as error:
        channel.send(say="failed", error=f"the registry: {folders.why(error)}")
        logs.finish()
        raise SystemExit(1) from None
    registry.ended.wait()
    registry.store.close()
    logs.finish()
