"""AUTH (RFC 4954): hear who somebody is, let the rules of authenticate judge it, and log in whom they accept.

    refused before rules are asked             reply      the rules' verdict              reply
    no EHLO yet, a mail under way, logged in   503        accept, and nothing else        235, logged in
    no rule at authenticate                    502        next, faccept, quarantine,
    no TLS                                     538        discard                         535
    unknown mechanism                          504        deny, reply                     535 or its own
    not base64, not UTF-8, cancelled           501        defer                           454 or its own
    no name or no password, another identity   535

faccept, quarantine and discard hold for the connection as if said at connect, but let nobody in: an account is more
than a yes. Whoever is refused for good `smtp.max_auth_failures` times is sent away. Nothing may be sent before it was
asked for: a line that comes too early would be taken for a command, and a password must not be one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mta import log
from mta.message import trace
from mta.message.credentials import Credentials
from mta.message.reply import Refused, Reply
from mta.receive import replies, sasl
from mta.receive.judge import Judged, Origin, Said
from mta.rules.verdict import DENY_LOGIN, LASTING, NEXT, Verdict

if TYPE_CHECKING:
    from mta.receive.session import Session


def offered(session: Session) -> bool:
    """AUTH can be used now: by somebody who speaks TLS and has not logged in, if rules are there to judge it."""
    return bool(session.client.tls) and not session.client.user and possible(session)


def possible(session: Session) -> bool:
    """Rules would be asked: there are some at authenticate, and no verdict holds that ends all stages."""
    return session.judge.standing is None and "authenticate" in session.judge.rules.stages_of("")


def log_in(session: Session, rest: str) -> Reply:
    """The command AUTH. Raises Refused, Gone, TimedOut."""
    session.stage = "authenticate"
    _legal(session)
    credentials = _heard(session, rest)
    who = f"{credentials.user or 'nobody'} could not log in with {credentials.mechanism}"
    if not credentials.user or not credentials.password or credentials.identity not in ("", credentials.user):
        raise _failed(session, Refused(replies.NOT_LOGGED_IN), who)
    verdict = _ask(session, credentials)
    if verdict.kind != "accept":
        raise _failed(session, Judged(_no(verdict), verdict), who)
    _welcome(session, credentials, verdict)
    said = verdict.reply or replies.LOGGED_IN
    return said if said.code == 235 else Reply(235, said.enhanced, said.text)  # no other code means success


def _legal(session: Session) -> None:
    client = session.client
    if not session.helo or client.protocol == "SMTP":
        raise Refused("503 5.5.1 Say EHLO first")
    if session.envelope is not None:
        raise Refused("503 5.5.1 A mail is under way")
    if client.user:
        raise Refused("503 5.5.1 You have logged in already")
    if "authenticate" not in session.judge.rules.stages_of(""):
        raise Refused("502 5.5.1 That is not offered here")
    if not client.tls:
        raise Refused("538 5.7.11 Say STARTTLS first: a password is for nobody else")


def _heard(session: Session, rest: str) -> Credentials:
    """The exchange, to its last line."""
    steps, stream = sasl.exchange(rest), session.stream
    session.turn()
    try:
        asked = next(steps)
        while True:
            stream.say(Reply(334, "", asked).wire)
            session.patience(session.door.settings.smtp.command_timeout)
            line = stream.line(sasl.MAX_LINE)
            session.turn()
            asked = steps.send(line)
    except StopIteration as end:
        credentials: Credentials = end.value
        return credentials


def _ask(session: Session, credentials: Credentials) -> Verdict:
    """What the rules of authenticate say. What they note and what they hold is not forgotten at the next EHLO."""
    judge = session.judge
    if not possible(session):
        return NEXT
    facts = judge.facts(session)
    vars, relay = dict(facts.vars), facts.relay
    facts.credentials = credentials
    try:
        verdict = judge.rules.run("authenticate", facts)
    finally:
        facts.credentials = None
    if verdict.kind in LASTING:
        judge.standing = Said("authenticate", verdict)
    noted = {name: value for name, value in facts.vars.items() if name not in vars or vars[name] != value}
    origin = judge.origin
    judge.origin = Origin(judge.standing, {**(origin.vars or {}), **noted}, origin.relay or (facts.relay and not relay))
    return verdict


def _no(verdict: Verdict) -> Reply:
    reply = verdict.reply
    return replies.NOT_LOGGED_IN if reply is None or reply.positive or reply is DENY_LOGIN else reply


def _failed(session: Session, refused: Refused, who: str) -> Refused:
    """The refusal with the name for the log; the last one of too many says goodbye."""
    refused.reason = who
    if refused.reply.permanent:
        session.failed_logins += 1
        if session.failed_logins >= session.door.settings.smtp.max_auth_failures:
            refused.reply = replies.TOO_MANY_LOGINS
    return refused


def _welcome(session: Session, credentials: Credentials, verdict: Verdict) -> None:
    client = session.client = msgspec.structs.replace(session.client, user=credentials.user, protocol="ESMTPSA")
    session.passage = trace.passage(client, session.door.settings.server.name)
    log.event(
        "logged_in",
        session=session.id,
        client=client.ip,
        helo=client.helo,
        user=client.user,
        mechanism=credentials.mechanism,
        tls=client.tls,
        rule=verdict.rule,
        where=verdict.where,
    )
