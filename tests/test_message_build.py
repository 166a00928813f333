"""New parts and mails: 7-bit, CRLF, the same bytes for the same input, and read back as they were meant."""

import base64
import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.message import build, encodings
from mta.message.message import Message
from mta.message.mime import Part

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300)


def test_a_text() -> None:
    assert build.text("Hello\n") == (
        b"Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\nHello\r\n"
    )
    assert build.text("Grüße", "html", filename="a b.html") == (
        b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n"
        b'Content-Disposition: attachment; filename="a b.html"\r\n\r\nR3LDvMOfZQ==\r\n'
    )


def test_a_file() -> None:
    assert build.file(b"\0\1", "image/png", "p.png", "inline") == (
        b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n"
        b"Content-Disposition: inline; filename=p.png\r\n\r\nAAE=\r\n"
    )


def test_a_mail_in_a_mail() -> None:
    part = Part.of(build.forward(b"Subject: inner\r\n\r\ntext\r\n", "inner.eml"))
    assert (part.type, part.filename, part.parts[0].headers.get("Subject")) == ("message/rfc822", "inner.eml", "inner")


def test_a_whole_mail() -> None:
    made = build.mail([("From", "Jürgen <j@x.test>"), ("Subject", "Käse")], build.text("hi"))
    read = email.message_from_bytes(made, policy=email.policy.default)
    assert read["From"] == "Jürgen <j@x.test>" and read["Subject"] == "Käse" and read.get_content() == "hi"
    assert read.defects == [] and made.isascii()


@given(TEXT)
def test_any_text_is_seven_bit_and_reads_back(text: str) -> None:
    made = build.text(text)
    assert made.isascii() and b"\0" not in made
    assert all(len(line) <= 998 for line in made.split(b"\r\n")) and b"\n" not in made.replace(b"\r\n", b"")
    assert Part.of(made).text() == encodings.text_lines(text)
    assert build.text(text) == made


@given(st.binary(max_size=5000))
def test_any_file_reads_back(content: bytes) -> None:
    made = build.file(content)
    assert Part.of(made).decoded() == content
    assert made.partition(b"\r\n\r\n")[2] == base64.encodebytes(content).replace(b"\n", b"\r\n")


@given(TEXT)
def test_any_name_reads_back(name: str) -> None:
    made = Part.of(build.file(b"", filename=name))
    assert made.attachment is True or not made.filename
    assert made.headers.count("content-disposition") == 1


@given(st.text(alphabet="aü=. \n", max_size=200).map(encodings.text_lines))
def test_quoted_printable_reads_back(text: str) -> None:
    coded = encodings.quoted_printable(text.encode())
    assert b"".join(encodings.decode(coded, "quoted-printable")) == text.encode()
    assert all(len(line) <= 76 for line in coded.split(b"\r\n"))


@pytest.mark.parametrize(
    "line", [b"x" * 300_000, b"=" * 200_000 + b"\r\n" + b"y" * 130_000, b"line of text \r\n" * 20_000]
)
def test_long_texts_are_encoded_in_pieces(line: bytes) -> None:
    coded = encodings.quoted_printable(line)
    assert b"".join(encodings.decode(coded, "quoted-printable")) == line
    assert max(map(len, coded.split(b"\r\n"))) <= 76


@pytest.mark.parametrize("size", [0, 1, encodings.PIECE - 1, encodings.PIECE, encodings.PIECE + 1, 3 * encodings.PIECE])
@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "7bit", "nosuch"])
def test_the_edges_of_pieces_do_not_show(size: int, encoding: str) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    coded = {"base64": base64.b64encode(content), "quoted-printable": b"=%02X" * len(content) % tuple(content)}
    body = coded.get(encoding, content)
    assert b"".join(encodings.decode(body, encoding)) == content


CHOSEN = [
    ("", "7bit"),
    ("plain\r\n", "7bit"),
    ("ü" + "plain " * 10, "quoted-printable"),
    ("Grüße", "base64"),
    ("x" * 998 + "\r\n" + "y" * 998, "7bit"),
    ("x" * 998 + "\r\n" + "y" * 999, "quoted-printable"),
    ("x" * 999 + "\r\n", "quoted-printable"),
    ("a\0b", "quoted-printable"),
    ("bare\nline", "base64"),
]


@pytest.mark.parametrize(("text", "encoding"), CHOSEN)
def test_the_encoding_chosen(text: str, encoding: str) -> None:
    assert encodings.choose(text.encode()) == encoding


@pytest.mark.parametrize(
    "type", ["text", "a/b; x=y", "a/b\r\nBcc: x", "", "ä/b", "a b/c", "multipart/mixed", "message/rfc822"]
)
def test_what_is_no_type_is_refused(type: str) -> None:
    with pytest.raises(ValueError, match=r"media type|cannot be a file"):
        build.file(b"", type)
    with pytest.raises(ValueError, match="media type"):
        build.text("", type + "/x")


def test_a_disposition_is_a_word() -> None:
    with pytest.raises(ValueError, match="disposition"):
        build.file(b"", disposition="inline\r\nBcc: x")


def test_fields_are_one_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        build.mail([("Subject", "a\r\nBcc: x")], build.text(""))
    assert Message(build.mail([("Subject", "a")], build.text(""))).root.type == "text/plain"
