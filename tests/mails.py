"""Mails: random well-formed ones with the truth about them, in every shape and encoding, and those of messages/."""

import base64
import quopri
import random
from dataclasses import dataclass, field
from pathlib import Path

from mta.message.message import Message

MESSAGES = Path(__file__).parent / "messages"
CRLF = b"\r\n"
WORDS = ["alpha", "beta", "gamma", "--", "delta", "--b", "=41", "From", "the", ".dot", "äöü", "☃", "x"]
TYPES = ["text/plain", "text/html", "application/pdf", "image/gif", "application/octet-stream"]


def sample(name: str) -> Message:
    return Message((MESSAGES / f"{name}.eml").read_bytes())


@dataclass
class Leaf:
    """A part without parts, as a reader should see it."""

    type: str
    content: bytes
    filename: str
    charset: str


@dataclass
class Mail:
    raw: bytes
    leaves: list[Leaf] = field(default_factory=list)
    depth: int = 0


class Maker:
    """Makes mails; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.count = 0

    def mail(self) -> Mail:
        made = Mail(b"")
        made.raw = b"From: a@x.test\r\nSubject: random\r\nMIME-Version: 1.0\r\n" + self.entity(made, 0)
        return made

    def entity(self, mail: Mail, depth: int) -> bytes:
        mail.depth = max(mail.depth, depth)
        kind = self.rng.random()
        if depth < 5 and kind < 0.55 - depth * 0.08:
            return self.multipart(mail, depth)
        if 0 < depth < 5 and kind < 0.62 - depth * 0.08:
            inner = b"Subject: inner\r\nMIME-Version: 1.0\r\n" + self.entity(mail, depth + 1)
            return b"Content-Type: message/rfc822\r\n\r\n" + inner
        return self.leaf(mail)

    def multipart(self, mail: Mail, depth: int) -> bytes:
        self.count += 1
        boundary = self.rng.choice([f"b{self.count}", f"=_{self.count}_x", f"a b'{self.count}?"])
        subtype = self.rng.choice(["mixed", "alternative", "related", "mixed", "x-odd"])
        quoted = f'"{boundary}"' if not boundary.startswith("b") or self.rng.random() < 0.5 else boundary
        head = self.rng.choice(
            [
                f"Content-Type: multipart/{subtype}; boundary={quoted}",
                f"content-type:multipart/{subtype};\r\n\tboundary={quoted}; x=y",
            ]
        )
        line = b"--" + boundary.encode()
        out = [head.encode(), CRLF, CRLF, self.rng.choice([b"", b"", b"preamble\r\n", b"\r\n", b"--\r\n"])]
        for n in range(self.rng.randint(1, 4)):
            out += [
                CRLF if n else b"",
                line,
                self.rng.choice([b"", b"", b" ", b"\t "]),
                CRLF,
                self.entity(mail, depth + 1),
            ]
        out += [CRLF, line, b"--", self.rng.choice([b"", CRLF, b" \r\n", b"\r\nepilogue\r\n", b"\r\n\r\n"])]
        return b"".join(out)

    def leaf(self, mail: Mail) -> bytes:
        rng = self.rng
        kind = rng.choice(TYPES)
        encoding = rng.choice(["", "7bit", "8bit", "base64", "BASE64", "quoted-printable"])
        charset = rng.choice(["utf-8", "iso-8859-1", '"utf-8"']) if kind.startswith("text/") else ""
        name = charset.strip('"') or "utf-8"
        text = "\r\n".join(" ".join(rng.choices(WORDS, k=rng.randint(0, 6))) for _ in range(rng.randint(0, 5)))
        if encoding in ("", "7bit"):
            text = text.encode("ascii", "ignore").decode()
        if encoding not in ("base64", "BASE64") and any(w.startswith("--b") for w in text.split()):
            text = text.replace("--b", "b")  # a line that is a boundary would be one
        content = text.encode(name, "replace")
        if kind != "text/plain" and kind != "text/html" and encoding.lower() == "base64":
            content = rng.randbytes(rng.randint(0, 300))
        filename = rng.choice(["", "", "a.txt", "two words.pdf", "grüße.exe"])
        head = [f"Content-Type: {kind}" + (f"; charset={charset}" if charset else "")]
        if encoding:
            head.append(f"Content-Transfer-Encoding: {encoding}")
        if filename.isascii() and filename:
            head.append(f'Content-Disposition: attachment; filename="{filename}"')
        elif filename:
            head.append("Content-Disposition: attachment;\r\n filename*=utf-8''gr%C3%BC%C3%9Fe.exe")
        rng.shuffle(head)
        body = content
        if encoding.lower() == "base64":
            body = base64.encodebytes(content).replace(b"\n", CRLF)
        elif encoding == "quoted-printable":
            body = quopri.encodestring(content.replace(CRLF, b"\n")).replace(b"\n", CRLF)
        mail.leaves.append(Leaf(kind, content, filename, charset.strip('"')))
        return "\r\n".join(head).encode() + CRLF + CRLF + body
