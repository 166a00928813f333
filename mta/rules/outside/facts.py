"""What rules may know of the settings: `config`, without secrets, and `replies`, texts by name."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, NamedTuple

from mta.settings import Settings

# The replies rules have by name; [replies] changes their words, and adds others.
STANDARD: dict[str, str] = {
    "denied": "554 5.7.1 Refused by a rule of this server",
    "later": "450 4.7.1 Not now, try again later",
    "relay_denied": "554 5.7.1 Relay access denied",
    "unknown_account": "550 5.1.1 No such user here",
    "greylisted": "451 4.7.1 Greylisted, please try again in a few minutes",
    "too_many": "450 4.7.1 Too many mails, please try again later",
    "listed": "554 5.7.1 Your address is on a block list",
    "several_domains": "451 4.3.0 Several destination domains in one mail; please send again for the others",
    "attachment": "550 5.7.1 A file in this mail is of a kind we do not take",
    "virus": "550 5.7.1 A virus was found in this mail",
    "dkim_missing": "550 5.7.20 No passing DKIM signature was found",  # RFC 7372 3.1
    "dkim_unacceptable": "550 5.7.21 No acceptable DKIM signature was found",
    "dkim_unmatched": "550 5.7.22 No valid DKIM signature matches the author",
    "spf_failed": "550 5.7.23 SPF validation failed",  # RFC 7372 3.2
    "spf_error": "550 5.7.24 SPF validation error",
    "spf_later": "451 4.7.24 SPF validation error, please try again later",
    "reverse_dns_failed": "550 5.7.25 Reverse DNS validation failed",  # RFC 7372 3.3
    "authentication_failed": "550 5.7.26 Multiple authentication checks failed",  # RFC 7372 3.4
    "sender_null_mx": "550 5.7.27 The sender's domain takes no mail",  # RFC 7505 4.2
    "recipient_null_mx": "556 5.1.10 The recipient's domain takes no mail",  # RFC 7505 4.1
}

_SECRET = ("service", "replies")  # arguments and environment of services hold what rules need not know
_CREDENTIALS = re.compile(r"//[^/@]*@")


class Facts(NamedTuple):
    """`config`: sections of plain values; `replies`: name -> reply."""

    config: dict[str, Any]
    replies: dict[str, str]

    def unsaid(self) -> dict[str, str]:
        """What deny() and defer() say without words of their own, where [replies] has others than ours."""
        plain = {"deny": "denied", "defer": "later"}
        said = {kind: self.replies.get(name, STANDARD[name]) for kind, name in plain.items()}
        return {kind: text for kind, text in said.items() if text != STANDARD[plain[kind]]}

    def texts(self) -> tuple[str, str]:
        """Both as JSON in ASCII, for Lua."""
        return _text(self.config), _text(self.replies)


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def of(settings: Settings) -> Facts:
    config = {key: value for key, value in dataclasses.asdict(settings).items() if key not in _SECRET}
    config["service"] = list(settings.service)
    return Facts(_clean(config), {**STANDARD, **settings.replies})


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return _CREDENTIALS.sub("//", value) if isinstance(value, str) else value


NOTHING = Facts({}, STANDARD)
