"""What we say when nothing more particular is to be said."""

from __future__ import annotations

from mta.message.reply import Reply

OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
GO_AHEAD = Reply(354, "", "End with <CRLF>.<CRLF>")
BYE = Reply(221, "2.0.0", "Bye")
READY = Reply(220, "2.0.0", "Ready for TLS")
MAYBE = Reply(252, "2.1.5", "Send it, and we shall see")
HELP = Reply(214, "2.0.0", "EHLO MAIL RCPT DATA RSET NOOP QUIT, as RFC 5321 has them")
DISCARDED = Reply(250, "2.0.0", "Ok")

DENIED = Reply(554, "5.7.1", "Refused")  # a rule that gives no words of its own
DEFERRED = Reply(451, "4.7.1", "Not now, please try again")
BUSY = Reply(452, "4.3.1", "Busy with other mail, please try again")
MISTAKE = Reply(451, "4.3.0", "Our mistake, please try again")

EARLY = Reply(554, "5.5.1", "You spoke before your turn", close=True)
HTTP = Reply(554, "5.5.1", "This is a mail server", close=True)
NO_CHUNKS = Reply(502, "5.5.1", "CHUNKING is not offered here", close=True)
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors", close=True)
TOO_MUCH_JUNK = Reply(421, "4.7.0", "Too many commands without a mail", close=True)
TOO_MANY_SESSIONS = Reply(421, "4.3.2", "Too many connections, please come again", close=True)
TIMED_OUT = Reply(421, "4.4.2", "You took too long", close=True)
SHUTTING_DOWN = Reply(421, "4.3.2", "Going down, please come again", close=True)
