"""A connection as lines and chunks: strict CRLF, bounded memory, one deadline, TLS at any moment.

The socket is non-blocking and spoken to directly; only when there is nothing to do does the greenlet wait in the loop.
That takes half the time of gevent's own sockets. Replies are collected by `say` and leave together, in one send, as
soon as somebody waits for the other side: so a pipelined batch (RFC 2920) is answered in one packet.

    Gone       the other side left: end of stream, reset, broken TLS
    TimedOut   the deadline passed while we waited, for reading or for writing
    Refused    a line was too long or not ended by CRLF; the reply says whether to hang up
"""

from __future__ import annotations

import _socket
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gevent import get_hub

from mta.message.reply import Refused, Reply
from mta.net import clock
from mta.net.deadline import TimedOut, Wait

__all__ = ["Gone", "Stream", "TimedOut", "TlsFailed", "connect"]

READ, WRITE = 1, 2
CHUNK = 65536
SKIP = 1 << 20  # bytes of what we do not want that are read on: for the end of a line, or for that of a conversation
IOV_MAX = 1024

Piece = bytes | bytearray | memoryview

_LONG = Reply(500, "5.5.6", "That line is too long")
_BARE = Reply(500, "5.5.2", "Lines end with CRLF", close=True)
_INJECTED = Reply(554, "5.5.1", "Nothing may follow STARTTLS", close=True)


class Gone(Exception):
    """The other side has left."""


class TlsFailed(Gone):
    """The TLS handshake, or a record after it, was wrong."""


class Socket(Protocol):
    """Any stream socket; the stream takes its descriptor over."""

    def detach(self) -> int: ...


class Stream:
    """One connection. It belongs to one greenlet; only `wake` may be called from another."""

    __slots__ = (
        "_at",
        "_buffer",
        "_cipher",
        "_plain",
        "_reads",
        "_said",
        "_sock",
        "_tls",
        "_wait",
        "_writes",
        "ended",
    )

    def __init__(self, sock: Socket) -> None:
        raw = sock if type(sock) is _socket.socket else _socket.socket(fileno=sock.detach())
        raw.setblocking(False)
        self._sock = raw
        self._wait = Wait()
        self._reads: Any = get_hub().loop.io(raw.fileno(), READ)
        self._writes: Any = None
        self._buffer, self._at = b"", 0  # what came and is not used yet: buffer[at:]
        self._said = b""  # and is not sent yet
        self._tls: ssl.SSLObject | None = None
        self.ended = False  # the other side has said its last byte

    # -- what the other side and the deadline are -------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """On the monotonic clock; every wait, for reading or writing, ends there with TimedOut."""
        return self._wait.deadline

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._wait.deadline = at

    @property
    def pending(self) -> bool:
        """Another complete line is here already."""
        return self._buffer.find(b"\n", self._at) >= 0

    @property
    def buffered(self) -> bool:
        """Something, even half a line, is here already."""
        return self._at < len(self._buffer)

    @property
    def waiting(self) -> bool:
        """Its greenlet waits for the network right now."""
        return self._wait.waiting

    def wake(self, error: BaseException, still: Callable[[], bool] | None = None) -> None:
        """If its greenlet waits for the network a moment from now, and `still()`, raise `error` there."""
        self._wait.wake(error, still)

    @property
    def reset(self) -> bool:
        """The connection was torn down; asked without waiting. A half-closed one was not: it still reads us."""
        return self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR) != 0

    @property
    def tls(self) -> str:
        """ "TLSv1.3 TLS_AES_256_GCM_SHA384", or nothing."""
        if self._tls is None:
            return ""
        cipher = self._tls.cipher()
        return f"{self._tls.version()} {cipher[0] if cipher else ''}".strip()

    # -- reading ----------------------------------------------------------------------------------------------------

    def line(self, limit: int) -> bytes:
        """The next line without its CRLF, of at most `limit` bytes with it. Raises Gone, TimedOut, Refused.

        A line feed alone ends nothing: two servers that disagree on it can be made to see two mails where one was
        sent. After a line that is too long the next call goes on behind it.
        """
        if not self._buffer:
            more = self._more()
            if more.endswith(b"\r\n") and len(more) <= limit and more.find(b"\n") == len(more) - 1:  # nearly always
                return more[:-2]
            self._buffer, self._at = more, 0
        while True:
            buffer, at = self._buffer, self._at
            end = buffer.find(b"\n", at)
            if end >= 0:
                if end + 1 - at > limit:
                    self._take(end + 1)
                    raise Refused(_LONG)
                if end == at or buffer[end - 1] != 13:
                    raise Refused(_BARE)
                self._take(end + 1)
                return buffer[at : end - 1]
            if len(buffer) - at > limit:
                self._skip()
            more = self._more()
            self._buffer, self._at = (buffer[at:] + more if at < len(buffer) else more), 0

    def _take(self, end: int) -> None:
        if end == len(self._buffer):
            self._buffer, self._at = b"", 0  # an idle connection holds nothing
        else:
            self._at = end

    def _skip(self) -> None:
        """Read on to the end of a line that is too long, keeping none of it."""
        skipped, buffer = 0, self._buffer[self._at :]
        while (end := buffer.find(b"\n")) < 0:
            skipped += len(buffer)
            if skipped > SKIP:
                raise Refused(_LONG.closing())
            buffer = self._more()
        self._buffer, self._at = buffer[end + 1 :], 0
        raise Refused(_LONG)

    def chunk(self) -> bytes:
        """Whatever is here, or comes next; never empty. Raises Gone, TimedOut."""
        if self._at < len(self._buffer):
            data = self._buffer[self._at :] if self._at else self._buffer
            self._buffer, self._at = b"", 0
            return data
        return self._more()

    def unread(self, data: bytes) -> None:
        """Put back what of the last chunk belongs to the next line."""
        self._buffer, self._at = data + self._buffer[self._at :], 0

    def spoke(self) -> bool:
        """The other side has sent something already; asked without waiting. Raises Gone. Under TLS: nothing known."""
        if not self.buffered:
            if self._tls is not None:
                return False
            try:
                self._buffer, self._at = self._receive(), 0
            except BlockingIOError:
                return False
        return True

    def _more(self) -> bytes:
        """Send what is to be sent, then wait for bytes."""
        if self._said:
            self.flush()
        if self._tls is not None:
            return self._decrypt()
        while True:
            self._wait.until(self._reads)
            try:
                return self._receive()
            except BlockingIOError:
                continue

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(CHUNK)
        except BlockingIOError:
            raise
        except OSError as error:
            self.ended = True
            raise Gone(error.strerror or str(error)) from None
        if not data:
            self.ended = True
            raise Gone("the connection was closed")
        return data

    # -- writing ----------------------------------------------------------------------------------------------------

    def say(self, data: bytes) -> None:
        """Send this with everything else that is said before we next wait for the other side."""
        self._said = self._said + data if self._said else data

    def flush(self) -> None:
        said, self._said = self._said, b""
        if said:
            self._write(said)

    def send(self, data: Piece | Sequence[Piece]) -> None:
        """Send everything, after what was said. Raises Gone, TimedOut."""
        self.flush()
        if isinstance(data, (bytes, bytearray, memoryview)):
            self._write(data)
        elif self._tls is not None:
            for piece in data:
                self._write(piece)
        else:
            self._write_all(data)

    def _write(self, data: Piece) -> None:
        if self._tls is not None:
            self._encrypt(data)
        else:
            self._write_raw(data)

    def _write_raw(self, data: Piece) -> None:
        try:
            sent = self._sock.send(data)
            if sent == len(data):
                return
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Gone(error.strerror or str(error)) from None
        self._write_all([memoryview(data)[sent:]])

    def _write_all(self, pieces: Sequence[Piece]) -> None:
        rest = [memoryview(piece) for piece in pieces if len(piece)]
        rest.reverse()
        while rest:
            try:
                sent = self._sock.sendmsg(rest[: -IOV_MAX - 1 : -1])
            except BlockingIOError:
                if self._writes is None:
                    self._writes = get_hub().loop.io(self._sock.fileno(), WRITE)
                self._wait.until(self._writes)
                continue
            except OSError as error:
                raise Gone(error.strerror or str(error)) from None
            while rest and sent >= len(rest[-1]):
                sent -= len(rest.pop())
            if sent:
                rest[-1] = rest[-1][sent:]

    # -- TLS --------------------------------------------------------------------------------------------------------

    def start_tls(self, context: ssl.SSLContext, server_side: bool, hostname: str | None = None) -> None:
        """Speak TLS from here on. Raises Refused, TlsFailed, Gone, TimedOut.

        Nothing may have come behind the command, or the reply, that led here: whoever sits in between could have put
        it there in clear text, to be believed as if it were protected (CVE-2011-0411).
        """
        if self.buffered:
            raise Refused(_INJECTED)
        self.flush()
        self._plain, self._cipher = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(self._cipher, self._plain, server_side, hostname)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._push()
                self._pull()
                continue
            except (ssl.SSLError, ssl.CertificateError) as error:
                try:
                    self._push()  # the alert that says why
                except Gone:
                    pass
                raise TlsFailed(f"TLS: {error.reason or error}") from None
            self._push()
            break
        self._tls = tls

    def _push(self) -> None:
        """What TLS wants sent."""
        if self._plain.pending:
            self._write_raw(self._plain.read())

    def _pull(self) -> None:
        """Wait for what TLS wants to read."""
        while True:
            self._wait.until(self._reads)
            try:
                self._cipher.write(self._receive())
                return
            except BlockingIOError:
                continue

    def _decrypt(self) -> bytes:
        assert self._tls is not None
        while True:
            try:
                data = self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                self._push()
                self._pull()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self.ended = True
                raise TlsFailed(f"TLS: {error.reason or error}") from None
            if not data:
                self.ended = True
                raise Gone("the connection was closed")
            return data if not self._cipher.pending else self._gathered(data)

    def _gathered(self, data: bytes) -> bytes:
        """With what is here behind it: a record may hold one byte, and whoever is given it keeps fifty for it."""
        assert self._tls is not None
        pieces, size = [data], len(data)
        while self._cipher.pending and size < CHUNK:
            try:
                more = self._tls.read(CHUNK)
            except ssl.SSLError:  # half a record; or what the next read will meet again
                break
            if not more:
                break
            pieces.append(more)
            size += len(more)
        return b"".join(pieces)

    def _encrypt(self, data: Piece) -> None:
        assert self._tls is not None
        view = memoryview(data)
        try:
            for start in range(0, len(view), CHUNK):
                self._tls.write(view[start : start + CHUNK])
                self._push()
        except ssl.SSLError as error:
            raise TlsFailed(f"TLS: {error.reason or error}") from None

    # -- leaving ----------------------------------------------------------------------------------------------------

    def linger(self, seconds: float = 2.0) -> None:
        """Say everything and no more, then read what still comes for a moment, keeping none of it.

        A socket closed on unread bytes resets the connection, and the reset overtakes the reply that explains it.
        """
        self._wait.deadline = clock.monotonic() + seconds
        try:
            self.flush()
            self._sock.shutdown(_socket.SHUT_WR)
            left = SKIP  # bytes: not a free ride
            while left > 0:
                self._wait.until(self._reads)
                left -= len(self._receive())
        except (Gone, TimedOut, OSError):
            pass

    def close(self) -> None:
        """Send what was said if that needs no waiting, and close. May be called again."""
        if self._sock.fileno() < 0:
            return
        try:
            if self._said and not self.ended:
                self._sock.send(self._sealed(self._said))
            elif self._tls is not None:
                self._sock.send(self._sealed(b""))
        except (OSError, ssl.SSLError):
            pass
        self._wait.close()
        self._reads.close()
        if self._writes is not None:
            self._writes.close()
        self._sock.close()
        self._buffer = self._said = b""

    def _sealed(self, data: bytes) -> bytes:
        """`data` as it goes over the wire, behind it the end of TLS."""
        if self._tls is None:
            return data
        if data:
            self._tls.write(data)
        try:
            self._tls.unwrap()  # close_notify, so that the other side can tell the end from a cut
        except ssl.SSLError:
            pass
        return self._plain.read()


def connect(address: str, port: int, deadline: float) -> Stream:
    """A connection to an IP address (never a name). `deadline` is monotonic. Raises Gone, TimedOut."""
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    stream = Stream(sock)
    stream.deadline = deadline
    try:
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        try:
            sock.connect((address, port))
        except BlockingIOError:
            stream._writes = get_hub().loop.io(sock.fileno(), WRITE)
            stream._wait.until(stream._writes)
            failed = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if failed:
                raise OSError(failed, os.strerror(failed)) from None
    except OSError as error:
        stream.close()
        raise Gone(error.strerror or str(error)) from None
    except TimedOut:
        stream.close()
        raise
    return stream
