"""Lists and maps: what entries fit what is asked, errors with file:line, reading again, staying in the folder."""

from __future__ import annotations

import ipaddress
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hands import Clock
from hypothesis import given
from hypothesis import strategies as st
from timing import slowness

from mta.rules.outside import lists
from mta.rules.outside.lists import GivenLists, ListError, Lists, Ranges, parse

TEXT = """\
# people and places
viagra
Buy Now!            # a phrase
ann@example.test
postmaster@
plain.test
@at.test
.all.test
*.below.test
192.0.2.7
10.0.0.0/8
198.51.100.10-198.51.100.20
2001:db8::/32
b\xfccher.test
caf\xe9
""".encode()


def _bytes(text: str) -> str:
    """As Lua hands UTF-8 over."""
    return text.encode().decode("latin-1")


@pytest.mark.parametrize(
    "asked, fits",
    [
        ("viagra", "viagra"), ("VIAGRA", "viagra"), ("viagra2", None), ("buy now!", "Buy Now!"),
        ("ann@example.test", "ann@example.test"), ("Ann@EXAMPLE.test", "ann@example.test"),
        ("bob@example.test", None), ("example.test", None), ("ann@sub.example.test", None),
        ("postmaster@anywhere.at.all", "postmaster@"), ("postmaster", None),
        ("plain.test", "plain.test"), ("x@plain.test", "plain.test"), ("sub.plain.test", None),
        ("at.test", "@at.test"), ("x@at.test", "@at.test"), ("x@sub.at.test", None),
        ("all.test", ".all.test"), ("x@all.test", ".all.test"), ("a.b.all.test", ".all.test"),
        ("x@a.all.test", ".all.test"), ("small.test", None), ("notall.test", None),
        ("below.test", None), ("x@below.test", None), ("a.below.test", "*.below.test"),
        ("x@a.b.below.test", "*.below.test"),
        ("192.0.2.7", "192.0.2.7"), ("192.0.2.8", None), ("10.255.0.1", "10.0.0.0/8"), ("11.0.0.1", None),
        ("198.51.100.10", "198.51.100.10-198.51.100.20"), ("198.51.100.20", "198.51.100.10-198.51.100.20"),
        ("198.51.100.9", None), ("198.51.100.21", None),
        ("2001:DB8::1", "2001:db8::/32"), ("2001:db9::1", None), ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("xn--bcher-kva.test", _bytes("bücher.test")), (_bytes("bücher.test"), _bytes("bücher.test")),
        (_bytes("ann@BüCHER.test"), _bytes("bücher.test")), (_bytes("ü") * 60_000 + ".test", None),
        (_bytes("café"), _bytes("café")),
        (_bytes("CAFé"), _bytes("café")),
        ("", None), ("@", None), ("." * 500, None), (":" * 10_000, None), ("1.2.3", None), ("999.1.1.1", None),
    ],
)  # fmt: skip
def test_what_fits(asked: str, fits: str | None) -> None:
    row = parse(TEXT, "x.txt").find(asked)
    assert row == (None if fits is None else (fits,))


def test_the_nearest_entry_wins() -> None:
    table = parse(
        b"""\
ann@a.b.test, address
@a.b.test, at
.b.test, below
.test, wide
ann@, local
10.0.0.0/8, eight
10.1.0.0/16, sixteen
10.1.1.1, one
0.0.0.0/0, all
""",
        "routes.csv",
    )
    for asked, value in {
        "ann@a.b.test": "address", "ann@other.test": "local", "bob@a.b.test": "at", "bob@c.b.test": "below",
        "b.test": "below", "bob@c.test": "wide", "10.1.1.1": "one", "10.1.1.2": "sixteen", "10.2.0.0": "eight",
        "8.8.8.8": "all",
    }.items():  # fmt: skip
        row = table.find(asked)
        assert row is not None and row[1] == value, asked


def test_maps_have_columns() -> None:
    table = parse(b'# who, where, how\nann, "a, b", "say ""hi"""\nbob,,x # gone\n', "m.csv")
    assert table.find("ANN") == ("ann", "a, b", 'say "hi"')
    assert table.find("bob") == ("bob", "", "x")
    assert table.count == 2


@pytest.mark.parametrize(
    "name, text, error",
    [
        (
            "x.txt",
            "ok\n10.0.0.1/8\n",
            r"x\.txt:2: '10\.0\.0\.1/8' is not the first address of its network: 10\.0\.0\.0/8",
        ),
        ("x.txt", "10.0.0.0/33", r"x\.txt:1: .* is no address, network or range"),
        ("x.txt", "300.0.0.1", r"x\.txt:1: .* is no address, network or range"),
        ("x.txt", "10.0.0.9-10.0.0.1", r"x\.txt:1: "),
        ("x.txt", "10.0.0.9-2001:db8::1", r"x\.txt:1: a range from IPv4 to IPv6"),
        ("x.txt", "fine\n\n# c\nbad\0byte\n", r"x\.txt:4: a control character"),
        ("x.txt", "x" * 5000, r"x\.txt:1: the line is longer than 4096"),
        ("x.txt", "two words@example.test", r"x\.txt:1: .* is no address"),
        ("m.csv", "a,b\nc\n", r"m\.csv:2: 1 column instead of 2, as in the first line"),
        ("m.csv", "alone\n", r"m\.csv:1: 1 column instead of at least 2"),
        ("m.csv", ",b\n", r"m\.csv:1: the first column is empty"),
        ("m.csv", "a,1\nb,2\nA,3\n", r"m\.csv:3: 'a' stands here a second time"),
        ("m.csv", 'a,"open\n', r"m\.csv:1: "),
    ],
)
def test_errors_name_file_and_line(name: str, text: str, error: str) -> None:
    with pytest.raises(ListError, match=error):
        parse(text.encode(), name)


def test_a_byte_order_mark_and_other_line_ends_are_fine() -> None:
    assert parse(b"\xef\xbb\xbffirst\r\nsecond\r\n\r\n# c\r\n third \t", "x").find("first") == ("first",)
    index = parse(b"first\r\nsecond\r\n third \t", "x")
    assert index.find("second") and index.find("third") and index.count == 3


@given(st.binary(max_size=300), st.sampled_from(["x.txt", "x.csv"]), st.text(max_size=40))
def test_no_file_and_no_question_breaks_it(blob: bytes, name: str, asked: str) -> None:
    try:
        parse(blob, name).find(asked)
    except ListError as error:
        assert str(error).startswith(f"{name}:")


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=12), st.integers(0, 2**32 - 1))
def test_ranges_agree_with_the_plain_way(networks: list[tuple[int, int]], asked: int) -> None:
    ranges, all_of_them = Ranges(), []
    for number, bits in networks:
        network = ipaddress.ip_network((number, bits), strict=False)
        ranges.add(str(network), (str(network),))
        all_of_them.append(network)
    for address in (ipaddress.ip_address(asked), *(n[0] for n in all_of_them), *(n[-1] for n in all_of_them)):
        fitting = [n for n in all_of_them if address in n]
        smallest = max(fitting, key=lambda n: n.prefixlen, default=None)
        assert ranges.find(address) == (None if smallest is None else (str(smallest),))


def test_a_large_list_is_fast() -> None:
    chance = random.Random(1)
    names = [f"d{n}.example{n % 1000}.test" for n in range(50_000)]
    networks = [
        f"{chance.randrange(1, 224)}.{chance.randrange(256)}.{chance.randrange(256)}.0/24" for _ in range(50_000)
    ]
    begun = time.process_time()
    index = parse("\n".join([*names, *networks, ".suffix.test"]).encode(), "large")
    loaded = time.process_time() - begun
    begun = time.process_time()
    for n in range(1000):
        assert index.find(f"ann@{names[n]}") and index.find("x." * 20 + "suffix.test") and not index.find("none.test")
        index.find("203.0.113.9")
    assert loaded < 5 * slowness()
    assert time.process_time() - begun < 0.5 * slowness()


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_read_again_within_a_second(tmp_path: Path, logged: list[tuple[str, dict[str, Any]]]) -> None:
    clock = Clock(100.0)
    file = tmp_path / "bad.txt"
    file.write_text("one\n")
    found = Lists([tmp_path], monotonic=clock)
    found.load("bad.txt")
    assert found.find("bad.txt", "one") and found.count("bad.txt") == 1
    file.write_text("one\ntwo\n")
    assert not found.find("bad.txt", "two"), "not looked at more than once a second"
    clock.now += 1
    assert found.find("bad.txt", "two")
    assert logged == [("list_loaded", {"list": "bad.txt", "entries": 2})]
    clock.now += 1
    found.find("bad.txt", "two")
    assert len(logged) == 1
    replaced = tmp_path / "new"
    replaced.write_text("ten\ntwo\n")  # the same size, perhaps the same time
    os.utime(replaced, ns=(file.stat().st_mtime_ns, file.stat().st_mtime_ns))
    replaced.rename(file)
    clock.now += 1
    assert found.find("bad.txt", "ten")


def test_what_is_wrong_is_told_once_and_the_old_content_stays(
    tmp_path: Path, logged: list[tuple[str, dict[str, Any]]]
) -> None:
    clock = Clock(100.0)
    file = tmp_path / "l.csv"
    file.write_text("a,1\n")
    found = Lists([tmp_path], monotonic=clock)
    assert found.find("l.csv", "a") == ("a", "1")
    file.write_text("a,1\nbroken\n")
    for _ in range(5):
        clock.now += 1
        assert found.find("l.csv", "a") == ("a", "1")
    file.unlink()
    for _ in range(5):
        clock.now += 1
        assert found.find("l.csv", "a") == ("a", "1")
    assert [event for event, _ in logged] == ["list_rejected", "list_rejected"]
    assert logged[0][1]["error"] == "l.csv:2: 1 column instead of 2, as in the first line"
    assert "No such file" in logged[1][1]["error"]
    file.write_text("b,2\n")
    clock.now += 1
    assert found.find("l.csv", "b") == ("b", "2") and not found.find("l.csv", "a")


def test_a_large_file_is_read_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Any) -> None:
    monkeypatch.setattr(lists, "_SMALL", 10)
    clock, apart, threads = Clock(100.0), [], []

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        threads.append(function)
        return function(*arguments)

    file = tmp_path / "l"
    file.write_text("old one\n")
    found = Lists([tmp_path], start=apart.append, monotonic=clock, run=run)
    found.load("l")
    file.write_text("the new content\n")
    for _ in range(3):
        clock.now += 1
        assert found.find("l", "old one") and not found.find("l", "the new content")
    assert len(apart) == 1
    apart[0]()
    assert found.find("l", "the new content") and len(threads) == 1


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../secret", "", ".hidden", "a//b", "a\0b", "x" * 300]
)
def test_names_stay_below_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "lists").mkdir()
    for found in (Lists([tmp_path / "lists"]), GivenLists({name: "secret"})):
        with pytest.raises(ListError, match="is no name of a list"):
            found.find(name, "secret")


def test_links_do_not_lead_out_and_only_files_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "real").write_text("word")
    (folder / "in").symlink_to(folder / "real")
    found = Lists([folder])
    with pytest.raises(ListError, match="leads out of"):
        found.load("out")
    assert found.find("in", "word")
    with pytest.raises(ListError, match="there is no such file in"):
        found.load("sub")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ListError, match="there is no such file in"):
        found.load("pipe")


def test_the_first_folder_that_has_it_wins(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "l").write_text(name)
    (tmp_path / "two" / "m").write_text("m")
    found = Lists([tmp_path / "one", tmp_path / "two"])
    assert found.find("l", "one") and not found.find("l", "two") and found.find("m", "m")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "l").write_text("one\ntwo\nthree\n")
    monkeypatch.setattr(lists, "MAX_ENTRIES", 2)
    with pytest.raises(ListError, match=r"l:3: more than 2 entries"):
        Lists([tmp_path]).load("l")
    monkeypatch.setattr(lists, "MAX_BYTES", 5)
    with pytest.raises(ListError, match=r"l: 14 bytes; a list may have 5"):
        Lists([tmp_path]).load("l")
