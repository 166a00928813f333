"""Every event of the log once: its name, level, fields and meaning.

A line is one JSON object: `time` (RFC 3339, UTC, microseconds), `level`, `event`, then the fields below. `session` and
`mail` are ids; `reply` is the SMTP reply as text; `rule` and `where` (file:line) name the rule that decided.
"""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    level: str
    fields: str  # names, separated by spaces; any may be absent
    meaning: str


EVENTS: dict[str, Event] = {
    # receive
    "connected": Event("debug", "session client port listener", "A client connected."),
    "accepted": Event(
        "info",
        "session mail origin client helo sender recipients size tls user stage rule where held reply ms",
        "A mail is durably kept; `origin` is the mail it is a copy of, `held` says why it waits for a person.",
    ),
    "refused": Event(
        "info",
        "session mail client helo stage sender recipient recipients reply rule where reason",
        "A command, a recipient or a mail was refused.",
    ),
    "logged_in": Event(
        "info", "session client helo user mechanism tls rule where", "A client logged in: a rule accepted it."
    ),
    "closed": Event("debug", "session client reason mails ms", "A session ended."),
    "captured": Event("debug", "session file", "A session was written down for mta replay ([capture])."),
    "capture_failed": Event("warning", "reason lost", "Captures that could not be written; mail is not concerned."),
    "lost": Event("info", "session client stage reason", "A session ended without QUIT: timeout or reset."),
    # deliver
    "delivered": Event(
        "info",
        "mail sender recipient transport host attempts reply delay ms stage rule where",
        "A recipient was served.",
    ),
    "deferred": Event(
        "info",
        "mail sender recipient transport host attempts reply next_try reason stage rule where",
        "A recipient could not be served now; it will be tried again.",
    ),
    "failed": Event(
        "warning",
        "session mail origin sender recipient transport host attempts reply reason stage rule where",
        "A recipient can never be served.",
    ),
    "bounced": Event("info", "mail bounce sender recipients", "The sender is told, by the mail whose id is `bounce`."),
    "dropped": Event("warning", "mail sender recipients reason", "A mail ended with nobody to tell."),
    "discarded": Event("info", "mail session sender recipients stage rule where reason", "A rule threw a mail away."),
    "held": Event("warning", "mail sender recipients reason stage rule where", "A mail waits for a person."),
    "released": Event("info", "mail sender recipients held", "A person let a held mail go; it was held as `held`."),
    "retried": Event("info", "mail sender recipients", "A person had a mail tried again at once."),
    "deleted": Event("warning", "mail sender recipients held", "A person deleted a mail."),
    "postponed": Event(
        "info",
        "session mail sender recipients next_try stage rule where",
        "A rule holds recipients of a mail until a time.",
    ),
    # rules
    "rule_failed": Event("error", "session mail stage rule where error traceback", "A rule raised an error."),
    "judged": Event(
        "debug",
        "session mail stage file rules asked changed",
        "The rules of a stage spoke: `rules` are [name, where, verdict, microseconds] in order; `asked` are [word, "
        "what was given, answer]; `changed` is what they did to the mail.",
    ),
    "rules_loaded": Event("info", "pid version files", "A worker has these rules in force from now on."),
    "rule_log": Event("info", "session mail stage rule where topic message", "A rule said something."),
    "rule_debug": Event("debug", "session mail stage rule where topic message", "A rule said something, as log.debug."),
    "rule_warning": Event(
        "warning", "session mail stage rule where topic message", "A rule said something, as log.warning."
    ),
    "rule_error": Event("error", "session mail stage rule where topic message", "A rule said something, as log.error."),
    "list_loaded": Event("info", "list entries", "A list that changed was read again."),
    "list_rejected": Event("error", "list error", "A list that changed cannot be used; the old content stays."),
    # store
    "store_recovered": Event("info", "keys changes ms", "The store was read from its files."),
    "store_damaged": Event("error", "file offset size", "Bytes of the store that are no record were stepped over."),
    "store_failed": Event("error", "reason", "The store cannot be written; what rules ask of it fails."),
    "service_called": Event(
        "debug", "session mail stage rule where service code signal ms", "A rule asked a service and had its answer."
    ),
    "service_failed": Event(
        "error",
        "session mail stage rule where service code signal ms reason said fault",
        "A service could not be asked; `said` is what it wrote to stderr, `fault` what its setting decides.",
    ),
    # spool
    "spool_recovered": Event("info", "writer mails bytes ms", "A folder left by another process was taken over."),
    "spool_damaged": Event("error", "writer segment offset reason", "Bytes that are no record were stepped over."),
    "spool_failed": Event("error", "reason", "Writing to the spool failed; what was waiting got 451 or 452."),
    # processes
    "started": Event("info", "pid workers version listeners", "The server takes mail."),
    "stopping": Event("info", "pid reason", "The server finishes open work and ends."),
    "stopped": Event("info", "pid", "The server ended."),
    "worker_started": Event("info", "worker pid generation", "A worker takes mail."),
    "worker_stopped": Event("info", "worker pid generation", "A worker finished its work and ended."),
    "worker_died": Event("error", "worker pid status", "A worker died; another takes its place and its mail."),
    "worker_stuck": Event("error", "worker pid seconds", "A worker gave no sign of life and was killed."),
    "reloaded": Event("info", "what generation", "New settings or rules are in force."),
    "reload_failed": Event("error", "error", "A reload was refused; nothing has changed."),
    "certificate_ages": Event(
        "warning", "certificate reason", "A certificate has expired or soon will; told once a day, mail goes on."
    ),
    "bug": Event("error", "session mail stage error traceback", "Our own mistake; the mail is kept."),
    "library": Event("info", "logger message exc_info", "A library we use said something."),
    "log_lost": Event("error", "lines reason", "Log lines that could not be written."),
}
