"""service.NAME(...) in rules: what it is given, what it answers, and what becomes of the mail when it cannot answer."""

from pathlib import Path
from typing import Any

import pytest
from receiving import until
from rules_kit import Bench, rule
from test_program import children, fds

from mta.message.message import Message
from mta.net.dns import Resolver
from mta.rules.outside.services import Answer, Services
from mta.rules.outside.services.fake import FakeService
from mta.rules.outside.world import FakeWorld, LiveWorld
from mta.rules.trying import example
from mta.settings import Dns, Service

MIXED = (
    b"From: ann@example.com\r\nSubject: two\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\n\r\nfirst\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\nc2Vjb25k\r\n--b--\r\n"
)


def bench(folder: Path, body: str, stage: str = "preq", **services: FakeService) -> Bench:
    return Bench(folder, rule(body, stage), FakeWorld(services=services))


def live(folder: Path, body: str, stage: str = "preq", **settings: Service) -> Bench:
    """With services of the real kind."""
    world = FakeWorld()
    world.services = Services(settings, say=world.log)
    return Bench(folder, rule(body, stage), world)


def test_the_answer_as_a_rule_sees_it(tmp_path: Path) -> None:
    fake = FakeService(Answer(code=1, stdout=b"caf\xc3\xa9\0\xff", stderr=b"oh", cut=True, ms=1.5))
    b = bench(
        tmp_path,
        """
        local a = service.scan()
        assert(a.code == 1 and math.type(a.code) == "integer" and a.signal == nil)
        assert(a.stdout == "caf\\xc3\\xa9\\0\\xff" and a.stderr == "oh" and a.cut == true and a.timed_out == false)
        assert(a.ms == 1.5 and a.failed == "")
        return quarantine("virus")""",
        scan=fake,
    )
    verdict = b.run("preq")
    assert b.failures == [] and verdict.kind == "quarantine" and verdict.folder == "virus"
    (request,) = fake.requests
    assert b"".join(bytes(piece) for piece in request.mail or ()) == example.MAIL
    mail = {"session": "k3v9x0a2bq-1", "mail": "k3v9x0a2bq-1.1"}
    assert request.about == {**mail, "stage": "preq", "rule": "a rule", "where": "main.lua:3"}
    assert request.values["sender"] == "ann@example.com" and request.values["client"] == "192.0.2.7"
    assert b.world.said("service_called")[0]["service"] == "scan"


def test_what_a_rule_gives(tmp_path: Path) -> None:
    fake = FakeService()
    body = """service.scan{ text = "h\\xffi", name = "x.exe", number = 7, yes = true, who = mail.sender }"""
    b = bench(tmp_path, body, scan=fake)
    b.run("preq")
    assert b.failures == []
    (request,) = fake.requests
    assert request.text == b"h\xffi"
    own = {k: request.values[k] for k in ("name", "number", "yes", "who")}
    assert own == {"name": b"x.exe", "number": b"7", "yes": b"true", "who": b"ann@example.com"}


def test_a_part_by_its_number(tmp_path: Path) -> None:
    fake = FakeService()
    b = bench(tmp_path, 'service.scan{ part = "2" }', scan=fake)
    tx = example.transaction("preq")
    tx.message = Message(MIXED)
    b.run("preq", tx)
    assert b.failures == []
    assert b"".join(bytes(piece) for piece in fake.requests[0].part or ()) == b"second"
    b.run("preq")  # a mail without a second part
    assert "the mail has no part 2" in b.failure


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("service.scan{ 1 }", "argument 1 needs names as keys, not a number"),
        ("service.scan{ x = {} }", "argument 1 holds a table"),
        ("service.scan{ x = print }", "argument 1 holds a function"),
        ('service.scan("text")', "argument 1 must be a table, not string"),
        ("service.scan(mail.sender)", "argument 1 must be a table"),
        ('service.scan{ x = ("x"):rep(2 << 20) }', "argument 1 holds more than"),
        ("service.scna()", "service.scna does not exist"),
        ("service.scan = nil", "read-only"),
    ],
)
def test_wrong_calls_say_so(tmp_path: Path, call: str, said: str) -> None:
    b = bench(tmp_path, call, scan=FakeService())
    assert b.run("preq").kind == "defer"
    assert said in b.failure and b.failure.startswith("main.lua:2:")


def test_no_services_at_all(tmp_path: Path) -> None:
    b = bench(tmp_path, "service.clamscan()")
    b.run("preq")
    assert "service.clamscan does not exist" in b.failure


@pytest.mark.parametrize(("fault", "kind", "code"), [("defer", "defer", 451), ("deny", "deny", 554)])
@pytest.mark.parametrize("stage", ["connect", "rcpt", "preq", "postq", "delivery"])
def test_a_fault_ends_the_stage(tmp_path: Path, fault: str, kind: str, code: int, stage: str) -> None:
    body = """
      local done = pcall(function() service.gone() end)
      log.info("a rule cannot swallow it")"""
    b = live(tmp_path, body, stage, gone=Service(arguments=["no-such-program"], fault=fault))
    verdict = b.run(stage)
    assert verdict.kind == kind and verdict.reply is not None and verdict.reply.code == code
    assert verdict.rule == "a rule" and verdict.where.startswith("main.lua:") and not verdict.failed
    assert b.messages == [] and b.failures == []
    (event,) = b.world.said("service_failed")
    assert event["reason"] == "no-such-program: no such program" and event["fault"] == fault
    assert b.run(stage).kind == kind  # and the next mail is judged as ever


def test_a_fault_that_may_be_ignored(tmp_path: Path) -> None:
    body = """
      local a = service.gone()
      assert(a.code == nil and a.failed == "no-such-program: no such program")
      return accept()"""
    b = live(tmp_path, body, gone=Service(arguments=["no-such-program"], fault="ignore"))
    assert b.run("preq").kind == "accept"


def test_a_program_reads_the_mail_as_the_rule_has_changed_it(tmp_path: Path) -> None:
    body = """
      mail.headers:prepend("X-New", "yes")
      local a = service.head()
      assert(a.stdout == "X-New: yes\\r\\n", a.stdout)"""
    b = live(tmp_path, body, head=Service(arguments=["head", "-n", "1"], stdin="mail"))
    b.run("preq")
    assert b.failures == []


def test_a_name_from_the_network_is_no_option(tmp_path: Path) -> None:
    b = live(tmp_path, 'service.show{ name = "-rf" }', show=Service(arguments=["echo", "{name}"], fault="ignore"))
    b.run("preq")
    assert "would become an option" in b.world.said("service_failed")[0]["reason"]


def test_a_service_that_wants_what_is_not_there_yet(tmp_path: Path) -> None:
    b = live(tmp_path, "service.scan()", "rcpt", scan=Service(arguments=["cat"], stdin="mail"))
    b.run("rcpt")
    assert "this service reads a mail, and there is none" in b.failure


def test_the_trace_shows_the_call(tmp_path: Path) -> None:
    b = bench(tmp_path, "service.scan()", scan=FakeService())
    tx = example.transaction("preq")
    tx.tracing = True
    b.run("preq", tx)
    (step,) = tx.trace
    assert step.asked[0].word == "service.scan"


def test_a_program_that_outlasts_the_stage(tmp_path: Path) -> None:
    """In the real world, whose deadline interrupts the wait: the program is killed, nothing of it stays."""
    world = LiveWorld(Resolver(Dns()), services={"slow": Service(arguments=["sleep", "60"])})
    seen: list[tuple[str, dict[str, Any]]] = []
    world.log = lambda event, **fields: seen.append((event, fields))  # type: ignore[method-assign]
    b = Bench(tmp_path, rule("service.slow()", "connect"), world, wall=0.3)
    before, others = fds(), children()
    verdict = b.run("connect")
    assert verdict.kind == "defer" and verdict.failed
    assert [(event, fields["error"]) for event, fields in seen] == [
        ("rule_failed", "the stage took longer than 0.3 s (rules.wall)")
    ]
    until(lambda: not children() - others)
    assert fds() <= before


# -- signing and encrypting --------------------------------------------------------------------------------------------


def protecting(folder: Path, body: str, stage: str = "preq") -> Bench:
    return Bench(folder, rule(body, stage))


@pytest.mark.needs("openssl")
def test_a_mail_is_signed_encrypted_opened_and_verified(tmp_path: Path) -> None:
    b = protecting(
        tmp_path,
        """
        assert(mail:sign("smime", "you@example.test"))
        assert(mail:encrypt("smime", mail.recipients))
        assert(mail.headers:get("Content-Type"):find("pkcs7-mime", 1, true))
        assert(mail.headers:get("Subject") == "Hello")
        mail.headers:set("Subject", "...")
        local opened = assert(mail:decrypt("smime", "you@example.test"))
        assert(opened.signed == false)
        local seal = assert(mail:verify("smime", "root"))
        assert(seal.ok and seal.addresses == "you@example.test" and seal.signer == "CN=You", seal.reason)
        local bad = assert(mail:verify("smime", "you@example.test"))
        assert(not bad.ok and #bad.reason > 0 and bad.signer == "")""",
    )
    b.run("preq")
    assert b.failures == []
    assert b.tx.message is not None
    made = bytes(b.tx.message)
    assert b"Subject: ...\r\n" in made and b"multipart/signed" in made and b"How are you?" in made


def test_what_a_stranger_sent_gives_nil_and_why(tmp_path: Path) -> None:
    b = protecting(
        tmp_path,
        """
        for _, kind in ipairs{"smime"} do
          local seal, why = mail:verify(kind, "root")
          assert(seal == nil and why:find("it is text/plain", 1, true), why)
          local opened, why = mail:decrypt(kind, "you@example.test")
          assert(opened == nil and why:find("it is text/plain", 1, true), why)
        end""",
    )
    b.run("preq")
    assert b.failures == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('mail:sign("smime", "nobody")', "mail:sign: there is no key keys/nobody.pem"),
        ('mail:sign("rot13", "you@example.test")', "'rot13' is no way to protect a mail"),
        ('mail:encrypt("smime", {})', "to whom?"),
        ('mail:encrypt("smime", { mail.sender })', "there is no key keys/ann@example.com.pem"),
        ('mail:encrypt("smime", "../root")', "is not the name of a key"),
        ('mail:encrypt("smime", { {} })', "argument 2 holds a table"),
        ('mail:sign("smime")', "argument 2 must be a string, not nil"),
        ('mail.sign("smime", "x")', "mail:sign is called with a colon"),
        ('local sign = mail.sign sign({}, "smime", "x")', "mail:sign is called with a colon"),
        ("mail:sgin()", "mail.sgin does not exist; did you mean mail.sign?"),
    ],
)
def test_wrong_words_about_keys(tmp_path: Path, call: str, said: str) -> None:
    b = protecting(tmp_path, call)
    verdict = b.run("preq")
    assert verdict.kind == "defer" and verdict.failed
    assert said in b.failure
    assert b.tx.message is not None and bytes(b.tx.message) == example.MAIL


def test_not_before_there_is_a_mail(tmp_path: Path) -> None:
    b = protecting(tmp_path, 'mail:sign("smime", "you@example.test")', "rcpt")
    b.run("rcpt")
    assert "mail:sign is not known before preq" in b.failure


def test_can_encrypt(tmp_path: Path) -> None:
    b = protecting(
        tmp_path,
        """
        assert(mail:can_encrypt("smime", mail.recipients) and mail:can_encrypt("smime", "you@example.test"))
        assert(not mail:can_encrypt("smime", { "you@example.test", mail.sender }))
        assert(not mail:can_encrypt("pgp", "you@example.test"))""",
    )
    b.run("preq")
    assert b.failures == []


def test_the_reference_tells_what_is_known_of_a_mail() -> None:
    from mta.rules.words import services

    assert tuple(services.facts(example.transaction("preq"))) == services.FACTS
    assert ", ".join(services.FACTS) in services.SERVICE.meaning


@pytest.mark.needs("openssl")
def test_examples_of_the_reference(tmp_path: Path) -> None:
    from mta.rules.words import services, signing

    words: list[Any] = [services.SERVICE, *signing.MAIL_SIGNING]
    for n, word in enumerate(words):
        folder = tmp_path / str(n)
        folder.mkdir()
        b = protecting(folder, word.example)
        b.run("preq")
        assert b.failures == [], word.name
