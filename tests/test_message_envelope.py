"""Envelopes and ids: what travels with a mail survives the way through the spool, and names are safe everywhere."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mta.message import ids
from mta.message.address import Address
from mta.message.envelope import Client, Envelope, Recipient, Route

WORDS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
ADDRESS = st.builds(Address, WORDS, WORDS)
RECIPIENT = st.builds(
    Recipient,
    address=ADDRESS,
    original=st.none() | ADDRESS,
    route=st.none() | st.builds(Route, WORDS, host=WORDS, path=WORDS),
    attempts=st.integers(0, 100),
    reply=WORDS,
)
ENVELOPE = st.builds(
    Envelope,
    id=WORDS,
    sender=ADDRESS,
    recipients=st.lists(RECIPIENT, max_size=4),
    client=st.none() | st.builds(Client, ip=WORDS, port=st.integers(0, 65535), helo=WORDS, trusted=st.booleans()),
    arrived=st.floats(0, 1e10),
    vars=st.dictionaries(WORDS, PLAIN, max_size=3),
    postq=st.booleans(),
    held=WORDS,
)


@given(ENVELOPE)
def test_an_envelope_written_as_json_is_the_same_again(envelope: Envelope) -> None:
    written = msgspec.json.encode(envelope)
    assert b"\n" not in written, "one record, one line"
    assert msgspec.json.decode(written, type=Envelope) == envelope


def test_an_envelope_of_an_older_version_reads_with_defaults() -> None:
    envelope = msgspec.json.decode(b'{"id":"a-1.1","sender":["me","here.test"],"new_word":1}', type=Envelope)
    assert envelope == Envelope("a-1.1", Address("me", "here.test"))


def test_fresh_envelopes_share_nothing() -> None:
    one, two = Envelope("a"), Envelope("b")
    one.recipients.append(Recipient(Address("you", "here.test")))
    one.vars["seen"] = True
    assert two.recipients == [] and two.vars == {}


def test_our_own_peoples_mail() -> None:
    assert Envelope("a", client=Client(user="me")).ours
    assert Envelope("a", client=Client(trusted=True)).ours
    assert not Envelope("a", client=Client(ip="192.0.2.1")).ours
    assert not Envelope("a").ours


def test_ids_name_writer_session_and_mail() -> None:
    names = ids.Ids()
    first, second = names.session(), names.session()
    assert first == f"{names.writer}-1" and second == f"{names.writer}-2"
    assert ids.mail(second, 3) == f"{names.writer}-2.3"
    assert ids.SHAPE.fullmatch(first) and ids.SHAPE.fullmatch(ids.mail(second, 3))


def test_every_writer_draws_another_name() -> None:
    assert len({ids.Ids().writer for _ in range(1000)}) == 1000


def test_no_path_and_no_command_is_an_id() -> None:
    for text in ("../../etc/passwd", "k3v9x0a2bq-1/2", "k3v9x0a2bq-1.2\n", "K3V9X0A2BQ-1", "k3v9x0a2bq-1.2.3", ""):
        assert not ids.SHAPE.fullmatch(text)


@given(st.integers(0, 2**70))
def test_base_32_reads_back(number: int) -> None:
    text = ids.base32(number)
    value = 0
    for digit in text:
        value = value * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(digit)
    assert value == number and (text == "0" or text[0] != "0")
