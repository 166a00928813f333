"""Which domains are ours and who lives there."""

import os
from pathlib import Path

import pytest

from mta import settings
from mta.domains import Domains
from mta.message import address
from mta.message.reply import Refused
from mta.net import clock


def knows(domains: Domains, text: str) -> bool:
    return domains.knows(address.parse(text))


def test_find() -> None:
    ours = settings.Domain()
    domains = Domains({"Example.test": ours})
    assert domains.find("example.test") is ours
    assert domains.find("sub.example.test") is None
    assert domains.first == "example.test"
    assert not knows(domains, "a@elsewhere.example")


def test_any_domain() -> None:
    anything, ours = settings.Domain(), settings.Domain(users="passwd")
    domains = Domains({"*": anything, "example.test": ours})
    assert domains.find("no.matter.which") is anything
    assert domains.find("example.test") is ours
    assert domains.first == "example.test"
    assert knows(domains, "whoever@wherever.example")
    assert Domains({"*": anything}).first == ""


def test_accounts_of_this_machine() -> None:
    domains = Domains({"example.test": settings.Domain(users="passwd")})
    assert knows(domains, "Root@example.test") and knows(domains, "root+x@example.test")
    assert not knows(domains, "no-such-account@example.test")
    assert knows(domains, "postmaster@example.test")


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("# people\nAnn\nbob  # the builder\n\nwith+plus\n")
    now = [0.0]
    old = clock.replace(clock.Clock(monotonic=lambda: now[0]))
    try:
        domains = Domains({"example.test": settings.Domain(users=str(users))})
        for known in ("ann", "ANN", "bob", "bob+x+y", "with+plus"):
            assert knows(domains, f"{known}@example.test"), known
        for unknown in ("people", "with", "carl", "+x"):
            assert not knows(domains, f"{unknown}@example.test"), unknown
        users.write_text("carl\n")
        assert not knows(domains, "carl@example.test")  # looked a moment ago
        now[0] += 2
        assert knows(domains, "carl@example.test") and not knows(domains, "ann@example.test")
        os.unlink(users)
        now[0] += 2
        with pytest.raises(Refused) as refused:
            knows(domains, "carl@example.test")
        assert refused.value.reply.code == 451
    finally:
        clock.replace(old)


def test_lists() -> None:
    domains = Domains({"example.test": settings.Domain(), "local.test": settings.Domain(users="passwd")})
    assert not domains.lists(address.parse("root@example.test"))
    assert domains.lists(address.parse("root@local.test"))
    assert not domains.lists(address.parse("root@elsewhere.example"))
