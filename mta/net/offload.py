"""Real threads and the way back into the loop: whatever would block (disks, resolvers of libc) goes through here.

`run` borrows a thread from a pool. `Batch` owns one thread which, each time it is free, takes everything handed to it
since its last turn: so one fdatasync serves all greenlets that waited for one. Handing over happens at the end of the
loop turn, not at the first item: batches get 1.5 to 2 times larger and nobody waits longer.

A greenlet in `Batch.do` cannot be interrupted: what is thrown at it meanwhile is raised after its item is done.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import gevent
from gevent import get_hub, getcurrent, monkey

T = TypeVar("T")

_start_thread = monkey.get_original("_thread", "start_new_thread")
lock = monkey.get_original("_thread", "allocate_lock")  # a real one, for threads among each other

PATIENCE = 0.005  # seconds an item that can wait does wait, at most
SWITCH = 0.0005  # seconds a thread may keep the interpreter: the default of 5 ms would delay every commit by as much


def run(function: Callable[..., T], *args: Any) -> T:
    """Call `function` in a thread, park the greenlet meanwhile, and return or raise what it did."""
    result, error = get_hub().threadpool.apply(_caught, (function, args))
    if error is not None:
        raise error
    return cast(T, result)


def to_the_end(function: Callable[..., T], *args: Any) -> T:
    """As `run`, but what is thrown at the greenlet meanwhile (a deadline, its end) is raised once the thread is done:
    for work that changes something this greenlet goes on with."""
    task = get_hub().threadpool.spawn(_caught, function, args)
    thrown: BaseException | None = None
    while not task.ready():
        try:
            task.wait()
        except BaseException as stop:
            thrown = thrown or stop
    if thrown is not None:
        raise thrown
    result, error = task.get()
    if error is not None:
        raise error
    return cast(T, result)


def _caught(function: Callable[..., T], args: tuple[Any, ...]) -> tuple[T | None, BaseException | None]:
    try:
        return function(*args), None
    except BaseException as error:  # the pool would print it
        return None, error


def background(function: Callable[..., Any], *args: Any) -> None:
    """Start `function` in a greenlet of its own, soon."""
    gevent.spawn(function, *args)


def pause(seconds: float) -> None:
    """Park this greenlet; 0 lets the others go first."""
    gevent.sleep(seconds)


class _Call:
    __slots__ = ("done", "greenlet", "item", "others", "result")

    def __init__(self, item: Any, greenlet: Any) -> None:
        self.item, self.greenlet = item, greenlet
        self.others: list[Any] = []  # greenlets whose work was added to the item
        self.done = False
        self.result: Any = None


class Batch(Generic[T]):
    """One thread that calls `work(items)` with all items handed over since its last turn.

    `work` returns one result for each item, in order; a BaseException among them is raised in the greenlet that waits
    for it; if `work` itself raises, all of them get that. Belongs to the loop that made it: make it after a fork.
    """

    def __init__(self, work: Callable[[list[Any]], list[Any]], name: str) -> None:
        self.name, self._work = name, work
        self._hub = get_hub()
        self._turn: list[_Call] = []  # of this loop turn
        self._ending = False  # at the end of this turn they are handed over
        self._later = self._hub.loop.timer(PATIENCE)  # for those that can wait
        self._open: _Call | None = None  # the last of them, until it is handed over
        self._handed: deque[list[_Call]] = deque()  # loop -> thread
        self._done: deque[list[_Call]] = deque()  # thread -> loop
        self._bell = lock()  # released: something was handed over
        self._bell.acquire()
        self._ended = lock()  # held while the thread lives
        self._ended.acquire()
        self._closing = False
        self._back = self._hub.loop.async_()
        self._back.start(self._wake)
        if sys.getswitchinterval() > SWITCH:
            sys.setswitchinterval(SWITCH)
        _start_thread(self._run, ())

    def do(self, item: Any, *, patient: bool = False) -> Any:
        """Hand `item` over, park until its result is there, and return or raise it.

        A patient item goes along with the next one that is not, or by itself after PATIENCE: every turn of the thread
        costs the same, however much there is to do in it.
        """
        call = _Call(item, getcurrent())
        if self._closing:
            raise RuntimeError(f"the {self.name} thread has ended")
        if not patient:
            if not self._ending:
                self._ending = True
                self._hub.loop.run_callback(self._hand_over)
        else:
            self._open = call
            if not self._turn:
                self._later.start(self._hand_over, update=True)
        self._turn.append(call)
        return self._wait(call)

    @property
    def open(self) -> Any:
        """The patient item that still waits for company, or None: who can, adds to it and calls `along`."""
        return None if self._open is None else self._open.item

    def along(self) -> Any:
        """Park until the open item is done, and return or raise its result; who handed it over goes on first."""
        call = self._open
        assert call is not None
        call.others.append(getcurrent())
        return self._wait(call)

    def _wait(self, call: _Call) -> Any:
        thrown: BaseException | None = None
        while not call.done:
            try:
                self._hub.switch()
            except BaseException as error:
                thrown = thrown or error
        if thrown is not None:
            raise thrown
        if isinstance(call.result, BaseException):
            raise call.result
        return call.result

    def close(self) -> None:
        """Finish what was handed over and end the thread. Blocks the loop for that long; call it last."""
        if self._closing:
            return
        if self._turn:
            self._hand_over()
        self._closing = True
        self._ring()
        self._ended.acquire()
        self._hub.loop.run_callback(self._end)  # the waiting greenlets must be woken from the hub

    # -- on the loop -------------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        self._ending = False
        self._open = None
        if self._turn:
            self._later.stop()
            self._handed.append(self._turn)
            self._turn = []
            self._ring()

    def _end(self) -> None:
        self._wake()
        self._back.stop()
        self._back.close()
        self._later.close()

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:  # it rings already
            pass

    def _wake(self) -> None:
        while self._done:
            for call in self._done.popleft():
                call.done = True
                for greenlet in (call.greenlet, *call.others):
                    try:
                        greenlet.switch()
                    except BaseException:  # a raw greenlet that died of it: its neighbours must still be woken
                        self._hub.handle_error(greenlet, *sys.exc_info())

    # -- in the thread: no gevent, no logging ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._bell.acquire()
                closing = self._closing
                calls: list[_Call] = []
                while self._handed:
                    calls += self._handed.popleft()
                if calls:
                    self._turn_of_work(calls)
                if closing:
                    return
        finally:
            self._ended.release()

    def _turn_of_work(self, calls: list[_Call]) -> None:
        try:
            results = self._work([call.item for call in calls])
            if len(results) != len(calls):
                raise RuntimeError(f"{self.name}: {len(results)} results for {len(calls)} items")
        except BaseException as error:
            results = [error] * len(calls)
        for call, result in zip(calls, results, strict=True):
            call.result = result
        self._done.append(calls)
        self._back.send()
