"""The words about the parts of a mail and its header: what a rule sees, what it changes, and what stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path

import dkim
import gevent
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from gevent import monkey
from mails import Maker
from receiving import PATIENCE, until
from rules_kit import Bench, rule

from mta.message.message import Message
from mta.rules.transaction import Transaction
from mta.rules.trying import example
from mta.rules.words import inner

HERE = Path(__file__).parent
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
NESTED = (
    b"From: Ann <ann@example.com>\r\nTo: You <you@example.test>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=outer\r\n\r\npreamble\r\n"
    b"--outer\r\nContent-Type: multipart/alternative; boundary=inner\r\n\r\n"
    b"--inner\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\nSch=F6n\r\n"
    b"--inner\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<body><p>Sch\xc3\xb6n</p></body>\r\n--inner--\r\n"
    b"--outer\r\nContent-Type: image/png; name=a.png\r\nContent-Id: <pic@x>\r\nContent-Disposition: inline\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + PNG.encode() + b"\r\n"
    b"--outer\r\nContent-Type: application/octet-stream\r\n"
    b'Content-Disposition: attachment; filename="../../etc/Invoice.EXE"\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nTVqQAAMAAAAEAAAA\r\n"
    b"--outer\r\nContent-Type: message/rfc822\r\n\r\n"
    b"From: bob@example.com\r\nSubject: inside\r\nContent-Type: text/plain\r\n\r\nOld text\r\n--outer--\r\nepilogue\r\n"
)


def mail(raw: bytes, stage: str = "preq") -> Transaction:
    tx = example.transaction(stage)
    tx.message = Message(raw)
    return tx


def judged(folder: Path, body: str, raw: bytes = NESTED) -> tuple[Bench, bytes]:
    """(the bench, the mail as the rule left it). The rule must not fail."""
    bench = Bench(folder, rule(body, "preq"))
    tx = mail(raw)
    bench.run("preq", tx)
    assert [f"{one['where']} {one['error']}" for one in bench.failures] == []
    assert tx.message is not None
    return bench, bytes(tx.message)


@pytest.fixture(params=["at once", "in a thread"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each word is tried as it is for small mails and as it is for large ones."""
    if request.param == "in a thread":
        monkeypatch.setattr(inner, "SMALL", -1)
    yield


# -- what a rule sees --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("both")
def test_the_tree(tmp_path: Path) -> None:
    b, after = judged(
        tmp_path,
        """
        for part in mail:parts() do
          print(part.number, part.type, part.filename, part.depth, part.multipart, part.attachment)
        end""",
    )
    assert b.messages == [
        "\tmultipart/mixed\tnil\t0\ttrue\tfalse",
        "1\tmultipart/alternative\tnil\t1\ttrue\tfalse",
        "1.1\ttext/plain\tnil\t2\tfalse\tfalse",
        "1.2\ttext/html\tnil\t2\tfalse\tfalse",
        "2\timage/png\ta.png\t1\tfalse\ttrue",
        "3\tapplication/octet-stream\tInvoice.EXE\t1\tfalse\ttrue",
        "4\tmessage/rfc822\tnil\t1\tfalse\tfalse",
        "4.1\ttext/plain\tnil\t2\tfalse\tfalse",
    ]
    assert after == NESTED


@pytest.mark.usefixtures("both")
def test_fields_and_contents(tmp_path: Path) -> None:
    _, after = judged(
        tmp_path,
        """
        local plain, html, picture = mail:part("1.1"), mail:find("text/html"), mail:find("*.PNG")
        assert(plain.charset == "iso-8859-1" and plain.encoding == "quoted-printable" and plain.flaw == nil)
        assert(plain:text() == "Sch\\u{F6}n" and plain:bytes() == "Sch\\xF6n" and plain:raw() == "Sch=F6n")
        assert(html:text():find("Sch\\u{F6}n", 1, true) and html.parent == mail:part("1") and plain ~= html)
        assert(picture.id == "pic@x" and picture.disposition == "inline" and picture:bytes(2, 4) == "PNG")
        assert(picture.parent == mail:part("") and mail:part("").parent == nil and mail:part("9") == nil)
        assert(mail:part("4.1").headers:get("subject") == "inside" and mail:find("nothing/*") == nil)
        assert(mail:part("4"):parts()[2].type == "text/plain" and #mail:parts("text/*") == 3)
        assert(#mail:part("1"):parts() == 3 and mail:part("3").filenames[1] == "Invoice.EXE")
        for key, value in pairs(picture) do
          assert(picture[key] == value or key == "headers" or type(value) == "table", key)
        end
        assert(mail:raw(1, 4) == "From" and select(2, mail:raw(1, 4)) == 5)""",
    )
    assert after == NESTED


@pytest.mark.usefixtures("both")
def test_ranges(tmp_path: Path) -> None:
    raw = b"Content-Type: text/plain; charset=utf-8\r\n\r\nx" + "añ€😀".encode() * 200_000
    judged(
        tmp_path,
        """
        local part = mail:part("")
        local whole, at, calls = {}, 1, 0
        while at do
          local piece, following = part:text(at)
          assert(#piece <= 1000000 and utf8.len(piece))
          whole[#whole + 1], at, calls = #piece, following, calls + 1
        end
        assert(calls == 3 and whole[1] + whole[2] + whole[3] == 2000001 and whole[1] == 999997)
        local first, following = part:bytes(1, 5)
        assert(#first == 5 and following == 6)
        assert(part:text(1, 6) == "xa\\u{F1}" and select(2, part:text(1, 6)) == 5)
        local last, none = part:bytes(2000001 - 3)
        assert(last == "\\u{1F600}" and none == nil)
        assert(part:bytes(5000000) == "")
        assert(not pcall(part.bytes, part, 0) and not pcall(part.bytes, part, 5, 3))""",
        raw,
    )


def test_a_text_that_grows_as_utf8_is_shown_whole(tmp_path: Path) -> None:
    raw = b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\n" + b"\xe4" * 1_000_000
    judged(
        tmp_path,
        """
        local part, n, at = mail:part(""), 0, 1
        while at do
          local piece, following = part:text(at)
          n, at = n + utf8.len(piece), following
        end
        assert(n == 1000000, n)""",
        raw,
    )


# -- what it changes ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("both")
def test_the_example_of_the_handbook(tmp_path: Path) -> None:
    """No programs by mail."""
    _, after = judged(
        tmp_path,
        """
        for part in mail:parts() do
          if part.filename and part.filename:lower():match("%.exe$") then
            mail.headers:append("X-Removed", part.filename)
            part:replace("text/plain", "A program was removed here.")
          end
        end""",
    )
    read = message_from_bytes(after, policy=policy.default)
    assert read["X-Removed"] == "Invoice.EXE"
    leaves = [part for part in read.walk() if not part.is_multipart()]
    assert leaves[3].get_content().strip() == "A program was removed here." and leaves[3].get_filename() is None
    before, behind = (
        NESTED.index(b"--outer\r\nContent-Type: application"),
        NESTED.index(b"\r\n--outer\r\nContent-Type: mess"),
    )
    head = NESTED.index(b"\r\n\r\n")
    assert NESTED[head:before] in after and after.endswith(NESTED[behind:])  # all else as it was


@pytest.mark.usefixtures("both")
def test_every_change(tmp_path: Path) -> None:
    _, after = judged(
        tmp_path,
        """
        mail:part("1.1"):set_text("Gr\\u{FC}\\u{DF}e\\n")
        assert(mail:footer("-- \\nThe company") == 2)
        mail:part("2"):set_bytes("\\0\\1\\xFF")
        mail:part("3"):rename("r\\u{E9}sum\\u{E9}.txt")
        mail:part("4"):remove()
        local note = mail:part("2"):before("text/plain", "Careful:")
        assert(note.number == "2")
        local zip = mail:attach("application/zip", "PK\\3\\4", "a.zip")
        assert(zip.number == "5" and zip:bytes() == "PK\\3\\4")
        assert(zip:after("message/rfc822", "Subject: x\\r\\n\\r\\nbody\\r\\n").number == "6")""",
    )
    read = message_from_bytes(after, policy=policy.default)
    plain, html, note, picture, renamed, packed, forwarded = [p for p in read.walk() if not p.is_multipart()]
    assert plain.get_content().replace("\r", "") == "Grüße\n-- \nThe company\n"
    assert "The company" in html.get_content() and html.get_content().rstrip().endswith("</body>")
    assert note.get_content().strip() == "Careful:"
    assert picture.get_content() == b"\0\1\xff" and picture.get_content_type() == "image/png"
    assert renamed.get_filename() == "résumé.txt" and renamed.get_content()[:2] == b"MZ"
    assert packed.get_filename() == "a.zip" and forwarded.get_content().strip() == "body"


@pytest.mark.usefixtures("both")
def test_wrapping(tmp_path: Path) -> None:
    _, after = judged(
        tmp_path,
        """
        local outer = mail:wrap("related")
        assert(outer.number == "" and outer.type == "multipart/related" and mail:part("1").type == "multipart/mixed")
        assert(mail:part("1.3"):wrap().number == "1.3" and mail:part("1.3.1").filename == "Invoice.EXE")
        assert(not pcall(mail.wrap, mail, "not a type"))""",
    )
    read = message_from_bytes(after, policy=policy.default)
    assert read.get_content_type() == "multipart/related" and read["From"] == "Ann <ann@example.com>"
    assert NESTED[NESTED.index(b"preamble") : NESTED.index(b"--outer\r\nContent-Type: application")] in after


@pytest.mark.usefixtures("both")
def test_enclosing(tmp_path: Path) -> None:
    _, after = judged(tmp_path, 'mail:enclose("Look at this with care: \\u{26A0}")')
    read = message_from_bytes(after, policy=policy.default)
    text, inside = read.iter_parts()
    assert text.get_content().strip() == "Look at this with care: ⚠"
    assert inside.get_content_type() == "message/rfc822" and NESTED in after
    assert read["Subject"] == "Grüße" and read["MIME-Version"] == "1.0"


@pytest.mark.usefixtures("both")
def test_parts_taken_out_are_not_visited(tmp_path: Path) -> None:
    b, after = judged(
        tmp_path,
        """
        local kept
        for part in mail:parts() do
          print(part.number)
          if part.type == "multipart/alternative" then part:remove() kept = part end
        end
        assert(kept.number == "-" and kept:parts()[2]:text() == "Sch\\u{F6}n")  -- still there to be looked at
        local list = mail:parts()
        for a in list do for b in list do assert(a and b) end end
        assert(#list == 5)""",
    )
    assert b.messages == ["", "1", "1", "2", "3", "3.1"]
    assert b"Sch" not in after


def test_lists_inside_each_other(tmp_path: Path) -> None:
    b, _ = judged(tmp_path, "local l = mail:parts('text/*')\nfor a in l do for b in l do print(a, b) end end")
    assert len(b.messages) == 9


# -- the rule's own mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('mail:part("2"):set_text("x")', "part:set_text: a image/png part has no text to set"),
        ('mail:part(""):set_bytes("x")', "part:set_bytes: a multipart/mixed part has no bytes of its own"),
        ('mail:attach("zip", "x")', "mail:attach: 'zip' is not a media type"),
        ('mail:attach("a/b\\r\\nX: y", "x")', "mail:attach: 'a/b\\r\\nX: y' is not a media type"),
        ('mail:part("2"):rename("a\\nb")', "part:rename: the name of a file is one line without NUL"),
        ('mail:part("2").nmae = 1', "part.nmae cannot be assigned"),
        ('print(mail:part("2").nmae)', "part.nmae does not exist; did you mean part.number?"),
        ('mail:part("2").headers:gte("x")', "mail.headers.gte does not exist"),
        ('mail.part("2")', "mail:part is called with a colon"),
        ('mail:part("2").text()', "part:text is called with a colon"),
        ('local p = mail:find("image/*") p:remove() p:after("text/plain", "x")', "this part is no longer in the mail"),
        ('mail:attach("text/plain", ("x"):rep(2000000))', "mail:attach: argument 2 is longer than 1048576 bytes"),
        (
            "table.sort({ 2, 1, 3 }, function(a, b) return #mail:parts() > a and a < b end)",
            "what waits cannot be used inside a function given to table.sort",
        ),
    ],
)
def test_mistakes(body: str, error: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(body, "preq"))
    assert bench.run("preq", mail(NESTED)).failed
    assert bench.failure.startswith("main.lua:2: ") and error in bench.failure, bench.failure


def test_a_part_of_a_mail_that_is_over(tmp_path: Path) -> None:
    main = "local kept = {}\n" + rule(
        "if kept[1] then print(pcall(function() return kept[1].type end)) end\nkept[1] = mail:part('2')", "preq"
    )
    bench = Bench(tmp_path, main)
    for _ in range(2):
        tx = mail(NESTED)
        bench.run("preq", tx)
        tx.close()
    assert bench.failures == [] and len(bench.messages) == 1 and bench.messages[0].startswith("false")


def test_a_part_kept_to_a_later_stage_is_that_of_its_mail_only(tmp_path: Path) -> None:
    main = (
        "local kept\n"
        + rule("kept = mail:part('2')", "preq")
        + rule("print(pcall(function() return kept.type end))", "postq", "b")
    )
    bench = Bench(tmp_path, main.replace("local kept\n", "local t = {}\n").replace("kept", "t.kept"))
    first = mail(NESTED)
    bench.run("preq", first)
    bench.run("postq", mail(NESTED, "postq"))
    assert bench.failures == [] and "image/png" not in bench.messages[0]


# -- untouched bytes, strange mails ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> tuple[bytes, bytes]:
    made = rsa.generate_private_key(65537, 2048)
    public = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    import base64

    return (
        made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        b"v=DKIM1; k=rsa; p=" + base64.b64encode(public),
    )


@pytest.mark.parametrize("canonical", [b"simple/simple", b"relaxed/relaxed"])
def test_dkim_of_a_mail_rules_only_looked_at(canonical: bytes, key: tuple[bytes, bytes], tmp_path: Path) -> None:
    private, public = key
    head, body = canonical.split(b"/")
    signed = dkim.sign(NESTED, b"s", b"example.com", private, canonicalize=(head, body)) + NESTED
    _, after = judged(
        tmp_path,
        """
        for part in mail:parts() do
          local _ = { part.type, part.filename, part:text(), part:bytes(1, 10), part.headers:all("Content-Type") }
        end
        mail.headers:addresses("From")
        mail.headers:prepend("X-Looked-At", "yes")""",
        signed,
    )
    assert after == b"X-Looked-At: yes\r\n" + signed
    assert dkim.verify(after, dnsfunc=lambda *_, **__: public)
    _, attached = judged(tmp_path, 'mail:attach("text/plain", "more")', signed)
    assert not dkim.verify(attached, dnsfunc=lambda *_, **__: public)


LOOK = """
for part in mail:parts() do
  local _ = { part.type, part.filename, part.charset, part.disposition, part.encoding, part.size, part.id, part.number,
    part.flaw, part.parent, part.multipart, part.attachment, #part.filenames, part:text(1, 1000), part:bytes(1, 1000),
    part:raw(1, 1000), part.headers:text("Content-Type"), #part.headers:names(), part.headers:raw() }
end
for _, name in ipairs(mail.headers:names()) do
  local _ = { mail.headers:text(name), mail.headers:addresses(name), mail.headers:raw(name), mail.headers:get(name) }
end"""


@pytest.mark.parametrize("file", sorted((HERE / "messages").glob("*.eml")), ids=lambda path: path.stem)
def test_strange_mails_neither_raise_nor_lose_a_byte(file: Path, tmp_path: Path) -> None:
    raw = file.read_bytes()
    _, after = judged(tmp_path, LOOK, raw)
    assert after == raw


@pytest.mark.parametrize("file", sorted((HERE / "messages").glob("*.eml")), ids=lambda path: path.stem)
def test_strange_mails_can_be_changed(file: Path, tmp_path: Path) -> None:
    raw = file.read_bytes()
    judged(
        tmp_path,
        """
        for part in mail:parts() do
          if part.attachment then part:replace("text/plain", "gone") end
        end
        mail:footer("under it", "<p>under it</p>")
        mail:attach("text/plain", "at the end", "end.txt")
        assert(mail:find("end.txt"):text():find("at the end"))
        mail:find("end.txt"):remove()
        mail:enclose("all of it")
        assert(mail:part("1"):text():find("all of it"))""",
        raw,
    )


# -- headers -----------------------------------------------------------------------------------------------------------


def test_header_words(tmp_path: Path) -> None:
    _, after = judged(
        tmp_path,
        """
        local h = mail.headers
        assert(h:text("Subject") == "Gr\\u{FC}\\u{DF}e" and h:text("X-None") == nil and h:raw("X-None") == nil)
        h:set_text("Subject", "\\u{20AC} 5")
        h:replace_address("From", "ANN@example.com", "office@example.com")
        h:add_address("To", "J\\u{FC}rgen <j@example.test>")
        h:append("Cc", "a@x.test")
        h:append("Cc", "b@x.test")
        assert(#h:addresses("cc") == 2)
        assert(h:remove_address("Cc", "A@X.test") == 1 and h:count("Cc") == 1 and h:get("Cc") == "b@x.test")
        h:set_addresses("Reply-To", { "Team <team@example.test>" })
        h:append("Bcc", "hidden: x@y.test, Z <z@y.test>;")
        assert(h:addresses("Bcc")[2].group == "hidden" and h:addresses("Bcc")[2].name == "Z")
        assert(not pcall(h.add_address, h, "To", "nobody"))
        assert(not pcall(h.set_text, h, "Subject", "a\\r\\nX-Evil: b"))
        mail:part("2").headers:set("Content-Description", "a picture")
        local own = mail:part("2").headers
        assert(own:count("Content-Type") == 1 and own:remove("Content-Id") == 1)""",
    )
    read = message_from_bytes(after, policy=policy.default)
    assert read["Subject"] == "€ 5" and read["From"] == "Ann <office@example.com>"
    assert read["To"].addresses[1].display_name == "Jürgen" and read["Reply-To"] == "Team <team@example.test>"
    assert read["X-Evil"] is None and b"Content-Description: a picture\r\n" in after and b"pic@x" not in after


# -- large mails -------------------------------------------------------------------------------------------------------


def test_a_deadline_waits_for_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that leaves while a thread works at its mail: the mail is not let go before the thread has ended."""
    from mta.rules.words import changing

    begun, done = list[bool](), list[bool]()
    work = monkey.get_original("_thread", "allocate_lock")()  # of threads, not of greenlets
    work.acquire()
    slow = changing._footer

    def footer(*arguments: object) -> int:
        begun.append(True)
        work.acquire()
        done.append(True)
        return slow(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(inner, "SMALL", -1)
    bench = Bench(tmp_path, rule('mail:footer("x")', "preq"))
    bench.rules._runtime.inner["mail:footer"] = inner.Inner(footer)
    bench.rules._asks["mail:footer"] = inner.Inner(footer)
    running = gevent.spawn(bench.run, "preq", mail(NESTED))
    until(lambda: begun)
    running.kill(block=False)
    gevent.sleep(0.05)
    assert not running.ready()
    work.release()
    running.join(PATIENCE)
    assert running.ready() and done == [True]


def test_random_mails(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rule(LOOK, "preq"))
    for seed in range(100):
        raw = Maker(seed).mail().raw
        tx = mail(raw)
        bench.run("preq", tx)
        assert bench.failures == [], seed
        assert tx.message is not None and bytes(tx.message) == raw
        tx.close()


@pytest.mark.parametrize(
    "line", [b"Content-Disposition: attachment;" + b"\r\n a=b;" * 300_000, b"X: " + b"x" * 2_000_000]
)
def test_a_header_of_megabytes(line: bytes, tmp_path: Path) -> None:
    """It is passed on as it came, the part says so, and nobody waits while it is unfolded."""
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n" + line
    raw += b"\r\nContent-Type: text/plain\r\n\r\nbody\r\n--b--\r\n"
    body = 'local p = mail:part("1")\nassert(p.flaw == "the header is too long" and p.type == "text/html")'
    _, after = judged(tmp_path, body + '\nassert(p:text() == "body" and #p.headers:raw() <= 1048576)', raw)
    assert after == raw
    _, after = judged(tmp_path, 'mail:part("1").headers:set("Content-Type", "text/csv")', raw)
    assert after == raw.replace(b"text/html", b"text/csv")


def test_a_thousand_parts(tmp_path: Path) -> None:
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 1500 + b"--b--\r\n"
    look = (
        "local n = 0\nfor part in mail:parts() do if part.filename or part:text(1, 100) == 'x' then n = n + 1 end end\n"
    )
    b, after = judged(tmp_path, look + 'print(n, mail:part("").flaw)', raw)
    assert b.messages == ["1000\ttoo many parts"]
    assert after == raw
