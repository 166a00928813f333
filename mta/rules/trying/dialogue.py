"""Conversations in the notation of RFC 5321's own examples: read from a text, and played against a server.

    # anything after a sign like this one is for the reader
    with smtp.max_errors = 3          a setting, as in mta.toml         with domain example.test users=any
    with client 192.0.2.1             where the client comes from       with listener submission
    with dns a.test TXT "v=spf1 -all" an answer of the name servers     with rules conf/rules/main.lua
    with rules                        ... or the rules themselves, in the indented lines that follow
    with file lists/known.txt         another file of the administrator's, in the lines that follow
    with service clamav code=1 stdout="FOUND"    what a service answers     with clock 2026-01-01T10:00:00Z
    with list blocked.txt b.test             entries of a list               with store mails 3
    with file rules/fallback.lua = lua/examples/anti-relay.lua    ... or that one
    play lines bytes                  only in these ways; by default lines, bytes and pipelined

    S: 220 mx.example.test *          what the server says; * stands for anything
    S: ...                            any further lines of this reply
    C: EHLO client.example            what the client says; CRLF is added
    C| MAIL FR                        the same without CRLF
    start tls                         both now begin TLS
    wait 0.2                          seconds
    half close                        the client has said its last byte, but still listens
    hang up, reset                    the client leaves, properly or not
    closed                            the server has hung up
    silent                            the server says nothing for 0.3 seconds

    then log refused rule="no *"      afterwards the log has such an event    then log none accepted
    then spool 1                      so many mails were kept                 then spool empty
    then header Received: from *      the (last) mail has such a field        then no header X-Spam:
    then body hello*                  the mail's body                         then held quarantine virus
    then mailbox ann@example.test 1   so many mails were delivered there

In what is said, \\r \\n \\t \\0 \\xHH \\\\ are single bytes, a{9000} is nine thousand times the letter a, \\{ a brace.
What `with` and `then` mean is for the caller to see to: the player speaks to a socket and knows no server.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

WAYS = ("lines", "bytes", "pipelined")
PATIENCE = 10.0  # seconds for a reply
SILENCE = 0.3
# RFC 2920 3.1: what may stand in the middle of a pipelined group. After anything else the answer must be awaited.
GROUPED = ("MAIL", "RCPT", "RSET")

_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))|(.)\{(\d+)\}", re.S)
_PLAIN = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0"}


class Step(NamedTuple):
    """One line: its number, what it does (`C`, `C|`, `S`, or a word), and to what."""

    line: int
    kind: str
    text: str


class Then(NamedTuple):
    """One expectation for afterwards."""

    line: int
    subject: str
    text: str


@dataclass
class Dialogue:
    """A text, taken apart. `given` are the `with` lines as (first word, rest)."""

    name: str
    given: list[tuple[str, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    then: list[Then] = field(default_factory=list)
    ways: tuple[str, ...] = WAYS

    def all(self, word: str) -> list[str]:
        return [rest for first, rest in self.given if first == word]

    def one(self, word: str, default: str = "") -> str:
        return (self.all(word) or [default])[-1]


class DialogueError(Exception):
    """The text is no dialogue, or what happened is not what it says: "relay.smtp:14: expected ... got ..."."""


class Socket(Protocol):
    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


def read(path: Path) -> Dialogue:
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, name: str = "dialogue") -> Dialogue:
    """Raises DialogueError."""
    made = Dialogue(name)
    block: list[str] | None = None  # the indented lines after `with rules`
    of = ""  # the file they are, if it is not main.lua
    for number, line in enumerate(text.splitlines(), 1):
        if block is not None and (line[:1] in (" ", "\t") or not line.strip()):
            block.append(line)
            continue
        if block is not None:
            made.given.append(_block(of, block))
            block = None
        word, _, rest = line.partition(" ")
        if not line.strip() or line.startswith("#"):
            continue
        if line[:2] in ("C:", "S:", "C|"):
            made.steps.append(Step(number, line[:2].rstrip(":"), line[3:]))
        elif word == "with":
            first, _, value = rest.strip().partition(" ")
            if (first == "rules" and not value) or (first == "file" and " = " not in value):
                of, block = value.strip(), []
            else:
                made.given.append((first, value.strip()))
        elif word == "play":
            made.ways = tuple(rest.split())
            if not set(made.ways) <= set(WAYS):
                raise DialogueError(f"{name}:{number}: play {' '.join(WAYS)}, or some of them")
        elif word == "then":
            subject, _, value = rest.partition(" ")
            made.then.append(Then(number, subject, value.strip()))
        elif word == "wait" or line.strip() in ("start tls", "half close", "hang up", "reset", "closed", "silent"):
            made.steps.append(Step(number, line.strip() if word != "wait" else "wait", rest))
        else:
            raise DialogueError(f"{name}:{number}: not a line of a dialogue: {line!r}")
    if block is not None:
        made.given.append(_block(of, block))
    return made


def _block(of: str, lines: list[str]) -> tuple[str, str]:
    """What is given by indented lines: ("rules", text), or ("file", name and text)."""
    return ("file", f"{of}\n{_dedent(lines)}") if of else ("rules", _dedent(lines))


def _dedent(lines: list[str]) -> str:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:] for line in lines).strip("\n") + "\n"


def said(text: str) -> bytes:
    """The bytes a line stands for."""

    def byte(match: re.Match[bytes]) -> bytes:
        if match[1]:
            return bytes([int(match[1], 16)])
        if match[2]:
            return _PLAIN.get(match[2], match[2])
        return match[3] * int(match[4])

    return _ESCAPE.sub(byte, text.encode("utf-8"))


def like(text: str, pattern: str) -> bool:
    """`text` fits `pattern`, in which * stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.S) is not None


# -- playing ------------------------------------------------------------------------------------------------------


class Player:
    """The client's part. `start_tls(socket) -> socket` is needed only by dialogues that say so."""

    def __init__(
        self,
        dialogue: Dialogue,
        socket: Any,
        way: str = "lines",
        start_tls: Callable[[Any], Any] | None = None,
    ) -> None:
        self.dialogue, self.socket, self.way = dialogue, socket, way
        self.start_tls = start_tls
        self.transcript: list[str] = []
        self._buffer = b""
        self._ended = False

    def play(self) -> None:
        """Raises DialogueError, with all that was said up to there."""
        steps, at = self.dialogue.steps, 0
        self.socket.settimeout(PATIENCE)
        try:
            while at < len(steps):
                at = self._group(steps, at) if self.way == "pipelined" else self._step(steps, at)
        finally:
            self.socket.close()

    def _step(self, steps: Sequence[Step], at: int) -> int:
        step = steps[at]
        if step.kind in ("C", "C|"):
            self._send(step, said(step.text) + (b"\r\n" if step.kind == "C" else b""))
        elif step.kind == "S":
            return self._hear(steps, at)
        else:
            self._act(step)
        return at + 1

    def _group(self, steps: Sequence[Step], at: int) -> int:
        """Send as much in one piece as a client may, then hear all the answers."""
        if steps[at].kind != "C":
            return self._step(steps, at)
        pile, hears = b"", []
        while at < len(steps):
            step = steps[at]
            if step.kind == "S":
                hears.append(at)
            elif step.kind != "C" or (hears and not self._may_follow(steps, at)):
                break
            else:
                self.transcript.append(f"C: {step.text}")
                pile += said(step.text) + b"\r\n"
            at += 1
        self._write(pile, steps[at - 1])
        heard = -1
        for first in hears:
            if first > heard:
                heard = self._hear(steps, first) - 1
        return at

    def _may_follow(self, steps: Sequence[Step], at: int) -> bool:
        """The client's line before this one was one whose answer need not be awaited."""
        before = at - 1
        while before >= 0 and steps[before].kind == "S":
            before -= 1
        if before < 0 or steps[before].kind != "C":
            return False
        return said(steps[before].text)[:4].upper().decode("latin-1") in GROUPED

    def _send(self, step: Step, data: bytes) -> None:
        self.transcript.append(f"{step.kind}{':' if step.kind == 'C' else ''} {step.text}")
        if self.way == "bytes" and len(data) <= 4096:
            for n in range(len(data)):
                self._write(data[n : n + 1], step)
        else:
            self._write(data, step)

    def _write(self, data: bytes, step: Step) -> None:
        try:
            self.socket.sendall(data)
        except (ConnectionError, BrokenPipeError):
            self._ended = True  # its last words may still be there to read

    def _act(self, step: Step) -> None:
        self.transcript.append(step.kind)
        if step.kind == "wait":
            time.sleep(float(step.text))
        elif step.kind == "start tls":
            if self.start_tls is None:
                raise self._wrong(step, "TLS", "no way to begin it here")
            self.socket = self.start_tls(self.socket)
        elif step.kind == "half close":
            self.socket.shutdown(1)
        elif step.kind == "hang up":
            self.socket.close()
        elif step.kind == "reset":
            self.socket.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER, 0 seconds: RST
            self.socket.close()
        elif step.kind == "closed":
            line = self._line()
            if line is not None:
                raise self._wrong(step, "the end", line)
        elif step.kind == "silent":
            self.socket.settimeout(SILENCE)
            try:
                line = self._line()
                raise self._wrong(step, "silence", line or "the end")
            except TimeoutError:
                self.socket.settimeout(PATIENCE)

    def _hear(self, steps: Sequence[Step], at: int) -> int:
        """One reply of the server, all its lines, against the `S:` lines from here on."""
        wanted = at
        while True:
            step = steps[wanted] if wanted < len(steps) and steps[wanted].kind == "S" else None
            try:
                line = self._line()
            except TimeoutError:
                raise self._wrong(step or steps[at], "", "nothing for a long time") from None
            if line is None:
                raise self._wrong(step or steps[at], "", "the end of the connection")
            self.transcript.append(f"S: {line}")
            last = line[3:4] != "-"
            if step is None:
                raise self._wrong(steps[at], "no further line", line)
            if step.text.strip() == "...":
                after = steps[wanted + 1] if wanted + 1 < len(steps) else None
                if after is not None and after.kind == "S" and like(line, after.text):
                    wanted += 2
                elif last:
                    wanted += 1
            elif like(line, step.text):
                wanted += 1
            else:
                raise self._wrong(step, step.text, line)
            if last:
                return wanted

    def _line(self) -> str | None:
        while b"\r\n" not in self._buffer:
            try:
                data = b"" if self._ended and not self._buffer else self.socket.recv(65536)
            except TimeoutError:
                raise
            except OSError:
                data = b""
            if not data:
                if self._ended or not self._buffer:
                    return None
                break
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode("utf-8", "replace")

    def _wrong(self, step: Step, expected: str, got: str) -> DialogueError:
        so_far = "\n  ".join(line if len(line) < 200 else f"{line[:200]}... ({len(line)})" for line in self.transcript)
        what = expected or step.text
        return DialogueError(f"{self.dialogue.name}:{step.line}: expected {what!r}, got {got!r}\n  {so_far}")


# -- afterwards ---------------------------------------------------------------------------------------------------


class Aftermath(NamedTuple):
    """What there is to look at when the conversation is over."""

    log: Iterable[Mapping[str, Any]]
    mails: Sequence[tuple[Any, bytes]]  # envelope, content, oldest first
    mailbox: Callable[[str], int] = lambda address: 0


def check(dialogue: Dialogue, after: Aftermath) -> None:
    """Every `then` of a dialogue. Raises DialogueError."""
    for then in dialogue.then:
        complaint = _check(then, after)
        if complaint:
            raise DialogueError(f"{dialogue.name}:{then.line}: then {then.subject} {then.text}: {complaint}")


def _check(then: Then, after: Aftermath) -> str:
    subject, text = then.subject, then.text
    if subject == "log":
        return _log(text, list(after.log))
    if subject == "spool":
        wanted = 0 if text == "empty" else int(text)
        return "" if len(after.mails) == wanted else f"{len(after.mails)} mails were kept"
    if subject == "mailbox":
        address, _, count = text.rpartition(" ")
        found = after.mailbox(address)
        return "" if found == int(count) else f"{found} mails are there"
    if not after.mails:
        return "no mail was kept"
    envelope, content = after.mails[-1]
    head, _, body = content.partition(b"\r\n\r\n")
    fields = re.sub(r"\r\n(?=[ \t])", "", head.decode("latin-1")).split("\r\n")
    if subject == "header":
        return "" if any(like(line, text) for line in fields) else "the header is\n" + "\n".join(fields)
    if subject == "no":
        unwanted = text.removeprefix("header").strip()
        found_fields = [line for line in fields if like(line, f"{unwanted}*")]
        return f"it has {found_fields}" if found_fields else ""
    if subject == "body":
        return "" if like(body.decode("latin-1"), said(text).decode("latin-1")) else f"the body is {body[:200]!r}"
    if subject == "held":
        return "" if envelope.held == text else f"held is {envelope.held!r}"
    return "nobody knows how to check that"


def _log(text: str, events: list[Mapping[str, Any]]) -> str:
    words = shlex.split(text)
    none = words[:1] == ["none"]
    event, *wanted = words[1:] if none else words
    fits = [
        entry
        for entry in events
        if entry.get("event") == event
        and all(like(str(entry.get(name, "")), value) for name, _, value in (word.partition("=") for word in wanted))
    ]
    if none:
        return f"it has {fits}" if fits else ""
    return "" if fits else "the log is\n" + "\n".join(map(str, events))
