"""Every setting once: its name, type, default and meaning. Only what works is listed.

`config.py` reads and checks a file against these classes, prints the sample and explains each value; nothing else knows
a default. Durations are seconds in here and "30s", "5m", "2h", "5d" in the file; sizes are bytes and "10M".
"""

from __future__ import annotations

import _socket
import dataclasses
import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Check = Callable[[Any], str | None]  # a complaint ("must be ..."), or None


def opt(
    default: Any,
    meaning: str,
    check: Check | None = None,
    *,
    unit: str = "",
    words: tuple[str, ...] = (),
    example: Any = None,
) -> Any:
    """Declare a setting.

    `unit` is "", "seconds", "bytes" or "path" (relative to the file it stands in, and empty only where the default is);
    `words` are values of a path that are no path; `example` stands in the sample where the default depends on the
    machine.
    """
    made: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    about = {"meaning": meaning, "check": check, "unit": unit, "words": words, "example": example}
    about["empty"] = default == ""
    return dataclasses.field(metadata=about, **made)


def positive(value: float) -> str | None:
    return None if value > 0 else "must be greater than 0"


def not_negative(value: float) -> str | None:
    return None if value >= 0 else "must be 0 or more"


def at_most(limit: int) -> Check:
    return lambda value: None if 0 < value <= limit else f"must be from 1 to {limit}"


def shown_whole(value: int) -> str | None:
    return None if 0 < value <= 256 << 10 else "must be greater than 0 and at most 256K"


def mailbox(path: str) -> str | None:
    """A slip in a placeholder would put everybody's mail in one place."""
    for name in re.findall(r"\{[^/]*?\}", path):
        if name not in ("{domain}", "{local_part}"):
            return f"cannot hold {name}; there are {{domain}} and {{local_part}}"
    return None


def one_of(*words: str) -> Check:
    return lambda value: None if value in words else "must be one of " + ", ".join(words)


def each_of(*words: str) -> Check:
    """Of a list; checks are asked about each entry."""
    wrong = "must hold only " + ", ".join(words)
    return lambda entry: None if entry in words else wrong


def share(value: float) -> str | None:
    return None if 0 <= value <= 1 else "must be from 0 to 1"


def networks(entry: str) -> str | None:
    try:
        ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return f'must hold networks like "192.0.2.0/24", not {entry!r}'
    return None


def cores() -> int:
    return len(os.sched_getaffinity(0))


def host_name() -> str:
    """This machine's full name, as far as it knows it."""
    name = _socket.gethostname()
    if "." in name:
        return name
    try:  # through _socket: the master has no loop, and gevent's resolver would start one
        found = _socket.getaddrinfo(name, None, 0, 0, 0, _socket.AI_CANONNAME)
    except OSError:
        return name
    canonical = str(found[0][3])
    return canonical if "." in canonical else name


@dataclass(frozen=True)
class Server:
    """Who we are."""

    name: str = opt(host_name, "The name in the greeting, in EHLO and in Received.", example="mx.example.test")
    trusted: list[str] = opt(lambda: ["127.0.0.0/8", "::1"], "Networks whose clients may relay without AUTH.")
    workers: int = opt(cores, "Worker processes; by default one per core.", at_most(256), example=2)
    drain: float = opt(30.0, "At a stop, how long open sessions and deliveries may take.", positive, unit="seconds")
    stuck: float = opt(10.0, "A worker without a sign of life this long is killed.", positive, unit="seconds")
    user: str = opt("", "The user to become after binding, when started as root.")
    group: str = opt("", "The group to become; by default the user's.")
    run: str = opt("run", "Folder of the control socket.", unit="path")


@dataclass(frozen=True)
class ListenerTls:
    """The certificate of a listener."""

    certificate: str = opt("", "PEM file with the certificate and its chain.", unit="path")
    key: str = opt("", "PEM file with the private key.", unit="path")
    policy: str = opt("optional", "optional, or required before MAIL.", one_of("optional", "required"))


@dataclass(frozen=True)
class Listener:
    """An address that takes mail."""

    address: str = opt(
        "[::]:25",
        '"host:port"; "[::]:port" takes IPv4 too; "systemd:NAME" or "systemd:NAME:port": sockets systemd hands over.',
    )
    kind: str = opt(
        "relay",
        "relay: other servers (port 25); submission: our users (587); submissions: our users, TLS at once (465).",
        one_of("relay", "submission", "submissions"),
    )
    tls: ListenerTls | None = opt(None, "Certificate and policy; without it no TLS is offered.")
    newlines: str = opt(
        "strict",
        "strict: a bare CR or LF is refused and the connection closed; repair: it becomes CRLF (local programs only).",
        one_of("strict", "repair"),
    )
    paths: str = opt(
        "strict",
        'strict: MAIL FROM:<a@b> as RFC 5321 has it; loose: a blank before the "<" is taken, as old scanners say it.',
        one_of("strict", "loose"),
    )


@dataclass(frozen=True)
class Smtp:
    """How much a client may ask of us."""

    max_size: int = opt(50_000_000, "Largest mail.", positive, unit="bytes")
    max_recipients: int = opt(1000, "Recipients of one mail; the next gets 452 (RFC 5321 4.5.3.1.8).", positive)
    max_line: int = opt(2048, "Longest command line.", positive, unit="bytes")
    max_body_line: int = opt(1_000_000, "Longest line in a mail.", positive, unit="bytes")
    max_received: int = opt(50, "Received fields after which a mail is a loop (RFC 5321 6.3).", positive)
    max_errors: int = opt(10, "Refused commands in a session before we hang up.", positive)
    max_auth_failures: int = opt(3, "Failed logins in a session before we hang up.", positive)
    max_junk: int = opt(100, "NOOP, RSET, VRFY, HELP in a session without a mail before we hang up.", positive)
    max_sessions: int = opt(1000, "Open sessions of one worker; the next gets 421.", positive)
    memory: int = opt(256_000_000, "Mail content one worker holds in memory; beyond it 452.", positive, unit="bytes")
    command_timeout: float = opt(300.0, "For one command, to its CRLF (RFC 5321 4.5.3.2).", positive, unit="seconds")
    data_timeout: float = opt(600.0, "For one mail's content, to its dot.", positive, unit="seconds")
    session_timeout: float = opt(3600.0, "For a whole session.", positive, unit="seconds")


@dataclass(frozen=True)
class Spool:
    """Where accepted mail waits."""

    path: str = opt("spool", "The folder. It must be on a local disk.", unit="path")
    segment: int = opt(16 << 20, "Size of one file of the journal.", positive, unit="bytes")
    min_free: int = opt(64 << 20, "Free space below which new mail gets 452.", not_negative, unit="bytes")
    large: int = opt(1 << 20, "Mails larger than this lie in a file of their own.", positive, unit="bytes")


@dataclass(frozen=True)
class Queue:
    """How mail is delivered and tried again."""

    retry: list[str] = opt(
        lambda: ["1m", "5m", "15m", "1h", "2h", "4h", "6h"],
        "Waits after each failed attempt; the last one repeats.",
    )
    expire: float = opt(5 * 86400.0, "After this a mail is returned to its sender.", positive, unit="seconds")
    concurrency: int = opt(
        100, "Deliveries one worker has under way at once; one that takes half a minute counts no more.", positive
    )
    connect_timeout: float = opt(30.0, "For a connection to another server.", positive, unit="seconds")
    reply_timeout: float = opt(300.0, "For the answer of another server (RFC 5321 4.5.3.2).", positive, unit="seconds")
    keep: float = opt(5.0, "How long an idle connection to another server is kept.", not_negative, unit="seconds")
    port: int = opt(25, "The port of MX hosts.", at_most(65535))


@dataclass(frozen=True)
class Rules:
    """The Lua of the administrator."""

    path: str = opt("rules", "Folder with main.lua.", unit="path")
    domains: str = opt(
        "domains", "Folder of folders NAME with incoming.lua, outgoing.lua, internal.lua for a domain.", unit="path"
    )
    on_error: str = opt("defer", "A rule failed: defer, deny or continue.", one_of("defer", "deny", "continue"))
    bounce_strangers: bool = opt(False, "A stranger's mail denied at postq or delivery bounces instead of being held.")
    explain: bool = opt(False, "Show rule and file:line in every refusal; trusted clients always see them.")
    watch: bool = opt(False, "Load rules again when a file is saved.")
    instructions: int = opt(10_000_000, "Lua instructions a stage may take between two waits.", positive)
    memory: int = opt(64 << 20, "Lua memory of a worker above which new stages wait.", positive, unit="bytes")
    growth: int = opt(16 << 20, "Lua memory one stage may add.", positive, unit="bytes")
    wall: float = opt(30.0, "For one stage, waits included.", positive, unit="seconds")
    lists: str = opt("lists", "Folder of the lists and maps rules may read.", unit="path")
    env: list[str] = opt(list, "Variables of the environment rules may read.")
    export: list[str] = opt(
        lambda: ["export"], "Folders below which mail:write and mail:dump may make files.", unit="path"
    )
    mailboxes: list[str] = opt(
        lambda: ["mail"], 'Folders below which rules may send mail to "maildir:PATH" and "mbox:PATH".', unit="path"
    )


@dataclass(frozen=True)
class Store:
    """What the rules of all workers remember together: store and rate."""

    path: str = opt("store", "The folder. It must be on a local disk.", unit="path")
    memory: int = opt(64 << 20, "Memory it may take; when it is full, new keys fail.", positive, unit="bytes")


@dataclass(frozen=True)
class Log:
    """What is told to whom."""

    to: list[str] = opt(
        lambda: ["mta.log"], 'Files, "stdout:" or "stderr:".', unit="path", words=("stdout:", "stderr:")
    )
    level: str = opt("info", "debug, info, warning or error.", one_of("debug", "info", "warning", "error"))
    rules: list[str] = opt(
        list,
        "Where what rules say (log.info ...) goes instead: files; empty: with all else.",
        unit="path",
        words=("stdout:", "stderr:"),
    )


@dataclass(frozen=True)
class Dns:
    """Whom we ask for names."""

    servers: list[str] = opt(list, '"ip" or "ip:port"; by default those of /etc/resolv.conf.')
    timeout: float = opt(5.0, "For one question, repeats included.", positive, unit="seconds")


@dataclass(frozen=True)
class Domain:
    """A domain of ours: its mail stays here."""

    users: str = opt(
        "any",
        'Who exists: "any", "passwd" (accounts of this machine), or a file, one name a line.',
        unit="path",
        words=("any", "passwd"),
    )
    transport: str = opt("maildir", "maildir, mbox, smtp or discard.", one_of("maildir", "mbox", "smtp", "discard"))
    path: str = opt("mail/{domain}/{local_part}", "maildir, mbox: where; names are made safe.", mailbox, unit="path")
    host: str = opt("", 'smtp: "host", "host:port", "[address]:port", or a URL as in [route].')


@dataclass(frozen=True)
class Route:
    """A domain that is not ours: where its mail goes instead of to its MX. "*" stands for all others."""

    transport: str = opt("smtp", "smtp, maildir, mbox or discard.", one_of("smtp", "maildir", "mbox", "discard"))
    host: str = opt(
        "",
        'smtp: "host", "host:port", "smtp://user:password@host:port?tls=none|optional|required" or "smtps://..."; '
        "empty: the MX hosts. With a password TLS is required, unless tls= says otherwise.",
    )
    path: str = opt("mail/{domain}/{local_part}", "maildir, mbox: where.", mailbox, unit="path")


@dataclass(frozen=True)
class Keys:
    """What rules sign, encrypt, decrypt and verify with."""

    path: str = opt(
        "keys", "Folder with NAME.pem (S/MIME), NAME.asc (OpenPGP) and NAME.password, if it has one.", unit="path"
    )


@dataclass(frozen=True)
class Service:
    """A program which rules ask by its name: service.NAME(...)."""

    type: str = opt("program", "program.", one_of("program"))
    fault: str = opt(
        "defer",
        "It cannot be asked: defer (451), deny (554), or ignore (the rule goes on).",
        one_of("defer", "deny", "ignore"),
    )
    timeout: float = opt(30.0, "For one call.", positive, unit="seconds")
    concurrency: int = opt(10, "Calls of one worker under way at once; the next wait.", positive)
    arguments: list[str] = opt(
        list,
        'The program and its arguments; "--from={sender}" holds a fact of the mail ("mta lua doc service").',
    )
    environment: list[str] = opt(list, '"NAME=value"; without it only PATH and LANG are set.')
    stdin: str = opt(
        "none", "What it reads: mail, part, text (of the call), or none.", one_of("mail", "part", "text", "none")
    )
    codes: list[int] = opt(list, "Exit codes that are answers; any other is a fault. Empty: all are answers.")
    output: int = opt(
        64 << 10, "How much of its stdout, and of its stderr, a rule gets; at most 256K.", shown_whole, unit="bytes"
    )
    folder: str = opt("/", "The folder it runs in.", unit="path")

    def complaint(self) -> tuple[str, str] | None:
        """(the setting that cannot work, why); None if all can."""
        if not self.arguments:
            return "arguments", 'needs the program and its arguments: ["clamscan", "-"]'
        if "{" in self.arguments[0]:
            return "arguments", "begins with the program, which cannot depend on the mail"
        if any("\0" in text for text in (*self.arguments, *self.environment)):
            return "arguments", "cannot hold a NUL"
        for line in self.environment:
            if not line.partition("=")[1] or line.startswith("="):
                return "environment", f'must hold "NAME=value", not {line!r}'
        return None


@dataclass(frozen=True)
class Capture:
    """Sessions, and what the queue decided of their mails, written down to try other rules on them (mta replay)."""

    sample: float = opt(0.0, "The share of sessions to write: 0.01 is one in a hundred, 1 all, 0 none.", share)
    path: str = opt("captures", "The folder, one file for a session.", unit="path")
    networks: list[str] = opt(list, "Only clients in these networks; empty: all.", networks)
    verdicts: list[str] = opt(
        list,
        "Only sessions in which one of these was said, by a rule or the server: accept, faccept, deny, defer, reply, "
        "quarantine, discard; empty: all.",
        each_of("accept", "faccept", "deny", "defer", "reply", "quarantine", "discard"),
    )
    redact: str = opt(
        "none",
        "none; addresses: local parts become pseudonyms wherever they stand in plain text (rules that look at them "
        "then decide otherwise); body: that, and no body.",
        one_of("none", "addresses", "body"),
    )
    files: int = opt(1000, "No more is written while the folder holds so many.", positive)
    size: int = opt(
        1 << 20, "Of a session with more content than this only the headers are written.", positive, unit="bytes"
    )


@dataclass(frozen=True)
class Settings:
    """The whole file."""

    server: Server = opt(Server, "")
    listener: list[Listener] = opt(list, "")
    smtp: Smtp = opt(Smtp, "")
    spool: Spool = opt(Spool, "")
    queue: Queue = opt(Queue, "")
    rules: Rules = opt(Rules, "")
    store: Store = opt(Store, "")
    log: Log = opt(Log, "")
    dns: Dns = opt(Dns, "")
    domain: dict[str, Domain] = opt(dict, "")
    route: dict[str, Route] = opt(dict, "")
    keys: Keys = opt(Keys, "")
    service: dict[str, Service] = opt(dict, "")
    capture: Capture = opt(Capture, "")
    replies: dict[str, str] = opt(
        dict,
        "Replies by name, for rules: deny(replies.NAME). Names of the server's own replies (ok, denied, relay_denied "
        '...) change those; "mta config explain replies" lists both.',
        example={"relay_denied": "554 5.7.1 We do not relay for you"},
    )
    app: dict[str, Any] = opt(
        dict, "Values of your own, for rules: config.app.NAME.", example={"owner": "postmaster@example.test"}
    )
