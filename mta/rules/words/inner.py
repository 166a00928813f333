"""Words about the mail's own content and envelope: how they are asked, and the parts a rule holds.

Such a word is answered at once, inside the call of Lua, as long as that costs little. What takes longer the larger the
mail is leaves Lua first once there are more than `SMALL` bytes, and is done in a thread: the greenlet waits until the
thread has finished, whatever happens meanwhile, because the mail must not be changed by two at once.

A part crosses to Lua as a number, never given twice in the life of the process: 0 is the mail itself.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mta.message.message import Message
from mta.message.mime import Part
from mta.rules.transaction import Transaction
from mta.rules.words.pure import Tagged
from mta.rules.words.word import Word, word

SMALL = 65_536  # bytes of mail, and of what rules put into it, up to which nobody waits

_numbers = itertools.count(1)


class Inner(NamedTuple):
    """What answers a word: `answer(transaction, number of the part, *arguments)`. `grows`: with the mail's size."""

    answer: Callable[..., Any]
    grows: bool = True


class Parts:
    """The parts of one message that rules hold. `added`: bytes rules have put into it."""

    __slots__ = ("added", "by_number", "message", "numbers")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.by_number: dict[int, Part] = {}
        self.numbers: dict[Part, int] = {}
        self.added = 0

    def number(self, part: Part) -> int:
        known = self.numbers.get(part)
        if known is None:
            known = self.numbers[part] = next(_numbers)
            self.by_number[known] = part
        return known


def parts_of(tx: Transaction) -> Parts:
    """Raises ValueError while the mail has no content."""
    if tx.message is None:
        raise ValueError("the mail has no content yet")
    held = tx.parts
    if held is None or held.message is not tx.message:
        held = tx.parts = Parts(tx.message)
    return held


def part_of(tx: Transaction, number: int) -> Part:
    """The part behind a number; the mail itself behind 0. Raises ValueError for a part of a mail that is over."""
    held = parts_of(tx)
    if not number:
        return held.message.root
    found = held.by_number.get(number)
    if found is None:
        raise ValueError("this part belongs to another mail, or to a stage that is over")
    return found


def one(tx: Transaction, part: Part | None) -> Tagged | None:
    """A part as an answer."""
    return None if part is None else Tagged("part", parts_of(tx).number(part))


def several(tx: Transaction, parts: Iterable[Part]) -> Tagged:
    held = parts_of(tx)
    return Tagged("parts", " ".join(str(held.number(part)) for part in parts))


def takes_long(tx: Transaction, arguments: tuple[Any, ...]) -> bool:
    """Is the mail, with what rules gave it and are giving now, so large that somebody else would notice?

    Raises ValueError when they give it too much.
    """
    if tx.message is None:
        return False
    given = sum(len(value) for value in arguments if isinstance(value, str))
    tx.give(given)
    held = tx.parts
    if held is not None:
        held.added += given
        given = held.added
    return len(tx.message.raw) + given > SMALL


def in_thread(inner: Inner, tx: Transaction, *arguments: Any) -> Any:
    """The answer, found in a thread; in a program without a loop nobody else has to wait."""
    if "gevent" not in sys.modules:
        return inner.answer(tx, *arguments)
    from mta.net import offload

    return offload.to_the_end(inner.answer, tx, *arguments)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of a function that changes nothing, found in a thread: nobody has to wait to its end."""
    if "gevent" not in sys.modules:
        return function(*arguments)
    from mta.net import offload

    return offload.run(function, *arguments)


Declared = tuple[Word, Inner]


def declare(
    signature: str,
    meaning: str,
    example: str,
    answer: Callable[..., Any],
    stages: str = "preq..",
    *,
    grows: bool = True,
) -> Declared:
    """A word about the mail. One that grows is declared as one that waits."""
    return word(signature, meaning, example, stages, asks=True, waits=grows), Inner(answer, grows)
