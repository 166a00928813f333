"""New parts and mails from text and bytes: CRLF, 7-bit encodings, the same bytes for the same input.

Everything here is an entity (RFC 2045 2.4): header, empty line, body, ready for `Part.attach`, `before`, `become`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mta.message import encodings, headers, parameters, words

_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.I)  # RFC 6838 4.2


def text(content: str, subtype: str = "plain", *, filename: str = "") -> bytes:
    """A text part, in US-ASCII if it can be, else UTF-8. Raises ValueError for a subtype that is no name."""
    lines = encodings.text_lines(content)
    octets = lines.encode("utf-8", "replace")
    encoding = encodings.choose(octets)
    charset = "us-ascii" if octets.isascii() else "utf-8"
    header = _header(f"text/{subtype}", filename, "", encoding, charset)
    return header + encodings.encode(octets, encoding)


def file(content: bytes, type: str = "application/octet-stream", filename: str = "", disposition: str = "") -> bytes:
    """A part with these very bytes. Raises ValueError for a type that is none, or that must not be encoded."""
    if type.lower().startswith(("multipart/", "message/")):
        raise ValueError(f"{type} cannot be a file (RFC 2045 6.4)")
    header = _header(type, filename, disposition or "attachment", "base64")
    return b"".join([header, *encodings.base64(content)])


def forward(mail: bytes, filename: str = "") -> bytes:
    """A message/rfc822 part with a whole mail in it."""
    encoding = "7bit" if mail.isascii() else "8bit"
    header = _header("message/rfc822", filename, "attachment" if filename else "inline", encoding)
    return b"".join((header, mail))  # lets other threads run, as "+" would not


def mail(fields: Iterable[tuple[str, str]], content: bytes) -> bytes:
    """A whole mail: fields of text (encoded where needed), MIME-Version, and an entity. Raises ValueError."""
    head = [headers.write(name, words.encode(value)) for name, value in fields]
    return b"".join([*head, b"MIME-Version: 1.0\r\n", content])


def _header(type: str, filename: str, disposition: str, encoding: str, charset: str = "") -> bytes:
    if not _TYPE.fullmatch(type):
        raise ValueError(f"{type!r} is not a media type")
    if disposition and not re.fullmatch(r"[A-Za-z-]{1,30}", disposition):
        raise ValueError(f"{disposition!r} is not a disposition")
    if charset:
        type = f"{type}; charset={charset}"
    if filename and not disposition:
        disposition = "attachment"
    out = [headers.write("Content-Type", type), headers.write("Content-Transfer-Encoding", encoding)]
    if filename:
        disposition = f"{disposition}; {parameters.write('filename', filename)}"
    if disposition:
        out.append(headers.write("Content-Disposition", disposition))
    return b"".join(out) + b"\r\n"
