"""Every cell of the table of verdicts (mta/rules/pages/effects.py), played: in a real session and a real queue."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from receiving import Receiving, reply, self_signed, trusting
from test_queue import RAW, STRANGER, USER, Hands, House

from mta import log, settings
from mta.net import clock
from mta.rules.engine.engine import Rules, RulesError
from mta.rules.outside.world import FakeWorld
from mta.rules.pages.effects import EFFECTS, OUTCOMES
from mta.rules.trying import example
from mta.rules.verdict import STAGES

FRONT = ("connect", "helo", "authenticate", "mail", "rcpt", "data", "preq")
IN_CLEAR = tuple(stage for stage in FRONT if stage != "authenticate")
BEHIND = ("postq", "delivery")
SAID = {"reply": 'reply("450 4.7.1 Say that again")', "quarantine": 'quarantine("odd")'}
TO = "you@example.test"


def rules(folder: Path, stage: str, said: str) -> tuple[Rules, FakeWorld]:
    """A rule at every stage that logs it was asked; at `stage` one before it that says `said`."""
    lines = []
    for one in STAGES:
        if one == stage:
            lines.append(f'on.{one}("first", function(mail) return {said} end)')
        lines.append(f'on.{one}("asked", function(mail) log.info("{one}") end)')
    (folder / "main.lua").write_text("\n".join(lines))
    world = example.world()
    return Rules.load(settings.Rules(path=str(folder)), world), world


class Played:
    """One conversation of two mails: the code heard at each stage, who was asked for each mail, what was kept.

    `stages` are those it comes to; the client speaks TLS and logs in only to see what happens at authenticate.
    """

    def __init__(self, folder: Path, stage: str, said: str) -> None:
        loaded, self.world = rules(folder, stage, said)
        tls = self_signed(folder) if stage == "authenticate" else None
        self.stages = FRONT if tls else IN_CLEAR
        with Receiving(rules=loaded, smtp=settings.Smtp(max_errors=50), certificate=tls) as server:
            with server.connect() as client, client.makefile("rb") as replies:
                self.client, self.replies = client, replies
                greeting = reply(replies)
                hello = self.hear("EHLO there")
                login = self.log_in() if tls else b""
                self.noop = self.hear("NOOP")
                first = self.mail()
                self.asked = self.said()
                self.hear("RSET")
                self.second = self.mail()
                self.asked_again = self.said()
                self.quit = self.hear("QUIT")
            self.heard = {"connect": greeting, "helo": hello, "authenticate": login, **first}
            server.settle()
            self.kept = [envelope for envelope, _ in server.mails]
            self.clients = [envelope.client for envelope in self.kept if envelope.client is not None]

    def hear(self, line: str) -> bytes:
        try:
            self.client.sendall(line.encode() + b"\r\n")
        except OSError:
            return b""
        return reply(self.replies)

    def log_in(self) -> bytes:
        self.hear("STARTTLS")
        self.client = trusting().wrap_socket(self.client)
        self.replies = self.client.makefile("rb")
        assert b"AUTH PLAIN LOGIN" in self.hear("EHLO there")
        return self.hear("AUTH PLAIN AGFubgBzZXNhbWU=")

    def mail(self) -> dict[str, bytes]:
        heard = {"mail": self.hear("MAIL FROM:<ann@example.com>")}
        heard["rcpt"] = self.hear(f"RCPT TO:<{TO}>")
        heard["data"] = self.hear("DATA")
        heard["preq"] = self.hear("Subject: x\r\n\r\nx\r\n.") if heard["data"].startswith(b"354") else b""
        return heard

    def said(self) -> list[str]:
        """The stages that were asked since the last look."""
        found = asked(self.world)
        self.world.events.clear()
        return found


def asked(world: FakeWorld) -> list[str]:
    """The stages that were asked, as their rules said to the log."""
    said = [fields["message"] for name, fields in world.events if name.startswith("rule_") and "message" in fields]
    return list(dict.fromkeys(said))


FRONT_CELLS = [(verdict, stage) for verdict in EFFECTS for stage in FRONT]


@pytest.mark.parametrize(("verdict", "stage"), FRONT_CELLS)
def test_in_the_session(verdict: str, stage: str, tmp_path: Path) -> None:
    hears, outcome = EFFECTS[verdict][stage]
    if outcome == "-":
        with pytest.raises(RulesError, match="cannot be used at"):
            rules(tmp_path, stage, SAID[verdict])
        return
    played = Played(tmp_path, stage, SAID.get(verdict, f"{verdict}()"))
    assert played.heard[stage].decode()[:3] == ("450" if hears == "its own" else hears)
    globals()[f"_{outcome.replace(' ', '_')}"](played, stage, list(played.stages[played.stages.index(stage) + 1 :]))


def _goes_on(played: Played, stage: str, after: list[str]) -> None:
    assert [one for one in played.asked if one in [stage, *after]] == [stage, *after]
    assert [envelope.held for envelope in played.kept] == ["", ""]


def _ends(played: Played, stage: str, after: list[str]) -> None:
    assert stage not in played.asked and [one for one in played.asked if one in after] == after
    assert [(envelope.held, envelope.accepted) for envelope in played.kept] == [("", False)] * 2


def _logs_in(played: Played, stage: str, after: list[str]) -> None:
    assert stage not in played.asked and [one for one in played.asked if one in after] == after
    assert [(client.user, client.protocol) for client in played.clients] == [("ann", "ESMTPSA")] * 2


def _ends_all(played: Played, stage: str, after: list[str]) -> None:
    assert not set(played.asked) & {stage, *after}
    assert [(envelope.held, envelope.accepted) for envelope in played.kept] == [("", True)] * 2
    _holds(played, stage)


def _holds(played: Played, stage: str) -> None:
    """Before MAIL for the connection; later for one mail, and the next one's rules are asked from the start."""
    assert ("mail" in played.asked_again) == (stage not in ("connect", "helo", "authenticate", "mail"))


def _held(played: Played, stage: str, after: list[str]) -> None:
    assert not set(played.asked) & {stage, *after}
    assert [envelope.held for envelope in played.kept] == ["quarantine odd"] * 2
    _holds(played, stage)


def _thrown_away(played: Played, stage: str, after: list[str]) -> None:
    assert not set(played.asked) & {stage, *after}
    assert played.kept == [] and played.heard["preq"].startswith(b"250")
    _holds(played, stage)


def _barred(played: Played, stage: str, after: list[str]) -> None:
    assert played.noop.startswith(b"503") and played.heard["helo"].startswith(b"503")
    assert played.quit.startswith(b"221") and not played.asked and not played.kept


def _closed(played: Played, stage: str, after: list[str]) -> None:
    assert played.noop == b"" and not played.asked and not played.kept


def _refused(played: Played, stage: str, after: list[str]) -> None:
    follows = {"helo": "mail", "mail": "rcpt", "rcpt": "data"}
    if stage == "authenticate":  # it goes on as a stranger
        assert stage not in played.asked and [one for one in played.asked if one in after] == after
        assert [client.user for client in played.clients] == ["", ""]
        return
    assert not set(played.asked) & {stage, *after} and played.kept == []
    if stage in follows:
        assert played.heard[follows[stage]].decode()[:3] in ("503", "554")
    assert played.noop.startswith(b"250") and played.quit.startswith(b"221")
    before = FRONT[: FRONT.index(stage)]
    assert all(played.second[one].startswith((b"250", b"354")) for one in before if one in ("mail", "rcpt", "data"))


def test_only_the_recipient_is_refused(tmp_path: Path) -> None:
    said = '(mail.recipient.local_part == "no" and deny() or next())'
    loaded, _ = rules(tmp_path, "rcpt", said)
    with Receiving(rules=loaded) as server:
        envelope_ = ["MAIL FROM:<ann@example.com>", "RCPT TO:<no@example.test>", f"RCPT TO:<{TO}>"]
        heard = server.talk("EHLO there", *envelope_, "DATA", "x: y\r\n\r\n.")
        assert [one[:3] for one in heard] == [b"220", b"250", b"250", b"550", b"250", b"354", b"250"]
        ((envelope, _),) = server.mails
        assert [str(one.address) for one in envelope.recipients] == [TO]


def test_only_accept_logs_in(tmp_path: Path) -> None:
    """Whoever is not let in is a stranger, whatever else a rule said."""
    for verdict in EFFECTS:
        if verdict != "accept":
            played = Played(tmp_path, "authenticate", SAID.get(verdict, f"{verdict}()"))
            assert {client.user for client in played.clients} <= {""} and played.heard["authenticate"][:1] != b"2"


@pytest.mark.parametrize("verdict", ["faccept", "quarantine", "discard"])
def test_what_was_said_at_authenticate_outlives_another_hello(verdict: str, tmp_path: Path) -> None:
    class Again(Played):
        def log_in(self) -> bytes:
            heard = super().log_in()
            assert b"AUTH" not in self.hear("EHLO again")  # nobody would be asked
            assert self.hear("AUTH PLAIN AGFubgBzZXNhbWU=").startswith(b"535")
            return heard

    played = Again(tmp_path, "authenticate", SAID.get(verdict, f"{verdict}()"))
    held = {"faccept": ["", ""], "quarantine": ["quarantine odd"] * 2, "discard": []}
    assert [envelope.held for envelope in played.kept] == held[verdict] and "mail" not in played.asked


# -- replies of the rule's own -----------------------------------------------------------------------------------------

OWN = {
    "deny": ('deny("554 5.7.26 Not in these words")', b"554 5.7.26 Not in these words"),
    "defer": ('defer("451 4.7.26 Not now")', b"451 4.7.26 Not now"),
    "reply": ('reply("452 4.5.3 Not so many")', b"452 4.5.3 Not so many"),
}


@pytest.mark.parametrize(
    ("verdict", "stage"), [(v, s) for v in OWN for s in FRONT if EFFECTS[v][s].outcome == "refused"]
)
def test_a_refusal_in_the_words_of_the_rule(verdict: str, stage: str, tmp_path: Path) -> None:
    said, line = OWN[verdict]
    assert Played(tmp_path, stage, said).heard[stage].startswith(line + b" (")


@pytest.mark.parametrize("stage", [one for one in FRONT if one != "connect"])
def test_several_lines_each_with_the_code(stage: str, tmp_path: Path) -> None:
    played = Played(tmp_path, stage, 'deny{"550 5.7.1 You may write to us", "after a call: +32 2 555 01 01"}')
    one, two = played.heard[stage].splitlines()
    assert one == b"550-5.7.1 You may write to us"
    assert two.startswith(b"550 5.7.1 after a call: +32 2 555 01 01 (")


@pytest.mark.parametrize("stage", ["helo", "mail", "rcpt", "preq"])
@pytest.mark.parametrize("verdict", ["accept", "faccept"])
def test_a_yes_in_the_words_of_the_rule(verdict: str, stage: str, tmp_path: Path) -> None:
    heard = Played(tmp_path, stage, f'{verdict}("250 2.1.5 Welcome")').heard[stage]
    assert heard.startswith(b"250-Welcome\r\n" if stage == "helo" else b"250 2.1.5 Welcome\r\n")


def test_codes_that_the_protocol_leaves_no_choice(tmp_path: Path) -> None:
    assert Played(tmp_path, "connect", 'accept("220 Good day")').heard["connect"] == b"220 Good day\r\n"
    assert Played(tmp_path, "connect", 'accept("250 Good day")').heard["connect"].startswith(b"220 mx.example.test")
    assert Played(tmp_path, "connect", 'deny("550 5.7.1 No")').heard["connect"].startswith(b"554 5.7.1 No (")
    assert Played(tmp_path, "connect", 'defer("450 4.7.1 No")').heard["connect"].startswith(b"421 4.7.1 No (")
    assert Played(tmp_path, "data", 'accept("250 2.0.0 Go on")').heard["data"].startswith(b"354")
    assert Played(tmp_path, "authenticate", 'accept("250 2.7.0 Hi")').heard["authenticate"] == b"235 2.7.0 Hi\r\n"
    assert Played(tmp_path, "authenticate", 'faccept("235 2.7.0 Hi")').heard["authenticate"].startswith(b"535 5.7.8 ")


@pytest.mark.parametrize("stage", FRONT)
@pytest.mark.parametrize("said", ['deny{"554 5.7.1 Go", close = true}', 'defer{"450 4.7.1 Go", close = true}'])
def test_close_hangs_up(stage: str, said: str, tmp_path: Path) -> None:
    played = Played(tmp_path, stage, said)
    assert b".7.1 Go (" in played.heard[stage]
    assert played.quit == b"" and played.kept == []


# -- behind the 250 ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hands() -> Iterator[Hands]:
    hands = Hands()
    old = clock.replace(clock.Clock(now=lambda: hands.now))
    yield hands
    clock.replace(old)


@pytest.fixture
def house(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    house = House()
    monkeypatch.setattr(log, "event", lambda event, **fields: house.lines.append({"event": event, **fields}))
    yield house
    house.queue.drain(0)
    assert not house.told("bug")


@pytest.mark.parametrize(("verdict", "stage"), [(verdict, stage) for verdict in EFFECTS for stage in BEHIND])
def test_in_the_queue(verdict: str, stage: str, tmp_path: Path, house: House, hands: Hands) -> None:
    hears, outcome = EFFECTS[verdict][stage]
    assert hears == ""
    if outcome == "-":
        with pytest.raises(RulesError, match="cannot be used at"):
            rules(tmp_path, stage, SAID[verdict])
        return
    loaded, world = rules(tmp_path, stage, SAID.get(verdict, f"{verdict}()"))
    house.rules = loaded  # type: ignore[assignment]
    id = house.put("bob@far.test", client=USER)
    house.run(lambda: bool(house.lines))
    house.run(lambda: not house.queue._busy)
    waiting = house.spool.mails.get(id)
    delivered = [name for name, _ in house.script.delivered] == ["bob@far.test"]
    if outcome in ("goes on", "ends", "ends all"):
        assert delivered and waiting is None
        assert (stage in asked(world)) == (outcome == "goes on")
        assert ("delivery" in asked(world)) == ((stage, outcome) in {
            ("postq", "goes on"), ("postq", "ends"), ("delivery", "goes on")
        })  # fmt: skip
    elif outcome == "held":
        assert waiting is not None and waiting[0].held == "quarantine odd" and not delivered
    elif outcome == "thrown away":
        assert not house.spool.mails and not delivered
    elif outcome == "later":
        assert waiting is not None and waiting[0].next_try > hands.now and not delivered
        assert waiting[0].recipients[0].reply.startswith("450 4.7.1")
        (tmp_path / "main.lua").write_text("on.postq('fine now', function() end)")
        house.rules = Rules.load(settings.Rules(path=str(tmp_path)), world)  # type: ignore[assignment]
        hands.now = waiting[0].next_try
        house.run()
        assert [name for name, _ in house.script.delivered] == ["bob@far.test"] and not house.spool.mails
    else:
        assert outcome == "bounces" and not delivered and waiting is None
        _, report = house.bounce()
        assert "550 5.7.1" in report.as_string()
        stranger = house.put("bob@far.test", client=STRANGER, raw=RAW)
        house.run(lambda: bool(house.spool.mails[stranger][0].held))
        assert house.spool.mails[stranger][0].held == "quarantine denied"


@pytest.mark.parametrize("stage", BEHIND)
def test_the_bounce_has_the_words_of_the_rule(stage: str, tmp_path: Path, house: House) -> None:
    house.rules, _ = rules(tmp_path, stage, 'deny{"554 5.6.1 We take", "no such thing"}')  # type: ignore[assignment]
    house.put("bob@far.test", client=USER)
    house.run(lambda: bool(house.told("bounced")))
    text: str = house.bounce()[1].as_string()
    assert "554 5.6.1" in text and "We take" in text and "no such thing" in text


def test_every_cell_is_played_or_named() -> None:
    played = {*FRONT_CELLS, *((verdict, stage) for verdict in EFFECTS for stage in BEHIND)}
    table = {(verdict, stage) for verdict, row in EFFECTS.items() for stage in row}
    assert table == played
    checks: dict[str, Any] = globals()
    for verdict, stage in FRONT_CELLS:
        outcome = EFFECTS[verdict][stage].outcome
        assert outcome in OUTCOMES and (outcome == "-" or callable(checks[f"_{outcome.replace(' ', '_')}"]))
