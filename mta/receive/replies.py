"""What we say when nothing more particular is to be said; [replies] in the settings may give other words."""

from __future__ import annotations

from collections.abc import Mapping

from mta.message.reply import Reply
from mta.rules import verdict

GREETING = Reply(220, "", "{name} ESMTP")
OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
GO_AHEAD = Reply(354, "", "End with <CRLF>.<CRLF>")
BYE = Reply(221, "2.0.0", "Bye")
READY = Reply(220, "2.0.0", "Ready for TLS")
LOGGED_IN = Reply(235, "2.7.0", "Welcome")
MAYBE = Reply(252, "2.1.5", "Send it, and we shall see")
HELP = Reply(214, "2.0.0", "EHLO MAIL RCPT DATA RSET NOOP QUIT, as RFC 5321 has them")
KEPT = Reply(250, "2.0.0", "Kept as {id}")  # also of a mail that rules throw away: its sender is not to know

DENIED = verdict.DENY  # a rule that gives no words of its own
LATER = verdict.DEFER
RELAY_DENIED = Reply(554, "5.7.1", "We do not relay for you")
UNKNOWN_ACCOUNT = Reply(550, "5.1.1", "There is no such mailbox")
BUSY = Reply(452, "4.3.1", "Busy with other mail, please try again")
NOT_LOGGED_IN = verdict.DENY_LOGIN
OTHER_RULES = Reply(452, "4.5.3", "Other rules hold for this recipient; send again for it alone")
MISTAKE = Reply(451, "4.3.0", "Our mistake, please try again")

EARLY = Reply(554, "5.5.1", "You spoke before your turn", close=True)
HTTP = Reply(554, "5.5.1", "This is a mail server", close=True)
NO_CHUNKS = Reply(502, "5.5.1", "CHUNKING is not offered here", close=True)
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors", close=True)
TOO_MANY_LOGINS = Reply(421, "4.7.0", "Too many failed logins", close=True)
TOO_MUCH_JUNK = Reply(421, "4.7.0", "Too many commands without a mail", close=True)
TOO_MANY_SESSIONS = Reply(421, "4.3.2", "Too many connections, please come again", close=True)
TIMED_OUT = Reply(421, "4.4.2", "You took too long", close=True)
SHUTTING_DOWN = Reply(421, "4.3.2", "Going down, please come again", close=True)

OURS: dict[str, Reply] = {name: value for name, value in globals().items() if isinstance(value, Reply)}


def use(given: Mapping[str, str]) -> None:
    """From now on say it in these words: {"bye": "221 2.0.0 So long"}. Names that are not ours are for rules.

    Raises ValueError for a code of another class: a client has to understand what we do.
    """
    own = {name: Reply.parse(given[name.lower()]) for name in OURS if name.lower() in given}
    for name, reply in own.items():
        known = OURS[name]
        if reply.code // 100 != known.code // 100 or (known.code in (220, 235, 354) and reply.code != known.code):
            raise ValueError(f"[replies] {name.lower()} must be a {known.code}, not {reply.code}")
    globals().update({**OURS, **{name: _closing(reply, OURS[name].close) for name, reply in own.items()}})


def kept(*ids: str) -> Reply:
    """KEPT with the id of the mail, or those of its copies."""
    return Reply(250, KEPT.enhanced, KEPT.text.replace("{id}", " ".join(ids)))


def _closing(reply: Reply, close: bool) -> Reply:
    return reply.closing() if close else reply
