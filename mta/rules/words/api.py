"""Every word of the rule language, declared once: what is not in `WORDS` does not exist for a rule.

The sandbox builds its world from here; the check, the editor's annotations, the reference page and the REPL's
completion read the same declarations. word.py says how they are written. An example is a rule's body; it runs as a test
in the transaction of example.py, at preq or else at the first stage of the word.
"""

from __future__ import annotations

from difflib import get_close_matches

from mta.rules.verdict import STAGES
from mta.rules.words.answers import ANSWERED
from mta.rules.words.content import CONTENT
from mta.rules.words.exporting import EXPORTING
from mta.rules.words.library import LIBRARY
from mta.rules.words.routing import ROUTING
from mta.rules.words.signing import MAIL_SIGNING
from mta.rules.words.word import NUMBER, Word, word


def _verdict(signature: str, meaning: str, example: str, stages: str = "") -> Word:
    return word(f"{signature} -> verdict", meaning, example, stages, kind="verdict")


def _stage(name: str, meaning: str) -> Word:
    return word(
        f"on.{name}(name: string, rule: function)",
        meaning,
        f'on.{name}("a name for the log", function(mail) end)',
        kind="stage",
    )


STAGE_WORDS = [
    _stage("connect", "A client connected; before the greeting."),
    _stage("helo", "HELO or EHLO."),
    _stage("authenticate", "AUTH: a client wants to log in. The server offers that over TLS if there is such a rule."),
    _stage("mail", "MAIL FROM: the sender is known."),
    _stage("rcpt", "RCPT TO: once for every recipient."),
    _stage("data", "DATA, before the content is sent."),
    _stage("preq", "The whole mail is here; nothing is kept yet, so a refusal still goes to the client."),
    _stage(
        "postq",
        "The mail is kept and the client has gone; once for each mail. What it changes stays, unless it defers: then "
        "it is asked again about the mail as it was, and only mail.vars stay.",
    ),
    _stage(
        "delivery",
        "Before each attempt to deliver, once for all recipients who are reached the same way. What it changes is for "
        "this attempt; only mail.vars stay.",
    ),
]

FACTS = [
    word("mail: mail", "The mail, or before MAIL the connection: a rule's one argument.", "assert(mail.origin == nil)"),
    word("mail.id: string", "The mail's id as in the log; before MAIL the session's.", "assert(#mail.id > 0)"),
    word("mail.origin: string?", "The id of the mail this one was made from.", "assert(mail.origin == nil)"),
    word("mail.client: client", "The other end of the connection.", "local client = mail.client\nassert(client.ip)"),
    word("mail.client.ip: string", "Its address.", 'assert(mail.client.ip == "192.0.2.7")'),
    word("mail.client.port: integer", "Its port.", "assert(mail.client.port == 40000)"),
    word(
        "mail.client.name: string?",
        "Its name in the DNS, if that leads back to its address.",
        'assert(mail.client.name == "mail.example.com")',
    ),
    word(
        "mail.client.trusted: boolean",
        "Whether it is one of [server] trusted, who may write to anybody without a login.",
        "assert(not mail.client.trusted)",
    ),
    word("mail.server: string", "Our name.", 'assert(mail.server == "mx.example.test")'),
    word("mail.listener: string", "The kind of listener: relay, submission ...", 'assert(mail.listener == "relay")'),
    word(
        "mail.tls: string?",
        "Protocol and cipher; nil on a connection in clear text.",
        'assert(mail.tls == nil or mail.tls:find("TLS"))',
    ),
    word("mail.helo: string", "What the client calls itself.", 'assert(mail.helo == "mail.example.com")', "helo.."),
    word("mail.user: string?", "Who has logged in; nil for others.", "assert(mail.user == nil)", "authenticate.."),
    word(
        "mail.credentials: credentials",
        "What a client shows to log in, while that is judged: afterwards nothing can read it. Only accept() logs in. "
        "What rules log has *** where the password stood.",
        'if mail.credentials.user == "bob" then return deny() end',
        "authenticate",
    ),
    word(
        "mail.credentials.mechanism: string",
        "PLAIN or LOGIN: how the client said it.",
        'assert(mail.credentials.mechanism == "PLAIN")',
        "authenticate",
    ),
    word(
        "mail.credentials.user: string",
        "The name, as the client wrote it; after accept() it is mail.user.",
        'assert(mail.credentials.user == "ann@example.com")',
        "authenticate",
    ),
    word(
        "mail.credentials.password: string",
        "The password. Compare it with digest.equal, or better its digest.",
        'if digest.equal(mail.credentials.password, "sesame") then return accept() end',
        "authenticate",
    ),
    word(
        "mail.credentials.identity: string?",
        "Whom the client says it acts for, if it does: the user itself, for anybody else is refused unasked.",
        "assert(mail.credentials.identity == nil)",
        "authenticate",
    ),
    word(
        "mail.sender: address",
        "The sender of the envelope; empty for a bounce.",
        'assert(mail.sender.domain == "example.com")\nassert(tostring(mail.sender) == "ann@example.com")',
        "mail..",
    ),
    word(
        "mail.recipient: address",
        "The recipient in question. Afterwards there are mail.recipients, of whom an attempt may have several.",
        'assert(mail.recipient.local_part == "you")',
        "rcpt",
    ),
    word(
        "mail.recipients: address[]",
        "All recipients accepted so far; at delivery those of this attempt, who are reached the same way.",
        'for _, address in ipairs(mail.recipients) do\n  assert(address.domain == "example.test")\nend',
        "rcpt..",
    ),
    word(
        "address.local_part: string",
        "What stands before the @, without quotes.",
        'assert(mail.sender.local_part == "ann")',
        "mail..",
    ),
    word(
        "address.domain: string", "The domain in lower case.", 'assert(mail.sender.domain == "example.com")', "mail.."
    ),
    word("mail.size: integer", "Bytes the mail has now.", "assert(mail.size > 100)", "preq.."),
    word(
        "mail.vars: table",
        "Whatever rules want to remember with the mail: text, numbers, booleans and tables of them, 64 KB. It stays "
        "through the queue: what a rule of postq or delivery sets is there at the next try too.",
        'mail.vars.seen = (mail.vars.seen or 0) + 1\nmail.vars.why = { "first", "second" }',
    ),
    word(
        "mail.headers: headers",
        "The fields of the header, top to bottom. They can be read at preq and later.",
        'assert(mail.headers:has("From"))',
    ),
]

_EARLY = (
    "Before preq it is done once the mail is here, whomever it goes to; said before MAIL, to every mail of the "
    "connection."
)

HEADERS = [
    word(
        "mail.headers:has(name: string) -> boolean",
        "Is there such a field? Names compare without case.",
        'assert(mail.headers:has("subject"))',
        "preq..",
    ),
    word(
        "mail.headers:get(name: string) -> string?",
        "The value of the first such field, unfolded; nil if there is none.",
        'assert(mail.headers:get("Subject") == "Hello")',
        "preq..",
    ),
    word(
        "mail.headers:all(name: string) -> string[]",
        "The values of all such fields.",
        'assert(#mail.headers:all("Received") == 2)',
        "preq..",
    ),
    word(
        "mail.headers:count(name: string) -> integer",
        "How many such fields there are.",
        'assert(mail.headers:count("Received") == 2)',
        "preq..",
    ),
    word(
        "mail.headers:append(name: string, value: string)",
        f"Put a field at the bottom of the header. {_EARLY}",
        'mail.headers:append("X-Checked", "yes")\nassert(mail.headers:get("X-Checked") == "yes")',
    ),
    word(
        "mail.headers:prepend(name: string, value: string)",
        f"Put a field on top of the header. {_EARLY}",
        'mail.headers:prepend("X-First", "yes")\nassert(mail.headers:has("X-First"))',
    ),
    word(
        "mail.headers:set(name: string, value: string)",
        f"Replace the first such field where it stands, or append one. {_EARLY}",
        'mail.headers:set("Subject", "[list] Hello")\nassert(mail.headers:get("Subject") == "[list] Hello")',
    ),
    word(
        "mail.headers:rename(name: string, new: string) -> boolean",
        "Give the first such field another name; false if there is none.",
        'assert(mail.headers:rename("Subject", "X-Subject"))',
        "preq..",
    ),
    word(
        "mail.headers:remove(name: string) -> integer",
        "Take all such fields out; how many there were.",
        'assert(mail.headers:remove("Received") == 2)',
        "preq..",
    ),
]

_REPLY = 'An SMTP reply, "550 5.7.1 text"; several lines in braces, with close = true to hang up.'

VERDICTS = [
    _verdict("next()", "Go on with the next rule, as a rule without a verdict does.", "return next()"),
    _verdict(
        "accept(reply?: string)",
        "Yes: the other rules of this stage are not asked.",
        'if mail.client.ip == "192.0.2.7" then return accept() end',
    ),
    _verdict("faccept(reply?: string)", "Yes, and no rule of a later stage is asked.", "return faccept()"),
    _verdict(
        "deny(reply?: string)",
        f"No, for good (5xx). {_REPLY}",
        'if mail.helo == "localhost" then\n  return deny{"550 5.7.1 Name yourself", close = true}\nend\n'
        'return deny("550 5.7.1 Not from outside")',
        "",
    ),
    _verdict("defer(reply?: string)", f"Not now (4xx): the client comes again. {_REPLY}", "return defer()"),
    _verdict(
        "reply(reply: string)",
        "Answer this command with a 4xx or 5xx, change nothing, ask no other rule of the stage.",
        'return reply("450 4.7.1 Say that again")',
        "helo..data",
    ),
    _verdict(
        "quarantine(name: string)",
        "Take the mail and hold it for a person, under that name.",
        'return quarantine("suspicious")',
    ),
    _verdict("discard()", "Say yes and throw the mail away.", "return discard()"),
    _verdict(
        "relay()",
        "This recipient may be one of another server, whoever the client is; before rcpt: every recipient. Not a "
        "decision: the other rules are asked.",
        'if mail.client.ip == "192.0.2.7" then relay() end',
        "connect..rcpt",
    ),
]

OUTSIDE = [
    word(
        "log.debug(topic: string, message?: string)",
        "To the log, if it shows such detail: a message, or a topic and a message.",
        'log.debug("looking")',
    ),
    word(
        "log.info(topic: string, message?: string)",
        "To the log, with mail, stage and line: a message, or a topic and a message. [log] rules names a file of its "
        "own for what rules say.",
        'log.info("sent by " .. mail.sender)\nlog.info("newsletter", "from " .. mail.sender)',
    ),
    word(
        "log.warning(topic: string, message?: string)",
        "To the log, as a warning: a message, or a topic and a message.",
        'log.warning("odd")',
    ),
    word(
        "log.error(topic: string, message?: string)",
        "To the log, as an error: a message, or a topic and a message.",
        'log.error("lists", "the list is empty")',
    ),
    word(
        "config: table",
        "The settings, read-only: config.SECTION.NAME, your own in config.app. Durations are seconds, sizes bytes. "
        "Services, replies and passwords are not in it.",
        'assert(config.smtp.max_size > 0 and config.app.owner == "postmaster@example.test")',
    ),
    word(
        "replies: table",
        "Replies by name, from the server and from [replies] in the settings: text for deny, defer and their kin.",
        "if not mail.tls then return deny(replies.relay_denied) end",
    ),
    word("print(...: any)", "To the log, as log.info does.", 'print("size", mail.size)', kind="library"),
    word(
        "json.encode(value: any) -> string",
        "A value as JSON: a table is a list without gaps, or has names as keys. An empty one is an object. mail.vars "
        "are a table, addresses are text.",
        'assert(json.encode({ 1, "two", { yes = true } }) == \'[1,"two",{"yes":true}]\')',
        kind="library",
    ),
    word(
        "require(name: string) -> any",
        'A module of rules/ or of the standard library: require "words.greeting" reads rules/words/greeting.lua. '
        "Only at the top of a file.",
        'assert(pcall(require, "greeting") == false)',
        kind="library",
    ),
]

WORDS: dict[str, Word] = {
    w.name: w
    for w in [
        *(*STAGE_WORDS, *FACTS, *HEADERS, *VERDICTS, *CONTENT, *ANSWERED),
        *(*MAIL_SIGNING, *ROUTING, *EXPORTING, *OUTSIDE, *LIBRARY),
    ]
}


# -- what an error says about a word -----------------------------------------------------------------------------------


def span(stages: frozenset[str]) -> str:
    """ "rcpt and later", "helo to data", "rcpt and delivery"."""
    numbers = sorted(NUMBER[stage] for stage in stages)
    names = [STAGES[n] for n in numbers]
    if numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2:
        return f"{names[0]} and later" if names[-1] == STAGES[-1] else f"{names[0]} to {names[-1]}"
    return " and ".join(names)


def unknown(thing: str, key: str, stage: str | None) -> str:
    """Why `thing.key` cannot be had: too early, or there is none of that name."""
    known = WORDS.get(f"{thing}.{key}") or WORDS.get(f"{thing}:{key}")
    if known is not None and stage is not None and known.kind in ("field", "method"):
        first = min(known.stages, key=lambda s: NUMBER[s])
        if NUMBER[stage] < NUMBER[first]:
            return f"{known.name} is not known before {first}"
        return f"{known.name} is known at {span(known.stages)} only"
    if thing == "on":
        near = get_close_matches(key, STAGES, 1, 0.5)
        return f"there is no stage {key}" + (
            f"; did you mean {near[0]}?" if near else f" (stages: {', '.join(STAGES)})"
        )
    length = len(thing) + 1
    names = [n[length:] for n in WORDS if n.startswith((f"{thing}.", f"{thing}:")) and "." not in n[length:]]
    names = [n for n in names if ":" not in n]
    near = get_close_matches(key, names, 1, 0.5)
    return f"{thing}.{key} does not exist" + (f"; did you mean {thing}.{near[0]}?" if near else "")


def wrong_stage(name: str, stage: str) -> str:
    return f"{name}() cannot be used at {stage}: it is for {span(WORDS[name].stages)}"


def nearest(name: str) -> str | None:
    """The word a misspelt global may have meant."""
    near = get_close_matches(name, {w.partition(".")[0] for w in WORDS}, 1, 0.6)
    return near[0] if near else None
