"""mail.vars and mail.headers: what they hold, what they refuse, and what reaches Python."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from rules_kit import Bench, rule

from mta.message.address import Address
from mta.message.message import Message
from mta.rules.transaction import Transaction
from mta.rules.trying import example

ONLY = "; only text, numbers, booleans and tables of them can be kept"

# -- vars --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "vars"),
    [
        ("", {}),
        ("local _ = mail.vars.x", {}),
        ("mail.vars.x = 1", {"x": 1}),
        ("mail.vars.x = 1 mail.vars.x = nil", {}),
        ('mail.vars.x = "a\\"b\\\\c\\n\\0\\127\\200"', {"x": 'a"b\\c\n\0\x7f\xc8'}),
        ("mail.vars.x = true mail.vars.y = false", {"x": True, "y": False}),
        ("mail.vars.x = 1.5 mail.vars.y = 2.0 mail.vars.z = -7", {"x": 1.5, "y": 2.0, "z": -7}),
        ("mail.vars.x = 1e300 mail.vars.y = math.maxinteger", {"x": 1e300, "y": 2**63 - 1}),
        ("mail.vars.x = {1, 2, {a = 'b'}}", {"x": [1, 2, {"a": "b"}]}),
        ("mail.vars.x = {}", {"x": {}}),
        ("mail.vars['a b'] = 1 mail.vars[''] = 2", {"a b": 1, "": 2}),
        ("mail.vars.x = {a = {}} mail.vars.x.a.b = 1", {"x": {"a": {"b": 1}}}),
        ("local v = mail.vars v.x = 1 local w = mail.vars assert(w.x == 1 and v == w)", {"x": 1}),
        ("mail.vars.x = tostring(mail.sender)", {"x": "ann@example.com"}),
    ],
)
def test_vars_reach_python(body: str, vars: dict[str, Any], tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(body))
    bench.run("rcpt")
    assert not bench.failures
    assert bench.tx.vars == vars
    assert {k: type(v) for k, v in bench.tx.vars.items()} == {k: type(v) for k, v in vars.items()}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("mail.vars.f = print", "mail.vars.f is a function" + ONLY),
        ("mail.vars.t = {1, {x = print}}", "mail.vars.t[2].x is a function" + ONLY),
        ("mail.vars.t = coroutine.create(print)", "mail.vars.t is a thread" + ONLY),
        ("mail.vars.s = mail.sender", "mail.vars.s holds an object" + ONLY + " (tostring() helps)"),
        ("mail.vars[1] = 2", "mail.vars needs names as keys, not number"),
        ("mail.vars.x = {1, nil, 3}", "mail.vars.x is neither a list without gaps nor a table with names as keys"),
        ("mail.vars.x = {1, a = 2}", "mail.vars.x is neither a list without gaps nor a table with names as keys"),
        ("mail.vars.x = {[5] = 1}", "mail.vars.x is neither a list without gaps nor a table with names as keys"),
        ("mail.vars.x = 0/0", "mail.vars.x is not a number that can be kept"),
        ("mail.vars.x = math.huge", "mail.vars.x is not a number that can be kept"),
        ("local t = {} t.t = t mail.vars.x = t", "mail.vars.x" + ".t" * 16 + " is nested too deeply, or holds itself"),
    ],
)
def test_vars_hold_plain_values_only(body: str, error: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(body))
    assert bench.run("rcpt").failed and bench.failure == f"main.lua:2: {error}"
    assert bench.tx.vars == {}


def test_vars_hold_64_kilobytes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule('mail.vars.x = ("x"):rep(65000)') + rule('mail.vars.x = ("x"):rep(66000)', "preq"))
    assert not bench.run("rcpt").failed and len(bench.tx.vars["x"]) == 65000
    assert bench.run("preq").failed and bench.failure == "main.lua:4: mail.vars would hold more than 65536 bytes"


def test_a_table_spoilt_later_is_found_at_the_end_of_the_rule(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("mail.vars.t = {} mail.vars.t.f = print"))
    assert bench.run("rcpt").failed
    assert bench.failure.startswith("main.lua:1: mail.vars.t.f is a function")


def test_vars_stay_with_the_mail(tmp_path: Path) -> None:
    main = (
        rule("mail.vars.seen = {n = 1}", "connect")
        + rule("mail.vars.seen.n = mail.vars.seen.n + 1", "mail")
        + rule("mail.vars.seen.n = mail.vars.seen.n + 1")
        + rule('assert(mail.vars.seen.n == 3 and mail.vars["grüße"] == "ö") mail.vars.last = true', "postq")
    )
    bench = Bench(tmp_path, main)
    connection = example.transaction("connect")
    bench.run("connect", connection)
    for _ in range(2):
        mail = connection.mail("x.1")
        mail.sender, mail.recipient = example.SENDER, example.RECIPIENT
        bench.run("mail", mail)
        bench.run("rcpt", mail)
        assert mail.vars == {"seen": {"n": 3}}
    assert connection.vars == {"seen": {"n": 1}}
    queued = example.transaction("postq")
    queued.vars = json.loads(json.dumps(mail.vars)) | {"gr\xc3\xbc\xc3\x9fe": "\xc3\xb6"}
    bench.run("postq", queued)
    assert queued.vars["last"] is True, bench.failures


def test_vars_changed_outside_are_seen(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("log.info(mail.vars.n) mail.vars.n = mail.vars.n + 1"))
    tx = example.transaction("rcpt")
    tx.vars = {"n": 1}
    bench.run("rcpt", tx)
    bench.run("rcpt", tx)
    tx.vars = {"n": 10}
    bench.run("rcpt", tx)
    assert bench.messages == ["1", "2", "10"] and tx.vars == {"n": 11}


def test_what_a_failing_rule_did_to_vars_is_forgotten(tmp_path: Path) -> None:
    main = (
        rule("mail.vars.n = 1") + rule("mail.vars.n = 2 error('x')", name="b") + rule("log.info(mail.vars.n)", name="c")
    )
    bench = Bench(tmp_path, main, on_error="continue")
    bench.run("rcpt")
    assert bench.tx.vars == {"n": 1} and bench.messages == ["1"]


def test_pairs_of_vars(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("local n = 0 for k, v in pairs(mail.vars) do n = n + v end log.info(n)"))
    tx = example.transaction("rcpt")
    tx.vars = {"a": 1, "b": 2}
    bench.run("rcpt", tx)
    assert bench.messages == ["3"]


def test_random_vars_come_back_as_they_were(tmp_path: Path) -> None:
    chance = random.Random(3)

    def value(deep: int) -> Any:
        kind = chance.randrange(7 if deep < 4 else 5)
        if kind == 0:
            return chance.choice([True, False])
        if kind == 1:
            return chance.randint(-(2**63), 2**63 - 1)
        if kind == 2:
            return chance.uniform(-1e9, 1e9)
        if kind <= 4:
            return "".join(chr(chance.randrange(256)) for _ in range(chance.randrange(20)))
        if kind == 5:
            return [value(deep + 1) for _ in range(chance.randrange(1, 5))]
        return {f'k{chance.randrange(100)}\\"\x01': value(deep + 1) for _ in range(chance.randrange(1, 5))}

    bench = Bench(tmp_path, rule("mail.vars.copy = mail.vars.x"))
    for _ in range(200):
        tx = example.transaction("rcpt")
        tx.vars = {"x": value(0)}
        bench.run("rcpt", tx)
        assert tx.vars["copy"] == tx.vars["x"]
    assert not bench.failures


def test_text_beyond_latin_1_in_vars(tmp_path: Path) -> None:
    """Python may put any text there; Lua sees its UTF-8."""
    bench = Bench(tmp_path, rule('assert(mail.vars.x == "€ 😀") log.info(mail.vars.x)'))
    tx = example.transaction("rcpt")
    tx.vars = {"x": "€ 😀"}
    bench.run("rcpt", tx)
    assert bench.messages == ["€ 😀"], bench.failures


# -- headers -----------------------------------------------------------------------------------------------------------

MAIL = b"A: 1\r\nB: 2\r\na: 3\r\n\r\nbody\r\n"


@pytest.mark.parametrize(
    ("body", "mail"),
    [
        ("assert(h:get('a') == '1' and h:get('x') == nil and h:has('B') and not h:has('x'))", MAIL),
        ("assert(#h:all('A') == 2 and h:all('A')[2] == '3' and #h:all('x') == 0 and h:count('a') == 2)", MAIL),
        ("h:append('C', 'x')", b"A: 1\r\nB: 2\r\na: 3\r\nC: x\r\n\r\nbody\r\n"),
        ("h:append('C', 5)", b"A: 1\r\nB: 2\r\na: 3\r\nC: 5\r\n\r\nbody\r\n"),
        ("h:append('C', mail.sender)", b"A: 1\r\nB: 2\r\na: 3\r\nC: ann@example.com\r\n\r\nbody\r\n"),
        ("h:prepend('C', 'x') h:prepend('D', 'y')", b"D: y\r\nC: x\r\nA: 1\r\nB: 2\r\na: 3\r\n\r\nbody\r\n"),
        ("h:set('a', 'x')", b"a: x\r\nB: 2\r\na: 3\r\n\r\nbody\r\n"),
        ("h:set('New', 'x')", b"A: 1\r\nB: 2\r\na: 3\r\nNew: x\r\n\r\nbody\r\n"),
        ("assert(h:remove('a') == 2 and h:remove('a') == 0)", b"B: 2\r\n\r\nbody\r\n"),
        ("assert(h:rename('b', 'X') and not h:rename('b', 'Y'))", b"A: 1\r\nX: 2\r\na: 3\r\n\r\nbody\r\n"),
        ("h:append('C', 'Grüße')", b"A: 1\r\nB: 2\r\na: 3\r\nC: Gr\xc3\xbc\xc3\x9fe\r\n\r\nbody\r\n"),
        ("local get = mail.headers.get assert(get(mail.headers, 'B') == '2')", MAIL),
    ],
)
def test_headers(body: str, mail: bytes, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f"local h = mail.headers\n{body}", "preq"))
    tx = example.transaction("preq")
    tx.message = Message(MAIL)
    bench.run("preq", tx)
    assert not bench.failures
    assert bytes(tx.message) == mail


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("h:get()", "mail.headers:get needs the name of a header, not nil"),
        ("h.get('A')", "mail.headers:get is called with a colon, on mail.headers"),
        ("h:set('A')", "mail.headers:set needs text, not nil"),
        ("h:set('A', {})", "mail.headers:set needs text, not table"),
        ("h:set(1, 'x')", "mail.headers:set needs the name of a header, not number"),
        ("h:set('A B', 'x')", "'A B' is not a header name"),
        ("h:append('A', 'x\\r\\nBcc: y')", "the value of A must be one line without NUL"),
        ("h:append('A', 'x\\ny')", "the value of A must be one line without NUL"),
        ("h:append('A', 'x\\0y')", "the value of A must be one line without NUL"),
        ("h:append('A', ('x'):rep(1100000))", "mail.headers:append: the value is longer than 1048576 bytes"),
        ("h:rename('A', 'B:')", "'B:' is not a header name"),
        ("h:appendix('A', 'x')", "mail.headers.appendix does not exist; did you mean mail.headers.append?"),
        ("h.x = 1", "mail.headers.x cannot be assigned"),
        ("mail.headers = {}", "mail.headers cannot be assigned"),
    ],
)
def test_wrong_headers_are_errors_at_their_line(call: str, error: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(f"local h = mail.headers\nlocal _ = 1\n{call}", "preq"))
    assert bench.run("preq").failed
    assert bench.failure == f"main.lua:4: {error}"
    assert bench.tx.message is not None and not bench.tx.message.changed


def test_an_edit_is_seen_by_later_rules_and_stages(tmp_path: Path) -> None:
    main = rule("mail.headers:set('Subject', 'x')", "preq") + rule("log.info(mail.headers:get('Subject'))", "postq")
    bench = Bench(tmp_path, main)
    tx = example.transaction("preq")
    bench.run("preq", tx)
    bench.run("postq", tx)
    assert bench.messages == ["x"]


def test_the_size_follows_edits(tmp_path: Path) -> None:
    body = "log.info(mail.size)\nmail.headers:append('A', 'b')\nlog.info(mail.size)"
    bench = Bench(tmp_path, rule(body, "preq") + rule("log.info(mail.size)", "postq"))
    tx = example.transaction("preq")
    bench.run("preq", tx)
    bench.run("postq", tx)
    assert [int(m) for m in bench.messages] == [len(example.MAIL), len(example.MAIL) + 6, len(example.MAIL) + 6]


def test_many_recipients(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule("log.info(#mail.recipients .. ' ' .. mail.recipients[1000])", "preq"))
    tx = example.transaction("preq")
    tx.recipients = [Address(f"u{n}", "example.test") for n in range(1, 1001)]
    bench.run("preq", tx)
    assert bench.messages == ["1000 u1000@example.test"]
    tx.recipients = []
    bench2 = Bench(tmp_path, rule("log.info(#mail.recipients)", "preq"))
    tx = Transaction()
    bench2.run("preq", tx)
    assert bench2.messages == ["0"]
