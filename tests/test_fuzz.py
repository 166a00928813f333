"""Every parser of what strangers send, fed with what once broke it, what broke others, and mutations of both.

`tests/fuzz/NAME/` holds the inputs of the target NAME below, one a file, replayed in every run; `tests/messages/` is
the corpus of whole mails. `--long` adds 20,000 mutations of each. A parser may raise Refused (ValueError where its
docstring says so) and nothing else; an input that broke one is added to its folder.
"""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mta.message import address, addresses, footer, headers, parameters, reply, words
from mta.message.message import Message
from mta.message.reply import Refused
from mta.receive import command, sasl
from mta.receive.content import Content

HERE = Path(__file__).parent
Target = Callable[[bytes], object]
TARGETS: dict[str, Target] = {}
MAILS = {"mail", "parts"}  # targets whose corpus is tests/messages


def target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


@target
def address_in_a_path(data: bytes) -> None:
    try:
        found = address.parse(data.decode("latin-1"))
    except Refused as refused:
        assert refused.reply.permanent
        return
    assert address.parse(str(found)) == found


@target
def domain(data: bytes) -> None:
    try:
        found = address.parse_domain(data.decode("latin-1"))
    except Refused as refused:
        assert refused.reply.permanent
        return
    assert address.parse_domain(found) == found and found.isprintable()


@target
def reply_text(data: bytes) -> None:
    try:
        found = reply.Reply.parse(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert found.wire.endswith(b"\r\n")


@target
def header_value(data: bytes) -> None:
    value = data.decode("latin-1")
    try:
        text = headers.write("X-Name", value)
    except ValueError:
        assert any(c in value for c in "\r\n\0")
        return
    assert headers.unfold(text) == value.strip(" \t")


@target
def mail(data: bytes) -> None:
    content = Message(data)
    list(content.headers)
    content.headers.append("X-New", "1")
    assert content.size == len(bytes(content))
    content.headers.remove("X-New")
    body = bytes(content.body())
    if not any(f.name == "x-new" for f in Message(data).headers.fields):
        parted = data[: len(data) - len(body)] + b"\r\n" + body  # an empty line that was missing
        assert bytes(content) in (data, parted)


@target
def encoded_words(data: bytes) -> None:
    text = words.decode(data.decode("latin-1"))
    again = words.encode(text.replace("\r", " ").replace("\n", " ").replace("\0", " "))
    assert again.isascii()


@target
def address_list(data: bytes) -> None:
    found = addresses.parse(data.decode("latin-1"))
    headers.write("To", addresses.write(found))


@target
def parameter_list(data: bytes) -> None:
    value = data.decode("latin-1")
    found = parameters.parse(value)
    assert parameters.file_name(found.get("filename")) not in (".", "..")
    headers.write("Content-Type", parameters.change(value, "name", "new"))


@target
def parts(data: bytes) -> None:
    content = Message(data)
    for part in content.parts():
        assert part.type and part.text(1000) is not None and part.filenames is not None
    assert bytes(content) == data
    footer.add(content.root, "footer")
    content.root.attach(b"X: 1\r\n\r\nnew")
    again = Message(bytes(content))
    assert content.size == len(bytes(content)) and b"new" in bytes(again.root.parts[-1].content)


@target
def smtp_command(data: bytes) -> None:
    try:
        _, rest = command.read(data)
    except Refused as refused:
        assert refused.reply.permanent
        return
    for reader in (command.helo, command.mail, command.rcpt):
        try:
            assert reader(rest) is not None
        except Refused as refused:
            assert refused.reply.permanent


@target
def sasl_exchange(data: bytes) -> None:
    """What follows AUTH in the first line, the client's answers in the others."""
    first, *lines = data.split(b"\r\n")
    steps = sasl.exchange(first.decode("latin-1"))
    try:
        asked = next(steps)
        for line in lines:
            assert asked.isascii()
            asked = steps.send(line)
    except Refused as refused:
        assert refused.reply.permanent
    except StopIteration as end:
        found = end.value
        assert (found.user + found.password + found.identity).isprintable() or not found.user.isascii()
        assert found.mechanism in sasl.MECHANISMS and len(found.user.encode()) <= sasl.MAX_NAME


@target
def smtp_content(data: bytes) -> None:
    """However the bytes of a mail are cut into chunks, the mail and its end are the same."""
    rng = random.Random(len(data))
    for repair in (False, True):
        whole = arrived([data], repair)
        cuts = sorted(rng.choices(range(len(data) + 1), k=5))
        pieces = [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
        assert arrived([data[n : n + 1] for n in range(len(data))], repair) == whole
        assert arrived(pieces, repair) == whole
        if not repair and whole is not None:
            mail, rest = whole
            assert b"\n" not in mail.replace(b"\r\n", b"") and b"\r" not in mail.replace(b"\r\n", b"")
            assert data.endswith(b"\r\n.\r\n" + rest) or data == b".\r\n" + rest


def arrived(chunks: list[bytes], repair: bool) -> tuple[bytes, bytes] | None:
    """(the mail, what follows its end), or None: refused, or no end."""
    content, mail = Content(1000, repair), b""
    for n, chunk in enumerate(chunks):
        if not chunk:
            continue
        try:
            piece, rest = content.feed(chunk)
        except Refused as refused:
            assert refused.reply.code == 521 and refused.reply.close
            return None
        mail += piece
        if rest is not None:
            return mail, rest + b"".join(chunks[n + 1 :])
    return None


def corpus(name: str) -> list[Path]:
    folder = HERE / "messages" if name in MAILS else HERE / "fuzz" / name
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_every_corpus_has_a_target_and_every_target_a_corpus() -> None:
    assert {path.name for path in (HERE / "fuzz").iterdir() if path.is_dir()} | MAILS == set(TARGETS)


CASES = [(name, path) for name in TARGETS for path in corpus(name)]


@pytest.mark.parametrize(("name", "path"), CASES, ids=[f"{name}-{path.stem}" for name, path in CASES])
def test_replay(name: str, path: Path) -> None:
    TARGETS[name](path.read_bytes())


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        what = rng.randrange(6)
        if what == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif what == 1:
            data[at:at] = rng.choice(
                [b"\r\n", b"\n", b"\r", b"\0", b'"', b"\\", b"=?", b"?=", b";", b"--", b"(", b" ", b"%"]
            )
        elif what == 2:
            del data[at : at + rng.randint(1, 20)]
        elif what == 3:
            data[at:at] = data[at : at + rng.randint(1, 40)] * rng.randint(1, 8)
        elif what == 4:
            other = rng.choice(seeds)
            start = rng.randint(0, len(other))
            data[at:at] = other[start : start + rng.randint(1, 200)]
        else:
            data[at:] = b""
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str, pytestconfig: pytest.Config) -> None:
    rng, seeds = random.Random(name), [path.read_bytes() for path in corpus(name)]
    for _ in range(20_000 if pytestconfig.getoption("--long") else 200):
        data = mutate(rng, seeds)
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"{name} broke on {data!r}") from error
