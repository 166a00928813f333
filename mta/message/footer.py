"""A footer under the text of a mail: in its plain and its HTML form, never in attachments or in what is signed.

Where the text of a mail is (RFC 2046 5.1, RFC 2387): of a multipart/alternative every version; of a multipart/related
the first part; of a multipart/mixed the last part that is text to be read. A text whose transfer encoding shows bytes
as they are keeps them all, and the footer is put in; any other is decoded, extended, and encoded again.
"""

from __future__ import annotations

import html as escapes
import re

from mta.message import charsets, encodings
from mta.message.mime import Part

_END = re.compile(rb"</(?:body|html)[\s>]", re.I)
_OPAQUE = ("multipart/signed", "multipart/encrypted", "multipart/report")


def add(mail: Part, text: str, html: str = "") -> int:
    """Put `text` under plain texts and `html` (made from `text` if empty) into HTML ones; how many were changed.

    0: the mail has no text that may be changed. Attach the footer then, or leave it.
    """
    lines = encodings.text_lines(text.rstrip("\n") + "\n")
    markup = encodings.text_lines(html or "<p>" + escapes.escape(text.strip("\n")).replace("\n", "<br>\n") + "</p>")
    found = texts(mail)
    for part in found:
        if part.type == "text/html":
            _into_html(part, markup)
        else:
            _under_text(part, lines)
    return len(found)


def texts(part: Part) -> list[Part]:
    """The parts that are the text of a mail for its reader: versions of one text, text/plain and text/html."""
    kind = part.type
    if kind in ("text/plain", "text/html"):
        return [] if part.attachment else [part]
    if not part.multipart or kind in _OPAQUE:
        return []
    if kind == "multipart/alternative":
        return [text for below in part.parts for text in texts(below)]
    if kind == "multipart/related":
        return texts(part.parts[0]) if part.parts else []
    for below in reversed(part.parts):
        found = texts(below)
        if found:
            return found
    return []


def _under_text(part: Part, lines: str) -> None:
    octets = _say(part, lines)
    if octets is not None and _shows_bytes(part):
        part.insert(part.size, _line_end(bytes(part.content[-2:])) + octets)
    elif octets is not None:
        content = part.decoded()
        part.set_bytes(content + _line_end(content[-2:]) + octets)
    else:  # its charset cannot say the footer
        words = part.text(part.size * 2 + 1)
        octets = words.encode("utf-8", "replace")
        part.set_bytes(octets + _line_end(octets[-2:]) + lines.encode("utf-8", "replace"), "utf-8")


def _into_html(part: Part, markup: str) -> None:
    """Before the end of the body. Beyond ASCII it is written in character references, which every charset can say."""
    octets = markup.encode("ascii", "xmlcharrefreplace") + b"\r\n"
    if not charsets.extends_ascii(part.charset or "us-ascii"):
        words = part.text(part.size * 2 + 1)
        place = re.search(_END.pattern.decode(), words, re.I)
        at = place.start() if place else len(words)
        part.set_text(words[:at] + octets.decode() + words[at:])
        return
    content = bytes(part.content) if _shows_bytes(part) else part.decoded()
    end = _END.search(content)
    at = end.start() if end else len(content)
    octets = octets if end else _line_end(content[-2:]) + octets
    if _shows_bytes(part):
        part.insert(at, octets)
    else:
        part.set_bytes(content[:at] + octets + content[at:])


def _say(part: Part, text: str) -> bytes | None:
    """The text in the part's charset, if it can be put behind what is there without reading that."""
    charset = part.charset or "us-ascii"
    octets = charsets.encode(text, charset)
    if octets is None or not charsets.extends_ascii(charset):
        return None
    if _shows_bytes(part) and part.encoding in ("", "7bit") and not octets.isascii():
        return None  # the part says it has 7 bits
    return octets


def _shows_bytes(part: Part) -> bool:
    return part.encoding in encodings.IDENTITY


def _line_end(tail: bytes) -> bytes:
    return b"" if not tail or tail.endswith(b"\n") else b"\r\n"
