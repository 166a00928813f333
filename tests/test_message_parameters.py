"""Parameters of header values: what any mail program might take them for is found; what is written reads back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.message import headers, parameters

READ = [
    # value                                              main            name        its values
    ("text/plain", "text/plain", "charset", []),
    ("text/plain; charset=utf-8", "text/plain", "charset", ["utf-8"]),
    ('attachment; filename="a;b=c.txt"; x=y', "attachment", "filename", ["a;b=c.txt"]),
    ('attachment; filename="a\\"b\\\\c"', "attachment", "filename", ['a"b\\c']),
    ("attachment; filename=C:\\Users\\a.exe", "attachment", "filename", ["C:\\Users\\a.exe"]),
    ("attachment; filename=report (1).pdf", "attachment", "filename", ["report (1).pdf"]),
    ('attachment; filename=a"b"c', "attachment", "filename", ['a"b"c']),
    ('attachment; filename="open', "attachment", "filename", ["open"]),
    ("attachment; FILENAME = x", "attachment", "filename", ["x"]),
    ("attachment; filename*=utf-8''gr%C3%BCn", "attachment", "filename", ["grün"]),
    ("attachment; filename*=utf-8'de'gr%C3%BCn; filename=green", "attachment", "filename", ["grün", "green"]),
    ("attachment; filename*=gr%C3%BCn", "attachment", "filename", ["grün"]),
    ("attachment; filename*=utf-8''50%; filename*=second", "attachment", "filename", ["50%", "second"]),
    ("attachment; filename=a.txt; filename=b.exe", "attachment", "filename", ["a.txt", "b.exe"]),
    ("attachment; filename*0=a; filename*1=b; filename*1=c", "attachment", "filename", ["ab", "c", "ac"]),
    ("attachment; filename*0=a.; filename*1=txt; filename*1=exe", "attachment", "filename", ["a.txt", "exe", "a.exe"]),
    ("attachment; filename*1=b; filename*0=a", "attachment", "filename", ["ab"]),
    ("attachment; filename*0*=utf-8''%C3; filename*1*=%BC; filename*2=.x", "attachment", "filename", ["ü.x"]),
    ("attachment; filename*0=a; filename*2=c", "attachment", "filename", ["a"]),
    ("attachment; filename*1=b", "attachment", "filename", []),
    ("; ;; =x; filename; filename=y", "", "filename", ["y"]),
    ("", "", "filename", []),
]


@pytest.mark.parametrize(("value", "main", "name", "said"), READ)
def test_read(value: str, main: str, name: str, said: list[str]) -> None:
    found = parameters.parse(value)
    assert (found.main, found.every(name)) == (main, said)
    assert found.get(name) == (said[0] if said else "")


def test_at_most_64_are_looked_at() -> None:
    value = "a/b" + "".join(f"; p{n}=x" for n in range(1000))
    found = parameters.parse(value)
    assert len(found.plain) == parameters.MAX_PARAMETERS and found.get("p0") == "x" and not found.get("p999")


CHANGED = [
    ("a/b; x=1; y=2", "x", "3", "a/b; y=2; x=3"),
    ("a/b; x*0=1; x*1=2; y", "x", None, "a/b; y"),
    ("a/b", "x", "two words", 'a/b; x="two words"'),
    ("a/b", "x", "ü", "a/b; x*=utf-8''%C3%BC"),
    ('a/b; n="a\0b"', "x", "1", 'a/b; n="ab"; x=1'),
]


@pytest.mark.parametrize(("value", "name", "new", "changed"), CHANGED)
def test_one_changed_the_others_as_they_came(value: str, name: str, new: str | None, changed: str) -> None:
    assert parameters.change(value, name, new) == changed


@given(st.text(max_size=120) | st.text(alphabet="a\"\\; =*%'", max_size=60))
def test_what_is_written_reads_back(value: str) -> None:
    written = parameters.write("name", value)
    headers.write("Content-Type", f"a/b; {written}")
    kept = "".join(c for c in value.encode("utf-8", "replace").decode() if c.isprintable())
    assert parameters.parse(f"a/b; {written}").get("name") == kept


@given(
    st.text(alphabet=st.characters(max_codepoint=255), max_size=300) | st.text(alphabet="ab;=\"\\*0123%' ", max_size=80)
)
def test_reading_raises_nothing_and_a_change_can_be_written(value: str) -> None:
    found = parameters.parse(value)
    assert all(isinstance(found.get(name), str) for name in ("charset", "filename"))
    headers.write("Content-Type", parameters.change(value, "charset", "utf-8"))
    assert parameters.parse(parameters.change(value, "charset", "utf-8")).get("charset") == "utf-8"


FILES = [
    ("a.txt", "a.txt"),
    ("../../etc/passwd", "passwd"),
    ("C:\\Users\\ann\\a.exe", "a.exe"),
    ("/", ""),
    ("..", ""),
    (". .", ""),
    ("a.exe. .", "a.exe"),  # as Windows saves it
    ("a\r\n\0b", "a  b"),
    ("gpj.\u202eexe.pdf", "gpj.exe.pdf"),  # turns the text around on the screen
    ("=?utf-8?q?=2E=2E=2Fa?=", "a"),
    ("  a.txt  ", "a.txt"),
    ("x" * 300 + ".exe", "x" * 251 + ".exe"),
    ("ü" * 300 + ".exe", "ü" * 125 + ".exe"),
    ("x" * 300, "x" * 255),
    ("Screenshot\u202f10.00.png", "Screenshot 10.00.png"),
]


@pytest.mark.parametrize(("said", "name"), FILES)
def test_file_names_made_harmless(said: str, name: str) -> None:
    assert parameters.file_name(said) == name


@given(st.text(max_size=400))
def test_no_file_name_leaves_its_folder(said: str) -> None:
    name = parameters.file_name(said)
    assert "/" not in name and "\\" not in name and "\0" not in name
    assert name not in (".", "..") and len(name.encode()) <= 255 and "\n" not in name
