"""Encodings, digests and regular expressions as words of the rules."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from timing import slowness

from mta.rules.words import patterns, text

ANY = st.text(st.characters(max_codepoint=255), max_size=300)


def lua(said: str) -> str:
    """UTF-8 as Lua hands it over."""
    return said.encode().decode("latin-1")


@given(ANY)
def test_what_is_encoded_is_decoded(said: str) -> None:
    assert text.base64_decode(text.base64_encode(said)) == said  # type: ignore[arg-type]
    assert text.hex_decode(text.hex_encode(said)) == said  # type: ignore[arg-type]
    lines = said.replace("\r", "").replace("\n", "\r\n")
    encoded = text.qp_encode(lines)
    assert isinstance(encoded, str) and encoded.isascii() and all(len(line) <= 76 for line in encoded.split("\r\n"))
    assert text.qp_decode(encoded) == lines


def test_base64_of_all_kinds() -> None:
    raw = bytes(range(256)).decode("latin-1")
    url = base64.urlsafe_b64encode(bytes(range(256))).decode().rstrip("=")
    assert text.base64_decode(url) == raw
    assert text.base64_decode("aGV\r\n sbG8=\n") == "hello"
    assert text.base64_decode("aGVsbG8") == "hello"
    for bad in ("a", "aGV$", "====a", "\xe9"):
        assert text.base64_decode(bad) == (None, "this is no base64")
    assert text.hex_decode("0g") == (None, "this is no hexadecimal text")


def test_digests() -> None:
    assert text.digest("md5", "") == "d41d8cd98f00b204e9800998ecf8427e"
    assert text.digest("sha256", "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    # RFC 4231 test case 2
    assert text.hmac("sha256", "Jefe", "what do ya want for nothing?") == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    assert text.digest("crc", "x") == (None, "no digest 'crc'; there are md5, sha1, sha256, sha384, sha512")
    assert text.equal("a", "a") is True and text.equal("a", "b") is False and text.equal("\xe9", "\xe9") is True


def test_charsets() -> None:
    assert text.decode("caf\xe9", "iso-8859-1") == lua("café")
    assert text.decode("\xff", "utf-8") == lua("\ufffd")
    assert text.decode("x", "no-such") == (None, "no charset 'no-such'")
    for codec in ("rot13", "Punycode", "unicode_escape", "zlib", "caf\xe9", ""):
        nothing, why = text.decode("x", codec)
        assert nothing is None and why


@pytest.mark.parametrize("word", [text.base64_encode, text.base64_decode, text.hex_encode, text.qp_decode])
@pytest.mark.parametrize("wrong", [None, 5, True, "\u20ac", "x" * 2_000_000])
def test_wrong_arguments_are_answered_not_raised(word: Any, wrong: Any) -> None:
    nothing, why = word(wrong)
    assert nothing is None and why


# -- regular expressions ---------------------------------------------------------------------------------------------


def test_find_match_and_matches() -> None:
    assert patterns.matches("(?i)viagra", "cheap ViAgRa!") is True
    assert patterns.matches("^viagra", "cheap viagra") is False
    assert patterns.find("b+", "aabbb") == (3, 5)
    assert patterns.find("b", "bab", 2) == (3, 3)
    assert patterns.find("b", "bab", -1) == (3, 3)
    assert patterns.find("b", "bab", 100) is None
    assert patterns.find("x*", "") == (1, 0)
    assert patterns.find("z", "abc") is None
    assert patterns.match(r"(\w+)@(\w+)", "to ann@host now") == ("ann", "host")
    assert patterns.match(r"\d+", "id 42") == ("42",)
    assert patterns.match(r"(a)|(b)", "b") == (False, "b")
    assert patterns.match(r"\d", "none") is None


def test_characters_and_stray_bytes() -> None:
    assert patterns.matches(lua("(?i)^CAFÉ.$"), lua("café!")) is True
    assert patterns.match("^(.)", lua("éa")) == (lua("é"),)
    assert patterns.find("a", lua("éa")) == (3, 3), "positions count bytes"
    assert patterns.matches("buy.*now", "buy \xff\xfe now") is True, "a stray byte hides nothing"
    assert patterns.matches(r"a\x00b", "a\0b") is True


def test_replace() -> None:
    assert patterns.replace("a", "banana", "o") == ("bonono", 3)
    assert patterns.replace("a", "banana", "o", 2) == ("bonona", 2)
    assert patterns.replace(r"(\w+) (\w+)", "hello world", "%2 %1 %0 100%%") == ("world hello hello world 100%", 1)
    assert patterns.replace("(x)|y", "y", "<%1>") == ("<>", 1)
    assert patterns.replace("", "ab", "-") == ("-a-b-", 3)
    assert patterns.replace("z", "ab", "-") == ("ab", 0)
    for by, why in {"%2": "the pattern has 1 captures", "%x": "captures"}.items():
        nothing, message = patterns.replace("(a)", "a", by)
        assert nothing is None and why in str(message)
    nothing, message = patterns.replace("a", "a" * 20_000, "b")
    assert nothing is None and "more than 10000 occurrences" in str(message)
    nothing, message = patterns.replace("a", "a" * 9000, "b" * 1000)
    assert nothing is None and "longer" in str(message)


@given(ANY, ANY)
@example("\x80", "\xc2")
def test_an_escaped_text_matches_itself(said: str, around: str) -> None:
    escaped = patterns.escape(said)
    assert isinstance(escaped, str)
    found = patterns.find(escaped, around + said)
    assert isinstance(found, tuple) and found[0] is not None


@pytest.mark.parametrize("pattern", ["(", "a**", "(?=x)", r"(a)\1", "[z-a]", "a{1,100000}", "x" * 5000])
def test_what_is_no_pattern_is_said_so(pattern: str) -> None:
    for answer in (patterns.check(pattern), patterns.matches(pattern, "x"), patterns.replace(pattern, "x", "y")):
        assert isinstance(answer, tuple) and answer[0] is None and "pattern" in str(answer[1])


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", ".*.*.*.*b", "(x+x+)+y", "(.*?,){12}P"])
def test_no_text_makes_a_pattern_slow(pattern: str) -> None:
    begun = time.process_time()
    assert patterns.matches(pattern, "a,x" * 30_000 + "!") is False
    assert time.process_time() - begun < slowness()


def test_a_replace_that_looks_through_the_rest_at_each_place_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "PATIENCE", 0.01)
    nothing, why = patterns.replace("a.*b|a", "a" * 100_000, "x")
    assert nothing is None and "takes too long" in str(why)


def test_what_is_no_pattern_any_more_is_not_escaped() -> None:
    nothing, why = patterns.escape("." * 5000)
    assert nothing is None and "longer than a pattern may be" in str(why)


@given(st.text(max_size=20), ANY)
def test_no_pattern_and_no_text_raises(pattern: str, said: str) -> None:
    for answer in (patterns.find(pattern, said), patterns.match(pattern, said), patterns.replace(pattern, said, "x")):
        assert answer is None or isinstance(answer, tuple)
