r"""The parts of a mail (RFC 2045, 2046): a tree of places in the raw bytes, split when someone looks, changed on top.

A part is  header | empty line | body.  The body of a multipart is

    preamble | lead part | lead part | ... | tail | epilogue     lead: CRLF "--" boundary CRLF, tail: the closing one

and all of these are offsets into the raw mail. A part nobody touched is written as one span of it, leads and tails too,
so removing one attachment leaves every other byte where a signature expects it. What is new is a part over bytes of its
own. The CRLF before a boundary belongs to the boundary (RFC 2046 5.1.1); where two boundaries share one, the second
lead lacks it, and it is written once something stands between them.

A mail in the mail may be base64 or quoted-printable although RFC 2046 5.2.1 forbids it: mail programs open it, and so
do we. Its parts lie in decoded bytes of their own, and if one of them is changed all of it is encoded anew.

Strangers wrote the mail, so: nothing here raises for what is in it. The outer boundary wins over the inner one; a
multipart without a usable boundary, or too deep, or beyond a thousand parts, or that would take too long to split,
stays one opaque part with the reason in `flaw`, every byte kept.

Splitting and decoding take time in proportion to the mail (25 MB: some 10 ms a step): who serves others meanwhile
calls `walk`, `decoded`, `text` and `footer` of large mails in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator

from mta.message import charsets, encodings, multipart, parameters
from mta.message.described import Described
from mta.message.entity import canonical, gathered
from mta.message.headers import LONGEST, Headers, edges, write
from mta.message.layout import Layout, Measure, Raw, Span
from mta.message.multipart import Budget, Line

MAX_DEPTH = 100
MAX_TEXT = 1 << 20  # bytes of a part shown as text at once


class Part(Described):
    """One part. `flaw`: why it was not split although it says it is a multipart, or what is missing in it."""

    __slots__ = (
        *("_apart", "_body", "_boundary", "_budget", "_children", "_coded", "_edited", "_end", "_epilogue", "_first"),
        *("_gap", "_head", "_headers", "_lead", "_new", "_raw", "_start", "_stop", "_tail", "flaw"),
    )

    def __init__(self, raw: Raw, start: int, stop: int, budget: Budget) -> None:
        """raw[start:stop], its header found at once."""
        self._raw, self._start, self._stop, self._budget = raw, start, stop, budget
        self._end, self._body = edges(raw, start, stop)
        self._head: Raw = raw  # where the header stands, from `start` to `end`; `raw` is where the body stands
        self._headers: Headers | None = None
        self._gap = self._body  # where the empty line behind the header ends, in `head`
        self._apart = False  # the body is not the one that stood behind this header
        self._new: list[tuple[int, bytes]] = []  # bytes inserted into the body, and where
        self._children: list[Part] | None = None
        self._edited = False  # the list of children is not what was found
        self._coded = False  # the mail inside is written in a transfer encoding
        self._boundary = b""
        self._first = self._body  # where the preamble ends
        self._lead: Line | None = None  # the boundary line before this part; None: not written yet
        self._tail: Line | None = None  # the closing boundary; None: not written yet
        self._epilogue = stop  # where the epilogue begins
        self.parent: Part | None = None
        self.flaw = ""

    @classmethod
    def root(cls, raw: Raw, headers: Headers) -> Part:
        """The part a whole mail is."""
        part = cls(raw, 0, len(raw), Budget(len(raw)))
        part._headers = headers
        return part

    @classmethod
    def of(cls, entity: bytes) -> Part:
        """A part of our own, from its bytes: header, empty line, body."""
        return cls(entity, 0, len(entity), Budget(len(entity)))

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = Headers(bytes(self._head[self._start : self._end]), self._end - self._start)
        return self._headers

    @property
    def size(self) -> int:
        """Bytes of the body as it would be written now, still encoded."""
        if not self._assembled:
            return self._stop - self._body + sum(len(text) for _, text in self._new)
        out = Measure(b"")
        self._write_body(out)
        return out.size

    # -- what is in it -----------------------------------------------------------------------------------------------

    @property
    def content(self) -> bytes | memoryview:
        """The body as it would be written now, still encoded."""
        if not self._new and not self._assembled:
            return memoryview(self._raw)[self._body : self._stop]
        out = Layout(b"")
        self._write_body(out)
        return gathered(piece for piece in out.pieces if not isinstance(piece, Span))

    def chunks(self) -> Iterator[bytes]:
        """The decoded body in pieces of some 60 KB."""
        return encodings.decode(self.content, self.encoding)

    def decoded(self, limit: int | None = None) -> bytes:
        """The decoded body, or its first `limit` bytes."""
        out: list[bytes] = []
        size = 0
        for piece in self.chunks():
            out.append(piece)
            size += len(piece)
            if limit is not None and size >= limit:
                break
        return b"".join(out)[:limit]

    def text(self, limit: int = MAX_TEXT) -> str:
        """The decoded body as text, whatever its declared charset is worth; of a large one the first `limit` bytes."""
        decoded = self.decoded(limit + 1)
        return charsets.decode(decoded[:limit], self.charset, whole=len(decoded) <= limit)

    # -- the tree ----------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> list[Part]:
        """The parts of a multipart, or the mail inside a message/rfc822. Do not change the list."""
        if self._children is None:
            self._children = []
            self._split()
        return self._children

    @property
    def outermost(self) -> Part:
        part = self
        while part.parent is not None:
            part = part.parent
        return part

    @property
    def depth(self) -> int:
        part, depth = self, 0
        while part.parent is not None:
            part, depth = part.parent, depth + 1
        return depth

    @property
    def number(self) -> str:
        """Its place: "1.2" is the second part of the first; "" is the mail itself."""
        steps: list[str] = []
        part = self
        while part.parent is not None:
            if part not in part.parent.parts:  # no longer in the mail
                return "-"
            steps.append(str(part.parent.parts.index(part) + 1))
            part = part.parent
        return ".".join(reversed(steps))

    def walk(self) -> Iterator[Part]:
        """This part and all below it, a multipart before what is in it. It may be changed meanwhile."""
        waiting = [self]
        while waiting:
            part = waiting.pop()
            waiting += reversed(part.parts)
            yield part

    def _split(self) -> None:
        kind = self.type
        if self._end - self._start > LONGEST:
            self.flaw = "the header is too long"
        embedded = kind in ("message/rfc822", "message/global")
        if self.headers.count("content-type") > 1:
            self.flaw = "two Content-Type fields"
        if not embedded and not kind.startswith("multipart/"):
            return
        boundary = self.value("content-type")
        mark = (boundary.plain.get("boundary") or boundary.extended.get("boundary") or "").encode("latin-1", "replace")
        coded = self.encoding if embedded and self.encoding not in encodings.IDENTITY else ""
        if coded:
            self.flaw = "an encoded message"
        if coded not in ("", "base64", "quoted-printable"):
            return
        if not embedded and not mark.strip():
            self.flaw = "no boundary"
        elif self.depth >= MAX_DEPTH:
            self.flaw = "too deep"
        elif self._budget.parts <= 0:
            self.flaw = multipart.TOO_MANY
        elif coded and self._budget.decoded < self.size:
            self.flaw = multipart.TOO_LONG
        elif coded:
            self._budget.parts -= 1
            self._coded, mail = True, canonical(self.decoded())
            self._budget.decoded -= len(mail)
            self._add(mail, 0, len(mail), None)
        elif embedded:
            self._budget.parts -= 1
            self._add(self._raw, self._body, self._stop, None)
        else:
            self._boundary = mark.rstrip(b" ")
            found = multipart.find(self._raw, self._body, self._stop, self._boundary, self._budget)
            for lead, stop in found.parts:
                self._add(self._raw, lead[1], stop, lead)
            self._first = found.parts[0][0][0] if found.parts else self._body
            self._tail, self._epilogue = found.tail, found.tail[1] if found.tail else self._stop
            self.flaw = self.flaw or found.flaw

    def _add(self, raw: Raw, start: int, stop: int, lead: Line | None) -> None:
        part = Part(raw, start, stop, self._budget)
        part.parent, part._lead = self, lead
        self.parts.append(part)

    # -- changes -----------------------------------------------------------------------------------------------------

    @property
    def rewritten(self) -> bool:
        """Is the body another than the one that came?"""
        if self._apart or self._edited or self._new:
            return True
        return any(part.touched for part in self._children or ())

    @property
    def _assembled(self) -> bool:
        """Is the body put together from parts that are not those that came?"""
        return bool(self._children) and (self._edited or any(part.touched for part in self._children or ()))

    @property
    def touched(self) -> bool:
        return self.rewritten or (self._headers is not None and self._headers.changed)

    def become(self, entity: bytes) -> None:
        """Take the content of `entity` (header, empty line, body) and its Content-* fields in place of one's own."""
        new = Part.of(entity)
        fields = [new.headers.text(f) for f in new.headers.fields if f.name.startswith("content-")]
        self.exchange_content([text if text.endswith(b"\r\n") else text + b"\r\n" for text in fields])
        self._take(entity, new._body)

    def _take(self, raw: bytes, body: int) -> None:
        """raw[body:] is the body from now on; the header stays."""
        self._raw, self._body, self._stop, self._first, self._epilogue = raw, body, len(raw), body, len(raw)
        self._budget, self._apart, self._new, self.flaw = Budget(len(raw)), True, [], ""
        self._children, self._edited, self._coded, self._boundary, self._tail = None, False, False, b"", None
        self._keep_boundaries_apart(raw)

    def set_text(self, text: str) -> None:
        """Give a text part another text; type, name and, where it can say the text, charset stay.

        Raises ValueError for a part of another type.
        """
        if not self.type.startswith("text/"):
            raise ValueError(f"a {self.type} part has no text to set")
        lines = encodings.text_lines(text)
        charset = self.charset or "us-ascii"
        octets = charsets.encode(lines, charset)
        if octets is None:
            charset, octets = "utf-8", lines.encode("utf-8", "replace")
        self.set_bytes(octets, charset)

    def set_bytes(self, octets: bytes, charset: str = "") -> None:
        """Give a part another content, encoded as it needs; type, name and, unless one is given, charset stay.

        Raises ValueError for a multipart or a mail in a mail, which have parts instead.
        """
        if self.type.startswith(("multipart/", "message/")):
            raise ValueError(f"a {self.type} part has no bytes of its own")
        if charset:
            self.describe("content-type", "charset", charset, self.type)
        encoding = encodings.choose(octets) if self.type.startswith("text/") else "base64"
        self.headers.set("Content-Transfer-Encoding", encoding)
        self._take(encodings.encode(octets, encoding), 0)

    def insert(self, at: int, text: bytes) -> None:
        """Put bytes into the body where its byte number `at` stands now; they must be in its transfer encoding.

        Raises ValueError in a part that holds others or whose body has no such place.
        """
        if self._children and not self.type.startswith(("multipart/", "message/")):  # its type was changed since
            self._take(bytes(self.content), 0)
        if self._children or not 0 <= at <= self.size:
            raise ValueError(f"nothing can be inserted at {at}")
        number = 0  # of pieces inserted before it; their bytes count in `at`, but not in the places of `_new`
        for place, there in self._new:
            if at < place:
                break
            if at <= place + len(there):
                cut = at - place
                at, text = place, b"".join((there[:cut], text, there[cut:]))
                del self._new[number]
                break
            at -= len(there)
            number += 1
        self._new.insert(number, (at, text))
        self._keep_boundaries_apart(text)

    def remove(self) -> None:
        """Take the part out. The last one of a multipart, and a whole mail, becomes an empty text instead."""
        parent = self.parent
        if parent is None or not parent.multipart or len(parent.parts) < 2:
            self.become(b"Content-Type: text/plain\r\n\r\n")
        elif self in parent.parts:
            parent.parts.remove(self)
            parent._edited = True

    def before(self, entity: bytes) -> Part:
        """Put a part before this one. A whole mail becomes a multipart/mixed first. The new part."""
        return self._beside(entity, 0)

    def after(self, entity: bytes) -> Part:
        return self._beside(entity, 1)

    def _beside(self, entity: bytes, offset: int) -> Part:
        if self.whole:
            self.wrap("mixed")
        parent = self.parent
        assert parent is not None
        if self not in parent.parts:
            raise ValueError("this part is no longer in the mail")
        return parent._put(parent.parts.index(self) + offset, entity)

    def attach(self, entity: bytes) -> Part:
        """Put a part at the end of a multipart/mixed; anything else becomes the first part of one. The new part."""
        mixed = self.type == "multipart/mixed" and self.parts and self.flaw not in multipart.CUT
        target = self if mixed else self.wrap("mixed")
        return target._put(len(target.parts), entity)

    def _put(self, place: int, entity: bytes) -> Part:
        new = Part.of(entity)
        new.parent = self
        self.parts.insert(place, new)
        self._edited = True
        self._keep_boundaries_apart(entity, new)
        return new

    def wrap(self, subtype: str, **more: str) -> Part:
        """Put this part, alone, into a new multipart that takes its place; `more` are parameters. The multipart.

        Of a whole mail the Content-* fields go down with the content, all others stay on top.
        """
        if self.depth >= MAX_DEPTH:
            raise ValueError("parts are nested too deep")
        kind = self.type
        outer = Part.of(b"")
        outer.parent, outer._lead, self._lead = self.parent, self._lead, None
        outer._children, outer._edited = [self], True
        outer._boundary = self._unused_boundary()
        value = f"multipart/{subtype}"
        for name, said in {**more, "boundary": outer._boundary.decode()}.items():
            value = parameters.change(value, name.replace("_", "-"), said)
        field = write("Content-Type", value)
        if self.whole:
            outer._headers = self.headers
            outer._head, outer._start, outer._end, outer._gap = self._head, self._start, self._end, self._gap
            inner = b"".join(outer.exchange_content([field]))
            self._headers, self._apart = Headers(inner, len(inner)), True
            self._head, self._start, self._end, self._gap = inner, 0, len(inner), len(inner)
        else:
            outer._headers = Headers(field, len(field))
            outer._head, outer._end, outer._gap = field, len(field), len(field)
        if outer.parent is not None:
            siblings = outer.parent.parts
            siblings[siblings.index(self)] = outer
            outer.parent._edited = True
        self.parent = outer
        if self.type != kind:  # it said none, and in a multipart/digest that means another (RFC 2046 5.1.5)
            self.headers.set("Content-Type", kind)
        return outer

    def _loaded(self) -> Iterator[Part]:
        """This part and those below it that someone has looked at."""
        waiting = [self]
        while waiting:
            part = waiting.pop()
            yield part
            waiting += part._children or ()

    def _unused_boundary(self) -> bytes:
        """A boundary that occurs nowhere in the mail, the same for the same mail."""
        loaded = list(self.outermost._loaded())
        return multipart.unused({id(p._raw): p._raw for p in loaded}.values(), {p._boundary for p in loaded})

    def _keep_boundaries_apart(self, text: bytes, new: Part | None = None) -> None:
        """New content holds the boundary of a multipart around it: that one gets another boundary."""
        part: Part | None = new or self
        while part is not None and part.parent is not None:
            part = part.parent
            if part._boundary and multipart.search(text, b"--" + part._boundary, 0, len(text)) >= 0:
                part._boundary = part._unused_boundary()
                for child in part.parts:
                    child._lead = None
                part.describe("content-type", "boundary", part._boundary.decode(), part.type)
                part._edited, part._tail = True, None

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, out: Layout) -> None:
        """Write the part as it is now."""
        if not self.touched:
            out.old(self._raw, self._start, self._stop)
            return
        if self._headers is None:
            out.old(self._head, self._start, self._end)
        else:
            self._headers.write(out, self._head, self._start)
        self._write_content(out)

    def entity(self) -> list[bytes | memoryview]:
        """The part alone, as one signs or encrypts it: its header (of a whole mail the Content-* fields), its body."""
        source = self.outermost._head
        out = Layout(source)
        for field in self.headers.fields:
            if not self.whole or field.name.startswith("content-"):
                text = self.headers.text(field)
                out.new(text if text.endswith(b"\r\n") else text + b"\r\n")
        self._write_content(out)
        view = memoryview(source)
        return [view[piece.start : piece.stop] if isinstance(piece, Span) else piece for piece in out.pieces]

    def _write_content(self, out: Layout) -> None:
        """The empty line and the body."""
        if self._gap > self._end:
            out.old(self._head, self._end, self._gap)
        elif self.rewritten or self._body < self._stop:
            out.end_line()
            out.new(b"\r\n")
        self._write_body(out)

    def _write_body(self, out: Layout) -> None:
        if not self._assembled:
            self._write_leaf(out)
        elif self._boundary:
            self._write_multipart(out)
        elif self._coded:
            mail = type(out)(b"") if self.encoding == "base64" else Layout(b"")  # else its bytes are needed
            self.parts[0].write(mail)
            out.encoded(mail, self.encoding)
        else:
            for part in self.parts:
                part.write(out)

    def _write_leaf(self, out: Layout) -> None:
        at = self._body
        for place, text in self._new:
            out.old(self._raw, at, self._body + place)
            out.new(text)
            at = self._body + place
        out.old(self._raw, at, self._stop)

    def _write_multipart(self, out: Layout) -> None:
        line = b"--" + self._boundary
        begun = out.size  # what is written behind here stands before the next boundary
        out.old(self._raw, self._body, self._first)
        for part in self._children or ():
            self._write_line(out, part._lead, line + b"\r\n", begun)
            begun = out.size
            part.write(out)
        if self.flaw in multipart.CUT:
            return  # the last part holds all the rest, the closing boundary too
        self._write_line(out, self._tail, line + b"--", begun)
        if self._tail is None and (self._epilogue < self._stop or self.parent is None):
            out.new(b"\r\n")
        out.old(self._raw, self._epilogue, self._stop)

    def _write_line(self, out: Layout, old: Line | None, new: bytes, begun: int) -> None:
        """A boundary line, as it came or new; the CRLF before it only where something stands before it."""
        own = old is not None and self._raw[old[0] : old[0] + 2] == b"\r\n"
        if not own and out.size > begun:
            out.new(b"\r\n")
        if old is None:
            out.new(new)
        else:
            out.old(self._raw, *old)
