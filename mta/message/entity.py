"""A MIME entity (RFC 2045 2.4: fields and a body) as bytes, and what signing and encrypting need of it.

A part of a mail is an entity as it stands. Of a whole mail only the Content-* fields go into the entity; the rest of
the header stays outside (`Part.entity` and `Part.become` in mime.py). What is signed must survive every way it may be
sent, byte for byte: `sturdy` encodes what would not. All of it works in small steps, so that a thread busy with 25 MB
lets others run.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mta.message import encodings, parameters
from mta.message.headers import end_of, index, unfold

PIECE = 1 << 20
SAMPLE = 1 << 16
MAX_DEPTH = 50  # of parts in parts; deeper ones are left as they are
_TRANSPARENT = ("", "7bit", "8bit", "binary")  # Content-Transfer-Encodings that encode nothing


class Entity(NamedTuple):
    """`header`: whole fields with CRLF, without the empty line; `body`: what follows the empty line."""

    header: bytes
    body: bytes

    def __bytes__(self) -> bytes:
        return b"".join((self.header, b"\r\n", self.body))  # lets other threads run, as "%b" would not

    def get(self, name: str) -> str:
        """The value of the first field called `name` (lower case), unfolded latin-1 text; "" if there is none."""
        for field in index(self.header, len(self.header)):
            if field.name == name:
                return unfold(self.header[field.start : field.stop])
        return ""

    @property
    def type(self) -> parameters.Value:
        """Its Content-Type, taken apart."""
        return parameters.parse(self.get("content-type"))

    @property
    def main(self) -> str:
        """Its type in lower case, "text/plain" if it has none (RFC 2045 5.2)."""
        return self.type.main.lower() or "text/plain"

    @property
    def encoding(self) -> str:
        return self.get("content-transfer-encoding").strip().lower()

    def decoded(self) -> bytes:
        """The body with its Content-Transfer-Encoding undone."""
        return b"".join(encodings.decode(memoryview(self.body), self.encoding))


def read(raw: bytes) -> Entity:
    end, body = end_of(raw)
    header = raw[:end]
    return Entity(header if header.endswith(b"\r\n") or not header else header + b"\r\n", cut(raw, body, len(raw)))


def cut(raw: bytes, start: int, stop: int) -> bytes:
    """raw[start:stop], in steps if it is large: one copy of 25 MB would hold up every other thread for 20 ms."""
    if stop - start < 4 * PIECE:
        return raw[start:stop]
    return b"".join([raw[at : min(at + PIECE, stop)] for at in range(start, stop, PIECE)])


def gathered(pieces: Iterable[bytes | memoryview]) -> bytes:
    """The pieces as one, in steps; see `cut`."""
    views = (memoryview(piece) for piece in pieces)
    return b"".join([bytes(view[at : at + PIECE]) for view in views for at in range(0, len(view), PIECE)])


# -- line ends ---------------------------------------------------------------------------------------------------------


def canonical(content: bytes) -> bytes:
    """The content with CRLF at every line end (RFC 8551 3.1.1)."""
    if all(piece.count(b"\r\n") == piece.count(b"\n") == piece.count(b"\r") for piece in _whole_lines(content, PIECE)):
        return content
    return b"".join(
        piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        for piece in _whole_lines(content, PIECE)
    )


def _whole_lines(content: bytes, size: int) -> Iterator[bytes]:
    """Pieces of at least `size` bytes which end after a LF."""
    at = 0
    while at < len(content):
        stop = content.find(b"\n", at + size - 1) + 1
        stop = stop or len(content)
        yield content[at:stop]
        at = stop


# -- what survives every way -------------------------------------------------------------------------------------------


def sturdy(entity: Entity, depth: int = 0) -> Entity:
    """The same content in a form no server has a reason to change (RFC 1847 2.1, RFC 3156 3 and 5): 7 bits, no blanks
    at line ends, no line that begins with "From ". What is so already keeps its bytes, and so does what is signed."""
    main = entity.main
    if depth > MAX_DEPTH or main == "multipart/signed":
        return entity
    if main.startswith("multipart/"):
        return _sturdy_parts(entity, depth)
    if main == "message/rfc822" and entity.encoding in _TRANSPARENT:
        inner = read(entity.body)
        made = sturdy(inner, depth + 1)
        return entity if made is inner else Entity(_seven_bit(entity.header), bytes(made))
    if entity.encoding not in _TRANSPARENT or not _fragile(entity.body):
        return entity
    return _encoded(entity, main)


def _encoded(entity: Entity, main: str) -> Entity:
    body = entity.body
    if main.startswith("text/"):
        body = canonical(body)
        if encodings.choose(body[:SAMPLE]) != "base64":
            coded = b"".join([_quoted(piece) for piece in _whole_lines(body, SAMPLE)])
            return Entity(_transfer(entity.header, b"quoted-printable"), coded)
    return Entity(_transfer(entity.header, b"base64"), b"".join(encodings.base64(body)))


def _quoted(lines: bytes) -> bytes:
    return (b"\r\n" + encodings.quoted_printable(lines)).replace(b"\r\nFrom ", b"\r\n=46rom ")[2:]


def _sturdy_parts(entity: Entity, depth: int) -> Entity:
    spans = parts(entity.body, entity.type.get("boundary"))
    out, at = [], 0
    for start, stop in spans:
        part = read(cut(entity.body, start, stop))
        made = sturdy(part, depth + 1)
        if made is not part:
            out += [entity.body[at:start], bytes(made)]
            at = stop
    if not out:
        return entity
    return Entity(_seven_bit(entity.header), b"".join([*out, entity.body[at:]]))


def _fragile(body: bytes) -> bool:
    if not body.isascii() or body.startswith(b"From ") or body[-1:] in (b" ", b"\t"):
        return True
    if any(_holds(body, what) for what in (b"\0", b" \r\n", b"\t\r\n", b"\nFrom ")):
        return True
    if canonical(body) is not body:
        return True
    at = 0
    while at + 1000 <= len(body):  # RFC 5322 2.1.1: lines of 998
        at = body.rfind(b"\n", at, at + 1000) + 1
        if not at:
            return True
    return False


def _holds(body: bytes, what: bytes) -> bool:
    return _find(body, what, 0) >= 0


def _find(body: bytes, what: bytes, start: int) -> int:
    """body.find(what, start), in steps."""
    for at in range(start, len(body), PIECE):
        found = body.find(what, at, at + PIECE + len(what) - 1)
        if found >= 0:
            return found
    return -1


def _seven_bit(header: bytes) -> bytes:
    """The header of an entity whose parts are 7-bit now."""
    return header if Entity(header, b"").encoding in ("", "7bit") else _transfer(header, b"7bit")


def _transfer(header: bytes, encoding: bytes) -> bytes:
    kept = [
        header[field.start : field.stop]
        for field in index(header, len(header))
        if field.name != "content-transfer-encoding"
    ]
    return b"".join([*kept, b"Content-Transfer-Encoding: %b\r\n" % encoding])


# -- multiparts --------------------------------------------------------------------------------------------------------


def parts(body: bytes, boundary: str) -> list[tuple[int, int]]:
    """Where the parts of a multipart body lie: [start, stop), without the CRLF before the next boundary, which belongs
    to the boundary (RFC 2046 5.1.1). A missing last boundary ends the last part where the body ends."""
    if not boundary:
        return []
    mark = b"--" + boundary.encode("latin-1", "replace")
    spans: list[tuple[int, int]] = []
    start, at = -1, 0
    while True:
        at = _find(body, mark, at)
        if at < 0:
            break
        line = body.find(b"\n", at)
        line = len(body) if line < 0 else line + 1
        rest = body[at + len(mark) : line].rstrip(b" \t\r\n")
        if (at and body[at - 1 : at] != b"\n") or rest not in (b"", b"--"):
            at += 1
            continue
        if start >= 0:
            spans.append((start, max(start, at - (2 if body[at - 2 : at] == b"\r\n" else 1))))
        if rest == b"--":
            return spans
        start = at = line
    if start >= 0:
        spans.append((start, len(body)))
    return spans


def boundary_for(*bodies: bytes) -> bytes:
    """A boundary that occurs in none of them."""
    while True:
        made = b"=_" + secrets.token_hex(16).encode()
        if not any(_holds(body, made) for body in bodies):
            return made


def signed(content: bytes, signature: Entity, protocol: str, micalg: str, preamble: bytes) -> Entity:
    """A multipart/signed (RFC 1847 2.1). `content` is an entity, in the very bytes that were signed."""
    boundary = boundary_for(content)
    header = (
        b'Content-Type: multipart/signed; protocol="%b";\r\n micalg="%b"; boundary="%b"\r\n'
        % (protocol.encode(), micalg.encode(), boundary)
    )  # fmt: skip
    line = b"\r\n--" + boundary
    body = (preamble, line, b"\r\n", content, line, b"\r\n", bytes(signature), line, b"--\r\n")
    return Entity(header, b"".join(body))


def signed_parts(entity: Entity, protocols: tuple[str, ...]) -> tuple[bytes, Entity]:
    """(the signed bytes, the entity with the signature) of a multipart/signed. Raises ValueError if it is none."""
    said = entity.type
    if entity.main != "multipart/signed" or said.get("protocol").lower() not in protocols:
        raise ValueError(f"it is {entity.main} and not multipart/signed with {protocols[0]}")
    spans = parts(entity.body, said.get("boundary"))
    if len(spans) != 2:
        raise ValueError(f"a multipart/signed has 2 parts (RFC 1847 2.1), and this one has {len(spans)}")
    (start, stop), second = spans
    signature = read(entity.body[slice(*second)])
    if signature.main not in protocols:
        raise ValueError(f"its second part is {signature.main} and not {protocols[0]}")
    return cut(entity.body, start, stop), signature
