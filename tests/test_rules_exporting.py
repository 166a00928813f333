"""mail:write and mail:dump: what lies in the files, and that no name leads anywhere else."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rules_kit import Bench, rule

from mta.message.address import Address
from mta.message.envelope import Client
from mta.message.message import Message
from mta.net import folders
from mta.rules.outside.world import FakeWorld
from mta.rules.transaction import Transaction
from mta.rules.trying import example
from mta.rules.words.exporting import place

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "dump.schema.json").read_text("utf-8"))

ID = "k3v9x0a2bq-1.1"


class DiskWorld(FakeWorld):
    """Files are real."""

    def keep(self, base: str, names: Any, name: str, pieces: Any) -> None:
        folders.keep(base, names, name, pieces)


def bench(folder: Path, body: str, **more: Any) -> Bench:
    (folder / "rules").mkdir(exist_ok=True)
    export = [str(folder / "export"), str(folder / "other")]
    return Bench(folder / "rules", rule(body, "preq"), DiskWorld(), export=export, **more)


def fits(value: Any, schema: dict[str, Any], at: str = "") -> None:
    """As much of JSON Schema as ours uses."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    kind = schema.get("type")
    if kind:
        assert isinstance(value, kinds[kind]) and (kind == "boolean" or not isinstance(value, bool)), (at, value)
    assert value in schema.get("enum", [value]), at
    assert not set(schema) - {"type", "enum", "properties", "required", "items", "additionalProperties", "description",
                              "$schema", "$id", "title"}  # fmt: skip
    if kind == "object":
        known = schema.get("properties", {})
        assert set(schema.get("required", [])) <= set(value), at
        assert schema.get("additionalProperties", True) or set(value) <= set(known), (at, set(value) - set(known))
        for name, inner in known.items():
            if name in value:
                fits(value[name], inner, f"{at}.{name}")
    for n, one in enumerate(value if kind == "array" else ()):
        fits(one, schema["items"], f"{at}[{n}]")


def test_written_as_it_is_now(tmp_path: Path) -> None:
    made = bench(tmp_path, 'mail.headers:prepend("X-New", "yes")\nlog.info(mail:write("a/B"))')
    made.run("preq")
    path = tmp_path / "export" / "a" / "B" / f"{ID}.eml"
    assert made.messages == [str(path)]
    assert path.read_bytes() == b"X-New: yes\r\n" + example.MAIL
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_the_same_mail_replaces_its_file(tmp_path: Path) -> None:
    made = bench(tmp_path, 'mail:write()\nmail.headers:prepend("X-New", "yes")\nmail:write()')
    made.run("preq")
    assert [p.name for p in (tmp_path / "export").iterdir()] == [f"{ID}.eml"]
    assert (tmp_path / "export" / f"{ID}.eml").read_bytes().startswith(b"X-New")


def told(tmp_path: Path, tx: Transaction | None = None, body: str = "mail:dump()", **more: Any) -> dict[str, Any]:
    made = bench(tmp_path, body, **more)
    made.run("preq", tx)
    assert not made.failures
    (path,) = (tmp_path / "export").iterdir()
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    fits(found, SCHEMA)
    return found


def test_dumped(tmp_path: Path) -> None:
    body = 'mail.vars.seen = { 1, "ü" }\nmail:route("smtp://ann:secret@far.test")\nmail:hold("1h")\nmail:dump()'
    found = told(tmp_path, body=body)
    assert (found["id"], found["stage"], found["sender"]) == (ID, "preq", "ann@example.com")
    until = found["time"] + 3600
    assert found["recipients"] == [{"address": "you@example.test", "route": "smtp://ann:***@far.test", "until": until}]
    assert found["client"]["ip"] == "192.0.2.7" and found["client"]["helo"] == "mail.example.com"
    assert [field["value"] for field in found["headers"] if field["name"] == "Subject"] == ["Hello"]
    assert [part["type"] for part in found["parts"]] == ["text/plain"]
    assert found["until"] == until
    assert "secret" not in json.dumps(found) and "How are you" not in json.dumps(found)


def test_whatever_a_stranger_sends_can_be_dumped(tmp_path: Path) -> None:
    raw = (
        b"Subject: \xff\xfe =?utf-8?q?=ed=a0=80?=\r\nBroken line\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
        b'--x\r\nContent-Type: image/png; name="\xf0\x9f\x98\x80\x80../../etc/passwd"\r\n\r\n\x00\x01\r\n--x--\r\n'
    )
    tx = example.transaction("preq")
    tx.message = Message(raw)
    tx.client = Client(ip="2001:db8::1", name="x\udc80")
    tx.recipients = [Address("a b", "example.test"), Address("x" * 64, "[192.0.2.1]")]
    found = told(tmp_path, tx)
    assert [part["number"] for part in found["parts"]] == ["", "1"]
    assert "passwd" in found["parts"][1]["filename"]


def test_a_large_mail(tmp_path: Path) -> None:
    tx = example.transaction("preq")
    tx.message = Message(example.MAIL + b"x" * 70 + b"\r\n" + b"y" * 100_000)
    assert told(tmp_path, tx)["size"] > 100_000


def test_verdicts_of_earlier_stages(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    text = 'on.rcpt("fine", function(mail) return accept() end)\non.mail("mm", function(mail) end)\n'
    text += rule("mail:dump()\nreturn quarantine('x')", "preq", "q")
    made = Bench(tmp_path / "rules", text, DiskWorld(), export=[str(tmp_path / "export")])
    tx = example.transaction("rcpt")
    made.run("mail", tx)
    made.run("rcpt", tx)
    tx.recipients, tx.message = [example.RECIPIENT], Message(example.MAIL)
    made.run("preq", tx)
    found = json.loads((tmp_path / "export" / f"{ID}.json").read_text())
    (said,) = found["verdicts"]
    assert said == {"stage": "rcpt", "verdict": "accept", "reply": "", "folder": "", "rule": "fine",
                    "where": "main.lua:1"}  # fmt: skip
    assert [(stage, verdict.kind) for stage, verdict in tx.decided] == [("rcpt", "accept"), ("preq", "quarantine")]


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("", ("/e", ())),
        ("a//b/.", ("/e", ("a", "b"))),
        ("[192.0.2.1]", ("/e", ("[192.0.2.1]",))),
        (".ssh/x", ("/e", ("%2Essh", "x"))),
        ("a\0b\n", ("/e", ("a%00b%0A",))),
        ("...", ("/e", ("%2E..",))),
        ("/e/x", ("/e", ("x",))),
        ("/srv/f/x/y", ("/srv/f", ("x", "y"))),
        ("/srv/f", ("/srv/f", ())),
    ],
)
def test_folders(folder: str, found: tuple[str, tuple[str, ...]]) -> None:
    assert place(folder, ["/e", "/srv/f"]) == found


@pytest.mark.parametrize("folder", ["..", "a/../../b", "/etc", "/e2", "/srv", "/", "/e/../etc", "../e"])
def test_folders_that_lead_elsewhere(folder: str) -> None:
    with pytest.raises(ValueError, match=r"\.\.|rules\.export"):
        place(folder, ["/e", "/srv/f"])


def test_links_are_not_followed(tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    export = tmp_path / "export"
    export.mkdir()
    (export / "trap").symlink_to(away)
    made = bench(tmp_path, 'mail:write("trap")')
    assert made.run("preq").kind == "defer"
    assert "no symbolic links" in made.failure and made.failure.startswith("main.lua:2: ")
    (export / f"{ID}.eml").symlink_to(away / "victim")
    (export / f".{ID}.eml.new").symlink_to(away / "victim")
    made = bench(tmp_path, "mail:write()")
    made.run("preq")
    assert not made.failures and not list(away.iterdir())
    assert (export / f"{ID}.eml").read_bytes() == example.MAIL and not (export / f"{ID}.eml").is_symlink()


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = bench(tmp_path, "mail:write()")
    monkeypatch.setattr(os, "fdatasync", full)
    assert made.run("preq").kind == "defer"
    assert "No space left" in made.failure
    assert not list((tmp_path / "export").iterdir())


def test_nowhere_to_export(tmp_path: Path) -> None:
    made = Bench(tmp_path, rule("mail:write()", "preq"), export=[])
    made.run("preq")
    assert "rules.export" in made.failure


def test_it_is_synced_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.keep(str(tmp_path), ("made", "before"), "x", [])
    seen: list[str] = []
    for name in ("write", "fdatasync", "rename", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _real=real, _name=name, **k: (seen.append(_name), _real(*a, **k))[1])
    folders.keep(str(tmp_path), ("made", "before"), "file", [b"one", memoryview(b"two")])
    assert seen == ["write", "write", "fdatasync", "rename", "fsync"]
