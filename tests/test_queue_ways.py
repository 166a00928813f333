"""What rules say of routes and times, in the queue: for good from postq, for one attempt at delivery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_queue import LATER, NO, Hands, House, Said, hands, lines  # noqa: F401  fixtures

from mta.message.envelope import Recipient, Route
from mta.net import clock
from mta.rules.transaction import Transaction
from mta.rules.verdict import Verdict
from mta.rules.words.routing import Hold, Ways

FILTER = Route("smtp", host="filter.test:10025")


def way(tx: Transaction) -> Ways:
    tx.ways = tx.ways or Ways()
    return tx.ways


@pytest.fixture
def house(lines: list[dict[str, Any]]) -> Iterator[House]:  # noqa: F811
    house = House()
    house.lines = lines
    house.queue._transports[FILTER] = house.script
    yield house
    house.queue.drain(0)
    assert not house.told("bug")


def test_a_route_of_postq_stays(house: House, hands: Hands) -> None:  # noqa: F811
    house.script.says = {"bob@far.test": LATER, "eve@far.test": LATER}
    house.rules = Said(postq=lambda tx: way(tx).say(FILTER, [tx.recipients[0]]))
    id = house.put("bob@far.test", "eve@far.test")
    house.run()
    left = house.spool.mails[id][0]
    assert [r.route for r in left.recipients] == [FILTER, None]
    assert house.spool.commits[1] == ([], [id], []), "kept before anything was tried"
    house.script.says = {}
    hands.now += 70
    house.run()
    assert house.rules.asked == ["postq"]
    assert len(house.told("delivered")) == 2 and not house.spool.mails


def test_a_route_of_delivery_is_for_that_attempt(house: House, hands: Hands) -> None:  # noqa: F811
    house.script.says = {"bob@far.test": LATER}
    seen: list[Route | None] = []
    routes: list[Route | None] = [FILTER, Route("discard")]

    def delivery(tx: Transaction) -> Verdict | None:
        way(tx).say(routes[len(seen)], None)
        seen.append(routes[len(seen)])
        return None

    house.rules = Said(delivery=delivery)
    id = house.put("bob@far.test")
    house.run()
    left = house.spool.mails[id][0]
    assert left.recipients[0].route is None and left.recipients[0].attempts == 1
    assert left.recipients[0].reply == str(LATER)
    hands.now += 70
    house.run()
    assert house.told("delivered")[0]["transport"] == "discard" and not house.spool.mails


def test_recipients_rerouted_apart_are_grouped_anew(house: House) -> None:
    def delivery(tx: Transaction) -> Verdict | None:
        way(tx).say(Route("discard"), tx.recipients[:1])
        return None

    house.rules = Said(delivery=delivery)
    house.script.says = {"eve@far.test": NO}
    house.put("bob@far.test", "eve@far.test", "joe@far.test")
    house.run(lambda: len(house.told("failed")) == 1 and len(house.told("delivered")) >= 2)
    ways = {line["recipient"]: line["transport"] for line in house.told("delivered")}
    assert (ways["bob@far.test"], ways["joe@far.test"]) == ("discard", "script")
    assert house.told("failed")[0]["recipient"] == "eve@far.test"


def test_held_at_postq_until_a_time(house: House, hands: Hands) -> None:  # noqa: F811
    until = clock.now() + 3600

    def postq(tx: Transaction) -> Verdict | None:
        way(tx).hold(Hold(until, "postq", "later", "main.lua:3"), None)
        tx.vars["seen"] = True
        return None

    house.rules = Said(postq=postq)
    id = house.put("bob@far.test")
    house.run()
    left = house.spool.mails[id][0]
    assert (left.next_try, left.until, left.held, left.attempts, left.postq) == (until, until, "", 0, True)
    assert left.vars == {"seen": True} and not house.script.tries
    (told,) = house.told("postponed")
    assert told["recipients"] == ["bob@far.test"] and told["next_try"] == until
    assert (told["stage"], told["rule"], told["where"]) == ("postq", "later", "main.lua:3")
    assert left.until_by == 'rule "later" (main.lua:3)'
    hands.now = until + 1
    house.run()
    assert house.rules.asked == ["postq"] and not house.spool.mails


def test_a_clock_set_back_holds_nothing(house: House, hands: Hands) -> None:  # noqa: F811
    def postq(tx: Transaction) -> None:
        hands.now -= 100

    house.rules = Said(postq=postq)
    house.put("bob@far.test")
    house.run(lambda: bool(house.told("delivered")))
    assert not house.told("postponed") and not house.spool.mails


def test_what_was_held_long_has_its_whole_time_for_tries(house: House, hands: Hands) -> None:  # noqa: F811
    began = clock.now()
    house.rules = Said(postq=lambda tx: way(tx).hold(Hold(began + 30 * 86400), None))
    house.script.says = {"bob@far.test": LATER}
    id = house.put("bob@far.test")
    house.run()
    hands.now = began + 30 * 86400
    house.run()
    left = house.spool.mails[id][0]
    assert left.attempts == 1 and left.next_try > hands.now, "older than queue.expire, but tried for the first time now"


def test_held_at_delivery_waits_with_those_who_failed(house: House, hands: Hands) -> None:  # noqa: F811
    until = clock.now() + 30

    def delivery(tx: Transaction) -> Verdict | None:
        if tx.recipients[0].domain == "late.test" and clock.now() < until:
            way(tx).hold(Hold(until), None)
        return None

    house.rules = Said(delivery=delivery)
    house.script.says = {"bob@far.test": LATER}
    id = house.put("bob@far.test", "eve@late.test")
    house.run()
    left = house.spool.mails[id][0]
    assert [(str(r.address), r.attempts) for r in left.recipients] == [("eve@late.test", 0), ("bob@far.test", 1)]
    assert left.next_try == until
    hands.now = until
    house.run()
    assert sorted(name for name, _ in house.script.tries) == ["bob@far.test", "bob@far.test", "eve@late.test"]
    assert [str(r.address) for r in house.spool.mails[id][0].recipients] == ["bob@far.test"]


def test_one_recipient_is_held_while_the_others_get_the_mail(house: House, hands: Hands) -> None:  # noqa: F811
    began = clock.now()
    house.rules = Said(
        postq=lambda tx: way(tx).hold(Hold(began + 3600, "postq", "later", "main.lua:3"), tx.recipients[:1])
    )
    house.script.says = {"joe@far.test": LATER}
    id = house.put("bob@far.test", "eve@far.test", "joe@far.test")
    house.run()
    left = house.spool.mails[id][0]
    assert [(str(r.address), r.until) for r in left.recipients] == [("bob@far.test", began + 3600), ("joe@far.test", 0)]
    assert [r.until_by for r in left.recipients] == ['rule "later" (main.lua:3)', ""]
    assert [(line["recipients"], line["rule"]) for line in house.told("postponed")] == [(["bob@far.test"], "later")]
    assert began < left.next_try < began + 3600, "joe's next try does not wait for bob's time"
    house.script.says = {}
    hands.now = left.next_try
    house.run()
    left = house.spool.mails[id][0]
    assert [str(r.address) for r in left.recipients] == ["bob@far.test"] and left.next_try == began + 3600
    assert [name for name, _ in house.script.tries] == ["eve@far.test", "joe@far.test", "joe@far.test"]
    hands.now = began + 3600
    house.run()
    assert house.script.tries[-1][0] == "bob@far.test" and not house.spool.mails
    assert house.rules.asked == ["postq"]


def test_only_held_at_delivery(house: House) -> None:
    until = clock.now() + 50
    house.rules = Said(delivery=lambda tx: way(tx).hold(Hold(until), None))
    id = house.put("bob@far.test", "eve@far.test")
    house.run()
    left = house.spool.mails[id][0]
    assert (left.next_try, left.until, left.attempts, len(left.recipients)) == (until, until, 0, 2)


def test_a_deferred_postq_forgets_what_it_said(house: House) -> None:
    def postq(tx: Transaction) -> Verdict:
        way(tx).say(Route("discard"), None)
        return Verdict("defer", LATER)

    house.rules = Said(postq=postq)
    id = house.put("bob@far.test")
    house.run()
    assert house.spool.mails[id][0].recipients[0].route is None, "it is asked again, about the mail as it was"


def test_a_host_that_cannot_be_read_delays(house: House) -> None:
    id = house.put("bob@far.test")
    house.spool.mails[id][0].recipients[0].route = Route("smtp", host="smtp://ann:secret@")
    house.run()
    (told,) = house.told("deferred")
    assert told["reply"].startswith("451 4.3.5") and "secret" not in str(told)


def test_routes_show_no_password() -> None:
    recipient = Recipient(FILTER, route=Route("smtp", host="smtp://ann:secret@far.test"))  # type: ignore[arg-type]
    assert "secret" not in f"{recipient} {recipient!r}" and "ann:***@far.test" in repr(recipient)
