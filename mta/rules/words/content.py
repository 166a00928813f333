"""All words about the mail's own content and envelope, and what answers them."""

from __future__ import annotations

from typing import Any

from mta.rules.words import signing
from mta.rules.words.changing import CHANGING
from mta.rules.words.envelope import ENVELOPE_WORDS
from mta.rules.words.headers import HEADER_TEXT, HEADER_WORDS, PLAIN
from mta.rules.words.parts import FIELD, PART_FIELDS, READING
from mta.rules.words.word import Word

_INNER = [*READING, *CHANGING, *HEADER_WORDS, *ENVELOPE_WORDS]

CONTENT: list[Word] = [
    *PART_FIELDS,
    *(declared for declared, _ in _INNER),
    *signing.PART_SIGNING,
    *(declared for declared, _ in HEADER_TEXT),
]


def bound() -> dict[str, Any]:
    """What answers each of them, by its name."""
    answers: dict[str, Any] = {declared.name: answer for declared, answer in [*_INNER, *HEADER_TEXT]}
    return {**answers, **signing.bound(), **PLAIN, "part.field": FIELD}
