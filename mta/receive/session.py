"""One client, from greeting to goodbye: read a command, obey it, answer, until someone leaves.

    state       helo   envelope  recipients   legal now (RFC 5321 4.1.4)
    greeted     ""     None      -            EHLO HELO, and at any time: STARTTLS NOOP RSET VRFY EXPN HELP QUIT
    said hello  set    None      -            MAIL, and once AUTH (login.py)
    has sender  set    set       none         RCPT
    has all     set    set       some         RCPT DATA
    barred      -      -         -            QUIT: a rule said no at connect (RFC 5321 3.1)

A command out of turn is 503 and changes nothing. EHLO and RSET forget the mail, STARTTLS forgets everything but where
the client comes from. A "no" from anyone, us or a rule, is `Refused` and ends in `refuse`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mta import log
from mta.message import ids, trace
from mta.message.address import Address
from mta.message.envelope import Client, Envelope
from mta.message.reply import Refused, Reply
from mta.net import clock
from mta.net.deadline import TimedOut
from mta.net.stream import Gone, Stream
from mta.receive import command, login, recipient, replies
from mta.receive.arrival import Arrival
from mta.receive.door import Door
from mta.receive.judge import Judge

TLS_TIMEOUT = 30.0  # seconds for a handshake: nobody types it by hand


class Draining(Exception):
    """The server ends, and this session has nothing under way."""


class Session:
    """A client's conversation. `idle`: it waits for a command and no mail is under way."""

    def __init__(self, door: Door, stream: Stream, ip: str, port: int) -> None:
        self.door, self.stream = door, stream
        self.id = door.ids.session()
        self.client = Client(ip=ip, port=port, trusted=door.trusts(ip), listener=door.listener.kind)
        self.judge = Judge(door)
        self.now = self.began = clock.monotonic()
        self.ends = self.began + door.settings.smtp.session_timeout
        self.stage = "connect"
        self.idle = self.over = self.barred = False
        self.helo = self.passage = ""
        self.errors = self.junk = self.long_lines = self.mails = self.numbers = self.failed_logins = 0
        # the mail under way
        self.envelope: Envelope | None = None
        self.sender: Address | None = None  # of the MAIL, or recipient of the RCPT, that is being answered
        self.recipient: Address | None = None
        self.recipients_taken = self.refused_recipients = 0
        if door.capture is not None:
            door.capture.begin(self)

    def forget(self) -> None:
        """No mail is under way any more."""
        self.judge.forget()
        self.envelope = None
        self.recipients_taken = self.refused_recipients = 0

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve the client until it or we hang up. Never raises; the stream is closed then."""
        client, reason = self.client, ""
        log.event("connected", session=self.id, client=client.ip, port=client.port, listener=client.listener)
        try:
            self.greet()
            while not self.over:
                self.obey()
        except Gone as gone:
            reason = str(gone)
        except TimedOut:
            reason = "timed out"
            self.last_words(replies.TIMED_OUT)
        except Draining:
            self.last_words(replies.SHUTTING_DOWN)
        except Exception as error:
            reason = "our mistake"
            log.bug(error, session=self.id, stage=self.stage)
            self.last_words(replies.MISTAKE.closing())
        finally:
            self.leave(reason)

    def obey(self) -> None:
        """One command, from its first byte to our answer."""
        door, stream = self.door, self.stream
        self.patience(door.settings.smtp.command_timeout)
        self.idle = self.envelope is None
        self.sender = self.recipient = None
        try:
            if door.draining and self.idle and not stream.pending:
                raise Draining
            self.stage = "command"
            line = stream.line(door.settings.smtp.max_line)
            self.idle = False
            verb, rest = command.read(line)
            act = COMMANDS.get(verb)
            if act is None:
                raise self.unknown(verb)
            if self.barred and verb != "QUIT":
                raise Refused("503 5.5.1 Only QUIT is heard now")
            reply = act(self, rest)
        except Refused as refused:
            self.idle = False
            reply = self.refuse(refused)
        except (Gone, TimedOut, Draining):
            raise
        except Exception as error:
            mail = self.envelope.id if self.envelope is not None else None
            log.bug(error, session=self.id, mail=mail, stage=self.stage)
            self.forget()
            reply = replies.MISTAKE.adding(f"({mail or self.id})")
        if reply is not None:
            self.answer(reply)

    def answer(self, reply: Reply) -> None:
        self.stream.say(reply.wire)
        if reply.close:
            self.over = True
            self.stream.linger()

    def last_words(self, reply: Reply) -> None:
        try:
            self.stream.deadline = clock.monotonic() + 1.0
            self.stream.send(reply.wire)
            if not self.idle:
                self.stream.linger(1.0)  # it may be in the middle of something
        except (Gone, TimedOut, Draining):
            pass

    def leave(self, reason: str) -> None:
        mail = self.envelope.id if self.envelope is not None else None
        if reason and (mail or not self.idle or not self.stream.ended):
            log.event("lost", session=self.id, mail=mail, client=self.client.ip, stage=self.stage, reason=reason)
        self.judge.close()
        self.stream.close()
        ms = round((clock.monotonic() - self.began) * 1000, 1)
        log.event("closed", session=self.id, client=self.client.ip, reason=reason, mails=self.mails, ms=ms)

    def patience(self, seconds: float) -> None:
        """From now on the client has so long, and never longer than the session may last."""
        self.now = now = clock.monotonic()
        until = now + seconds
        self.stream.deadline = until if until < self.ends else self.ends

    # -- rules, and every no ----------------------------------------------------------------------------------------

    def ask(self, stage: str) -> Reply | None:
        """Let the rules of a stage speak: the words of a yes, or None. Raises Refused."""
        self.stage = stage
        return self.judge.ask(stage, self)

    def refuse(self, refused: Refused) -> Reply:
        """The one way out for every no: log it, count it, say where to ask."""
        reply, envelope = refused.reply, self.envelope
        mail, sender = (envelope.id, envelope.sender) if envelope is not None else (None, self.sender)
        rule, where = getattr(refused, "rule", ""), getattr(refused, "where", "")
        whole = self.stage in ("data", "preq")  # the mail is refused, not one command or recipient
        addressed = envelope.recipients if envelope is not None and whole else []
        log.event(
            "refused",
            session=self.id,
            mail=mail,
            client=self.client.ip,
            helo=self.client.helo,
            stage=self.stage,
            sender=None if sender is None else sender.shown,
            recipient=str(self.recipient) if self.recipient is not None else None,
            recipients=[str(one.address) for one in addressed] or None,
            reply=str(reply),
            rule=rule,
            where=where,
            reason=refused.reason if refused.reason != str(reply) else None,
        )
        self.door.counts.refused += 1
        if reply.enhanced == "5.5.6":
            self.long_lines += 1
            reply = reply if self.long_lines < 2 else reply.closing()
        if reply.permanent:
            self.errors += 1
            if self.errors >= self.door.settings.smtp.max_errors and not self.client.trusted and not self.client.user:
                reply = replies.TOO_MANY_ERRORS
        about = mail or self.id
        if rule and (self.client.trusted or self.door.settings.rules.explain):
            about = f'{about}; rule "{rule}", {where}'
        return reply.adding(f"({about})")

    # -- what a client says, in the order it says it ----------------------------------------------------------------

    def greet(self) -> None:
        if self.door.listener.kind == "submissions":
            self.encrypt()
        self.patience(self.door.settings.smtp.command_timeout)
        try:
            said = self.ask("connect")
            if self.stream.spoke():
                raise Refused(replies.EARLY, "early_talker")
        except Refused as refused:
            # RFC 5321 3.1: instead of 220 only 554 may stand, or at any time 421; after 554 only QUIT is heard
            reply, self.barred = refused.reply, True
            if reply.permanent:
                refused.reply = Reply(554, reply.enhanced, reply.text, close=reply.close)
            else:
                refused.reply = Reply(421, reply.enhanced, reply.text, close=True)
            self.answer(self.refuse(refused))
            return
        self.judge.connected()
        self.answer(said if said is not None and said.code == 220 else self.door.greeting)

    def turn(self) -> None:
        """What comes after EHLO, DATA or STARTTLS depends on our answer (RFC 2920 3.1): nobody may have said it yet."""
        if self.stream.buffered:
            raise Refused(replies.EARLY, "pipelined past a turn")

    def ehlo(self, rest: str) -> Reply:
        return self.hello(rest, True)

    def helo_(self, rest: str) -> Reply:
        return self.hello(rest, False)

    def hello(self, rest: str, extended: bool) -> Reply:
        self.turn()
        name = command.helo(rest)
        self.forget()
        self.judge.again()
        self.helo = ""
        encrypted = bool(self.client.tls)
        protocol = ("ESMTPS" if encrypted else "ESMTP") if extended else "SMTP"  # RFC 3848
        if extended and self.client.user:
            protocol += "A"
        self.client = msgspec.structs.replace(self.client, helo=name, protocol=protocol)
        said = self.ask("helo")
        self.helo = name
        self.passage = trace.passage(self.client, self.door.settings.server.name)
        if not extended:
            return said or self.door.helo
        auth = encrypted and login.offered(self)
        if said is None:
            return self.door.ehlo(encrypted, auth)
        text = said.text.replace("\n", " ")  # another line would be read as an extension (RFC 5321 4.1.1.1)
        return Reply(250, "", "\n".join([text, *self.door.offers(encrypted, auth)]))

    def starttls(self, rest: str) -> Reply | None:
        self.stage = "starttls"
        if rest:
            raise Refused("501 5.5.4 STARTTLS stands alone")
        if self.client.tls:
            raise Refused("503 5.5.1 TLS is on already")
        if self.door.tls() is None:
            raise Refused("502 5.5.1 TLS is not offered here")
        self.turn()
        self.stream.say(replies.READY.wire)
        self.encrypt()
        self.forget()  # RFC 3207 4.2: with all else that was said in clear
        self.judge.again()
        self.helo = ""
        return None

    def encrypt(self) -> None:
        context = self.door.tls()
        assert context is not None
        self.patience(TLS_TIMEOUT)
        self.stream.start_tls(context, True)
        self.client = msgspec.structs.replace(self.client, tls=self.stream.tls, helo="", protocol="SMTP")

    def mail(self, rest: str) -> Reply:
        door, client = self.door, self.client
        if not self.helo:
            raise Refused("503 5.5.1 Say EHLO first")
        if self.envelope is not None:
            raise Refused("503 5.5.1 One mail at a time: the sender is known")
        self.stage = "mail"
        if not client.tls and door.listener.tls is not None and door.listener.tls.policy == "required":
            raise Refused("530 5.7.0 Say STARTTLS first")
        if door.ours_only and not (client.trusted or client.user):
            raise Refused("530 5.7.0 Authentication is required here")
        sender, size, body = command.mail(rest, door.listener.paths == "loose")
        self.sender = sender
        if size > door.settings.smtp.max_size:
            raise Refused(f"552 5.3.4 At most {door.settings.smtp.max_size} bytes")
        if door.budget.full:
            raise Refused(replies.BUSY)
        self.numbers += 1
        self.judge.begin(sender, client)
        self.envelope = Envelope(ids.mail(self.id, self.numbers), sender, [], client, body=body)
        try:
            return self.ask("mail") or replies.SENDER_OK
        except Refused as refused:
            reply = self.refuse(refused)
            self.forget()
            return reply

    def rcpt(self, rest: str) -> Reply:
        envelope = self.envelope
        if envelope is None:
            raise Refused("503 5.5.1 Say MAIL first")
        self.stage = "rcpt"
        try:
            return recipient.take(self, envelope, rest)
        except Refused:
            self.refused_recipients += 1
            raise

    def data(self, rest: str) -> Reply:
        self.turn()
        envelope = self.envelope
        if rest:
            raise Refused("501 5.5.4 DATA stands alone")
        if envelope is None:
            raise Refused("503 5.5.1 Say MAIL first")
        if not self.recipients_taken:
            raise Refused("554 5.5.1 No recipient was taken" if self.refused_recipients else "503 5.5.1 Say RCPT first")
        try:
            self.judge.ask_data(self)
            if self.door.budget.full:
                raise Refused(replies.BUSY)
            reply = Arrival(self, envelope).take()
            self.mails, self.junk = self.mails + 1, 0
        except Refused as refused:
            reply = self.refuse(refused)
        self.forget()
        return reply

    def rset(self, rest: str) -> Reply:
        self.forget()
        return self.chatter(replies.OK)

    def noop(self, rest: str) -> Reply:
        return self.chatter(replies.OK)

    def vrfy(self, rest: str) -> Reply:
        return self.chatter(replies.MAYBE)  # RFC 5321 7.3: nobody learns who exists

    def expn(self, rest: str) -> Reply:
        raise Refused("502 5.5.1 That is not offered here")

    def help(self, rest: str) -> Reply:
        return self.chatter(replies.HELP)

    def chatter(self, reply: Reply) -> Reply:
        """A command that brings no mail nearer."""
        self.junk += 1
        return reply if self.junk <= self.door.settings.smtp.max_junk else replies.TOO_MUCH_JUNK

    def quit(self, rest: str) -> Reply:
        self.over = True
        return replies.BYE

    def unknown(self, verb: str) -> Refused:
        if verb in command.HTTP:
            return Refused(replies.HTTP, "http")
        if verb == "BDAT":  # what follows is a mail, and must not be run
            return Refused(replies.NO_CHUNKS)
        if verb in ("TURN", "ATRN", "ETRN"):
            return Refused("502 5.5.1 That is not offered here")
        if verb in ("XCLIENT", "XFORWARD"):
            return Refused("550 5.7.1 Not from you")
        return Refused("500 5.5.1 There is no such command")


COMMANDS: dict[str, Callable[[Session, str], Reply | None]] = {
    "EHLO": Session.ehlo,
    "HELO": Session.helo_,
    "STARTTLS": Session.starttls,
    "AUTH": login.log_in,
    "MAIL": Session.mail,
    "RCPT": Session.rcpt,
    "DATA": Session.data,
    "RSET": Session.rset,
    "NOOP": Session.noop,
    "VRFY": Session.vrfy,
    "EXPN": Session.expn,
    "HELP": Session.help,
    "QUIT": Session.quit,
}
