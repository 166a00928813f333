"""One conversation with another server, in which we are the client (RFC 5321, 2920, 1870, 6152, 3207, 4954).

    new --greet--> ready --send--> ready (clean) | spoilt          (spoilt: only close() is left)
              \\--start_tls--> greet again     ready --log_in--> ready

Replies come one for each command, in order, however many commands went out at once. Whatever makes that doubtful - a
timeout, an exception, a reply that is none, bytes nobody asked for - spoils the conversation: nothing is read or sent
any more, because a reply believed for the wrong command is a mail lost or a mail doubled.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Refused, Reply
from mta.net import clock
from mta.net.stream import Gone, Stream, TimedOut

LINE = 4096  # bytes of a reply line we read
LINES = 200  # lines of a reply
BATCH = 50  # RCPTs sent ahead of their replies: both sides' buffers hold that much for sure
CHUNK = 1 << 16

_SHAPE = re.compile(r"([2-5][0-9][0-9])(?:([ -])(.*))?", re.S)
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|$)")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")

Pieces = Sequence[bytes | memoryview]


class Lost(Exception):
    """The conversation broke. `reply` (4xx) says how, `said`: in the server's words (421).

    `content`: it broke behind the mail's last dot, so the mail may have been taken.
    """

    def __init__(self, reply: Reply, *, said: bool = False, content: bool = False) -> None:
        super().__init__(str(reply))
        self.reply, self.said, self.content = reply, said, content


class Answer(NamedTuple):
    """What became of one recipient; `said`: in the server's own words."""

    recipient: Recipient
    reply: Reply
    said: bool = True


class Client:
    """A conversation. `host` names the other side in what we tell: "mx.example.test [192.0.2.1]"."""

    def __init__(self, stream: Stream, host: str, name: str, timeout: float) -> None:
        """`name` is what we say in EHLO; `timeout` in seconds, for each reply."""
        self.stream, self.host, self._name, self._timeout = stream, host, name, timeout
        self.extensions: dict[str, str] = {}
        self.mails = 0  # sent with it
        self.spoilt = False
        self.idle_since = 0.0

    # -- the beginning ------------------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Read the greeting and introduce ourselves. Raises Lost, Refused (the server wants no mail, or not ours)."""
        greeting = self._read("the greeting")
        if greeting.code != 220:
            raise Refused(greeting)
        self.hello()

    def hello(self) -> None:
        """EHLO, and HELO for servers that know no better. Raises Lost, Refused."""
        self.extensions = {}
        reply = self._ask(f"EHLO {self._name}", "EHLO")
        if reply.permanent:
            reply = self._ask(f"HELO {self._name}", "HELO")
        elif reply.positive:
            for line in reply.text.split("\n")[1:]:
                word, _, rest = line.strip().partition(" ")
                self.extensions[word.upper()] = rest.strip()
        if not reply.positive:
            raise Refused(reply)

    def start_tls(self, context: ssl.SSLContext, hostname: str) -> bool:
        """Speak TLS from here on; False: the server would not, go on in clear. Raises Lost (try without), Refused."""
        reply = self._ask("STARTTLS", "STARTTLS")
        if reply.code != 220:
            return False
        self.stream.deadline = clock.monotonic() + self._timeout
        try:
            self.stream.start_tls(context, False, hostname or None)
        except (Gone, TimedOut, Refused, ValueError) as error:  # ValueError: a name that cannot stand in SNI
            raise self._lost(f"STARTTLS failed: {error}") from None
        self.hello()
        return True

    def wrap(self, context: ssl.SSLContext, hostname: str) -> None:
        """Speak TLS from the first byte on (RFC 8314 3.3). Raises Lost."""
        self.stream.deadline = clock.monotonic() + self._timeout
        try:
            self.stream.start_tls(context, False, hostname or None)
        except (Gone, TimedOut, Refused, ValueError) as error:
            raise self._lost(f"does not speak TLS: {error}") from None

    def log_in(self, user: str, password: str) -> None:
        """Say who we are: PLAIN (RFC 4616), or LOGIN for servers that know no better.

        Raises Lost, always for later: what is wrong with a password is no mail's fault. Nothing of it is quoted.
        """
        offered = self._mechanisms()
        if "PLAIN" in offered:
            reply = self._ask("AUTH PLAIN " + _base64(f"\0{user}\0{password}"), "AUTH")
        elif "LOGIN" in offered:
            reply = self._ask("AUTH LOGIN", "AUTH")
            for secret in (user, password):
                if reply.code == 334:
                    reply = self._ask(_base64(secret), "AUTH")
        else:
            ways = f"only {', '.join(sorted(offered))}" if offered else "no AUTH"
            raise Lost(Reply(454, "4.7.0", f"{self.host} offers {ways}; we know PLAIN and LOGIN"))
        if reply.code == 334:  # it wants more than there is to say (RFC 4954 4: "*" cancels)
            reply = self._ask("*", "AUTH")
        if reply.code != 235:
            code = f"{reply.code} {reply.enhanced}".rstrip()
            raise Lost(Reply(454, "4.7.0", f"{self.host} does not let us in: it answered AUTH with {code}"))

    def _mechanisms(self) -> set[str]:
        """What follows AUTH; some old servers write AUTH=LOGIN."""
        words = self.extensions.get("AUTH", "").upper().split()
        old = [word for word in self.extensions if word.startswith("AUTH=")]
        return {*words, *(word.removeprefix("AUTH=") for word in old)}

    # -- a mail -------------------------------------------------------------------------------------------------------

    def send(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Answer]:
        """One transaction, or several if the server takes only so many recipients at once.

        Each recipient is yielded with its answer. Raises Lost for those that were not. Who stops listening halfway has
        to close the conversation.
        """
        left = list(recipients)
        while left:
            later: list[Recipient] = []
            for answer in self._transaction(envelope, left, message):
                if _too_many(answer.reply) and answer.recipient is not left[0]:
                    later.append(answer.recipient)
                else:
                    yield answer
            if self.spoilt and later:
                raise Lost(Reply(451, "4.5.3", f"{self.host} takes fewer recipients at once"))
            left = later

    def _transaction(self, envelope: Envelope, recipients: Sequence[Recipient], message: Message) -> Iterator[Answer]:
        self.mails += 1
        limit = self.extensions.get("SIZE", "")
        if limit.isdecimal() and 0 < int(limit) < message.size:
            no = Reply(552, "5.3.4", f"{self.host} takes mails of up to {limit} bytes; this one has {message.size}")
            yield from (Answer(recipient, no, said=False) for recipient in recipients)
            return
        accepted: list[Recipient] = []
        for start in range(0, len(recipients), BATCH):
            some = recipients[start : start + BATCH]
            commands = [f"RCPT TO:{_path(recipient.address)}" for recipient in some]
            if start == 0:
                commands.insert(0, self._mail(envelope, message))
            replies = self._ask_all(commands)
            if start == 0 and not (mail := next(replies)).positive:
                self._forget(replies if "PIPELINING" in self.extensions else ())
                yield from (Answer(recipient, mail) for recipient in recipients)
                return
            for recipient, reply in zip(some, replies, strict=True):
                if reply.positive:
                    accepted.append(recipient)
                else:
                    yield Answer(recipient, _softened(reply))
        if not accepted:
            self._forget()
            return
        reply, said = self._content(message)
        yield from (Answer(recipient, reply, said) for recipient in accepted)

    def _mail(self, envelope: Envelope, message: Message) -> str:
        command = f"MAIL FROM:{_path(envelope.sender)}"
        if "SIZE" in self.extensions:
            command += f" SIZE={message.size}"
        if envelope.body == "8BITMIME" and "8BITMIME" in self.extensions:
            command += " BODY=8BITMIME"
        return command

    def _content(self, message: Message) -> tuple[Reply, bool]:
        """DATA, the mail and its dot. The server's answer to one of them, or (ours, False)."""
        reply = self._ask("DATA", "DATA")
        if reply.code != 354:
            if reply.positive:  # RFC 5321 4.3.2 knows only 354: whatever this server means, it is not to be trusted
                raise self._lost(f"answered DATA with {reply.code}")
            self._forget()
            return reply, True
        try:
            self._send_content(message)
        except (Gone, TimedOut) as error:
            raise self._lost(f"broke off while the mail was sent: {_say(error)}") from None
        except Refused as no:  # the mail itself cannot be sent; without its dot the server throws it away
            self.close()
            return no.reply, False
        try:
            return self._read("the end of the mail", self._timeout * 2), True  # RFC 5321 4.5.3.2.6: the longest of all
        except Lost as lost:
            lost.content = True
            raise

    def _send_content(self, message: Message) -> None:
        """Small mails in one write, large ones piece by piece, each piece with the time of a reply."""
        held: list[bytes] = []
        size = 0
        for chunk in wire(message.pieces()):
            held.append(chunk)
            size += len(chunk)
            if size >= CHUNK:
                self._write(b"".join(held))
                held, size = [], 0
        self._write(b"".join(held))

    def _forget(self, unread: Iterable[Reply] = ()) -> None:
        """Leave a transaction that came to nothing; what is `unread` is refused as well, whatever it says.

        Many a server hangs up behind its "no". That is its answer all the same, or the mail would come again for days.
        """
        try:
            for _ in unread:
                pass
            if not self.spoilt:
                self._ask("RSET", "RSET")
        except Lost:
            pass

    # -- the end ------------------------------------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Fit for another mail: nothing was said that nobody asked for, not even the end of the connection."""
        try:
            return not self.spoilt and not self.stream.spoke()
        except Gone:
            return False

    def quit(self) -> None:
        """Say QUIT if we still may, wait for nothing, and close."""
        if not self.spoilt:
            self.stream.say(b"QUIT\r\n")
        self.close()

    def close(self) -> None:
        self.spoilt = True
        self.stream.close()

    # -- commands and replies -----------------------------------------------------------------------------------------

    def _ask(self, command: str, step: str) -> Reply:
        self._tell(command, step)
        return self._read(step)

    def _ask_all(self, commands: list[str]) -> Iterator[Reply]:
        """A reply for each command: sent together where the server knows PIPELINING."""
        if "PIPELINING" not in self.extensions:
            for command in commands:
                yield self._ask(command, command[:4])
            return
        self._tell("\r\n".join(commands), commands[0][:4])
        for command in commands:
            yield self._read(command[:4])

    def _tell(self, text: str, step: str) -> None:
        try:
            self._write(text.encode("ascii") + b"\r\n")
        except (Gone, TimedOut) as error:
            raise self._lost(f"broke off before {step}: {_say(error)}") from None

    def _write(self, data: bytes) -> None:
        self.stream.deadline = clock.monotonic() + self._timeout
        self.stream.send(data)

    def _read(self, step: str, timeout: float = 0.0) -> Reply:
        """The next reply, all its lines. Raises Lost; a 421 also ends the conversation (RFC 5321 3.8)."""
        self.stream.deadline = clock.monotonic() + (timeout or self._timeout)
        lines: list[str] = []
        code = ""
        while True:
            try:
                line = self.stream.line(LINE).decode("utf-8", "replace")
            except (Gone, TimedOut) as error:
                raise self._lost(f"gave no reply to {step}: {_say(error)}") from None
            except Refused as no:
                raise self._lost(f"answered {step} with what is no reply: {no.reply.text}") from None
            shape = _SHAPE.fullmatch(line)
            if shape is None or (code and shape[1] != code) or len(lines) >= LINES:
                raise self._lost(f"answered {step} with what is no reply: {line[:100]!r}")
            code = shape[1]
            lines.append(shape[3] or "")
            if shape[2] != "-":
                break
        reply = _reply(code, lines)
        if code[0] == "3" and step != "DATA" and (code, step) != ("334", "AUTH"):
            raise self._lost(f"answered {step} with {reply}")
        if reply.code == 421:
            self.close()
            raise Lost(reply, said=True)
        return reply

    def _lost(self, what: str) -> Lost:
        self.close()
        return Lost(Reply(451, "4.4.2", f"{self.host} {what}"))


def _path(address: Address) -> str:
    """An address between its brackets. Raises Refused for one that cannot be sent without being changed."""
    text = str(address)
    if not text.isascii() or not text.isprintable():
        raise Refused("553 5.6.7 That address cannot be sent without SMTPUTF8")  # RFC 6531 3.5
    return f"<{text}>"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _say(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimedOut) else str(error)


def _reply(code: str, lines: list[str]) -> Reply:
    """A reply as servers really write them: enhanced codes on each line, on one, or wrong."""
    first = _ENHANCED.match(lines[0])
    enhanced = first[1] if first and first[1][0] == code[0] else ""
    if enhanced:
        lines = [line[len(enhanced) :].lstrip() if line.startswith(enhanced) else line for line in lines]
    return Reply(int(code), enhanced, "\n".join(lines))


def _too_many(reply: Reply) -> bool:
    """RFC 5321 4.5.3.1.10: not a word about this recipient, only about how many came before it."""
    return reply.code == 452 and reply.enhanced in ("", "4.5.3")


def _softened(reply: Reply) -> Reply:
    """RFC 5321 4.5.3.1.10: 552 to RCPT is an old way to say 452."""
    if reply.code == 552 and reply.enhanced in ("", "5.5.3"):
        return Reply(452, "4.5.3" if reply.enhanced else "", reply.text)
    return reply


def wire(pieces: Pieces) -> Iterator[bytes]:
    """The mail as it follows a 354: lines end with CRLF, dots at their beginning doubled, the last line is a dot.

    A bare CR or LF becomes CRLF here, before the dots are doubled: servers that disagree on where lines end can be made
    to see a second mail. Raises Refused for a NUL. Nothing larger than CHUNK is copied at once.
    """
    last = b"\n"  # of what was yielded: so a leading dot is doubled
    held = b""  # a CR at the end of a chunk: what follows decides what it is
    for piece in pieces:
        for start in range(0, len(piece), CHUNK):
            text = held + bytes(piece[start : start + CHUNK])
            if 0 in text:
                raise Refused("554 5.6.0 The mail holds a NUL, which cannot be sent")
            held = b""
            if text.endswith(b"\r"):
                text, held = text[:-1], b"\r"
            if not text:
                continue
            if text.count(b"\n") != text.count(b"\r\n") or text.count(b"\r") != text.count(b"\r\n"):
                text = _BARE.sub(b"\r\n", text)
            stuffed = text.replace(b"\r\n.", b"\r\n..")
            if last == b"\n" and text[0] == 46:
                stuffed = b"." + stuffed
            last = text[-1:]
            yield stuffed
    if held:
        yield b"\r\n"
        last = b"\n"
    yield b".\r\n" if last == b"\n" else b"\r\n.\r\n"
