"""Encodings and digests of text."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac as hmac_
import quopri
import re

import msgspec

from mta.rules.words.pure import Declared, Tree, declare, lua, to_bytes, to_text

_DIGESTS = ("md5", "sha1", "sha256", "sha384", "sha512")


MAX_JSON = 256 << 10  # bytes: some milliseconds
_NO_CHARSETS = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")  # codecs; some are quadratic


def _named(name: str) -> str:
    if name not in _DIGESTS:
        raise ValueError(f"no digest {name[:20]!r}; there are {', '.join(_DIGESTS)}")
    return name


@lua
def base64_encode(text: str) -> str:
    return base64.b64encode(to_bytes(text)).decode("ascii")


@lua
def base64_decode(text: str) -> str:
    """Also of the form for URLs, without padding, broken into lines."""
    bare = re.sub(r"\s+", "", text).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return to_text(base64.b64decode(to_bytes(bare) + b"=" * (-len(bare) % 4), validate=True))
    except binascii.Error:
        raise ValueError("this is no base64") from None


@lua
def hex_encode(text: str) -> str:
    return to_bytes(text).hex()


@lua
def hex_decode(text: str) -> str:
    try:
        return to_text(bytes.fromhex(text))
    except ValueError:
        raise ValueError("this is no hexadecimal text") from None


@lua
def qp_encode(text: str) -> str:
    """Quoted-printable (RFC 2045 6.7), lines of at most 76 characters that end with CRLF."""
    raw = to_bytes(text).replace(b"\r\n", b"\n")
    return to_text(quopri.encodestring(raw).replace(b"\n", b"\r\n"))


@lua
def qp_decode(text: str) -> str:
    return to_text(quopri.decodestring(to_bytes(text)))


@lua
def digest(name: str, text: str) -> str:
    """The digest of a text, in hexadecimal; name is md5, sha1, sha256, sha384 or sha512."""
    return hashlib.new(_named(name), to_bytes(text), usedforsecurity=False).hexdigest()


@lua
def hmac(name: str, key: str, text: str) -> str:
    """The keyed digest (RFC 2104) of a text, in hexadecimal."""
    return hmac_.new(to_bytes(key), to_bytes(text), _named(name)).hexdigest()


@lua
def equal(one: str, other: str) -> bool:
    """Whether two texts are the same, in a time that does not tell where they differ: for secrets."""
    return hmac_.compare_digest(to_bytes(one), to_bytes(other))


@lua
def decode(text: str, charset: str) -> str:
    """UTF-8 of a text in another charset; what cannot be read becomes U+FFFD."""
    name = charset.lower().replace("_", "-")
    if name in _NO_CHARSETS:
        raise ValueError(f"{charset!r} is no charset of mail")
    try:
        return to_text(to_bytes(text).decode(charset, "replace").encode("utf-8", "replace"))
    except LookupError:
        raise ValueError(f"no charset {charset[:40]!r}") from None


@lua
def json_decode(text: str) -> Tree:
    """Read JSON (RFC 8259); well formed and compact it goes on to Lua."""
    if len(text) > MAX_JSON:
        raise ValueError(f"JSON of {len(text)} bytes is longer than {MAX_JSON}")
    try:
        tree = to_text(msgspec.json.encode(msgspec.json.decode(to_bytes(text))))
    except msgspec.DecodeError as error:
        raise ValueError(f"this is no JSON: {error}") from None
    except RecursionError:
        raise ValueError("this JSON is nested too deeply") from None
    return Tree(tree)


WORDS: list[Declared] = [
    declare(
        "encode.base64(text: string) -> string?, string?",
        "As base64, in one line.",
        'assert(encode.base64("hello") == "aGVsbG8=")',
        base64_encode,
    ),
    declare(
        "encode.hex(text: string) -> string?, string?",
        "In hexadecimal.",
        'assert(encode.hex("az") == "617a")',
        hex_encode,
    ),
    declare(
        "encode.qp(text: string) -> string?, string?",
        "As quoted-printable.",
        'assert(encode.qp("a=b") == "a=3Db")',
        qp_encode,
    ),
    declare(
        "decode.base64(text: string) -> string?, string?",
        "From base64, also that of URLs; nil and why if it is none.",
        'assert(decode.base64("aGVsbG8") == "hello")',
        base64_decode,
    ),
    declare(
        "decode.hex(text: string) -> string?, string?",
        "From hexadecimal.",
        'assert(decode.hex("617a") == "az")',
        hex_decode,
    ),
    declare(
        "decode.qp(text: string) -> string?, string?",
        "From quoted-printable.",
        'assert(decode.qp("a=3Db") == "a=b")',
        qp_decode,
    ),
    declare(
        "decode.charset(text: string, charset: string) -> string?, string?",
        "UTF-8 of a text in another charset.",
        'assert(decode.charset("\\xe9", "iso-8859-1") == "é")',
        decode,
    ),
    declare(
        "json.decode(text: string) -> any, string?",
        "The value a JSON text stands for, objects and arrays as tables, null as nil; nil and why if it is no JSON.",
        'local found = json.decode(\'{"list": [1, "two", true], "none": null}\')\n'
        'assert(found.list[2] == "two" and found.none == nil)',
        json_decode,
    ),
    declare(
        "digest.hmac(name: string, key: string, text: string) -> string?, string?",
        "The digest of a text with a key (RFC 2104), in hexadecimal.",
        'assert(digest.hmac("sha256", "key", "text"):sub(1, 8) == "6afa9046")',
        hmac,
    ),
    declare(
        "digest.equal(one: string, other: string) -> boolean?, string?",
        "Whether two texts are the same, in a time that does not tell where they differ.",
        'assert(digest.equal("secret", "secret"))',
        equal,
    ),
    *(
        declare(
            f"digest.{name}(text: string) -> string?, string?",
            f"The {name.upper()} digest, in hexadecimal.",
            f'assert(#digest.{name}("hello") == {length})',
            functools.partial(digest, name),
        )
        for name, length in (("md5", 32), ("sha1", 40), ("sha256", 64), ("sha512", 128))
    ),
]
