"""Which way mail goes."""

from __future__ import annotations

from mta import settings
from mta.deliver.route import Destination, Router
from mta.message.address import Address, parse
from mta.message.envelope import Recipient, Route


class Ours:
    """Two domains of ours, one with a list of users."""

    def __init__(self) -> None:
        self.found = {
            "here.test": settings.Domain(users="any", path="/mail/{local_part}"),
            "listed.test": settings.Domain(users="users.txt", transport="discard"),
            "mx.here.test": settings.Domain(path="/mail/admin"),
        }
        self.users = {"bob", "eve", "eve+x"}

    first = ""

    def find(self, domain: str) -> settings.Domain | None:
        return self.found.get(domain)

    def lists(self, address: Address) -> bool:
        return address.domain == "listed.test" and address.local_part in self.users


def router(**routes: settings.Route) -> Router:
    named = {name.replace("_", "."): route for name, route in routes.items()}
    made = settings.Settings(server=settings.Server(name="MX.here.test"), route=named)
    return Router(made, Ours())


def way(router: Router, address: str, route: Route | None = None) -> Destination:
    return router.destination(Recipient(parse(address), route=route))


def test_a_domain_of_ours_goes_where_it_says() -> None:
    assert way(router(), "a@here.test") == Destination(Route("maildir", path="/mail/{local_part}"), "")
    assert way(router(), "bob@listed.test") == Destination(Route("discard"), "")


def test_a_bare_postmaster_is_the_servers_own() -> None:
    assert router().destination(Recipient(Address("Postmaster"))).route.path == "/mail/admin"


def test_other_domains_go_to_their_route_the_smarthost_or_their_mx() -> None:
    smart = router(partner_test=settings.Route(host="127.0.0.1:26"), **{"*": settings.Route(host="smart.test")})
    assert way(smart, "a@partner.test") == Destination(Route("smtp", host="127.0.0.1:26"), "")
    assert way(smart, "a@other.test") == Destination(Route("smtp", host="smart.test"), "")
    assert way(router(), "a@other.test") == Destination(Route("smtp"), "other.test")


def test_what_a_rule_chose_comes_first() -> None:
    assert way(router(), "a@here.test", Route("smtp")) == Destination(Route("smtp"), "here.test")


def test_recipients_are_grouped_by_where_they_go() -> None:
    names = ["a@x.test", "b@here.test", "c@y.test", "d@x.test", "e@here.test"]
    groups = router().groups([Recipient(parse(name)) for name in names])
    assert [[str(r.address) for r in group] for _, group in groups] == [
        ["a@x.test", "d@x.test"],
        ["b@here.test", "e@here.test"],
        ["c@y.test"],
    ]


def test_an_extension_belongs_to_its_user_where_users_are_listed() -> None:
    route = router()
    assert route.mailbox(parse("bob+lists@listed.test")) == parse("bob@listed.test")
    assert route.mailbox(parse("eve+y@listed.test")) == parse("eve@listed.test")
    assert route.mailbox(parse("eve+x@listed.test")) == parse("eve+x@listed.test")
    assert route.mailbox(parse("no+one@listed.test")) == parse("no+one@listed.test")
    assert route.mailbox(parse("bob+lists@here.test")) == parse("bob+lists@here.test")


def test_many_foreign_domains_do_not_fill_the_memory() -> None:
    route = router()
    for n in range(10_100):
        assert way(route, f"a@n{n}.test").domain == f"n{n}.test"
    assert len(route._known) <= 10_001
