"""Encoded words and charsets: whatever a header says is readable text, and text is written so that it comes back."""

import email.header
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import linear

from mta.message import charsets, headers, words

READ = [
    # as it stands in the header                               what it means
    ("plain words", "plain words"),
    ("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
    ("=?UTF-8?B?R3LDvMOfZQ==?=", "Grüße"),
    ("=?iso-8859-1?Q?K=F6ln_am?= Rhein", "Köln am Rhein"),
    ("a =?utf-8?q?b?= c", "a b c"),
    ("=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
    ("=?utf-8?q?a?=   \t =?iso-8859-1?b?Yg==?=", "ab"),
    ("=?utf-8?q?a_?= =?utf-8?q?b?=", "a b"),
    ("=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),  # a character cut in two (RFC 2047 5 forbids it)
    ("=?utf-8*de?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),  # RFC 2231 5
    ("a=?utf-8?q?b?=c", "abc"),
    ("=?utf-8?q?a b?=", "a b"),
    ("=?utf-8?b?R3LDvMOfZQ?=", "Grüße"),
    ("=?utf-8?b?!!!?=", ""),
    ("=?nosuch?q?=C3=BC?=", "ü"),
    ("=?nosuch?q?=FC?=", "ü"),
    ("=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "日本"),
    ("=?gb2312?b?1tDOxA==?=", "中文"),
    ("=?utf-8?q?no end", "=?utf-8?q?no end"),
    ("=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
    ("=??q?a?=", "=??q?a?="),
    ("=?utf-8?q?a=0D=0ABcc:_x=00?=", "a  Bcc: x "),  # never a second field
    ("Gr\xc3\xbc\xc3\x9fe", "Grüße"),  # bytes beyond ASCII, in disguise
    ("Gr\xfc\xdfe", "Grüße"),
    ("\x93quoted\x94", "“quoted”"),
]


@pytest.mark.parametrize(("value", "text"), READ)
def test_read(value: str, text: str) -> None:
    assert words.decode(value) == text


WRITTEN = [
    ("plain", "plain"),
    ("two  blanks", "two  blanks"),
    ("Grüße aus Köln am Rhein", "=?utf-8?b?R3LDvMOfZSBhdXMgS8O2bG4=?= am Rhein"),
    ("ein Müller hier", "ein =?utf-8?q?M=C3=BCller?= hier"),
    ("not =? a word", "not =?utf-8?q?=3D=3F?= a word"),
    ("a\tb", "=?utf-8?q?a=09b?="),
    ("", ""),
]


@pytest.mark.parametrize(("text", "value"), WRITTEN)
def test_written(text: str, value: str) -> None:
    assert words.encode(text) == value


def test_all_of_it_where_it_stands_in_a_name() -> None:
    assert words.encode("Doe, Jürgen", whole=True) == "=?utf-8?q?Doe=2C_J=C3=BCrgen?="


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=300))
def test_what_is_written_reads_back_and_fits_a_header(text: str) -> None:
    value = words.encode(text)
    assert value.isascii() and words.decode(value) == text
    assert all(len(word) <= 75 for word in value.split(" ") if word.startswith("=?")), "RFC 2047 2"
    headers.write("Subject", value)


@given(st.text(alphabet="aü☃ =?", max_size=100))
def test_the_standard_library_reads_it_the_same(text: str) -> None:
    theirs = str(email.header.make_header(email.header.decode_header(words.encode(text, whole=True))))
    assert theirs == text


@pytest.mark.parametrize("text", ["a\r\nBcc: x", "a\0", "\n"])
def test_more_than_a_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        words.encode(text)


@given(
    st.text(alphabet=st.characters(max_codepoint=255), max_size=300)
    | st.text(alphabet="=?utf-8bqQ_AZ \xff", max_size=80)
)
def test_reading_raises_nothing(value: str) -> None:
    text = words.decode(value)
    assert not any(c in text for c in "\r\n\0") or "=?" not in value


@given(
    st.binary(max_size=200),
    st.sampled_from(["utf-8", "utf-16", "utf-7", "hz", "iso-2022-jp", "hex", "idna", "a\0", ""]),
)
def test_any_bytes_in_any_charset_are_text(content: bytes, charset: str) -> None:
    assert isinstance(charsets.decode(content, charset), str)
    assert isinstance(charsets.decode(content, charset, whole=False), str)


def test_charsets_that_are_none() -> None:
    for name in (
        "hex",
        "base64",
        "zlib",
        "rot13",
        "idna",
        "punycode",
        "unicode_escape",
        "undefined",
        "x" * 1000,
        "a\0b",
    ):
        assert charsets.known(name) == ""
        assert charsets.encode("a", name) is None


def test_charsets_that_say_less_than_they_are() -> None:
    assert charsets.decode("€".encode("cp949", "replace") + b"\xb0\xa1", "euc-kr").endswith("가")
    assert charsets.known("gb2312") == "gb18030" and charsets.known("Shift_JIS") == "cp932"
    assert charsets.extends_ascii("iso-8859-1") and not charsets.extends_ascii("utf-16")


BOMBS = {
    "words": lambda n: "=?utf-8?q?=C3?= " * (n // 16),
    "four hundred kilobytes of base64 words": lambda n: "=?utf-8?b?YQ==?=\t" * (n // 17),
    "words of many charsets": lambda n: "".join(f"=?utf-8?q?a?= =?x-{i}?q?b?= " for i in range(n // 30)),
    "beginnings": lambda n: "=?" * (n // 2),
    "questions": lambda n: "=?a?q?" * (n // 6),
    "one long word": lambda n: "=?utf-8?q?" + "=41" * (n // 3) + "?=",
    "no end": lambda n: "=?utf-8?q?" + "a" * n,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_take_as_long_as_they_are_long(bomb) -> None:  # type: ignore[no-untyped-def]
    assert linear(words.decode, bomb(45_000), bomb(450_000))
    assert len(words.decode(bomb(450_000))) < 2_000_000


def test_half_a_megabyte_of_encoded_words_takes_a_few_megabytes() -> None:
    value = "=?utf-8?q?=C3=BC?= " * 24_000
    tracemalloc.start()
    words.decode(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(value)
