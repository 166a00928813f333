"""Header fields: found whatever their shape, changed without a byte of any other field changing."""

import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import linear

from mta.message.headers import MAX_FIELDS, unfold, write
from mta.message.message import Message

MAIL = (
    b"Received: from a\r\n\tby b\r\n"
    b"From: Ann <ann@example.test>\r\n"
    b"SUBJECT:tight\r\n"
    b"X-Twice: one\r\n"
    b"no field at all\r\n"
    b"x-twice:  two  \r\n"
    b"X-Old : white space before the colon\r\n"
    b"X-Empty:\r\n"
    b"X-Fold:\r\n a\r\n\tb \r\n   \r\n c\r\n"
    b"\r\nSubject: in the body\r\n"
)


def fresh() -> Message:
    return Message(MAIL)


READ = [
    # name         value of the first         how many
    ("received", "from a\tby b", 1),
    ("From", "Ann <ann@example.test>", 1),
    ("Subject", "tight", 1),
    ("X-TWICE", "one", 2),
    ("X-Old", "white space before the colon", 1),
    ("X-Empty", "", 1),
    ("X-Fold", "a\tb     c", 1),
    ("To", None, 0),
    ("", None, 0),
    ("no field at all", None, 0),
]


@pytest.mark.parametrize(("name", "value", "count"), READ)
def test_read(name: str, value: str | None, count: int) -> None:
    headers = fresh().headers
    if name:
        assert (headers.get(name), headers.count(name), headers.has(name)) == (value, count, count > 0)
    else:
        assert headers.get(name) is None or not headers.has("x")


def test_all_values_of_a_name_from_top_to_bottom() -> None:
    assert fresh().headers.all("x-twice") == ["one", "two"]
    assert fresh().headers.all("to") == []


def test_names_keep_their_case_and_lines_that_are_no_field_are_passed_over() -> None:
    assert [name for name, _ in fresh().headers] == (
        ["Received", "From", "SUBJECT", "X-Twice", "x-twice", "X-Old", "X-Empty", "X-Fold"]
    )


CHANGES: list[tuple[str, Callable[[Message], object], Callable[[bytes], bytes]]] = [
    ("nothing", lambda m: m.headers.get("From"), lambda raw: raw),
    ("prepend", lambda m: m.headers.prepend("X-New", "v"), lambda raw: b"X-New: v\r\n" + raw),
    (
        "append",
        lambda m: m.headers.append("X-New", "v"),
        lambda raw: raw.replace(b" c\r\n\r\n", b" c\r\nX-New: v\r\n\r\n"),
    ),
    ("set", lambda m: m.headers.set("x-TWICE", "v"), lambda raw: raw.replace(b"X-Twice: one", b"x-TWICE: v")),
    (
        "set what is not there",
        lambda m: m.headers.set("X-New", "v"),
        lambda raw: raw.replace(b" c\r\n\r\n", b" c\r\nX-New: v\r\n\r\n"),
    ),
    ("rename", lambda m: m.headers.rename("x-twice", "X-Once"), lambda raw: raw.replace(b"X-Twice:", b"X-Once:")),
    ("rename what is not there", lambda m: m.headers.rename("To", "Cc"), lambda raw: raw),
    (
        "remove",
        lambda m: m.headers.remove("X-Twice"),
        lambda raw: raw.replace(b"X-Twice: one\r\n", b"").replace(b"x-twice:  two  \r\n", b""),
    ),
    ("remove what is not there", lambda m: m.headers.remove("To"), lambda raw: raw),
    (
        "prepend twice, then remove",
        lambda m: (m.headers.prepend("X-A", "1"), m.headers.prepend("X-B", "2"), m.headers.remove("X-A")),
        lambda raw: b"X-B: 2\r\n" + raw,
    ),
    (
        "remove, then prepend",
        lambda m: (m.headers.remove("Received"), m.headers.prepend("X-B", "2")),
        lambda raw: b"X-B: 2\r\n" + raw.replace(b"Received: from a\r\n\tby b\r\n", b""),
    ),
]


@pytest.mark.parametrize(("change", "expected"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_change_touches_its_own_field_only(
    change: Callable[[Message], object], expected: Callable[[bytes], bytes]
) -> None:
    mail = fresh()
    change(mail)
    assert bytes(mail) == expected(MAIL)
    assert mail.size == len(bytes(mail)) == sum(len(piece) for piece in mail.pieces())
    assert mail.changed == (bytes(mail) != MAIL)


def test_how_many_were_removed_or_renamed() -> None:
    headers = fresh().headers
    assert headers.remove("x-twice") == 2 and headers.remove("x-twice") == 0
    assert headers.rename("From", "X-From") and not headers.rename("From", "X-From")


def test_a_new_field_after_a_mail_that_ends_inside_its_header() -> None:
    mail = Message(b"From: ann@example.test\r\nSubject: cut sh")
    mail.headers.append("X-New", "v")
    assert bytes(mail) == b"From: ann@example.test\r\nSubject: cut sh\r\nX-New: v\r\n"
    renamed = Message(b"Subject: cut sh")
    renamed.headers.rename("Subject", "X-Subject")
    renamed.headers.append("X-New", "v")
    assert bytes(renamed) == b"X-Subject: cut sh\r\nX-New: v\r\n"
    assert renamed.size == len(bytes(renamed))


INJECTIONS = ["a\r\nBcc: x", "a\r\n\r\nbody", "a\n", "\r", "a\0b", "a\r\n folded", "\n"]


@pytest.mark.parametrize("value", INJECTIONS)
def test_a_value_never_becomes_a_second_field(value: str) -> None:
    headers = fresh().headers
    for change in (headers.append, headers.prepend, headers.set):
        with pytest.raises(ValueError, match="one line"):
            change("X-New", value)
    assert not headers.changed


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "ä", "a\0", " a", "a\t", "X-New\r\nBcc: y"])
def test_a_name_is_printable_ascii_without_colon(name: str) -> None:
    headers = fresh().headers
    for change in (headers.append, headers.prepend, headers.set):
        with pytest.raises(ValueError, match="not a header name"):
            change(name, "v")
    with pytest.raises(ValueError, match="not a header name"):
        headers.rename("From", name)
    assert not headers.changed


def test_text_beyond_latin_1_must_be_encoded_first() -> None:
    with pytest.raises(ValueError, match="latin-1"):
        fresh().headers.append("X-New", "☃")


LINE = st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=400) | st.text(
    alphabet="ab \t", max_size=400
)


@given(LINE)
def test_folding_is_undone_by_unfolding(value: str) -> None:
    text = write("X-Name", value)
    assert unfold(text) == value.strip(" \t")
    lines = text.split(b"\r\n")
    assert lines.pop() == b""
    assert all(line[:1] in (b" ", b"\t") for line in lines[1:])
    assert all(line.strip(b" \t") for line in lines[1:]), "RFC 5322 3.2.2: no line of white space alone"


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=30), max_size=60))
def test_lines_of_words_stay_within_78(words: list[str]) -> None:
    assert all(len(line) <= 78 for line in write("X-Name", " ".join(words)).split(b"\r\n"))


# -- any mail, any changes: a list of fields kept beside must tell the same story --------------------------------------

FIELD = st.sampled_from(
    [
        b"A: 1",
        b"a:2",
        b"B : 3",
        b"C:\r\n folded\r\n\tmore",
        b"no field",
        b"",
        b" starts folded",
        b"\xe9: x",
        b"A:",
        b"D: \n",
    ]
)
RAW = st.builds(
    lambda fields, body: b"".join(f + b"\r\n" for f in fields) + body,
    st.lists(FIELD, max_size=6),
    st.sampled_from([b"", b"\r\n", b"\r\nbody\r\n", b"\r\n\r\n", b"half a line", b"A: 9", b"\nbare\n"]),
)
NAMES = st.sampled_from(["A", "a", "B", "C", "D", "E"])
CHANGE = st.one_of(
    st.tuples(st.sampled_from(["prepend", "append", "set"]), NAMES, st.sampled_from(["v", "", "w " * 60])),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("remove"), NAMES),
)


def split(raw: bytes) -> tuple[list[bytes], bytes, bytes]:
    """What mime and index make of it, said another way: fields with their line ends, the empty line, the body."""
    head, empty, body = (b"", b"\r\n", raw[2:]) if raw[:2] == b"\r\n" else raw.partition(b"\r\n\r\n")
    if empty and head:
        head, empty = head + b"\r\n", b"\r\n"
    fields = re.findall(rb"(?s)(?:.*?\r\n(?![ \t])|.+\Z)", head)
    if empty and fields and not any(named(field) for field in lines(head)):
        return [], b"", raw
    if not empty:
        no_field = next((n for n, field in enumerate(fields) if not named(field)), len(fields))
        return fields[:no_field], b"", b"".join(fields[no_field:])
    return fields, empty, body


def lines(head: bytes) -> list[bytes]:
    return re.findall(rb"(?s)(?:.*?\r\n|.+\Z)", head)


def named(field: bytes) -> str:
    found = re.match(rb"([!-9;-~]+)[ \t]*:", field)
    return found[1].decode().lower() if found else ""


@given(RAW, st.lists(CHANGE, max_size=6))
def test_changes_agree_with_a_plain_list_of_fields(raw: bytes, changes: list[tuple[str, ...]]) -> None:
    mail, (fields, empty, body) = Message(raw), split(raw)
    for verb, *arguments in changes:
        getattr(mail.headers, verb)(*arguments)
        name = arguments[0].lower()
        at = next((n for n, field in enumerate(fields) if named(field) == name), None)
        if verb in ("prepend", "append", "set"):
            text = write(*arguments)
            if verb == "prepend":
                fields.insert(0, text)
            elif verb == "append" or at is None:
                fields.append(text)
            else:
                fields[at] = text
        elif verb == "rename" and at is not None:
            fields[at] = arguments[1].encode() + b":" + fields[at].partition(b":")[2]
            fields[at] += b"" if fields[at].endswith(b"\r\n") else b"\r\n"
        elif verb == "remove":
            fields = [field for field in fields if named(field) != name]
    if mail.changed and not empty and body:
        empty = b"\r\n"
    whole = [f if f.endswith(b"\r\n") or n == len(fields) - 1 else f + b"\r\n" for n, f in enumerate(fields)]
    assert bytes(mail) == b"".join(whole) + empty + body
    assert mail.size == len(bytes(mail))
    again = Message(bytes(mail)).headers
    if raw.startswith((b" ", b"\t")):
        return  # a field put before a line that begins with white space takes it for its own, for every reader
    for name in "ABCDE":
        assert mail.headers.all(name) == again.all(name)


@given(st.binary(max_size=300) | RAW)
def test_reading_any_bytes_raises_nothing_and_changes_nothing(raw: bytes) -> None:
    mail = Message(raw)
    list(mail.headers)
    mail.headers.all("A")
    mail.body()
    assert bytes(mail) == raw and not mail.changed and mail.size == len(raw)


# -- bombs -------------------------------------------------------------------------------------------------------------


def test_twenty_thousand_fields_are_kept_and_the_first_ten_thousand_found() -> None:
    raw = b"".join(b"X-%d: v\r\n" % n for n in range(20_000)) + b"\r\nbody"
    mail = Message(raw)
    assert len(mail.headers.fields) == MAX_FIELDS + 1
    assert mail.headers.get("X-9999") == "v" and mail.headers.get("X-10000") is None
    mail.headers.set("X-5", "new")
    assert bytes(mail) == raw.replace(b"X-5: v\r\n", b"X-5: new\r\n")
    assert len(mail.layout()) < 10


def test_behind_the_last_field_that_counts_nothing_is_found() -> None:
    for lines in (b"a:\r\n", b"x\r\n"):
        raw = b"From: a\r\n" + lines * MAX_FIELDS + b"X-Late: here\r\n\r\n"
        looked, counted = Message(raw).headers, Message(raw).headers
        assert counted.count("x-late") == 0 and counted.get("From") == "a"
        assert not looked.has("x-late") and looked.get("x-late") is None


BOMBS = {
    "one long field": lambda n: b"X: " + b"y" * n + b"\r\n\r\n",
    "a field folded at every byte": lambda n: b"X:" + b"\r\n y" * (n // 4) + b"\r\n\r\n",
    "a name without a colon": lambda n: b"x" * n + b"\r\n\r\n",
    "white space before a colon that never comes": lambda n: b"x" + b" " * n + b"y\r\n\r\n",
    "line ends": lambda n: b"x\r\n" + b" \r\n" * (n // 3),
    "carriage returns": lambda n: b"\r" * n,
    "colons": lambda n: b":" * n + b"\r\n\r\n",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_take_as_long_as_they_are_long(bomb: Callable[[int], bytes]) -> None:
    assert linear(lambda raw: list(Message(raw).headers), bomb(100_000), bomb(1_000_000))


@pytest.mark.parametrize("alphabet", ["a ", "  a", " ", "\t a"])
def test_folding_takes_as_long_as_the_value_is_long(alphabet: str) -> None:
    rng = random.Random(1)
    value = "".join(rng.choice(alphabet) for _ in range(300_000))
    assert linear(lambda value: write("X", value), value[:30_000], value)


HEAD = st.lists(
    st.sampled_from([b"subject", b"SubJect", b"s", b":", b" ", b"\t", b"\r\n", b"x", b"\r", b"\n"]), max_size=30
)


@given(HEAD.map(b"".join), st.sampled_from([b"", b"X: 1\r\n a\r\n", b"subject : top\r\n"]))
def test_one_field_is_found_as_the_index_has_it(raw: bytes, top: bytes) -> None:
    looked, indexed = Message(raw + b"\r\n\r\nbody"), Message(raw + b"\r\n\r\nbody")
    if top:
        looked.headers.prepend_raw(top)
        indexed.headers.prepend_raw(top)
    assert indexed.headers.fields is not None
    for name in ("subject", "X", "s", "xs", "none"):
        assert looked.headers.get(name) == indexed.headers.get(name)
        assert looked.headers.has(name) == indexed.headers.has(name)


@pytest.mark.parametrize("name", ["a:b", "x y", " x", "a:", "ä"])
@pytest.mark.parametrize("index", [False, True])
def test_what_is_no_name_is_the_name_of_no_field(name: str, index: bool) -> None:
    headers = Message(b"a:b:c\r\nx y: 1\r\n x: 2\r\n\xe4: 3\r\n: 4\r\n\r\n").headers
    if index:
        headers.set("New", "field")
    assert headers.get("a") == "b:c" and headers.get(name) is None and not headers.has(name)


def test_a_copy_of_a_header_without_fields_is_apart_from_it() -> None:
    mail = Message(b"no header\r\n\r\nbody")
    assert mail.headers.count("X") == 0
    copy = mail.copy()
    copy.headers.append("X", "1")
    assert copy.edited and copy.headers.get("X") == "1"
    assert mail.headers.get("X") is None and bytes(mail) == mail.raw
