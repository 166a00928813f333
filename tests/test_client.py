"""What we send to other servers, and what we make of their answers."""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Iterator

import pytest
from daemon import PATIENCE
from fake_smtp import Deed, FakeSmtp
from hands import Hands, moved
from hypothesis import given
from hypothesis import strategies as st

from mta.deliver import client
from mta.deliver.client import Client, Lost, wire
from mta.message.address import Address, parse
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.message.reply import Refused
from mta.net import clock
from mta.net.stream import connect
from mta.net.tls import client_context

RAW = b"Subject: x\r\n\r\n.a dot\r\n..two\r\n"


@pytest.fixture(autouse=True)
def hands() -> Iterator[Hands]:
    with moved() as hands:
        yield hands


def canonical(text: bytes) -> bytes:
    """What a mail means when CR, LF and CRLF all end lines and the last line is ended."""
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return text if text.endswith(b"\r\n") or not text else text + b"\r\n"


def check(pieces: list[bytes]) -> None:
    sent = b"".join(wire(pieces))
    lines = sent.split(b"\r\n")
    assert lines[-2:] == [b".", b""]
    assert not [line for line in lines if b"\r" in line or b"\n" in line or b"\0" in line]
    assert b"." not in lines[:-2]
    unstuffed = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:-2])
    assert unstuffed == canonical(b"".join(pieces))


def test_every_short_text_is_sent_unmistakably() -> None:
    """All strings over CR, LF, dot, a letter and a high byte, up to 6 of them; NUL has its own test."""
    for length in range(7):
        for text in itertools.product((b"\r", b"\n", b".", b"a", b"\xff"), repeat=length):
            check([b"".join(text)])


def test_every_short_text_is_sent_unmistakably_wherever_it_is_cut() -> None:
    for text in itertools.product(b"\r\n.a", repeat=5):
        for cut in range(1, 5):
            check([bytes(text[:cut]), bytes(text[cut:])])
            check([bytes(text[:cut]), b"", bytes([text[cut]]), bytes(text[cut + 1 :])])


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.translate(bytes(b"\r\n.a"[i % 4] for i in range(256))))),
    st.integers(1, 4),
)
def test_chunks_end_anywhere(pieces: list[bytes], size: int) -> None:
    old, client.CHUNK = client.CHUNK, size
    try:
        check(pieces)
    finally:
        client.CHUNK = old


def test_a_nul_is_not_sent() -> None:
    with pytest.raises(Refused, match=r"5\.6\.0"):
        list(wire([b"a\r\n\0\r\n"]))


def test_large_bodies_are_passed_in_chunks() -> None:
    sizes = [len(chunk) for chunk in wire([memoryview(b"0123456789\r\n" * 100_000)])]
    assert max(sizes) <= client.CHUNK + 8


def talk(server: FakeSmtp) -> Client:
    stream = connect("127.0.0.1", server.port, clock.monotonic() + PATIENCE)
    return Client(stream, "mx.fake.test [127.0.0.1]", "me.test", PATIENCE)


def mail(*names: str, sender: str = "ann@here.test", body: str = "") -> Envelope:
    return Envelope("w-1.1", parse(sender) if sender else Address(), [Recipient(parse(n)) for n in names], body=body)


def send(talking: Client, envelope: Envelope, raw: bytes = RAW) -> dict[str, str]:
    return {str(a.recipient.address): str(a.reply) for a in talking.send(envelope, envelope.recipients, Message(raw))}


def greeted(server: FakeSmtp) -> Client:
    talking = talk(server)
    talking.greet()
    return talking


def test_a_mail_arrives_byte_for_byte_and_commands_go_together() -> None:
    with FakeSmtp() as server:
        talking = greeted(server)
        said = send(talking, mail("bob@far.test", "eve@far.test", body="8BITMIME"))
        assert said == {"bob@far.test": "250 2.0.0 Kept", "eve@far.test": "250 2.0.0 Kept"}
        assert server.mails == [("ann@here.test", ["bob@far.test", "eve@far.test"], RAW)]
        assert server.commands == [
            "EHLO me.test",
            f"MAIL FROM:<ann@here.test> SIZE={len(RAW)} BODY=8BITMIME",
            "RCPT TO:<bob@far.test>",
            "RCPT TO:<eve@far.test>",
            "DATA",
        ]
        assert [b.count(b"\r\n") for b in server.batches][:3] == [1, 3, 1]
        assert talking.quiet
        send(talking, mail("joe@far.test", sender=""))
        assert server.connections == 1 and len(server.mails) == 2
        assert "MAIL FROM:<> SIZE=" in server.commands[5]


def test_a_server_that_knows_nothing_is_spoken_to_simply() -> None:
    with FakeSmtp({"EHLO": "502 5.5.1 What?"}) as server:
        assert send(greeted(server), mail("bob@far.test", "eve@far.test", body="8BITMIME"))
        assert server.commands[:3] == ["EHLO me.test", "HELO me.test", "MAIL FROM:<ann@here.test>"]
        assert [b.count(b"\r\n") for b in server.batches][:5] == [1, 1, 1, 1, 1]


def test_each_recipient_has_its_own_answer() -> None:
    script = {
        "RCPT TO:<no@far.test>": "550 5.1.1 No such user",
        "RCPT TO:<full@far.test>": "452 4.2.2 Full",
        "RCPT TO:<old@far.test>": "552 Too many recipients",
    }
    with FakeSmtp(script) as server:
        said = send(greeted(server), mail("bob@far.test", "no@far.test", "full@far.test"))
        assert said == {
            "no@far.test": "550 5.1.1 No such user",
            "full@far.test": "452 4.2.2 Full",
            "bob@far.test": "250 2.0.0 Kept",
        }
        assert send(greeted(server), mail("old@far.test")) == {"old@far.test": "452 Too many recipients"}
        assert server.mails[0][1] == ["bob@far.test"]


def test_a_mail_nobody_may_get_is_not_sent_and_the_conversation_goes_on() -> None:
    with FakeSmtp({"RCPT TO:<no@far.test>": "550 5.1.1 No", "RCPT TO:<not@far.test>": "550 5.1.1 No"}) as server:
        talking = greeted(server)
        assert set(send(talking, mail("no@far.test", "not@far.test")).values()) == {"550 5.1.1 No"}
        assert server.commands[-1] == "RSET"
        assert send(talking, mail("bob@far.test")) == {"bob@far.test": "250 2.0.0 Kept"}


def test_a_sender_refused_is_the_answer_for_all() -> None:
    for extensions in (("PIPELINING",), ()):
        with FakeSmtp({"MAIL": "553 5.1.8 Not you", "RCPT": "503 5.5.1 MAIL first"}, extensions=extensions) as server:
            said = send(greeted(server), mail("bob@far.test", "eve@far.test"))
            assert said == dict.fromkeys(["bob@far.test", "eve@far.test"], "553 5.1.8 Not you")


@pytest.mark.parametrize("where", ["MAIL", "DATA"])
@pytest.mark.parametrize("extensions", [("PIPELINING",), ()])
@pytest.mark.parametrize("behind", ["close", "421 4.7.0 Away with you"])
def test_a_no_is_the_answer_also_of_a_server_that_hangs_up_behind_it(
    where: str, extensions: tuple[str, ...], behind: str
) -> None:
    script: dict[str, Deed] = {where: "554 5.7.1 We know you", "RSET": behind}
    if where == "MAIL":
        script["RCPT"] = behind
    with FakeSmtp(script, extensions=extensions) as server:
        talking = greeted(server)
        assert send(talking, mail("bob@far.test")) == {"bob@far.test": "554 5.7.1 We know you"}
        assert talking.spoilt


@pytest.mark.parametrize("local", ["gr\xfc\xdf", "a\r\nRCPT TO:<b", "a\nb", "a\x00"])
def test_an_address_that_cannot_be_sent_as_it_is_is_not_sent(local: str) -> None:
    with FakeSmtp() as server:
        envelope = Envelope("w-1.1", recipients=[Recipient(Address(local, "far.test"))])
        with pytest.raises(Refused, match=r"5\.6\.7"):
            send(greeted(server), envelope)
        envelope.sender, envelope.recipients = Address(local, "far.test"), [Recipient(parse("bob@far.test"))]
        with pytest.raises(Refused, match=r"5\.6\.7"):
            send(greeted(server), envelope)
        assert set(server.commands) == {"EHLO me.test"}


@pytest.mark.parametrize("where", ["DATA", "dot"])
def test_content_refused_is_the_answer_for_all_that_were_accepted(where: str) -> None:
    with FakeSmtp({where: "554 5.7.1 Spam", "RCPT TO:<no@far.test>": "550 5.1.1 No"}) as server:
        talking = greeted(server)
        said = send(talking, mail("bob@far.test", "no@far.test"))
        assert said == {"bob@far.test": "554 5.7.1 Spam", "no@far.test": "550 5.1.1 No"}
        server.script.clear()
        assert send(talking, mail("bob@far.test")) == {"bob@far.test": "250 2.0.0 Kept"}


def test_recipients_too_many_for_one_transaction_go_in_another() -> None:
    script = {"RCPT": ["250 Ok", "250 Ok", "452 4.5.3 Too many", "452 4.5.3 Too many", "250 Ok"]}
    with FakeSmtp(script) as server:
        said = send(greeted(server), mail(*(f"r{n}@far.test" for n in range(4))))
        assert set(said.values()) == {"250 2.0.0 Kept"}
        assert [len(recipients) for _, recipients, _ in server.mails] == [2, 2]


def test_a_server_that_takes_no_recipient_at_all_ends_it() -> None:
    with FakeSmtp({"RCPT": "452 4.5.3 Too many"}) as server:
        assert set(send(greeted(server), mail("a@far.test", "b@far.test", "c@far.test")).values()) == {
            "452 4.5.3 Too many"
        }


def test_a_thousand_recipients() -> None:
    with FakeSmtp() as server:
        said = send(greeted(server), mail(*(f"r{n}@far.test" for n in range(1000))))
        assert len(said) == 1000 and len(server.mails[0][1]) == 1000


def test_a_mail_too_large_is_not_even_begun() -> None:
    with FakeSmtp(extensions=("SIZE 20",)) as server:
        (said,) = send(greeted(server), mail("bob@far.test")).values()
        assert said.startswith("552 5.3.4 mx.fake.test")
        assert server.commands == ["EHLO me.test"]


def test_a_nul_ends_the_conversation_before_the_dot() -> None:
    with FakeSmtp() as server:
        talking = greeted(server)
        assert send(talking, mail("bob@far.test"), b"x\0\r\n")["bob@far.test"].startswith("554 5.6.0")
        assert talking.spoilt and not server.mails


@pytest.mark.parametrize(
    "deed", ["close", "reset", "hang", "nonsense", "250-endless\r\n251 other code", "421 4.3.2 Bye"]
)
@pytest.mark.parametrize("where", ["MAIL", "RCPT", "DATA", "dot"])
def test_whatever_breaks_is_temporary_and_spoils_the_conversation(where: str, deed: str, hands: Hands) -> None:
    with FakeSmtp({where: deed}) as server:
        server.silence = lambda: hands.forward(PATIENCE)
        talking = greeted(server)
        began = time.monotonic()
        with pytest.raises(Lost) as lost:
            send(talking, mail("bob@far.test"))
        assert lost.value.reply.temporary
        assert lost.value.content == (where == "dot")
        assert talking.spoilt and not talking.quiet
        assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.parametrize("where", ["greeting", "EHLO"])
@pytest.mark.parametrize("deed", ["close", "reset", "hang", "garbage"])
def test_a_bad_beginning(where: str, deed: str, hands: Hands) -> None:
    with FakeSmtp({where: deed}) as server, pytest.raises(Lost):
        server.silence = lambda: hands.forward(PATIENCE)
        greeted(server)


@pytest.mark.parametrize("reply", ["554 5.7.1 Not from you", "450 4.7.0 Later"])
def test_a_session_refused(reply: str) -> None:
    with FakeSmtp({"greeting": reply}) as server, pytest.raises(Refused, match=reply):
        greeted(server)
    with FakeSmtp({"EHLO": reply, "HELO": reply}) as server, pytest.raises(Refused, match=reply):
        greeted(server)


def test_an_endless_reply_is_cut() -> None:
    with FakeSmtp({"MAIL": "\r\n".join(["250-more"] * 5000)}) as server, pytest.raises(Lost, match="no reply"):
        send(greeted(server), mail("bob@far.test"))


def test_words_nobody_asked_for_make_it_unfit() -> None:
    with FakeSmtp({"dot": "250 2.0.0 Kept\r\n250 2.0.0 And another"}) as server:
        talking = greeted(server)
        send(talking, mail("bob@far.test"))
        assert not talking.quiet


def test_enhanced_codes_as_servers_write_them() -> None:
    with FakeSmtp({"RCPT": "550-5.1.1 No such\r\n550-5.1.1 user\r\n550 here", "DATA": "250 2.1.1 wrong"}) as server:
        assert send(greeted(server), mail("bob@far.test")) == {"bob@far.test": "550 5.1.1 No such / user / here"}
    with FakeSmtp({"RCPT": "550 2.1.1 mixed up"}) as server:
        assert send(greeted(server), mail("bob@far.test")) == {"bob@far.test": "550 2.1.1 mixed up"}


def test_a_large_mail_goes_through_a_slow_reader() -> None:
    raw = b"Subject: big\r\n\r\n" + (b"." * 70 + b"\r\n") * 60_000
    with FakeSmtp() as server:
        assert send(greeted(server), mail("bob@far.test"), raw) == {"bob@far.test": "250 2.0.0 Kept"}
        assert server.mails[0][2] == raw


def test_tls_when_offered(context: ssl.SSLContext) -> None:
    with FakeSmtp(tls=context) as server:
        talking = greeted(server)
        assert talking.start_tls(client_context(), "fake.test")
        assert talking.stream.tls.startswith("TLSv1")
        assert send(talking, mail("bob@far.test")) == {"bob@far.test": "250 2.0.0 Kept"}
        assert server.commands[:3] == ["EHLO me.test", "STARTTLS", "EHLO me.test"]
        assert server.mails[0][2] == RAW and talking.quiet
        talking.quit()


def test_tls_refused_is_no_trouble(context: ssl.SSLContext) -> None:
    with FakeSmtp({"STARTTLS": "454 4.7.0 Not now"}, tls=context) as server:
        talking = greeted(server)
        assert not talking.start_tls(client_context(), "fake.test")
        assert send(talking, mail("bob@far.test")) == {"bob@far.test": "250 2.0.0 Kept"}


@pytest.mark.parametrize("deed", ["220 go\r\n250 injected", "220 but no TLS", "close", "hang"])
def test_tls_that_fails_ends_the_conversation(context: ssl.SSLContext, deed: str, hands: Hands) -> None:
    with FakeSmtp({"STARTTLS": deed}, tls=context) as server:
        server.silence = lambda: hands.forward(PATIENCE)
        talking = greeted(server)
        with pytest.raises(Lost):
            talking.start_tls(client_context(), "fake.test")
        assert talking.spoilt
