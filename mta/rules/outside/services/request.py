"""What a service is asked and what it answers: the same two shapes for every type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

Flat = str | int | float | bool | None  # what may cross to Lua; str is latin-1 text: bytes in disguise
Buffer = bytes | memoryview


class Request(NamedTuple):
    """One call. Which of `mail`, `part` and `text` is used is for the service's settings to say.

    `values` fill the placeholders of the settings ("{sender}"); `mail` and `part` are pieces that are streamed;
    `timeout` (seconds) is what the stage has left; `about` goes into the log: session, mail, stage, rule, where; `hide`
    takes out of a text what must not be there.
    """

    values: Mapping[str, str | bytes] = {}
    mail: Iterable[Buffer] | None = None
    part: Iterable[Buffer] | None = None
    text: bytes | None = None
    timeout: float | None = None
    about: Mapping[str, str] = {}
    hide: Callable[[str], str] = str


class Answer(NamedTuple):
    """What came back. For a program: exit `code` or `signal`, and what it wrote (`cut`: there was more of it).

    `failed` is "" or the reason why this is no answer; `ms` how long it took.
    """

    code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False
    cut: bool = False
    failed: str = ""
    ms: float = 0.0

    def flat(self) -> dict[str, Flat]:
        """The fields as a rule sees them."""
        return {name: v.decode("latin-1") if isinstance(v, bytes) else v for name, v in self._asdict().items()}
