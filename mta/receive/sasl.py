"""What a client says to log in: the exchanges of AUTH (RFC 4954) with PLAIN (RFC 4616) and LOGIN, read strictly. Pure.

An exchange is a generator. It yields what the client is asked, in base64 as it stands behind 334, is sent the line the
client answers, and returns the Credentials; whether they are anybody's is not its business. A mechanism is a generator
too, of plain bytes, given the initial response or None:

    client: AUTH PLAIN [initial]            client: AUTH LOGIN [user]
    server: 334                             server: 334 Username:
    client: [identity] NUL user NUL password        client: user
                                            server: 334 Password:
                                            client: password
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Generator

from mta.message.credentials import Credentials
from mta.message.reply import Refused

MAX_LINE = 12_288  # RFC 4954 4: octets of a client's answer
MAX_NAME = 255  # RFC 4616 2: octets of a name that must be taken

Steps = Generator[bytes, bytes, Credentials]


def exchange(rest: str) -> Generator[str, bytes, Credentials]:
    """One AUTH; `rest` is what follows the verb. Raises Refused."""
    name, initial = command(rest)
    steps = MECHANISMS[name](initial)
    try:
        asked = next(steps)
        while True:
            line = yield base64.b64encode(asked).decode("ascii")
            if line == b"*":
                raise Refused("501 5.7.0 Then not")  # RFC 4954 4
            asked = steps.send(_decoded(line))
    except StopIteration as end:
        credentials: Credentials = end.value
        return credentials


def command(rest: str) -> tuple[str, bytes | None]:
    """(mechanism, initial response or None). Raises Refused."""
    name, blank, initial = rest.partition(" ")
    name = name.upper()
    if not name:
        raise Refused(f"501 5.5.4 Say AUTH and how: {' or '.join(MECHANISMS)}")
    if name not in MECHANISMS:
        raise Refused(f"504 5.5.4 Only {' and '.join(MECHANISMS)} are offered here")
    if not blank:
        return name, None
    return name, b"" if initial == "=" else _decoded(initial.encode("latin-1"))  # RFC 4954 4: "=" is an empty one


def _decoded(line: bytes) -> bytes:
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except binascii.Error:
        raise Refused("501 5.5.2 That is no base64") from None


def _plain(initial: bytes | None) -> Steps:
    said = (yield b"") if initial is None else initial
    words = said.split(b"\0")
    if len(words) != 3:
        raise Refused("501 5.5.2 That is not PLAIN: identity, NUL, user, NUL, password")
    identity, user, password = words
    return Credentials("PLAIN", _name(user), _text(password), _name(identity))


def _login(initial: bytes | None) -> Steps:
    user = _name((yield b"Username:") if initial is None else initial)  # many clients begin with the name
    return Credentials("LOGIN", user, _text((yield b"Password:")))


def _name(said: bytes) -> str:
    if len(said) > MAX_NAME:
        raise Refused(f"501 5.5.2 A name has at most {MAX_NAME} bytes")
    return _text(said)


def _text(said: bytes) -> str:
    """UTF-8 without control characters, which no name or password may have (RFC 4013 2.3)."""
    try:
        text = said.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("501 5.5.2 Names and passwords are UTF-8") from None
    if any(c < " " or "\x7f" <= c <= "\x9f" for c in text):
        raise Refused("501 5.5.2 Control characters have no place in a name or password")
    return text


MECHANISMS: dict[str, Callable[[bytes | None], Steps]] = {"PLAIN": _plain, "LOGIN": _login}  # as offered
