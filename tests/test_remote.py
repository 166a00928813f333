"""Which hosts get a mail, in which order, and what happens when they misbehave."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest
from daemon import PATIENCE, free_ports, until_open
from fake_dns import FakeDns
from fake_smtp import FakeSmtp
from hands import moved
from receiving import until

from mta import settings
from mta.deliver.ourselves import Ourselves, here
from mta.deliver.remote import HOSTS, Outside, Remote
from mta.deliver.transport import Result, attempt
from mta.message.address import parse
from mta.message.envelope import Envelope, Recipient
from mta.message.message import Message
from mta.net.dns import Resolver

RAW = b"Subject: x\r\n\r\nhello\r\n"
SHORT = 0.5  # seconds we wait for somebody whose silence no clock of ours can shorten
SINK = shutil.which("smtp-sink", path=f"{os.environ['PATH']}:/usr/sbin") or ""


class World:
    """Some servers at 127.0.0.1, .2, .3 ... on one port, names for them, and a worker that sends."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.dns = stack.enter_context(FakeDns({}))
        self.hands = stack.enter_context(moved())
        self.port = next(free_ports(1))  # on all addresses
        self.patience = PATIENCE  # for a connection, a reply, an answer of DNS
        self.listening: list[str] = []
        self.outside: Outside | None = None

    def server(self, name: str, n: int, *args: object, **kwargs: object) -> FakeSmtp:
        made = FakeSmtp(*args, address=f"127.0.0.{n}", port=self.port, **kwargs)  # type: ignore[arg-type]
        self._stack.enter_context(made)
        made.silence = lambda: self.hands.forward(PATIENCE)
        self.dns.zone[name] = {"A": [f"127.0.0.{n}"]}
        return made

    def mx(self, domain: str, *hosts: str) -> None:
        self.dns.zone[domain] = {"MX": [f"{host}." for host in hosts]}

    def send(self, *names: str, host: str = "", keep: float = 3600.0) -> list[Result]:
        if self.outside is None:
            listeners = [settings.Listener(address=a) for a in self.listening]
            made = settings.Settings(
                server=settings.Server(name="me.test"),
                listener=listeners,
                queue=settings.Queue(
                    port=self.port, connect_timeout=self.patience, reply_timeout=self.patience, keep=keep
                ),
            )
            resolver = Resolver(settings.Dns(servers=[self.dns.server], timeout=self.patience))
            self.outside = Outside.of(made, resolver)
        recipients = [Recipient(parse(name)) for name in names]
        envelope = Envelope("w-1.1", parse("ann@here.test"), recipients)
        results = list(attempt(Remote(host, self.outside), envelope, recipients, Message(RAW)))
        assert sorted(id(r.recipient) for r in results) == sorted(map(id, recipients))  # each once, whatever breaks
        return results

    def say(self, *names: str, host: str = "") -> str:
        (reply,) = {str(r.reply) for r in self.send(*names, host=host)}
        return reply


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def test_the_best_mx_gets_it_and_equals_share(world: World) -> None:
    servers = [world.server(f"mx{n}.far.test", n) for n in (1, 2, 3)]
    world.mx("far.test", "10 mx1.far.test", "10 mx2.far.test", "20 mx3.far.test")
    for n in range(200):  # who is asked first is chance
        if n >= 20 and servers[0].mails and servers[1].mails:
            break
        (result,) = world.send("bob@far.test")
        assert result.reply.code == 250 and result.said
        assert result.host in ("mx1.far.test [127.0.0.1]", "mx2.far.test [127.0.0.2]")
    assert servers[0].mails and servers[1].mails and not servers[2].mails


def test_without_mx_the_domain_itself(world: World) -> None:
    server = world.server("far.test", 1)
    assert world.say("bob@far.test") == "250 2.0.0 Kept"
    assert server.mails == [("ann@here.test", ["bob@far.test"], RAW)]


def test_an_address_literal(world: World) -> None:
    server = world.server("unused.test", 2)
    assert world.say("bob@[127.0.0.2]") == "250 2.0.0 Kept"
    assert len(server.mails) == 1 and world.dns.asked == []


@pytest.mark.needs(ipv6=True)
def test_ipv6_and_a_second_address(world: World) -> None:
    server = world.server("far.test", 1)
    world.dns.zone["far.test"]["AAAA"] = ["::1"]  # nobody is there
    assert world.say("bob@far.test") == "250 2.0.0 Kept"
    six = world._stack.enter_context(FakeSmtp(address="::1", port=world.port))
    assert world.say("bob@[IPv6:::1]") == "250 2.0.0 Kept"
    assert len(server.mails) == len(six.mails) == 1


@pytest.mark.parametrize(
    "script",
    [
        {"greeting": "554 5.7.1 No mail here"},
        {"greeting": "421 4.3.2 Busy"},
        {"greeting": "close"},
        {"greeting": "hang"},
        {"EHLO": "reset"},
        {"MAIL": "421 4.3.2 Bye"},
        {"MAIL": "451 4.7.1 Greylisted"},
        {"RCPT": "close"},
        {"DATA": "451 4.3.0 Later"},
    ],
)
def test_a_host_that_fails_makes_room_for_the_next(world: World, script: dict[str, str]) -> None:
    bad, good = world.server("mx1.far.test", 1, script), world.server("mx2.far.test", 2)
    world.mx("far.test", "10 mx1.far.test", "20 mx2.far.test")
    assert world.say("bob@far.test", "eve@far.test") == "250 2.0.0 Kept"
    assert bad.connections == 1 and len(good.mails) == 1


def test_no_host_at_all_is_temporary_and_says_which(world: World) -> None:
    world.server("alive.test", 9)
    world.dns.zone["mx1.far.test"] = {"A": ["127.0.0.1"]}
    world.mx("far.test", "10 mx1.far.test")
    assert world.say("bob@far.test") == "451 4.4.1 No connection to mx1.far.test [127.0.0.1]: Connection refused"


def test_a_session_refused_by_all_is_permanent_but_temporary_if_one_may_take_it_later(world: World) -> None:
    no = world.server("mx1.far.test", 1, {"greeting": "554 5.7.1 No mail here"})
    world.mx("far.test", "10 mx1.far.test")
    assert world.say("bob@far.test") == "554 5.7.1 No mail here"
    world.mx("other.test", "10 mx9.far.test", "20 mx1.far.test")
    world.dns.zone["mx9.far.test"] = {"A": ["127.0.0.9"]}
    assert world.say("bob@other.test").startswith("451 4.4.1 No connection to mx9.far.test")
    assert no.connections == 2


def test_two_hosts_may_say_later_then_it_is_later(world: World) -> None:
    servers = [world.server(f"mx{n}.far.test", n, {"MAIL": f"45{n} 4.7.1 Later"}) for n in (1, 2, 3)]
    world.mx("far.test", "1 mx1.far.test", "2 mx2.far.test", "3 mx3.far.test")
    assert world.say("bob@far.test") == "452 4.7.1 Later"
    assert [s.connections for s in servers] == [1, 1, 0]


def test_each_recipient_fares_on_its_own(world: World) -> None:
    script = {"RCPT TO:<no@far.test>": "550 5.1.1 No", "RCPT TO:<later@far.test>": "450 4.2.1 Later"}
    world.server("mx1.far.test", 1, script)
    backup = world.server("mx2.far.test", 2, {"RCPT": "451 4.3.0 Backup is full"})
    world.mx("far.test", "10 mx1.far.test", "20 mx2.far.test")
    said = {str(r.recipient.address): str(r.reply) for r in world.send("bob@far.test", "no@far.test", "later@far.test")}
    assert said == {
        "bob@far.test": "250 2.0.0 Kept",
        "no@far.test": "550 5.1.1 No",
        "later@far.test": "451 4.3.0 Backup is full",
    }
    assert [c for c in backup.commands if c.startswith("RCPT")] == ["RCPT TO:<later@far.test>"]


@pytest.mark.parametrize("deed", ["close", "reset", "hang", "421 4.3.2 Bye"])
def test_broken_behind_the_last_dot_is_later_and_asks_no_other_host(world: World, deed: str) -> None:
    world.server("mx1.far.test", 1, {"dot": deed})
    backup = world.server("mx2.far.test", 2)
    world.mx("far.test", "10 mx1.far.test", "20 mx2.far.test")
    (result,) = world.send("bob@far.test")
    assert result.reply.temporary and result.host == "mx1.far.test [127.0.0.1]"
    assert not backup.connections


def test_null_mx(world: World) -> None:
    world.dns.zone["far.test"] = {"MX": ["0 ."]}
    assert world.say("bob@far.test") == "556 5.1.10 far.test accepts no mail (null MX)"


def test_what_dns_says_decides_between_never_and_later(world: World) -> None:
    world.dns.zone.update(
        {
            "servfail.test": {"*": "SERVFAIL"},
            "silent.test": {"*": "TIMEOUT"},
            "nohost.test": {"MX": ["10 gone.nohost.test."]},
            "halfhost.test": {"MX": ["10 servfail.test."]},
            "cname.test": {"MX": ["10 alias.cname.test."]},
            "alias.cname.test": {"CNAME": ["real.cname.test."]},
            "nowhere.test": {"MX": ["10 zero.nowhere.test."]},
            "zero.nowhere.test": {"A": ["0.0.0.0", "224.0.0.1", "255.255.255.255"]},
        }
    )
    world.server("real.cname.test", 3)
    assert world.say("bob@none.test").startswith("550 5.1.2 ")
    assert world.say("bob@nohost.test").startswith("550 5.4.4 ")
    assert world.say("bob@nowhere.test").startswith("550 5.4.4 ")
    for temporary in ("servfail", "halfhost"):
        assert world.say(f"bob@{temporary}.test").startswith("451 4.4.3 ")
    assert world.say("bob@cname.test") == "250 2.0.0 Kept"
    world.patience, world.outside = SHORT, None
    assert world.say("bob@silent.test").startswith("451 4.4.3 ")


def test_a_hundred_mx_hosts_are_not_all_tried(world: World) -> None:
    world.server("alive.test", 200)
    world.mx("far.test", *(f"{n} mx{n}.far.test" for n in range(1, 101)))
    for n in range(1, 13):
        world.dns.zone[f"mx{n}.far.test"] = {"A": [f"127.0.1.{n}"]}
    assert world.say("bob@far.test").endswith("[127.0.1.10]: Connection refused")


@pytest.mark.parametrize("spread", [0, 1])
def test_a_hundred_mx_hosts_are_not_all_asked_for_addresses(world: World, spread: int) -> None:
    """Each may take as long as a question to DNS may take, and the mails of others wait meanwhile."""
    world.mx("far.test", *(f"{10 + n * spread} mx{n}.far.test" for n in range(100)))
    assert world.say("bob@far.test").startswith("451 4.4.3 ")
    assert len({name for name, _ in world.dns.asked}) == 1 + HOSTS
    world.mx("odd.test", *(f"10 ghost{n}.odd.test" for n in range(HOSTS)))
    assert world.say("bob@odd.test").startswith("550 5.4.4 ")


def test_mail_is_never_sent_to_ourselves(world: World) -> None:
    us, other = world.server("us.test", 1), world.server("better.test", 2)
    world.listening = [f"127.0.0.1:{world.port}"]
    world.mx("circle.test", "10 us.test")
    world.mx("named.test", "10 ME.test", "20 better.test")
    world.mx("backup.test", "5 better.test", "10 us.test", "10 other.test", "20 worse.test")
    for name in ("bob@circle.test", "bob@named.test", "bob@us.test", "bob@[127.0.0.1]"):
        assert world.say(name).startswith("554 5.4.6 Mail loop: "), name
    assert world.say("bob@far.test", host=us.host).startswith("554 5.4.6 Mail loop: ")
    assert world.say("bob@backup.test") == "250 2.0.0 Kept"  # for others we may be the backup
    assert not us.connections and other.connections == 1


def test_a_worse_host_than_ourselves_is_no_way_out(world: World) -> None:
    worse = world.server("worse.test", 2)
    world.listening = [f"127.0.0.1:{world.port}"]
    world.dns.zone.update({"us.test": {"A": ["127.0.0.1"]}, "better.test": {"A": ["127.0.0.7"]}})
    world.mx("far.test", "5 better.test", "10 us.test", "20 worse.test")
    assert world.say("bob@far.test").startswith("451 4.4.1 No connection to better.test")
    assert not worse.connections


def test_our_own_addresses() -> None:
    us = Ourselves(
        settings.Settings(
            server=settings.Server(name="Me.test"),
            listener=[settings.Listener(address=a) for a in ("[::]:25", "192.0.2.1:587", "systemd:smtps")],
        )
    )
    assert us.named("ME.test.") and not us.named("you.test")
    assert us.at("127.0.0.1", 25) and us.at("::1", 25) and us.at("::ffff:127.0.0.1", 25)
    assert us.at("192.0.2.1", 587) and not us.at("192.0.2.1", 25) and not us.at("127.0.0.1", 587)
    assert not here("192.0.2.77")


def test_a_configured_host(world: World) -> None:
    server = world.server("smart.test", 1)
    for host in (f"smart.test:{world.port}", "smart.test", f"127.0.0.1:{world.port}"):
        assert world.say("bob@far.test", "eve@near.test", host=host) == "250 2.0.0 Kept"
    assert server.mails[0][1] == ["bob@far.test", "eve@near.test"]
    assert world.say("bob@far.test", host="gone.test").startswith("451 4.3.5 ")


def test_connections_are_kept_and_swept(world: World) -> None:
    server = world.server("far.test", 1)
    for _ in range(3):
        world.say("bob@far.test")
    assert server.connections == 1 and world.outside is not None
    assert "RSET" not in server.commands
    pool = world.outside.pool
    assert len(pool) == 1
    pool.sweep()
    assert len(pool) == 1
    world.hands.forward(pool.keep)
    pool.sweep()
    assert len(pool) == 0
    until(lambda: server.commands[-1] == "QUIT")


def test_no_more_than_a_hundred_mails_over_one_connection(world: World) -> None:
    server = world.server("far.test", 1)
    for _ in range(101):
        world.say("bob@far.test")
    assert server.connections == 2


@pytest.mark.parametrize("deed", ["close", "421 4.4.2 Idle for too long", "reset"])
def test_a_kept_connection_that_died_is_replaced_unnoticed(world: World, deed: str) -> None:
    server = world.server("far.test", 1, {"MAIL": ["250 Ok", deed, "250 Ok"]})
    assert world.say("bob@far.test") == "250 2.0.0 Kept"
    assert world.say("bob@far.test") == "250 2.0.0 Kept"
    assert server.connections == 2 and len(server.mails) == 2


def test_words_nobody_asked_for_end_a_kept_connection(world: World) -> None:
    """Else each reply would be taken for that of the command before: a refusal for a yes."""
    server = world.server("far.test", 1, {"dot": "250 2.0.0 Kept\r\n250 2.0.0 A surprise"})
    world.say("bob@far.test")
    gevent.sleep(0.02)
    server.script["RCPT TO:<no@far.test>"] = "550 5.1.1 No"
    said = {str(r.recipient.address): r.reply.code for r in world.send("no@far.test", "bob@far.test")}
    assert said == {"no@far.test": 550, "bob@far.test": 250}
    assert server.connections == 2


def test_a_delivery_that_is_interrupted_keeps_no_connection(world: World) -> None:
    server = world.server("far.test", 1, {"dot": ["250 2.0.0 Kept", "hang"]})
    world.say("bob@far.test")
    assert world.outside is not None and len(world.outside.pool) == 1
    work = gevent.spawn(world.say, "bob@far.test")
    until(lambda: server.commands.count("DATA") == 2)
    work.kill()
    assert len(world.outside.pool) == 0


def test_tls_is_used_when_offered_and_kept(world: World, context: ssl.SSLContext) -> None:
    server = world.server("far.test", 1, tls=context)
    for _ in range(2):
        assert world.say("bob@far.test") == "250 2.0.0 Kept"
    assert (server.secure, server.connections, len(server.mails)) == (1, 1, 2)


@pytest.mark.parametrize("deed", ["220 but no TLS follows", "close", "454 4.7.0 Not now"])
def test_tls_that_fails_is_done_without(world: World, context: ssl.SSLContext, deed: str) -> None:
    server = world.server("far.test", 1, {"STARTTLS": deed}, tls=context)
    assert world.say("bob@far.test") == "250 2.0.0 Kept"
    assert server.secure == 0 and len(server.mails) == 1


# -- Postfix's own test server ---------------------------------------------------------------------------------------


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[object]:
    started = []

    def start(*flags: str) -> str:
        (port,) = free_ports(1)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [SINK, *user, *flags, "-h", "sink.test", f"127.0.0.1:{port}", "100"]
        started.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL))
        until_open(port, started[-1])
        return f"127.0.0.1:{port}"

    yield start
    for sink in started:
        sink.kill()
        sink.wait()


@pytest.mark.needs("smtp-sink")
@pytest.mark.parametrize(
    "flags, code",
    [
        ([], 250),
        (["-e"], 250),  # no ESMTP
        (["-p"], 250),  # no pipelining
        (["-r", "MAIL"], 450),
        (["-r", "RCPT"], 450),
        (["-f", "RCPT"], 500),
        (["-f", "."], 500),
        (["-q", "RCPT"], 451),  # hangs up there
        (["-q", "."], 451),
        (["-w", "60"], 451),  # slower than we wait
    ],
)
def test_postfix_smtp_sink(world: World, sink: object, flags: list[str], code: int) -> None:
    host = sink(*flags)  # type: ignore[operator]
    world.patience = SHORT if "-w" in flags else PATIENCE
    results = world.send("bob@far.test", "eve@far.test", host=host)
    assert {r.reply.code // 100 for r in results} == {code // 100}
