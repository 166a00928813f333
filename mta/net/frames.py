"""Messages between our own processes: a length of four bytes, then JSON; and what a call to another process can end in.

A call is `[number, word, arguments]`; its answer `[number, null, result]` or `[number, kind, text]` for an error of
that kind. Numbers let many calls wait on one connection and be answered in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

MAX = 1 << 20  # bytes in one message

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Unavailable(Exception):
    """No connection, no answer in time: whether the call took place is not known."""


class CallFailed(Exception):
    """The other side answered with an error: `kind` names it, `text` explains it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


def frame(message: Any) -> bytes:
    """A message as it goes over the wire. Raises ValueError when it is too long or no JSON."""
    try:
        text = _encode(message)
    except (TypeError, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"this cannot be sent: {error}") from None
    if len(text) > MAX:
        raise ValueError(f"a message of {len(text)} bytes is longer than {MAX}")
    return len(text).to_bytes(4, "big") + text


class Frames:
    """Cuts what arrives into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, arrived: bytes) -> Iterator[Any]:
        """The messages complete by now. Raises ValueError for bytes that are none: give the connection up."""
        held = self._held
        held += arrived
        start = 0
        try:
            while len(held) - start >= 4:
                size = int.from_bytes(held[start : start + 4], "big")
                if size > MAX:
                    raise ValueError(f"a message of {size} bytes is announced, longer than {MAX}")
                if len(held) - start - 4 < size:
                    break
                text = bytes(held[start + 4 : start + 4 + size])
                start += 4 + size
                yield _decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(f"what arrived is no JSON: {error}") from None
        finally:
            del held[:start]
