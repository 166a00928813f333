"""Numbers and texts nobody can foresee. `source` is the world's: a test gives one with a seed."""

from __future__ import annotations

import random as random_

from mta.rules.words.pure import lua

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SOURCE: random_.Random = random_.SystemRandom()


@lua
def number(first: int, last: int, source: random_.Random = SOURCE) -> int:
    """A whole number from first to last, both possible."""
    if first > last:
        raise ValueError(f"there is no number from {first} to {last}")
    return source.randint(first, last)


@lua
def text(length: int, source: random_.Random = SOURCE) -> str:
    """Letters and digits."""
    if not 0 <= length <= 1024:
        raise ValueError("a random text has 0 to 1024 characters")
    return "".join(source.choices(ALPHABET, k=length))
