"""How often something may happen: rates as people write them ("60/1h") and the one number that keeps them.

The Generic Cell Rate Algorithm (ITU-T I.371): a bucket of so many tokens refills evenly over `period`; a token comes
back every `step = period / tokens` seconds. All that is remembered is `full`, the time at which the bucket will be full
again; taking n tokens moves it n steps on, and it may never lie more than `period` ahead of now. So an idle key needs
no memory at all, and there is no window whose edge lets a double burst through.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SHAPE = re.compile(r"\s*([0-9]{1,9})\s*/\s*([0-9]{0,9}(?:\.[0-9]{1,6})?)\s*(s|m|h|d)\s*")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SLACK = 1e-6  # of a step, for the rounding of sums of floats


class Rate(NamedTuple):
    """`tokens` in `period` seconds."""

    tokens: int
    period: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read "60/1h", "5/30s" or "100/d". Raises ValueError."""
        shape = _SHAPE.fullmatch(text)
        if not shape:
            raise ValueError(f'{text[:40]!r} is not a rate (write it as "60/1h": 60 in one hour; units s, m, h, d)')
        count, period = int(shape[1]), float(shape[2] or 1) * _UNITS[shape[3]]
        if count < 1 or not 0 < period <= 366 * 86400:
            raise ValueError(f"the rate {text!r} must allow at least 1, in at most 366 days")
        return cls(count, period)

    @property
    def step(self) -> float:
        """Seconds until one token comes back."""
        return self.period / self.tokens


class Grant(NamedTuple):
    """`tokens` taken (0: too soon), `left` in the bucket, `wait` seconds until what was needed would be there."""

    tokens: int
    left: int
    wait: float


def available(rate: Rate, full: float, now: float) -> int:
    """Tokens in a bucket that is full again at `full`."""
    return max(0, min(rate.tokens, int((rate.period - max(0.0, full - now)) / rate.step + _SLACK)))


def take(rate: Rate, full: float, now: float, need: int = 1, want: int = 0) -> tuple[float, Grant]:
    """Take `need` tokens, or none; up to `want` while more than that is there. The new `full` and what was granted.

    What goes beyond need is at most an eighth of what is left, so that one taker's stock never starves the others.
    `need` beyond the bucket's size can never be granted: `wait` is then infinite.
    """
    there = available(rate, full, now)
    if need > there:
        wait = max(full, now) + need * rate.step - rate.period - now if need <= rate.tokens else float("inf")
        return full, Grant(0, there, max(wait, 0.0))
    tokens = need + max(0, min(want - need, (there - need) // 8))
    return max(full, now) + tokens * rate.step, Grant(tokens, there - tokens, 0.0)


def give(rate: Rate, full: float, tokens: int) -> float:
    """Put tokens back; the new `full`."""
    return full - tokens * rate.step
