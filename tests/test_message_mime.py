"""MIME parts: every shape is taken apart as mail programs do, and a change leaves every other byte alone."""

import email
import email.policy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mails import MESSAGES, Maker, sample
from timing import linear

from mta.message import build, encodings, footer, parameters
from mta.message.layout import Span
from mta.message.message import Message
from mta.message.mime import MAX_DEPTH, MAX_TEXT, Part
from mta.message.multipart import MAX_PARTS

SAMPLES = sorted(MESSAGES.glob("*.eml"))


def shape(mail: Message) -> list[str]:
    return [" ".join(filter(None, (part.number, part.type, part.flaw and f"({part.flaw})"))) for part in mail.parts()]


def leaves(mail: Message) -> list[Part]:
    return [part for part in mail.parts() if not part.parts]


# -- reading -----------------------------------------------------------------------------------------------------------

SHAPES = {
    "plain": ["text/plain"],
    "no-mime-version": ["text/plain"],
    "only-header": ["text/plain"],
    "empty": ["text/plain"],
    "alternative": ["multipart/alternative", "1 text/plain", "2 text/html"],
    "nested": [
        "multipart/mixed",
        "1 multipart/related",
        "1.1 multipart/alternative",
        "1.1.1 text/plain",
        "1.1.2 text/html",
        "1.2 image/gif",
        "2 application/pdf",
    ],
    "forwarded": [
        "multipart/mixed",
        "1 text/plain",
        "2 message/rfc822",
        "2.1 multipart/alternative",
        "2.1.1 text/plain",
        "2.1.2 text/html",
    ],
    "forwarded-bare": ["message/rfc822", "1 text/plain"],
    "forwarded-base64": ["message/rfc822 (an encoded message)", "1 text/plain"],
    "digest": ["multipart/digest", "1 message/rfc822", "1.1 text/plain", "2 message/rfc822", "2.1 text/plain"],
    "boundary-missing": ["multipart/mixed (no boundary)"],
    "boundary-empty": ["multipart/mixed (no boundary)"],
    "boundary-never-seen": ["multipart/mixed (boundary not found)"],
    "boundary-unclosed": [
        "multipart/mixed (boundary not closed)",
        "1 text/plain",
        "2 multipart/alternative (boundary not closed)",
        "2.1 text/plain",
        "3 text/plain",
    ],
    "boundary-prefix": ["multipart/mixed", "1 multipart/mixed", "1.1 text/plain", "2 text/plain"],
    "boundary-same-twice": [
        "multipart/mixed (boundaries after the closing one)",
        "1 multipart/mixed (boundary not found)",
        "2 text/plain",
    ],
    "boundary-odd": ["multipart/mixed", "1 text/plain", "2 text/plain"],
    "boundary-8bit": ["multipart/mixed", "1 text/plain"],
    "parts-empty": ["multipart/mixed", "1 text/plain", "2 text/plain", "3 text/plain"],
    "part-without-blank-line": ["multipart/mixed", "1 text/plain", "2 text/plain", "3 text/plain"],
    "multipart-base64": ["multipart/mixed", "1 text/plain"],
    "two-content-types": ["text/plain (two Content-Type fields)"],
}


@pytest.mark.parametrize(("name", "parts"), SHAPES.items(), ids=SHAPES)
def test_the_parts_of_a_sample(name: str, parts: list[str]) -> None:
    assert shape(sample(name)) == parts


def test_what_a_part_says_about_itself() -> None:
    _, picture = [part for part in sample("nested").parts() if part.type in ("text/html", "image/gif")]
    assert (picture.type, picture.encoding, picture.disposition) == ("image/gif", "base64", "inline")
    assert (picture.filename, picture.id, picture.attachment) == ("pic.gif", "pic@x.test", True)
    assert picture.decoded()[:6] == b"GIF89a" and picture.size == len(picture.content)
    text, *_ = leaves(sample("alternative"))
    assert (text.charset, text.encoding, text.disposition, text.filename) == ("utf-8", "quoted-printable", "", "")
    assert text.text() == "Grüße, a long line that goes on and on and is broken softly for the mail."
    assert not text.attachment


def test_a_part_without_header_or_empty_line_shows_its_text() -> None:
    assert [part.text() for part in leaves(sample("part-without-blank-line"))] == ["", "not a field", "body"]
    assert leaves(sample("no-blank-line"))[0].text().startswith("This line is no field")


TYPES = [
    # Content-Type               type              charset
    ("text/html; charset=UTF-8", "text/html", "utf-8"),
    ("TEXT/HTML", "text/html", ""),
    ("text / html ; charset = utf-8", "text/html", "utf-8"),
    ('text/plain; charset="utf-8" (as always)', "text/plain", "utf-8"),
    ("text/plain; charset=us-ascii (plain)", "text/plain", "us-ascii"),
    ("text/plain;charset*=us-ascii'en'utf-8", "text/plain", "utf-8"),
    ("text/plain charset=utf-8", "text/plain", ""),
    ("text", "text/plain", ""),
    ("/", "text/plain", ""),
    ("", "text/plain", ""),
    ("application/x-zip-compressed", "application/x-zip-compressed", ""),
    ("text/plain; a; =b; ;; charset=koi8-r", "text/plain", "koi8-r"),
    ('text/plain; charset="utf-8; name=x', "text/plain", "utf-8; name=x"),
    ("text/plain; charset=utf-8; charset=latin1", "text/plain", "utf-8"),
]


@pytest.mark.parametrize(("said", "type", "charset"), TYPES)
def test_types(said: str, type: str, charset: str) -> None:
    part = Part.of(f"Content-Type: {said}\r\n\r\n".encode())
    assert (part.type, part.charset) == (type, charset)


NAMES = [
    ["plain.txt"],
    ["grüße.txt"],
    ["grüße.txt"],
    ["grüße.txt"],
    ["grüße.txt"],
    ["passwd"],
    ["a.exe"],
    ["b.exe"],
    ["two words.txt"],
    ["grüße.txt"],
    [],
    [],
    ["ab.txt"],
    ["evil.exe", "innocent.txt"],
    ["two.exe", "one.txt"],
    ["ÿþ.txt"],
    ["first-second"],
]


def test_file_names_of_every_form_are_found_and_harmless() -> None:
    assert [part.filenames for part in leaves(sample("filenames"))] == NAMES


TEXTS = [
    *("Grüße", "10 €", "“quoted”", "Grüße", "lies: \ufffd", "Grüße", "日本語", "中文", "Grüße"),
    *("6869", "aGk=", "uv", "z", "Привет", "xn--a", "\\x41"),
]


def test_charsets_unknown_wrong_and_no_charset_at_all() -> None:
    assert [part.text() for part in leaves(sample("charsets"))] == TEXTS


def test_base64_of_every_kind() -> None:
    found = [part.decoded() for part in leaves(sample("base64-broken"))]
    assert found == [b"hello", b"hello", b"hellohello", b"", b"hello", b"", b"hello", b"hello", b"hello"]


def test_quoted_printable_of_every_kind() -> None:
    found = [part.decoded() for part in leaves(sample("quoted-printable-broken"))]
    assert found == (
        [b"caf\xc3\xa9", b"bad =ZZ =4", b"ends in ", b"softbreak", b"trailing space\r\nnext", b"", b"=41", b"\r\n\0"]
    )


def test_other_encodings() -> None:
    found = [part.decoded() for part in leaves(sample("encodings-odd"))]
    assert found == [b"hello", b"seven", b"=41", b"none", b"hello"]


def test_a_large_text_is_shown_up_to_a_limit_and_never_half_a_character() -> None:
    part = Part.of(b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + "ü".encode() * MAX_TEXT)
    assert part.text() == "ü" * (MAX_TEXT // 2)
    assert part.text(11) == "ü" * 5
    assert part.decoded(3) == b"\xc3\xbc\xc3"
    assert max(len(chunk) for chunk in part.chunks()) < 100_000


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_looking_at_a_sample_changes_nothing(path: Path) -> None:
    raw = path.read_bytes()
    mail = Message(raw)
    for part in mail.parts():
        said = (part.type, part.charset, part.disposition, part.encoding, part.id, part.text(), *part.filenames)
        assert all(isinstance(word, str) for word in said) and part.attachment in (True, False)
        assert sum(map(len, part.chunks())) == len(part.decoded())
    assert bytes(mail) == raw and not mail.changed and mail.layout() == [Span(0, len(raw))]


# -- random mails, the standard library beside us ----------------------------------------------------------------------


def decoded(part: Part) -> bytes:
    return part.decoded().rstrip(b"\r\n")


def test_ten_thousand_random_mails_are_read_right_and_written_back_byte_for_byte() -> None:
    maker = Maker(seed=7)
    deepest = 0
    for _ in range(10_000):
        made = maker.mail()
        mail = Message(made.raw)
        found = leaves(mail)
        assert [(p.type, p.filename, p.charset) for p in found] == (
            [(leaf.type, leaf.filename, leaf.charset) for leaf in made.leaves]
        ), made.raw
        assert [decoded(p) for p in found] == [leaf.content.rstrip(b"\r\n") for leaf in made.leaves], made.raw
        inner = [part for part in found if part.parent is not None and part.parent.multipart]
        if inner:  # something comes and goes: all is written piece by piece, and nothing has moved
            maker.rng.choice(inner).before(b"\r\nnew").remove()
            assert mail.changed
        assert bytes(mail) == made.raw
        deepest = max(deepest, made.depth)
    assert deepest >= 5


def test_the_standard_library_sees_the_same_in_well_formed_mails() -> None:
    maker = Maker(seed=11)
    for _ in range(500):
        made = maker.mail()
        theirs = email.message_from_bytes(made.raw, policy=email.policy.compat32)
        ours = Message(made.raw)
        seen = [(p.get_content_type(), p.is_multipart()) for p in theirs.walk()]
        assert [(p.type, bool(p.parts)) for p in ours.parts()] == seen, made.raw
        for mine, other in zip(leaves(ours), (p for p in theirs.walk() if not p.is_multipart()), strict=True):
            assert decoded(mine) == other.get_payload(decode=True).rstrip(b"\r\n"), made.raw
            name = other.get_filename()
            assert mine.filename == (email.utils.collapse_rfc2231_value(name) if name else "")


@given(
    st.lists(
        st.sampled_from(
            [
                b"--a",
                b"--a--",
                b"--b",
                b"\r\n",
                b"x",
                b"Content-Type: multipart/mixed; boundary=b",
                b"Content-Type: message/rfc822",
                b" ",
                b"--",
                b"\r",
                b"\n",
                b"X: 1",
            ]
        ),
        max_size=30,
    )
)
def test_any_order_of_boundaries_is_read_and_written_back(pieces: list[bytes]) -> None:
    raw = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"".join(pieces)
    mail = Message(raw)
    found = list(mail.parts())
    assert bytes(mail) == raw
    for part in found:
        if part.parts and part.multipart and part.flaw != "boundary not closed":
            part.parts[-1].after(b"\r\nnew").remove()
    assert bytes(mail) == raw or any(part.flaw for part in found)


# -- changes -----------------------------------------------------------------------------------------------------------

NOTE = build.text("A program was removed here.\n")


def test_a_part_replaced() -> None:
    mail = sample("attachments")
    mail.root.parts[1].become(NOTE)
    again = Message(bytes(mail))
    assert shape(again) == ["multipart/mixed", "1 text/plain", "2 text/plain", "3 text/plain"]
    assert again.root.parts[1].text() == "A program was removed here.\r\n"
    assert not again.root.parts[1].filename
    before, after = bytes(mail).split(NOTE)
    assert mail.raw[: len(before)] == before and mail.raw[-len(after) :] == after, "the neighbours stay"
    assert mail.root.parts[1].text() == "A program was removed here.\r\n", "and whoever looks again sees the new one"


def test_a_part_removed() -> None:
    mail = sample("attachments")
    raw = bytes(mail)
    mail.root.parts[1].remove()
    start, stop = (
        raw.index(b"\r\n--mix\r\nContent-Type: application"),
        raw.index(b"\r\n--mix\r\nContent-Type: text/plain; n"),
    )
    assert bytes(mail) == raw[:start] + raw[stop:]
    assert mail.layout() == [Span(0, start), Span(stop, len(raw))], "two spans, nothing copied"


def test_the_first_part_removed() -> None:
    mail = sample("attachments")
    mail.root.parts[0].remove()
    assert shape(Message(bytes(mail))) == ["multipart/mixed", "1 application/octet-stream", "2 text/plain"]


def test_the_last_part_there_is_becomes_an_empty_text() -> None:
    mail = sample("boundary-8bit")
    mail.root.parts[0].remove()
    assert [part.text() for part in leaves(Message(bytes(mail)))] == [""]
    whole = sample("html-only")
    whole.root.remove()
    assert shape(Message(bytes(whole))) == ["text/plain"] and whole.headers.get("Subject") == "html only"


def test_parts_before_and_after() -> None:
    mail = sample("alternative")
    first, last = mail.root.parts
    first.before(b"X: 1\r\n\r\nbefore")
    last.after(b"X: 2\r\n\r\nafter")
    again = Message(bytes(mail))
    assert [part.text()[:6] for part in leaves(again)] == ["before", "Grüße,", "<html>", "after"]
    assert bytes(mail.root.parts[1].content) in mail.raw


def test_an_attachment_for_a_mixed_mail() -> None:
    mail = sample("nested")
    mail.root.attach(build.file(b"\0\1\2", "application/x-test", "käse.bin"))
    again = Message(bytes(mail))
    assert shape(again)[-1] == "3 application/x-test"
    assert (again.root.parts[2].filename, again.root.parts[2].decoded()) == ("käse.bin", b"\0\1\2")
    assert bytes(mail).endswith(b"\r\n--outer--\r\nepilogue\r\n")


@pytest.mark.parametrize("name", ["plain", "html-only", "alternative", "smime-signed", "boundary-missing", "empty"])
def test_an_attachment_for_any_other_mail(name: str) -> None:
    mail = sample(name)
    kind, content = mail.root.type, bytes(mail.root.content)
    subject = mail.headers.get("Subject")
    mail.root.attach(NOTE)
    again = Message(bytes(mail))
    assert [part.type for part in again.root.parts] == [kind, "text/plain"]
    assert bytes(again.root.parts[0].content) == content, "what was signed still is"
    assert again.root.type == "multipart/mixed" and again.headers.get("Subject") == subject
    assert again.headers.count("Content-Type") == again.headers.count("MIME-Version") == 1
    assert not again.headers.has("Content-Transfer-Encoding")
    assert mail.size == len(bytes(mail))


def test_a_part_someone_holds_stays_itself_when_the_mail_is_wrapped() -> None:
    mail = sample("plain")
    text = mail.root
    mail.root.attach(NOTE)
    text.set_text("other words")
    assert [part.text() for part in leaves(Message(bytes(mail)))] == ["other words", "A program was removed here.\r\n"]


def test_a_mail_wrapped_for_a_signature() -> None:
    mail = sample("alternative")
    signed = b"".join(mail.root.entity())
    outer = mail.root.wrap("signed", protocol="application/pkcs7-signature", micalg="sha-256")
    outer.parts[0].after(build.file(b"signature", "application/pkcs7-signature", "smime.p7s"))
    again = Message(bytes(mail))
    assert shape(again)[:2] == ["multipart/signed", "1 multipart/alternative"]
    assert parameters.parse(again.headers.get("content-type") or "").get("protocol") == "application/pkcs7-signature"
    start = bytes(mail).index(b"\r\n", bytes(mail).index(b"\r\n\r\n--=_") + 4) + 2
    assert bytes(mail)[start:].startswith(signed), "the bytes that were signed are the bytes in the mail"


def test_a_mail_inside_a_mail_is_changed_in_place() -> None:
    mail = sample("forwarded")
    inner = mail.root.parts[1].parts[0]
    inner.headers.set("Subject", "changed")
    inner.parts[1].remove()
    expected = mail.raw.replace(b"Subject: original", b"Subject: changed")
    expected = expected.replace(b"\r\n--orig\r\nContent-Type: text/html\r\n\r\n<p>was html</p>", b"")
    assert bytes(mail) == expected


def test_a_header_of_a_part_changed() -> None:
    mail = sample("nested")
    mail.root.parts[1].headers.append("X-Scanned", "yes")
    assert bytes(mail) == mail.raw.replace(b"base64\r\n\r\nJVB", b"base64\r\nX-Scanned: yes\r\n\r\nJVB")


def test_header_and_part_changed_together() -> None:
    mail = sample("nested")
    mail.headers.prepend("Received", "by us")
    mail.headers.set("Subject", "new")
    mail.root.parts[1].remove()
    written = bytes(mail)
    assert written.startswith(b"Received: by us\r\nReceived: from") and b"Subject: new\r\n" in written
    assert b"%PDF" not in written and b"JVBE" not in written and mail.size == len(written)


def test_a_part_renamed() -> None:
    mail = sample("attachments")
    program, notes = mail.root.parts[1:]
    program.rename("grün.txt")
    notes.rename("two words.txt")
    again = Message(bytes(mail))
    assert [part.filenames for part in again.root.parts[1:]] == [["grün.txt"], ["two words.txt"]]
    assert again.root.parts[1].decoded() == program.decoded()
    plain = sample("plain")
    plain.root.rename("a.txt")
    assert Message(bytes(plain)).root.filename == "a.txt" and plain.root.disposition == "attachment"


def test_a_name_cannot_bring_a_header() -> None:
    mail = sample("attachments")
    mail.root.parts[1].rename('a"\r\nBcc: x\0')
    again = Message(bytes(mail))
    assert again.root.parts[1].filename == 'a"Bcc: x' and not again.root.parts[1].headers.has("Bcc")


def test_a_strangers_parameters_never_stop_a_change() -> None:
    raw = b'Content-Type: text/plain; name="a\0b"; x\ry=\n1\r\n\r\nbody\r\n'
    mail = Message(raw)
    mail.root.set_text("new")
    mail.root.rename("new.txt")
    assert Message(bytes(mail)).root.text() == "new"


def test_another_text_keeps_charset_and_name_where_it_can() -> None:
    mail = sample("latin1-body")
    mail.root.set_text("Käse\n")
    again = Message(bytes(mail)).root
    assert (again.charset, again.text()) == ("iso-8859-1", "Käse\r\n")
    mail.root.set_text("☃")
    again = Message(bytes(mail)).root
    assert (again.charset, again.text()) == ("utf-8", "☃")


TOUGH = [
    "plain",
    "-- \nAnn",
    ".",
    "From me",
    "x" * 5000,
    "ü" * 5000,
    "a\0b",
    "a\rb\nc\r\n",
    "trailing  \n\n",
    "",
    "=41",
]


@pytest.mark.parametrize("text", TOUGH)
@pytest.mark.parametrize("charset", ["us-ascii", "utf-8", "iso-8859-1", "utf-16", "iso-2022-jp", "nosuch"])
def test_any_text_comes_back_and_is_seven_bit_on_the_way(text: str, charset: str) -> None:
    mail = Message(f"Content-Type: text/plain; charset={charset}\r\n\r\nold\r\n".encode())
    mail.root.set_text(text)
    written = bytes(mail)
    assert written.isascii() and max(map(len, written.split(b"\r\n"))) <= 998
    assert Message(written).root.text() == text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")


def test_new_text_that_holds_the_boundary_does_not_end_the_part() -> None:
    mail = Message(
        b"Content-Type: multipart/mixed; boundary=Confidential\r\n\r\npre\r\n--Confidential\r\n\r\none\r\n"
        b"--Confidential\r\n\r\ntwo\r\n--Confidential--\r\nepilogue\r\n"
    )
    mail.root.parts[0].set_text("before\n--Confidential--\nafter")
    again = Message(bytes(mail))
    assert [part.text() for part in leaves(again)] == ["before\r\n--Confidential--\r\nafter", "two"]
    assert bytes(mail).endswith(b"--\r\nepilogue\r\n") and b"\r\n\r\npre\r\n--=_" in bytes(mail)


def test_new_parts_that_hold_the_boundary_of_an_outer_multipart() -> None:
    mail = sample("nested")
    deep = mail.root.parts[0].parts[0].parts[0]
    deep.after(b"\r\n--outer\r\n\r\n--middle--\r\n--inner")
    again = Message(bytes(mail))
    assert [part.number for part in again.parts()] == ["", "1", "1.1", "1.1.1", "1.1.2", "1.1.3", "1.2", "2"]


def test_the_same_mail_is_wrapped_in_the_same_boundary() -> None:
    one, two = sample("plain"), sample("plain")
    one.root.attach(NOTE)
    two.root.attach(NOTE)
    assert bytes(one) == bytes(two)
    again = Message(bytes(one))
    again.root.wrap("mixed")
    assert shape(Message(bytes(again))) == ["multipart/mixed", "1 multipart/mixed", "1.1 text/plain", "1.2 text/plain"]


def test_a_part_that_left_the_mail_is_no_place_for_new_ones() -> None:
    mail = sample("attachments")
    part = mail.root.parts[1]
    part.remove()
    part.remove()
    with pytest.raises(ValueError, match="no longer in the mail"):
        part.after(NOTE)
    assert part.number == "-" and len(mail.root.parts) == 2


def test_only_texts_have_a_text_to_set() -> None:
    mail = sample("nested")
    with pytest.raises(ValueError, match="no text to set"):
        mail.root.parts[1].set_text("no")
    with pytest.raises(ValueError, match="no bytes of its own"):
        mail.root.set_bytes(b"no")
    assert not mail.changed


def test_a_file_of_many_names_gets_one() -> None:
    part = Part.of(
        b"Content-Type: text/plain; name=a.txt; name=b.exe\r\nContent-Disposition: attachment; filename=c.txt\r\n"
        b"Content-Disposition: attachment; filename=d.exe; filename*=utf-8''e.exe\r\n\r\nx"
    )
    assert sorted(part.filenames) == ["a.txt", "b.exe", "c.txt", "d.exe", "e.exe"]
    part.rename("safe.txt")
    assert part.filenames == ["safe.txt"] and part.headers.count("content-disposition") == 1
    part = Part.of(b"Content-Type: text/plain\r\nContent-Type: text/html; name=b.exe\r\n\r\nx")
    part.rename("safe.txt")
    assert part.filenames == ["safe.txt"] and part.type == "text/plain", "nor one in the second of two fields"


def test_bytes_inserted_into_a_body() -> None:
    mail = sample("plain")
    body = mail.raw[mail.raw.index(b"Hello") :]
    mail.root.insert(0, b"first\r\n")
    mail.root.insert(mail.root.size, b"last\r\n")
    assert bytes(mail.root.content) == b"first\r\n" + body + b"last\r\n"
    for place, text in ((3, b"I"), (0, b"0"), (mail.root.size, b"end\r\n"), (9, b"9"), (11, b"!")):
        now = bytes(mail.root.content)
        mail.root.insert(place, text)
        assert bytes(mail.root.content) == now[:place] + text + now[place:], "places count what was inserted before"
    assert bytes(mail).endswith(bytes(mail.root.content)) and mail.size == len(bytes(mail))
    with pytest.raises(ValueError, match="nothing can be inserted"):
        mail.root.insert(1000, b"x")


def test_a_part_of_a_digest_stays_a_mail_when_it_is_wrapped() -> None:
    mail = sample("digest")
    (digest,) = [part for part in mail.parts() if part.type == "multipart/digest"]
    inside = digest.parts[0]
    assert inside.type == "message/rfc822" and not inside.headers.has("content-type")
    before = bytes(inside.content)
    inside.wrap("mixed")
    seen = at(Message(bytes(mail)), inside.number)
    assert (seen.type, bytes(seen.content)) == ("message/rfc822", before)


def untype(part: Part, _: random.Random) -> None:
    part.headers.remove("Content-Type")


CHANGES: list[Callable[[Part, random.Random], object]] = [
    lambda part, rng: part.become(NOTE),
    lambda part, rng: part.remove(),
    lambda part, rng: part.before(NOTE),
    lambda part, rng: part.after(build.file(rng.randbytes(50))),
    lambda part, rng: part.attach(NOTE),
    lambda part, rng: part.wrap("mixed"),
    lambda part, rng: part.rename("name.txt"),
    lambda part, rng: part.headers.append("X-Seen", "1"),
    untype,
    lambda part, rng: part.set_text("ü") if part.type.startswith("text/") else None,
    lambda part, rng: footer.add(part, "bye"),
]


def seen(part: Part) -> tuple[str, str, int, bytes]:
    return part.number, part.type, part.size, bytes(part.content)


INNER = (
    b"Subject: inner\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=in\r\n\r\n"
    b"--in\r\n\r\nhello\r\n--in\r\nContent-Type: application/octet-stream; name=run.exe\r\n\r\nMZ\r\n--in--\r\n"
)


def at(mail: Message, number: str) -> Part:
    return next(part for part in mail.parts() if part.number == number)


def hidden(inner: bytes, encoding: str) -> bytes:
    """A mail with another mail in it under a transfer encoding, which RFC 2046 5.2.1 forbids and mail programs open."""
    body = encodings.encode(inner, encoding)
    return (
        b"Subject: outer\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=out\r\n\r\n"
        b"--out\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: "
        + encoding.encode()
        + b"\r\n\r\n"
        + body
        + b"\r\n--out\r\n\r\nlast\r\n--out--\r\n"
    )


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
@pytest.mark.parametrize("inner", [INNER, INNER.replace(b"\r\n", b"\n")], ids=["crlf", "lf"])
def test_a_mail_that_is_hidden_in_an_encoding_is_opened(encoding: str, inner: bytes) -> None:
    mail = Message(hidden(inner, encoding))
    (program,) = [part for part in mail.parts() if part.filename == "run.exe"]
    assert (program.number, program.decoded()) == ("1.1.2", b"MZ")
    assert at(mail, "1").flaw == "an encoded message"
    assert bytes(mail) == hidden(inner, encoding), "looking changes nothing"
    program.remove()
    at(mail, "1.1").headers.set("Subject", "harmless")
    written = bytes(mail)
    assert mail.size == len(written) and at(mail, "1").size == len(at(mail, "1").content)
    assert written.startswith(b"Subject: outer") and written.endswith(b"\r\n--out\r\n\r\nlast\r\n--out--\r\n")
    seen = Message(written)
    assert shape(seen)[1:4] == ["1 message/rfc822 (an encoded message)", "1.1 multipart/mixed", "1.1.1 text/plain"]
    assert at(seen, "1.1").headers.get("Subject") == "harmless" and b"MZ" not in at(seen, "1").decoded()
    read = email.message_from_bytes(at(seen, "1").decoded(), policy=email.policy.default)
    assert read["Subject"] == "harmless" and [p.get_content() for p in read.iter_parts()] == ["hello"]


def test_how_long_a_mail_will_be_is_known_without_encoding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding 25 MB takes a third of a second, in which nobody else is served."""
    lengths = [*range(200), encodings.PIECE - 1, encodings.PIECE, encodings.PIECE + 1, 3 * encodings.PIECE + 58]
    assert [encodings.base64_size(n) for n in lengths] == [len(encodings.encode(b"x" * n, "base64")) for n in lengths]
    mail = Message(hidden(INNER, "base64"))
    at(mail, "1.1").headers.set("Subject", "harmless")
    written = bytes(mail)
    monkeypatch.delattr(encodings, "encode")
    assert mail.size == len(written)


@pytest.mark.parametrize("outer", ["base64", "quoted-printable"])
@pytest.mark.parametrize("inner", ["base64", "quoted-printable"])
def test_how_long_a_mail_will_be_that_is_hidden_twice(inner: str, outer: str) -> None:
    mail = Message(hidden(hidden(INNER, inner), outer))
    at(mail, "1.1.1.1").headers.set("Subject", "harmless")
    written = bytes(mail)
    assert b"harmless" in at(Message(written), "1.1.1").decoded()
    assert mail.size == len(written)


def test_a_mail_under_an_encoding_nobody_opens_stays_closed() -> None:
    assert shape(Message(hidden(INNER, "x-uuencode")))[1:] == ["1 message/rfc822 (an encoded message)", "2 text/plain"]


def test_changing_a_hidden_mail_lets_no_line_of_it_become_a_boundary() -> None:
    """A line of it that says "--out" once decoded is text, and must be text to whoever reads what we write."""
    inner = b"Subject: inner\r\n\r\n=2D-out\r\nContent-Type: application/x-exe\r\n\r\n" + b"x" * 75 + b"=2D-out\r\n"
    mail = Message(hidden(b"@", "quoted-printable").replace(b"@", inner))
    before = shape(mail)
    at(mail, "1.1").headers.set("Subject", "harmless")
    seen = Message(bytes(mail))
    assert shape(seen) == before and len(before) == 4
    assert at(seen, "1.1").decoded() == at(mail, "1.1").decoded()


def test_mails_hidden_in_each_other_take_memory_in_proportion_to_the_mail() -> None:
    """Quoted-printable grows nothing, so each of a hundred mails would be kept nearly as large as the whole."""
    raw = b"Subject: innermost\r\n\r\n" + b"nothing that needs to be encoded\r\n" * 3000
    for _ in range(50):
        raw = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + raw
    mail = Message(raw)
    parts = list(mail.parts())
    kept = {id(part._raw): len(part._raw) for part in parts}
    assert sum(kept.values()) <= 6 * len(raw) and parts[-1].flaw == "too long to split"
    parts[-2].headers.set("Subject", "changed")
    assert b"Subject: changed" in bytes(mail)


def test_mails_hidden_in_each_other() -> None:
    def nested(depth: int) -> bytes:
        raw = INNER
        for _ in range(depth):
            raw = hidden(raw, "base64")
        return raw

    mail = Message(nested(20))
    assert [part.depth for part in mail.parts() if part.filename == "run.exe"] == [41]
    assert bytes(mail) == nested(20)
    deep = Message(nested(30))
    list(deep.parts())[-1].remove()
    assert bytes(deep).startswith(b"Subject: outer")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_any_changes_to_any_mail_raise_nothing_and_keep_the_untouched(path: Path) -> None:
    for seed in range(30):
        rng = random.Random(f"{path.stem} {seed}")
        mail = Message(path.read_bytes())
        changes = rng.choices(CHANGES, k=rng.randint(1, 5))
        for change in changes:
            change(rng.choice(list(mail.parts())), rng)
        written = bytes(mail)
        assert mail.size == len(written)
        assert shape(Message(written))  # it can be read again
        if untype not in changes:  # then what is seen is what will be read
            assert [seen(part) for part in mail.parts()] == [seen(part) for part in Message(written).parts()]
        untouched = [part for part in mail.parts() if not part.parts and not part.touched]
        opened = b"".join(part.decoded() for part in Message(written).parts() if part.encoding == "base64")
        assert all(bytes(part.content) in written or bytes(part.content) in opened for part in untouched)
        assert bytes(mail) == written


# -- bombs -------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    head = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(depth))
    return head + b"\r\ndeep" + b"".join(b"\r\n--b%d--" % n for n in reversed(range(depth)))


def test_two_thousand_multiparts_in_each_other() -> None:
    raw = nested(2000)
    mail = Message(raw)
    parts = list(mail.parts())
    assert len(parts) == MAX_DEPTH + 1 and parts[-1].flaw == "too deep"
    assert b"deep" in bytes(parts[-1].content)
    parts[-1].before(NOTE)
    assert Message(bytes(mail)).root.type == "multipart/mixed" and b"\r\ndeep" in bytes(mail)


def test_mails_in_mails_in_mails() -> None:
    mail = Message(b"Content-Type: message/rfc822\r\n\r\n" * 2000 + b"deep")
    assert len(list(mail.parts())) == MAX_DEPTH + 1


def test_no_more_wraps_than_anyone_could_read() -> None:
    mail = sample("plain")
    with pytest.raises(ValueError, match="too deep"):
        for _ in range(MAX_DEPTH + 1):
            list(mail.parts())[-1].wrap("mixed")
    assert len(bytes(mail)) > 1000


def test_two_hundred_thousand_empty_parts() -> None:
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 200_000 + b"--b--\r\n"
    mail = Message(raw)
    assert len(mail.root.parts) == MAX_PARTS + 1 and mail.root.flaw == "too many parts"
    mail.root.parts[3].become(NOTE)
    assert bytes(mail) == raw.replace(b"--b\r\n\r\n" * 4, b"--b\r\n\r\n" * 3 + b"--b\r\n" + NOTE + b"\r\n", 1)


BOMBS: dict[str, Callable[[int], bytes]] = {
    "parts": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * (n // 7),
    "nearly boundaries": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"\r\n--bx" * (n // 6),
    "padding": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b" + b" " * n,
    "parameters": lambda n: b"Content-Type: text/plain" + b"; a=b" * (n // 5) + b"\r\n\r\n",
    "continuations": lambda n: b"Content-Type: a/b" + b"".join(b"; n*%d=x" % i for i in range(n // 9)) + b"\r\n\r\n",
    "quotes": lambda n: b'Content-Type: a/b; name="' + b'\\"' * (n // 2) + b"\r\n\r\n",
    "unclosed quotes": lambda n: b"Content-Type: a/b; name=" + b'x"' * (n // 2) + b"\r\n\r\n",
    "percent": lambda n: b"Content-Disposition: a; filename*=''" + b"%41" * (n // 3) + b"\r\n\r\n",
    "encoded words": lambda n: b"Content-Type: a/b; name=" + b"=?utf-8?q?=41?= " * (n // 16) + b"\r\n\r\n",
    "comments": lambda n: b"Content-Transfer-Encoding: " + b"(" * n + b"\r\n\r\n",
    "base64": lambda n: b"Content-Transfer-Encoding: base64\r\n\r\n" + b"=" * n,
    "base64 noise": lambda n: b"Content-Transfer-Encoding: base64\r\n\r\n" + b"Q=*" * (n // 3),
    "quoted-printable": lambda n: b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=" * n,
    "blanks": lambda n: b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b" " * n + b"x",
    "uuencode": lambda n: b"Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin 644 a\r\n" + b"M\r\n" * (n // 3),
    "utf-7": lambda n: b"Content-Type: text/plain; charset=utf-7\r\n\r\n" + b"+" * n,
    "header lines": lambda n: b"a\r\n" * (n // 3),
    "mails in a mail": lambda n: b"Content-Type: message/rfc822\r\n\r\n" * (n // 32),
    "deep and long": lambda n: nested(90) + b"x" * n,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_take_as_long_as_they_are_long(bomb: Callable[[int], bytes]) -> None:
    def look(raw: bytes) -> None:
        mail = Message(raw)
        for part in mail.parts():
            assert part.type and part.filenames is not None and part.text() is not None
        assert bytes(mail) == raw

    assert linear(look, bomb(100_000), bomb(1_000_000))


@pytest.mark.parametrize("before", range(-6, 7))
def test_a_boundary_anywhere_in_a_large_mail(before: int) -> None:
    head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
    raw = head + b"x" * ((4 << 20) + before) + b"\r\n--b\r\n\r\nsecond\r\n--b--\r\n"
    first, second = Message(raw).root.parts
    assert (first.size, bytes(second.content)) == ((4 << 20) + before, b"second")


def test_a_change_in_a_large_mail_copies_none_of_it() -> None:
    content = build.file(bytes(8_000_000), filename="zeros.bin")
    raw = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhi\r\n--b\r\n" + content
    raw += b"\r\n--b\r\n\r\nbye\r\n--b--\r\n"
    mail = Message(raw)
    mail.root.parts[0].become(NOTE)
    mail.root.parts[2].remove()
    mail.root.attach(NOTE)
    assert sum(len(piece) for piece in mail.layout() if isinstance(piece, bytes)) < 500
    assert mail.size == len(bytes(mail))
    assert sum(map(len, mail.root.parts[1].chunks())) == 8_000_000
