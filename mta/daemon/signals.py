"""The signals the master waits for, and the wait.

signal.sigtimedwait of Python makes a signal up when the process was stopped (SIGSTOP, a paused container) until the
time was over: it then reads what the kernel has not filled in. A server that was paused ended of a SIGINT that nobody
had sent. So an alarm ends the wait here.
"""

from __future__ import annotations

import signal

WAITED_FOR = {signal.SIGCHLD, signal.SIGIO, signal.SIGHUP, signal.SIGTERM, signal.SIGINT}
BLOCKED = WAITED_FOR | {signal.SIGALRM}  # by who waits


def wait(seconds: float) -> int:
    """The next signal of `WAITED_FOR`, or 0 when none came in time."""
    there = signal.sigtimedwait(WAITED_FOR, 0)  # that does not wait, so it cannot be interrupted
    if there is not None:
        return there.si_signo
    if seconds <= 0:
        return 0
    signal.setitimer(signal.ITIMER_REAL, seconds)
    number = signal.sigwaitinfo(BLOCKED).si_signo
    return 0 if number == signal.SIGALRM else number
