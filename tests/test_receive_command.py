"""Commands, read strictly: what is understood, what is refused, and that nothing else can happen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta.message.address import NULL, Address
from mta.message.reply import Refused
from mta.receive import command


def code(refused: pytest.ExceptionInfo[Refused]) -> str:
    return f"{refused.value.reply.code} {refused.value.reply.enhanced}"


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"QUIT", ("QUIT", "")),
        (b"quit  ", ("QUIT", "")),
        (b"Mail FROM:<a@b>", ("MAIL", "FROM:<a@b>")),
        (b"", ("", "")),
        (b"NOOP a  b", ("NOOP", "a  b")),
    ],
)
def test_read(line: bytes, read: tuple[str, str]) -> None:
    assert command.read(line) == read


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"NOOP\0", "501 5.5.2"),
        (b"NOOP\r", "501 5.5.2"),
        (b"EHLO\tx", "501 5.5.2"),
        (b"NOOP \x7f", "501 5.5.2"),
        (b"NOOP \xff", "500 5.5.2"),
        (b"NOOP \xc3\xbc", "501 5.5.2"),
        (b"rcpt TO:<\xc3\xbc@x>", "553 5.6.7"),
    ],
)
def test_read_refuses(line: bytes, answer: str) -> None:
    with pytest.raises(Refused) as refused:
        command.read(line)
    assert code(refused) == answer


@pytest.mark.parametrize(
    ("rest", "mail"),
    [
        ("FROM:<>", command.Mail(NULL)),
        ("from:<a@B.example>", command.Mail(Address("a", "b.example"))),
        ("FROM:<a@b> SIZE=5  BODY=8bitmime", command.Mail(Address("a", "b"), 5, "8BITMIME")),
        ('FROM:<"a>b c"@b> size=1', command.Mail(Address("a>b c", "b"), 1)),
        (r'FROM:<"a\"b"@[192.0.2.1]>', command.Mail(Address('a"b', "[192.0.2.1]"))),
        ("FROM:<@x,@y:a@b>", command.Mail(Address("a", "b"))),
        ("FROM:<a@b> AUTH=<> SIZE=5", command.Mail(Address("a", "b"), 5)),  # Postfix says so wherever AUTH is offered
        ("FROM:<a@b> AUTH=e+3Dmc2@example.com", command.Mail(Address("a", "b"))),
    ],
)
def test_mail(rest: str, mail: command.Mail) -> None:
    assert command.mail(rest) == mail


@pytest.mark.parametrize(
    ("rest", "answer"),
    [
        ("", "501 5.5.4"),
        ("FROM", "501 5.5.4"),
        ("FROM:", "501 5.5.4"),
        ("TO:<a@b>", "501 5.5.4"),
        ("FROM: <a@b>", "501 5.5.4"),
        ("FROM:<a@b", "501 5.5.4"),
        ('FROM:<"a@b>', "501 5.5.4"),
        ("FROM:<a@b>x", "501 5.5.4"),
        ("FROM:<a@b> SIZE=123456789012345678901", "501 5.5.4"),
        ("FROM:<a@b> RET=FULL", "555 5.5.4"),
        ("FROM:<a@b> AUTH", "501 5.5.4"),
        ("FROM:<a@b> AUTH=e+3d", "501 5.5.4"),
        ("FROM:<a@b> -=1", "501 5.5.4"),
        ("FROM:<a>", "501 5.1.3"),
        ("FROM:<Postmaster>", "501 5.1.3"),
    ],
)
def test_mail_refuses(rest: str, answer: str) -> None:
    with pytest.raises(Refused) as refused:
        command.mail(rest)
    assert code(refused) == answer


def test_rcpt() -> None:
    assert command.rcpt("TO:<a@b>") == Address("a", "b")
    assert command.rcpt("to:<POSTMASTER>") == Address("postmaster")
    for rest, answer in {"TO:<>": "501 5.1.3", "FROM:<a@b>": "501 5.5.4", "TO:<a@b> X=1": "555 5.5.4"}.items():
        with pytest.raises(Refused) as refused:
            command.rcpt(rest)
        assert code(refused) == answer


def test_helo() -> None:
    assert command.helo("my_pc") == "my_pc"
    for rest in ("", "a b", "x" * 256):
        with pytest.raises(Refused):
            command.helo(rest)


pieces = st.lists(
    st.sampled_from(
        [
            *("FROM:", "TO:", "<", ">", '"', "\\", "@", "a", "b.example", "[", "]", "IPv6:::1", ":", ",", " "),
            *("SIZE=", "9", "BODY=8BITMIME", "=", "..", "Postmaster", "%", "!"),
        ]
    ),
    max_size=12,
).map("".join)


@given(st.binary(max_size=60) | pieces.map(str.encode))
def test_reading_a_line_raises_refused_and_nothing_else(line: bytes) -> None:
    try:
        verb, rest = command.read(line)
    except Refused:
        return
    assert (verb + rest).isprintable()


@given(pieces | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_arguments_raise_refused_and_nothing_else(rest: str) -> None:
    for read in (command.mail, command.rcpt, command.helo):
        try:
            read(rest)
        except Refused as refused:
            assert refused.reply.code in (501, 553, 555)


@given(pieces)
def test_an_accepted_address_is_read_again_as_the_same(rest: str) -> None:
    try:
        sender = command.mail(f"FROM:<{rest}>").sender
    except Refused:
        return
    assert command.mail(f"FROM:<{sender}>").sender == sender
