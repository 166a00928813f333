"""What each verdict does at each stage, as a table: the reference page prints it and a test plays every cell of it.

`EFFECTS[verdict][stage]` is an Effect: what the client hears when the rule names no reply of its own, and a key of
OUTCOMES. At postq and delivery the client has gone.
"""

from __future__ import annotations

from typing import NamedTuple

from mta.rules.verdict import STAGES

OUTCOMES = {
    "goes on": "The next rule of the stage is asked; behind the last one the server does what it would without rules.",
    "ends": "The same, but no other rule of this file is asked at this stage.",
    "logs in": "The client has logged in: mail.user is the name it gave, and it may send to anybody. No other rule is "
    "asked at this stage. The client may not log in again.",
    "ends all": "As if there were no rules from here on: none is asked at this stage or a later one. Before MAIL that "
    "holds for the whole connection, from MAIL on for this mail.",
    "barred": "The client may say QUIT and nothing else.",
    "closed": "The connection is closed.",
    "refused": "The command has no effect, the connection stays. At helo the client has not said who it is; at "
    "authenticate it has not logged in, and may try again until smtp.max_auth_failures; at mail, data and preq the "
    "mail is over and nothing of it is kept; at rcpt only this recipient is not taken, and what rules did to "
    "the envelope because of it is undone (mail.vars and header fields stay), as is a faccept, quarantine or discard "
    "when it is the server that refuses it.",
    "held": "The mail is taken, kept under the name quarantine was given, and delivered when a person releases it. No "
    "other rule is asked. Before MAIL that holds for every mail of the connection.",
    "thrown away": "The mail is taken and thrown away; nobody is told. No other rule is asked. Before MAIL that holds "
    "for every mail of the connection.",
    "bounces": "The mail has failed: its sender gets a bounce with this reply, if it is one of our own people. A "
    'stranger\'s mail is held as "quarantine denied" instead (unless rules.bounce_strangers says otherwise), for its '
    "sender may be made up. At delivery that concerns the recipients of this destination.",
    "later": "The mail waits in the queue and the stage is asked again at the next attempt, until queue.expire is "
    "over; then it bounces. At delivery that concerns the recipients of this destination.",
    "-": "This verdict cannot be used here.",
}


class Effect(NamedTuple):
    """`hears`: the code the client hears, "" for none."""

    hears: str
    outcome: str


YES = dict.fromkeys(("helo", "mail", "rcpt", "preq"), "250") | {"connect": "220", "authenticate": "535", "data": "354"}
NEVER = Effect("", "-")


def _row(outcome: str) -> dict[str, Effect]:
    return {stage: Effect(YES.get(stage, ""), outcome) for stage in STAGES}


def _no(hears: str, behind: Effect, **others: Effect) -> dict[str, Effect]:
    """A refusal; `behind` is what it does once the mail is ours."""
    row = {stage: behind if stage in ("postq", "delivery") else Effect(hears, "refused") for stage in STAGES}
    return row | others


EFFECTS: dict[str, dict[str, Effect]] = {
    "next": _row("goes on"),
    "accept": _row("ends") | {"authenticate": Effect("235", "logs in")},
    "faccept": _row("ends all"),
    "deny": _no("550", Effect("", "bounces"), connect=Effect("554", "barred"), authenticate=Effect("535", "refused")),
    "defer": _no("450", Effect("", "later"), connect=Effect("421", "closed"), authenticate=Effect("454", "refused")),
    "reply": _no("its own", NEVER, connect=NEVER, preq=NEVER),
    "quarantine": _row("held"),
    "discard": _row("thrown away"),
}

NOTES = (
    "A reply of the rule's own is said instead: 2xx with accept and faccept (at connect only a 220 is, at data the 354 "
    "stays, at authenticate accept's code is always 235), 5xx with deny (at connect the code is always 554), 4xx with "
    "defer (at connect always 421).",
    "At authenticate only accept lets somebody in. No verdict at all, faccept, quarantine and discard are answered "
    "535, as a wrong password is; what the last three say of later stages holds, also beyond another EHLO.",
    "deny{..., close = true} and defer{..., close = true} close the connection after the reply; so do the codes 421 "
    "and 521, which say so themselves.",
    "What accept says at helo stands in the first line of the answer to EHLO; behind it are the extensions.",
    "No other yes of a rule opens the relay, and none makes an unknown mailbox known: at rcpt the server still refuses "
    "what is not ours (554 5.7.1; relay() allows it) and who does not exist (550 5.1.1).",
    "A rule that fails is answered as rules.on_error says: defer (451 4.3.0), deny (554 5.3.0) or continue.",
)
