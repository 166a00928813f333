"""What a client says to log in, read strictly: PLAIN and LOGIN, line by line."""

from __future__ import annotations

import base64

import pytest

from mta.message.credentials import Credentials
from mta.message.reply import Refused
from mta.receive import sasl


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def plain(*words: str | bytes) -> str:
    """PLAIN with its message at once, words joined by NULs."""
    return "PLAIN " + b64(b"\0".join(word.encode() if isinstance(word, str) else word for word in words))


def said(rest: str, *lines: str) -> tuple[list[str], Credentials]:
    """What was asked on the way, and what came of it."""
    asked, steps = [], sasl.exchange(rest)
    try:
        asked.append(next(steps))
        for line in lines:
            asked.append(steps.send(line.encode("latin-1")))
    except StopIteration as end:
        return asked, end.value
    raise AssertionError(f"it is not over: asked {asked}")


ANN = Credentials("PLAIN", "ann", "secret")


@pytest.mark.parametrize(
    ("lines", "asked", "found"),
    [
        ([plain("", "ann", "secret")], [], ANN),
        ([plain("ann", "ann", "secret").replace("PLAIN", "plain")], [], Credentials("PLAIN", "ann", "secret", "ann")),
        (["PLAIN", b64("\0ann\0secret")], [""], ANN),
        (["PLAIN", b64("\0Änn@b.test\0sécret")], [""], Credentials("PLAIN", "Änn@b.test", "sécret")),
        (["LOGIN", b64("ann"), b64("secret")], ["Username:", "Password:"], Credentials("LOGIN", "ann", "secret")),
        (["Login YW5u", b64("secret")], ["Password:"], Credentials("LOGIN", "ann", "secret")),
        (["LOGIN", "", ""], ["Username:", "Password:"], Credentials("LOGIN", "", "")),
        ([plain("", "", "")], [], Credentials("PLAIN", "", "")),
        ([plain("", "a" * 255, "b" * 8000)], [], Credentials("PLAIN", "a" * 255, "b" * 8000)),
    ],
)
def test_what_is_understood(lines: list[str], asked: list[str], found: Credentials) -> None:
    assert said(*lines) == ([b64(one) for one in asked], found)


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        ([""], "501 5.5.4"),
        (["CRAM-MD5"], "504 5.5.4"),
        (["PLAIN="], "504 5.5.4"),
        (["PLAIN ===="], "501 5.5.2"),
        (["PLAIN !!!!"], "501 5.5.2"),
        (["PLAIN AGEAYg"], "501 5.5.2"),
        (["PLAIN AGEAYg== x"], "501 5.5.2"),
        (["PLAIN  AGEAYg=="], "501 5.5.2"),
        (["PLAIN AGEAYg==AGEAYg=="], "501 5.5.2"),
        (["PLAIN \xe4\xe4\xe4\xe4"], "501 5.5.2"),
        (["PLAIN ="], "501 5.5.2"),  # an empty response, and PLAIN is never empty
        (["PLAIN", "="], "501 5.5.2"),  # that is only for an initial one
        (["PLAIN", ""], "501 5.5.2"),
        (["PLAIN", "*"], "501 5.7.0"),
        (["LOGIN", "*"], "501 5.7.0"),
        (["LOGIN", "YW5u", "*"], "501 5.7.0"),
        ([plain("", "a", "b", "c")], "501 5.5.2"),
        ([plain("ann secret")], "501 5.5.2"),
        ([plain("", "a" * 256, "b")], "501 5.5.2"),
        ([plain("", "a\r\n", "b")], "501 5.5.2"),
        ([plain("", "a", "b\n")], "501 5.5.2"),
        ([plain("", b"\xe4nn", "x")], "501 5.5.2"),
        (["LOGIN", b64("a\0b")], "501 5.5.2"),
        (["LOGIN", b64("ann"), b64(b"\xff")], "501 5.5.2"),
        (["LOGIN", b64("ann"), "c2Vjc=mV0"], "501 5.5.2"),
    ],
)
def test_what_is_refused(lines: list[str], reply: str) -> None:
    with pytest.raises(Refused) as refused:
        said(*lines)
    assert str(refused.value.reply).startswith(reply)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(ANN) and "ann" in repr(ANN)
    assert ANN.hide("ann said secret, secret") == "ann said ***, ***"
    assert Credentials("PLAIN", "ann", "").hide("nothing") == "nothing"
