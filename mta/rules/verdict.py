"""What a rule can decide, and the reply each decision means when the rule names none.

verdict     reply          at which stages     what the caller does
next        -              all                 goes on
accept      2xx, optional  all                 ends the stage; at authenticate the only one that logs in
faccept     2xx, optional  all                 ends this and all later stages
deny        5xx            all                 refuses; at connect always 554, then only QUIT (RFC 5321 3.1)
defer       4xx            all                 refuses for now
reply       4xx or 5xx     helo to data        answers this command with it, changes nothing, ends the stage
quarantine  -              all                 keeps the mail aside, in a folder of that name
discard     -              all                 says yes and keeps nothing
"""

from __future__ import annotations

from typing import NamedTuple

from mta.message.reply import Reply

STAGES = ("connect", "helo", "authenticate", "mail", "rcpt", "data", "preq", "postq", "delivery")

LASTING = ("faccept", "quarantine", "discard")  # hold for later stages too
REFUSING = ("deny", "defer", "reply")

LEAVING = (421, 521)  # codes that mean the server hangs up (RFC 5321 3.8, RFC 7504 3)

CLASSES = {"accept": "2", "faccept": "2", "deny": "5", "defer": "4", "reply": "45"}

DENY = Reply(550, "5.7.1", "Refused by a rule of this server")
DENY_CLIENT = Reply(554, "5.7.1", "Your server is not welcome here")
DENY_LOGIN = Reply(535, "5.7.8", "Wrong name or password")  # RFC 4954 6
DEFER_LOGIN = Reply(454, "4.7.0", "Nobody can log in now; try again later")
DEFER = Reply(450, "4.7.1", "Not now, by a rule of this server; try again later")
BROKEN = Reply(451, "4.3.0", "A rule of this server failed; try again later")
BROKEN_DENY = Reply(554, "5.3.0", "A rule of this server failed")
BUSY = Reply(451, "4.3.2", "The rules of this server are busy; try again later")


class Verdict(NamedTuple):
    """`kind` as in the table. `stage`, `rule` and `where` ("main.lua:12") name who decided; empty when no rule did.

    `failed`: not a decision but what `rules.on_error` says when a rule broke.
    """

    kind: str
    reply: Reply | None = None
    folder: str = ""
    rule: str = ""
    where: str = ""
    failed: bool = False
    stage: str = ""


NEXT = Verdict("next")


def complaint(kind: str, text: str, close: bool = False) -> str | None:
    """What is wrong with the reply a rule gave; None when nothing is."""
    try:
        reply = Reply.parse(text, close=close)
    except ValueError as error:
        return f"{kind}: {error}"
    wanted = CLASSES[kind]
    if str(reply.code)[0] not in wanted:
        classes = " or ".join(f"{digit}xx" for digit in wanted)
        return f"{kind} needs a {classes} reply, not {reply.code}"
    if close and reply.positive:
        return f"{kind}: a connection can be closed with a refusal only"
    return None


def read(stage: str, kind: str, text: str | bool, extra: str | bool, rule: str, where: str) -> Verdict:
    """The verdict Lua gave. `text` is False when the rule named no reply; `extra` is close, or the folder."""
    if kind == "quarantine":
        return Verdict(kind, None, str(extra), rule, where, False, stage)
    reply = Reply.parse(text, close=bool(extra)) if isinstance(text, str) else None
    if reply is not None and reply.code in LEAVING:
        reply = reply.closing()
    if kind == "deny":
        if reply is None:
            default = {"connect": DENY_CLIENT, "authenticate": DENY_LOGIN}.get(stage, DENY)
            reply = default.closing() if extra else default
        elif stage == "connect" and reply.code != 554:
            reply = Reply(554, reply.enhanced, reply.text, close=reply.close)
    elif kind == "defer" and reply is None:
        default = DEFER_LOGIN if stage == "authenticate" else DEFER
        reply = default.closing() if extra else default
    return Verdict(kind, reply, "", rule, where, False, stage)


def failure(stage: str, on_error: str, rule: str, where: str) -> Verdict:
    """What a broken rule means: `on_error` is defer or deny."""
    kind, reply = ("deny", BROKEN_DENY) if on_error == "deny" else ("defer", BROKEN)
    return Verdict(kind, reply, "", rule, where, True, stage)
