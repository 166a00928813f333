"""Footers: under the text a person reads, in plain and HTML, in every charset and encoding; nowhere else."""

from pathlib import Path

import pytest
from mails import MESSAGES, sample

from mta.message import build, footer
from mta.message.message import Message

WORDS = "-- \nSent by Exämple & Sons ☃"
ASCII = "-- \nSent by Example"


def texts(mail: Message) -> list[str]:
    """The texts a reader sees after the mail has travelled."""
    return [part.text() for part in footer.texts(Message(bytes(mail)).root)]


def test_under_a_plain_text() -> None:
    mail = sample("plain")
    assert footer.add(mail.root, ASCII) == 1
    assert bytes(mail) == mail.raw + b"-- \r\nSent by Example\r\n", "only added to"


@pytest.mark.parametrize("name", ["alternative", "nested", "attachments", "html-only"])
def test_two_footers_one_under_the_other(name: str) -> None:
    """As main.lua and a domain's file may both add one; the second once read into the part that follows."""
    mail = sample(name)
    before = [part.decoded() for part in mail.parts() if part not in footer.texts(mail.root) and not part.multipart]
    for words in ("first", "second"):
        assert footer.add(mail.root, words) == len(footer.texts(mail.root))
    for part in footer.texts(Message(bytes(mail)).root):
        first, second = part.text().rindex("first"), part.text().rindex("second")
        assert first < second and "--" not in part.text()[first:]
    read = Message(bytes(mail))
    assert [p.decoded() for p in read.parts() if p not in footer.texts(read.root) and not p.multipart] == before


def test_words_the_mail_could_not_say_before() -> None:
    mail = sample("plain")
    footer.add(mail.root, WORDS)
    assert texts(mail) == [mail.raw.decode().partition("\r\n\r\n")[2] + WORDS.replace("\n", "\r\n") + "\r\n"]
    assert Message(bytes(mail)).root.charset == "utf-8" and bytes(mail).isascii()


def test_under_both_versions_of_a_text() -> None:
    mail = sample("alternative")
    assert footer.add(mail.root, WORDS, "<hr><b>Exämple ☃</b>") == 2
    plain, html = texts(mail)
    assert plain.endswith("for the mail.\r\n-- \r\nSent by Exämple & Sons ☃\r\n")
    assert html == "<html><body><p>Grüße</p><hr><b>Ex&#228;mple &#9731;</b>\r\n</body></html>"


def test_html_made_from_the_text() -> None:
    mail = sample("html-only")
    footer.add(mail.root, WORDS)
    made = b"<p>-- <br>\r\nSent by Ex&#228;mple &amp; Sons &#9731;</p>\r\n"
    assert bytes(mail) == mail.raw.replace(b"</BODY>", made + b"</BODY>"), "not a byte of the rest"


def test_html_without_an_end() -> None:
    mail = sample("html-without-body-tag")
    footer.add(mail.root, "bye")
    assert bytes(mail) == mail.raw + b"<p>bye</p>\r\n"


@pytest.mark.parametrize(
    "charset", ["utf-8", "iso-8859-1", "windows-1252", "us-ascii", "koi8-r", "utf-16", "gb2312", "nosuch"]
)
@pytest.mark.parametrize("encoding", ["7bit", "8bit", "quoted-printable", "base64"])
@pytest.mark.parametrize("kind", ["plain", "html"])
def test_every_charset_and_encoding(charset: str, encoding: str, kind: str) -> None:
    part = Message(f"Content-Type: text/{kind}; charset={charset}; format=flowed\r\n\r\n".encode())
    part.root.set_text("Hello\r\n")
    if encoding not in ("base64", "quoted-printable") and part.root.encoding != encoding:
        octets = part.root.decoded()
        raw = f"Content-Type: text/{kind}; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()
        part = Message(raw + octets)
    before = part.root.text()
    footer.add(part.root, WORDS)
    after = Message(bytes(part)).root
    expected = WORDS.replace("\n", "\r\n") + "\r\n"
    if kind == "html":
        expected = "<p>-- <br>\r\nSent by Ex&#228;mple &amp; Sons &#9731;</p>\r\n"
    assert after.text() == before + expected and after.type == f"text/{kind}"


def test_a_declared_charset_that_lies_is_not_made_worse() -> None:
    raw = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nlies: \xfc\r\n"
    mail = Message(raw)
    footer.add(mail.root, "Grüße")
    assert bytes(mail) == raw + "Grüße\r\n".encode()


def test_a_text_without_an_end_of_line() -> None:
    mail = sample("no-final-newline")
    footer.add(mail.root, "bye")
    assert bytes(mail) == mail.raw + b"\r\nbye\r\n"


def test_attachments_are_left_alone() -> None:
    mail = sample("attachments")
    assert footer.add(mail.root, ASCII) == 1
    assert bytes(mail) == mail.raw.replace(b"See attached.", b"See attached.\r\n-- \r\nSent by Example\r\n")


def test_the_last_text_to_be_read() -> None:
    mail = sample("apple-mail")
    footer.add(mail.root, "bye")
    assert bytes(mail) == mail.raw.replace(b"last\r\n", b"last\r\nbye\r\n")


def test_deep_inside() -> None:
    mail = sample("nested")
    assert footer.add(mail.root, "bye") == 2
    assert texts(mail) == ["plain\r\nbye\r\n", '<img src="cid:pic@x.test">\r\n<p>bye</p>\r\n']


def test_a_calendar_is_no_text() -> None:
    mail = sample("invitation")
    assert footer.add(mail.root, "bye") == 1
    assert b"END:VCALENDAR\r\n--cal--" in bytes(mail)


@pytest.mark.parametrize(
    "name", ["smime-signed", "pgp-encrypted", "delivery-report", "forwarded-bare", "boundary-missing"]
)
def test_mails_that_must_not_be_touched_say_so(name: str) -> None:
    mail = sample(name)
    assert footer.add(mail.root, ASCII) == 0
    assert not mail.changed
    mail.root.attach(build.text(ASCII))  # what one does instead
    assert Message(bytes(mail)).root.parts[1].text() == "-- \r\nSent by Example"


@pytest.mark.parametrize("path", sorted(MESSAGES.glob("*.eml")), ids=lambda path: path.stem)
def test_any_mail(path: Path) -> None:
    mail = Message(path.read_bytes())
    before = [part.text() for part in footer.texts(mail.root)]
    count = footer.add(mail.root, WORDS)
    after = texts(mail)
    assert count == len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert old.rstrip("\r\n")[:20] == new[: len(old.rstrip("\r\n")[:20])] and len(new) > len(old)
        assert "Sent by Ex" in new
