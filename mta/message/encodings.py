"""Content-Transfer-Encodings (RFC 2045 6), decoded piece by piece whatever they hold, and encoded in canonical form.

Nothing here raises because of what a stranger sent. Decoding takes slices of the mail and yields decoded pieces of
about `PIECE` bytes, so that a 25 MB attachment never stands twice in memory and no single step takes long.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

PIECE = 57 * 1024  # bytes; a multiple of 57, the content of one base64 line

IDENTITY = ("", "7bit", "8bit", "binary")  # what encodes nothing

_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
_EIGHT_BIT = bytes(range(128, 256))
_ODD = re.compile(rb"[^A-Za-z0-9+/=\s]")
_BLANKS = re.compile(rb"(?<![ \t])[ \t]+(?=\r?\n)")

Buffer = bytes | memoryview


def decode(content: Buffer, encoding: str) -> Iterator[bytes]:
    """The content under `encoding` (lower case), in pieces. An unknown encoding is passed on as it is."""
    if encoding == "base64":
        return _base64(content)
    if encoding == "quoted-printable":
        return _quoted_printable(content)
    if encoding in ("x-uuencode", "uuencode", "x-uue"):
        return _uuencode(content)
    return (bytes(content[at : at + PIECE]) for at in range(0, len(content), PIECE))


def _base64(content: Buffer) -> Iterator[bytes]:
    """Characters outside the alphabet are skipped (RFC 2045 6.8). Padding in the middle ends one run and another may
    begin, for some mail programs read on; but not where the rest is plainly no base64: a footer some gateway added."""
    stop = len(content)
    padding = next((at for at, piece in _pieces(content) if b"=" in piece), None)
    if padding is not None:
        head = bytes(content[padding : padding + PIECE])
        first = padding + head.index(b"=")
        if any(_ODD.search(piece) for _, piece in _pieces(content[first:])):
            ahead = re.match(rb"[=\s]*", bytes(content[first : first + 100]))
            stop = first + (len(ahead[0]) if ahead else 0)
    carry = b""
    for _, piece in _pieces(content[:stop]):
        runs = (carry + piece.translate(None, _NOT_BASE64)).split(b"=")
        carry = runs.pop()
        out = [_run(run) for run in runs if run]
        whole = len(carry) // 4 * 4
        out.append(binascii.a2b_base64(carry[:whole]))
        carry = carry[whole:]
        yield b"".join(out)
    if carry:
        yield _run(carry)


def _run(run: bytes) -> bytes:
    """A run of base64 characters; what its last group lacks is made up, a lone last character says nothing."""
    if len(run) % 4 == 1:
        run = run[:-1]
    return binascii.a2b_base64(run + b"=" * (-len(run) % 4))


def _pieces(content: Buffer) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(content), PIECE):
        yield at, bytes(content[at : at + PIECE])


def _lines(content: Buffer) -> Iterator[bytes]:
    """Pieces that end with a line, as long as lines are shorter than a piece; longer ones are cut, not inside "=XX"."""
    carry = b""
    for _, piece in _pieces(content):
        piece = carry + piece
        cut = piece.rfind(b"\n") + 1
        if not cut and len(piece) > 2 * PIECE:
            cut = len(piece) - 3
            equals = piece.rfind(b"=", cut - 3, cut)
            cut = equals if equals >= 0 else cut
        if cut:
            yield piece[:cut]
        carry = piece[cut:]
    if carry:
        yield carry


def _quoted_printable(content: Buffer) -> Iterator[bytes]:
    """Blanks at the end of a line were added on the way (RFC 2045 6.7 rule 3); "=" that means nothing stays."""
    for piece in _lines(content):
        if b" \r\n" in piece or b"\t\r\n" in piece or b" \n" in piece or b"\t\n" in piece:
            piece = _BLANKS.sub(b"", piece)
        yield binascii.a2b_qp(piece)


def _uuencode(content: Buffer) -> Iterator[bytes]:
    begun = False
    for piece in _lines(content):
        for line in piece.split(b"\n"):
            line = line.rstrip(b"\r")
            if not begun:
                begun = line.startswith(b"begin ")
            elif line == b"end":
                return
            elif line:
                yield _uu_line(line)


def _uu_line(line: bytes) -> bytes:
    """As much of a line as it says it holds; nothing if it holds what it may not."""
    said = (line[0] - 32) & 63
    for attempt in (line, line[: 1 + (said * 4 + 5) // 3]):
        try:
            return binascii.a2b_uu(attempt)
        except binascii.Error:
            continue
    return b""


# -- writing -----------------------------------------------------------------------------------------------------------


def base64(content: Buffer) -> list[bytes]:
    """Lines of 76 characters with CRLF, in pieces."""
    out = []
    for at in range(0, len(content), PIECE):
        coded = binascii.b2a_base64(content[at : at + PIECE], newline=False)
        out.append(b"\r\n".join([coded[n : n + 76] for n in range(0, len(coded), 76)]) + b"\r\n")
    return out


def base64_size(length: int) -> int:
    """How long `base64` makes so many bytes."""
    coded = -(-length // 3) * 4
    return coded + 2 * -(-coded // 76)


def quoted_printable(content: bytes) -> bytes:
    """Text with CRLF line ends as quoted-printable, lines of some 76 characters.

    None of them begins with "--": what the text hid, or a line cut in two, must not be a boundary of the mail around.
    """
    out = []
    for piece in _lines(content):
        coded = binascii.b2a_qp(piece.replace(b"\r\n", b"\n"), istext=True)
        out.append(coded.replace(b"\r", b"=0D").replace(b"\n", b"\r\n"))
        if not piece.endswith(b"\n"):  # a line too long for a piece goes on
            out.append(b"=\r\n")
    if out and out[-1] == b"=\r\n":
        out.pop()
    return b"".join([b"\r\n", *out]).replace(b"\r\n--", b"\r\n=2D-")[2:]


def encode(content: bytes, encoding: str) -> bytes:
    """Under an encoding that `choose` chose."""
    if encoding == "base64":
        return b"".join(base64(content))
    return quoted_printable(content) if encoding == "quoted-printable" else content


def text_lines(text: str) -> str:
    """Text with every kind of line end turned into CRLF."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")


def choose(content: bytes) -> str:
    """The encoding for text with CRLF line ends that survives any way (7-bit, lines of 998: RFC 5322 2.1.1)."""
    odd, nul = 0, False
    for piece in _lines(content):
        ends = piece.count(b"\r\n")
        if piece.count(b"\r") != ends or piece.count(b"\n") != ends:
            return "base64"
        odd += 0 if piece.isascii() else len(piece) - len(piece.translate(None, _EIGHT_BIT))
        nul = nul or b"\0" in piece
    if not odd and not nul and _short_lines(content):
        return "7bit"
    return "base64" if odd * 4 > len(content) else "quoted-printable"


def _short_lines(content: bytes) -> bool:
    at = 0
    while len(content) - at > 998:
        at = content.rfind(b"\r\n", at, at + 1000) + 2
        if at < 2:
            return False
    return True
