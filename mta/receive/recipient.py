"""One recipient a client asks for: whose rules speak, what they say, and the server's own word on it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mta.message.address import Address
from mta.message.envelope import Envelope, Recipient
from mta.message.reply import Refused, Reply
from mta.receive import command, replies

if TYPE_CHECKING:
    from mta.receive.session import Session

_ROUTED = re.compile("[@%!]")


def take(session: Session, envelope: Envelope, rest: str) -> Reply:
    """What RCPT is answered; the recipient, or whom rules put in its place, is in the envelope then. Raises Refused."""
    domains, smtp, judge = session.door.domains, session.door.settings.smtp, session.judge
    if len(envelope.recipients) >= smtp.max_recipients:  # RFC 5321 4.5.3.1.10: 452, not 552
        raise Refused("452 4.5.3 Enough recipients; send again for the others")
    recipient = command.rcpt(rest, session.door.listener.paths == "loose")
    if not recipient.domain:
        recipient = Address("postmaster", domains.first or session.door.settings.server.name.lower())
    session.recipient = recipient
    scope = judge.scope(session, recipient) if judge.rules.folders else None
    if scope is not None and not judge.turn_to(scope) and not envelope.ours and judge.fate is None:
        raise _elsewhere(session, recipient)
    before = judge.addressed(session)
    try:
        said, relay = judge.ask_recipient(session)
        taken = judge.rewritten(recipient)
        _admit(session, recipient, relay, taken)
    except Refused:
        judge.readdress(before, session)
        raise
    session.recipients_taken += 1
    recipients = envelope.recipients  # rules may have made another list of it
    if taken is not None and (not recipients or all(taken != known.address for known in recipients)):
        recipients.append(Recipient(taken, recipient if taken is not recipient else None))
        if judge.mail is not None:
            judge.mail.recipients.append(taken)
    elif taken is not None:
        judge.asked_for(taken, envelope)
    if scope is None and taken is not recipient:
        scope = judge.scope(session, recipient)  # else who was asked for would be forgotten
    if scope is not None:
        judge.took(scope, recipients)
    return said or replies.RECIPIENT_OK


def _elsewhere(session: Session, recipient: Address) -> Refused:
    """The answer to a stranger's recipient whose rules are not those of the first."""
    judge = session.judge
    if "rcpt" not in judge.rules.stages_of(judge.file):  # what the server says itself would not change
        _admit(session, recipient, judge.relay, recipient)
    return Refused(replies.OTHER_RULES)


def _admit(session: Session, recipient: Address, relay: bool, taken: Address | None) -> None:
    """The server's own word on a recipient, which no rule can soften but with relay().

    `taken` is who gets the mail instead where a rule says so: whether the client may ask is judged by what it asked
    for, whether there is a mailbox by who gets it. A rule may forward to another server.
    """
    domains, local = session.door.domains, recipient.local_part
    relay = relay or session.client.trusted or bool(session.client.user)
    if domains.find(recipient.domain) is None:
        if not relay:
            raise Refused(replies.RELAY_DENIED)
        return
    if not local.isalnum():  # nearly every name is
        if local.startswith("-"):  # to many a program that is handed an address, an option
            raise Refused("501 5.1.3 That is not a mailbox")
        if not relay and _ROUTED.search(local) and not domains.lists(recipient):  # victim%elsewhere@us and its kin
            raise Refused(replies.RELAY_DENIED)
    if taken is not None and domains.find(taken.domain) is not None and not domains.knows(taken):
        raise Refused(replies.UNKNOWN_ACCOUNT)
