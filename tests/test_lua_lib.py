"""The standard library of rules (lua/lib): each module in a rule of its own, in a made-up world whose clock we turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mta import settings
from mta.message.address import Address
from mta.message.envelope import Client
from mta.rules.engine.engine import Rules
from mta.rules.outside.world import FakeWorld
from mta.rules.transaction import Transaction
from mta.rules.verdict import Verdict

DAY = 86400.0


class Play:
    """Rules in a world; `at` runs a stage for one mail and gives the verdict."""

    def __init__(self, folder: Path, rules: str, world: FakeWorld) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "main.lua").write_text(rules)
        self.world = world
        self.rules = Rules.load(settings.Rules(path=str(folder)), world)

    def at(self, stage: str, *, ip: str = "192.0.2.7", user: str = "", **facts: Any) -> Verdict:
        client, trusted = Client(ip=ip, port=40000), facts.get("trusted", False)
        made = Transaction("k3v9x0a2bq-1", client, server="mx.example.test", listener="relay", trusted=trusted)
        made.mail_id, made.user = "k3v9x0a2bq-1.1", user
        made.sender = facts.get("sender", Address("ann", "example.com"))
        made.recipient = facts.get("recipient", Address("you", "example.test"))
        made.recipients = [made.recipient]
        verdict = self.rules.run(stage, made)
        made.close()
        failed = self.world.said("rule_failed")
        assert not failed or facts.get("fails"), failed
        return verdict

    def said(self) -> list[str]:
        """What the rules logged."""
        return [fields["message"] for fields in self.world.said("rule_log")]


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld(
        {
            "7.2.0.192.zen.example.test": {"A": ["127.0.0.2"]},
            "7.2.0.192.bl.example.test": {"A": ["127.0.0.4"]},
            "7.2.0.192.white.example.test": {"A": ["127.0.0.1"]},
            "9.2.0.192.bl.example.test": {"A": ["127.0.0.4"]},
            "9.2.0.192.broken.example.test": {"A": "timeout"},
            "1.1.1.8.zen.example.test": {"A": ["127.0.0.2"]},
            "2.1.1.8.bl.example.test": {"A": ["127.0.0.4"]},
            "3.1.1.8.broken.example.test": {"A": "timeout"},
            "4.1.1.8.zen.example.test": {"A": ["127.255.255.254"]},
            "5.1.1.8.zen.example.test": {"A": ["127.0.0.2"]},
            "5.1.1.8.white.example.test": {"A": ["127.0.0.1"]},
        },
        lists={
            "aliases.csv": """\
sales@example.test, "ann@example.test bob"
all@example.test, "sales@example.test, carol@other.test, all@example.test"
postmaster@, ann@example.test
@old.test, new@example.test
@older.test, @new.test
team@example.test, @new.test
loop1@example.test, loop2@example.test
loop2@example.test, loop1@example.test
"""
        },
    )


@pytest.fixture
def play(tmp_path: Path, world: FakeWorld) -> Any:
    return lambda rules: Play(tmp_path / "rules", rules, world)


# -- greylist --------------------------------------------------------------------------------------------------------

GREYLIST = """
local greylist = require "greylist"
on.rcpt("greylist", function(mail)
  return greylist(mail, { delay = "5m", trust = 3 })
end)
"""


def test_who_is_unknown_comes_again_and_is_known_for_long(play: Any, world: FakeWorld) -> None:
    run = play(GREYLIST)
    first = run.at("rcpt")
    assert first.kind == "defer" and first.reply.code == 451 and first.rule == "greylist"
    world.time += 299
    assert run.at("rcpt").kind == "defer", "too early"
    world.time += 2
    assert run.at("rcpt").kind == "next"
    for _ in range(3):  # a monthly newsletter
        world.time += 35 * DAY
        assert run.at("rcpt").kind == "next"
    world.time += 37 * DAY
    assert run.at("rcpt").kind == "defer", "forgotten"


def test_sender_recipient_and_network_are_known_together(play: Any, world: FakeWorld) -> None:
    run = play(GREYLIST)
    run.at("rcpt")
    world.time += 400
    assert run.at("rcpt", sender=Address("other", "example.com")).kind == "defer"
    assert run.at("rcpt", recipient=Address("other", "example.test")).kind == "defer"
    assert run.at("rcpt", ip="198.51.100.7").kind == "defer"
    assert run.at("rcpt", ip="192.0.2.99").kind == "next", "a neighbour of the same network"
    assert run.at("rcpt", sender=Address("ANN", "example.com")).kind == "next"
    assert run.at("rcpt", ip="2001:db8::1", sender=Address()).kind == "defer"
    world.time += 400
    assert run.at("rcpt", ip="2001:db8::2", sender=Address()).kind == "next"


def test_the_second_attempt_must_come_in_time(play: Any, world: FakeWorld) -> None:
    run = play(GREYLIST)
    run.at("rcpt")
    world.time += 2 * DAY + 1
    assert run.at("rcpt").kind == "defer"
    world.time += 301
    assert run.at("rcpt").kind == "next"


def test_a_network_with_known_senders_becomes_trusted(play: Any, world: FakeWorld) -> None:
    run = play(GREYLIST)
    for name in ("a", "b", "c"):
        run.at("rcpt", sender=Address(name, "example.com"))
        world.time += 301
        assert run.at("rcpt", sender=Address(name, "example.com")).kind == "next"
    assert run.at("rcpt", sender=Address("never", "seen.example")).kind == "next"
    assert run.at("rcpt", ip="198.51.100.1", sender=Address("never", "seen.example")).kind == "defer"
    world.time += 35 * DAY
    assert run.at("rcpt", sender=Address("new", "seen.example")).kind == "next"
    world.time += 35 * DAY
    assert run.at("rcpt", sender=Address("newer", "seen.example")).kind == "next", "renewed by use"
    world.time += 37 * DAY
    assert run.at("rcpt", sender=Address("newest", "seen.example")).kind == "defer"


def test_our_own_people_are_not_greylisted_and_little_is_written(play: Any, world: FakeWorld) -> None:
    run = play(GREYLIST)
    assert run.at("rcpt", user="ann").kind == "next"
    assert run.at("rcpt", trusted=True).kind == "next"
    run.at("rcpt")
    world.time += 301
    run.at("rcpt")
    writes: list[str] = []
    store: Any = world.store
    plain = store.set
    store.set = lambda key, *rest: (writes.append(key), plain(key, *rest))
    for _ in range(50):
        world.time += 60
        assert run.at("rcpt").kind == "next"
    assert len(writes) <= 2


# -- rate ------------------------------------------------------------------------------------------------------------


def test_limits_by_whatever_is_known(play: Any, world: FakeWorld) -> None:
    run = play("""
local limits = require "rate"
on.rcpt("not too much", function(mail)
  return limits(mail, { network = "3/1m", user = "5/1h", sender_domain = "100/1d" })
end)
""")
    assert [run.at("rcpt", ip=f"192.0.2.{n}").kind for n in range(5)] == ["next"] * 3 + ["defer"] * 2
    refused = run.at("rcpt")
    assert str(refused.reply) == "450 4.7.1 Too much mail (network); room again in 20 seconds"
    assert run.at("rcpt", ip="198.51.100.1").kind == "next"
    world.time += 20
    assert run.at("rcpt").kind == "next" and run.at("rcpt").kind == "defer"
    ips = [f"10.0.{n}.1" for n in range(7)]
    assert [run.at("rcpt", ip=ip, user="bob").kind for ip in ips] == ["next"] * 5 + ["defer"] * 2
    assert run.at("rcpt", ip="10.1.0.1", user="carol", sender=Address()).kind == "next"


def test_a_limit_by_nothing_we_know_is_a_mistake(play: Any, world: FakeWorld) -> None:
    run = play(
        'local limits = require "rate"\non.mail("x", function(mail) return limits(mail, { colour = "1/1s" }) end)'
    )
    assert run.at("mail", fails=True).failed
    (failed,) = world.said("rule_failed")
    assert failed["where"] == "main.lua:2" and "there is no limit by colour" in failed["error"]


# -- dnsbl -----------------------------------------------------------------------------------------------------------

DNSBL = """
local dnsbl = require "dnsbl"
local lists = {
  { zone = "zen.example.test", codes = "127.0.0.2-127.0.0.11" },
  { zone = "bl.example.test", weight = 1 },
  { zone = "broken.example.test" },
  { zone = "white.example.test", weight = -5 },
}
on.connect("listed", function(mail)
  return dnsbl(mail, lists, { deny = 3, defer = 1 })
end)
"""


def test_listed_clients_are_refused_by_weight(play: Any, world: FakeWorld) -> None:
    run = play(DNSBL)
    listed = run.at("connect", ip="8.1.1.1")
    assert str(listed.reply) == "554 5.7.1 Your address 8.1.1.1 is listed by zen.example.test"
    some = run.at("connect", ip="8.1.1.2")
    assert str(some.reply) == "450 4.7.1 Your address 8.1.1.2 is listed by bl.example.test"
    assert run.at("connect", ip="8.1.1.5").kind == "next", "a white list outweighs"
    assert run.at("connect", ip="8.1.1.9").kind == "next"


def test_a_list_in_trouble_harms_nobody_but_is_told(play: Any, world: FakeWorld) -> None:
    run = play(DNSBL)
    assert run.at("connect", ip="8.1.1.3").kind == "next"
    assert run.at("connect", ip="8.1.1.4").kind == "next", "127.255.255.254 says that we ask too much"
    assert run.said() == [
        "broken.example.test: timeout",
        "zen.example.test: zen.example.test answers 127.255.255.254: it does not want to be asked from here",
    ]


def test_our_own_and_private_addresses_are_not_asked_for(play: Any, world: FakeWorld) -> None:
    run = play(DNSBL)
    assert run.at("connect", ip="192.168.1.1").kind == "next"
    assert run.at("connect", ip="8.1.1.1", trusted=True).kind == "next"
    assert world.asked == []


# -- aliases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address, targets",
    [
        ("sales@example.test", "ann@example.test bob@example.test"),
        ("SALES@example.test", "ann@example.test bob@example.test"),
        ("sales+fair@example.test", "ann+fair@example.test bob+fair@example.test"),
        ("all@example.test", "ann@example.test bob@example.test carol@other.test all@example.test"),
        ("postmaster@whatever.test", "ann@example.test"),
        ("x@old.test", "new@example.test"),
        ("loop1@example.test", "loop1@example.test"),
        ("ann+x@older.test", "ann+x@new.test"),
        ("team+x@example.test", "team+x@new.test"),
        ("nobody@example.test", "no alias"),
        ("nobody+x@example.test", "no alias"),
    ],
)
def test_aliases_are_expanded(play: Any, address: str, targets: str) -> None:
    run = play(f"""
local aliases = require "aliases"
on.rcpt("alias", function(mail)
  local found = aliases.expand("aliases.csv", "{address}")
  log.info(found and table.concat(found, " ") or "no alias")
end)
""")
    run.at("rcpt")
    assert run.said() == [targets]


# -- srs -------------------------------------------------------------------------------------------------------------

SRS = """
local srs = require "srs"
on.rcpt("there", function(mail)
  local there, why = srs.forward(mail.sender, "us.test", "secret")
  log.info(there or why)
  local again, why = srs.forward(there or "", "second.test", "other secret")
  log.info(again or why)
  local third, why = srs.forward(again or "", "third.test", "third secret")
  log.info(third or why)
end)
on.mail("back", function(mail)
  local back, why = srs.reverse(mail.sender, mail.helo == "" and "secret" or mail.helo)
  log.info(back or why)
end)
"""


def _back(run: Play, address: str, secret: str) -> str:
    local, _, domain = address.rpartition("@")
    made = Transaction("k3v9x0a2bq-1", Client(ip="192.0.2.7"))
    made.mail_id, made.helo, made.sender = "k3v9x0a2bq-1.1", secret, Address(local, domain)
    run.rules.run("mail", made)
    made.close()
    assert not run.world.said("rule_failed")
    return run.said()[-1]


def test_senders_go_and_come_back_over_one_two_and_three_servers(play: Any, world: FakeWorld) -> None:
    run = play(SRS)
    run.at("rcpt")
    one, two, three = run.said()
    assert one.startswith("SRS0=") and one.endswith("=example.com=ann@us.test")
    assert two.startswith("SRS1=") and "=us.test==" in two and two.endswith("@second.test")
    assert three.startswith("SRS1=") and "=us.test==" in three and three.endswith("@third.test")
    assert _back(run, three, "third secret") == one
    assert _back(run, two, "other secret") == one
    assert _back(run, one, "secret") == "ann@example.com"
    assert _back(run, one.swapcase(), "secret").lower() == "ann@example.com"
    world.time += 20 * DAY
    assert _back(run, one, "secret") == "ann@example.com"
    world.time += 2 * DAY
    assert _back(run, one, "secret") == "too old"


def test_only_what_was_made_here_comes_back(play: Any) -> None:
    run = play(SRS)
    run.at("rcpt")
    one, two, _ = run.said()
    assert _back(run, one.replace("=ann@", "=eve@"), "secret") == "not made here"
    assert _back(run, one, "guessed") == "not made here"
    assert _back(run, two.replace("us.test", "them.test"), "other secret") == "not made here"
    for address in ("ann@us.test", "SRS0@us.test", "SRS0=@us.test", "SRS0=x=y@us.test", "SRS1=x=y@us.test"):
        assert _back(run, address, "secret") in ("no SRS address", "not made here")


def test_no_sender_our_own_and_long_ones_stay_as_they_are(play: Any) -> None:
    run = play(SRS)
    for sender, why in {
        Address(): "no sender",
        Address("ann", "us.test"): "the sender is ours",
        Address("x" * 60, "example.com"): "the sender is too long",
    }.items():
        run.world.events.clear()
        run.at("rcpt", sender=sender)
        assert run.said()[0] == why
