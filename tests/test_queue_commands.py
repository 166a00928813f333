"""`mta queue` and its verbs on the real server: what a person can do with the mail that waits."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from daemon import Server, free_ports

RULES = """
on.preq("aside", function(mail)
  if mail.headers:has("X-Virus") then return quarantine("viruses") end
  if mail.headers:has("X-Spam") then return quarantine("spam") end
  if mail.headers:has("X-Late") then mail:hold("2h") end
end)
on.delivery("what was let go is not asked about", function(mail)
  if mail.headers:has("X-Spam") then return quarantine("again") end
end)
"""


def listed(server: Server, *more: str) -> list[dict[str, Any]]:
    return server.queue(*more)


def send(server: Server, name: str, size: int = 1, to: str = "you@demo.test") -> None:
    server.send(f"{name}: yes\r\nSubject: {name} \x1b[31m\r\n\r\n" + "hello\r\n" * size, to=to)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    (nobody,) = free_ports(1)
    config = '[domain."demo.test"]\npath = "Maildir"\n' + f'[route."far.test"]\nhost = "127.0.0.1:{nobody}"\n'
    with Server(tmp_path_factory.mktemp("queue"), config, RULES) as made:
        yield made


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> Any:
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        for mail in listed(server):
            server.mta("queue", "delete", mail["id"], code=None)  # one that was just delivered may be gone by itself
        server.until(lambda: not listed(server), "the queue is not empty")
        for mail in server.mails():
            mail.unlink()


def one(server: Server, name: str, size: int = 1, to: str = "you@demo.test") -> str:
    send(server, name, size, to)
    (mail,) = listed(server)
    return str(mail["id"])


def test_quarantines_are_listed(server: Server) -> None:
    for name in ("X-Virus", "X-Virus", "X-Spam", "X-Late"):
        send(server, name)
    held = sorted(mail.get("held", "") for mail in listed(server))
    assert held == ["", "quarantine spam", "quarantine viruses", "quarantine viruses"]
    assert len(listed(server, "--held")) == 3
    assert [mail["held"] for mail in listed(server, "--held", "spam")] == ["quarantine spam"]
    assert listed(server, "--held", "none") == []
    assert not server.mails()


def test_a_mail_held_until_a_time_says_so(server: Server) -> None:
    id = one(server, "X-Late")
    (mail,) = listed(server)
    assert 7100 < mail["until"] - time.time() <= 7200 and mail["next_try"] == mail["until"] and "held" not in mail
    (line,) = server.mta("queue").splitlines()
    cells = line.split("\t")
    assert cells[2] in ("in 119m", "in 2h") and cells[6].startswith('rule "aside" (main.lua:5) holds it until 2')
    assert 'rule "aside" (main.lua:5) holds it until' in server.mta("queue", "show", id)
    assert server.mta("queue", "retry", id) == f"{id} tried again\n"
    server.until(server.mails, "it was not delivered")
    server.until(lambda: not listed(server), "it is still in the queue")


def test_show_and_body(server: Server) -> None:
    id = one(server, "X-Virus")
    text = server.mta("queue", "show", id)
    assert "quarantine viruses" in text and "you@demo.test" in text and "Subject: X-Virus ?[31m" in text
    assert "\x1b" not in text and "hello" not in text
    told = json.loads(server.mta("queue", "show", "--json", id))
    assert told["client"]["ip"] == "127.0.0.1" and told["size"] > 50 and told["header"].startswith("Received: ")
    body = server.mta("queue", "body", id)
    assert body.startswith("Received: ") and body.endswith("hello\n")


def test_a_large_body_comes_in_pages(server: Server) -> None:
    id = one(server, "X-Virus", 300_000)
    assert server.mta("queue", "body", id).count("hello\n") == 300_000


def test_release_delivers_and_no_rule_has_a_say(server: Server) -> None:
    id = one(server, "X-Spam")
    assert server.mta("queue", "release", id) == f"{id} released\n"
    server.until(server.mails, "it was not delivered")
    server.until(lambda: any(event["mail"] == id for event in server.events("released")), "nobody logged it")
    (event,) = [event for event in server.events("released") if event["mail"] == id]
    assert event["held"] == "quarantine spam"


def test_release_to_the_rules(server: Server) -> None:
    id = one(server, "X-Spam")
    server.mta("queue", "release", "--rules", id)
    server.until(lambda: [m.get("held") for m in listed(server)] == ["quarantine again"], "the rules were not asked")
    assert not server.mails()


def test_hold_and_release(server: Server) -> None:
    id = one(server, "X-None", to="bob@far.test")
    server.until(lambda: listed(server)[0]["attempts"] == 1, "it was not tried")
    told = json.loads(server.mta("queue", "hold", "--json", id))
    assert (told["done"], told["held"]) == ("hold", "by hand")
    assert "by hand" in server.mta("queue", "retry", id, code=1)
    server.mta("queue", "hold", id)
    server.mta("queue", "release", id)
    server.until(lambda: listed(server)[0]["attempts"] == 2, "it was not tried again")
    assert "is not held" in server.mta("queue", "release", id, code=1)
    server.mta("queue", "retry", id)
    server.until(lambda: listed(server)[0]["attempts"] == 3, "it was not tried again")


def test_delete(server: Server) -> None:
    ids = [one(server, "X-Virus")]
    send(server, "X-Spam")
    ids += [mail["id"] for mail in listed(server, "--held", "spam")]
    server.mta("queue", "delete", *ids)
    assert listed(server) == [] and not server.mails()
    server.until(lambda: {event["mail"] for event in server.events("deleted")} >= set(ids), "nobody logged it")


def test_exit_codes(server: Server) -> None:
    for verb in ("show", "body", "hold", "release", "retry", "delete"):
        assert "there is no mail nothing000-1.1" in server.mta("queue", verb, "nothing000-1.1", code=3)
        server.mta("queue", verb, code=2)
    id = one(server, "X-Virus")
    server.mta("queue", "show", id, "nothing000-1.1", code=3)
    for words in (["list", "x"], ["body", "a", "b"], ["show", "a", "--held"], ["hold", "a", "--rules"], ["drop", "a"]):
        server.mta("queue", *words, code=2)


def test_without_a_server(tmp_path: Path) -> None:
    with Server(tmp_path, rules=RULES) as server:
        assert listed(server) == []
        small = one(server, "X-Virus")
        send(server, "X-Spam", 400_000)
        big = next(mail["id"] for mail in listed(server) if mail["id"] != small)
    assert {mail["id"] for mail in listed(server)} == {small, big}
    assert [mail["id"] for mail in listed(server, "--held", "viruses")] == [small]
    assert "quarantine spam" in server.mta("queue", "show", big)
    assert server.mta("queue", "body", big).count("hello\n") == 400_000
    assert server.mta("queue", "body", small).count("hello\n") == 1
    server.mta("queue", "show", "nothing000-1.1", code=3)
    for verb in ("hold", "release", "retry", "delete"):
        assert "no server runs here" in server.mta("queue", verb, small, code=4)
    with Server(tmp_path, rules=RULES):  # a restart forgets nothing; another process has it now
        server = Server(tmp_path, rules=None)
        assert {mail["held"] for mail in listed(server)} == {"quarantine viruses", "quarantine spam"}
        server.mta("queue", "release", small, big)


def test_a_list_that_may_not_be_whole_says_so(server: Server) -> None:
    """A worker has ended and nobody can take its mail over yet: here somebody else holds its folder."""
    folder = server.folder / "nobodys-1"
    folder.mkdir()
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)  # before anybody can take it over
        folder.rename(server.folder / "spool" / "nobodys-1")
        doubt = "mail of workers that ended or do not answer is not all taken over yet; ask again"
        assert server.mta("queue") == f"mta queue: some mail may be missing here: {doubt}\n"
        said = server.mta("queue", "show", "nothing000-1.1", code=4)
        assert said == f"mta queue: there is no mail nothing000-1.1, but {doubt}\n"
        assert f"mta why: there may be more to tell: {doubt}" in server.mta("why", "nothing000-1.1", code=3)
        assert "to take over   1 spool folders" in server.mta("status")
    finally:
        os.close(held)
    server.until(lambda: server.mta("queue") == "", "it was not taken over")
    assert "to take over" not in server.mta("status")


def test_what_cannot_be_read_of_a_resting_spool_is_told(tmp_path: Path) -> None:
    with Server(tmp_path, rules=RULES) as server:
        id = one(server, "X-Virus")
    broken = tmp_path / "spool" / "broken-1"
    broken.mkdir()
    segment = broken / "00000001-0123456789abcdef.seg"
    segment.symlink_to(segment)  # as unreadable as another user's file, for root too
    said = server.mta("queue", "list", code=1)
    assert id in said
    assert f"mta queue: some mail may be missing here: {broken} cannot be read: Too many levels" in said
    said = server.mta("queue", "show", "nothing000-1.1", code=4)
    assert f"there is no mail nothing000-1.1, but {broken} cannot be read" in said
    assert "quarantine viruses" in server.mta("queue", "show", id)
