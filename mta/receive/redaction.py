"""What is left out of a capture, so that people may read it: local parts, names of users, the bodies of mails. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from mta.message.headers import end_of

_ADDRESS = re.compile(r'("[^"\r\n@]{1,64}"|[\w.!#$%&\'*+/=?^`{|}~-]{1,64})@(?=[A-Za-z0-9\[])')


def redacted(record: dict[str, Any], level: str, secret: bytes) -> dict[str, Any]:
    """The record without what nobody is to read. A local part has the same pseudonym wherever it stands."""
    if level == "none":
        return record
    if level == "body":
        mails = record["mails"]
        bare = [None if mail is None else header_of(mail.encode("latin-1")).decode("latin-1") for mail in mails]
        record = {**record, "mails": bare, "whole": [False] * len(bare)}
    record = _users_hidden(record, secret)

    def stand_in(found: re.Match[str]) -> str:
        return _pseudonym(found[1].strip('"'), secret) + "@"

    def without(value: Any) -> Any:
        if isinstance(value, str):
            return _ADDRESS.sub(stand_in, value) if "@" in value else value
        if isinstance(value, dict):
            return {without(key): without(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [without(one) for one in value]
        return value

    made: dict[str, Any] = without(record)
    return {**made, "redacted": level}


def _users_hidden(record: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """The record without the names of users that are no addresses."""

    def stand_in(user: str) -> str:
        return user if "@" in user or not user else _pseudonym(user, secret)

    def named(entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "user": stand_in(entry["user"])} if "user" in entry else entry

    said = [[line[0], stand_in(line[1]), *line[2:]] if line[0] == "LOGIN" else line for line in record["transcript"]]
    verdicts = [named(entry) for entry in record["verdicts"]]
    return {**record, "client": named(record["client"]), "transcript": said, "verdicts": verdicts}


def _pseudonym(local_part: str, secret: bytes) -> str:
    if local_part.lower() in ("postmaster", "abuse"):  # names of an office
        return local_part
    return "x" + hashlib.blake2s(local_part.lower().encode("utf-8", "replace"), key=secret, digest_size=5).hexdigest()


def header_of(content: bytes) -> bytes:
    """The header alone, with its empty line."""
    return content[: end_of(content)[0]] + b"\r\n"
