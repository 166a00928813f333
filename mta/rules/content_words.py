"""All words about the mail's own content and envelope, and what answers them."""

from __future__ import annotations

from typing import Any

from mta.rules.envelope_words import ENVELOPE_WORDS
from mta.rules.header_words import HEADER_TEXT, HEADER_WORDS, PLAIN
from mta.rules.part_words import FIELD, PART_FIELDS, PART_PROTECTION, PART_WORDS
from mta.rules.word import Word

_INNER = [*PART_WORDS, *HEADER_WORDS, *ENVELOPE_WORDS]

CONTENT: list[Word] = [
    *PART_FIELDS,
    *(declared for declared, _ in [*_INNER, *PART_PROTECTION, *HEADER_TEXT]),
]


def bound() -> dict[str, Any]:
    """What answers each of them, by its name."""
    answers: dict[str, Any] = {declared.name: answer for declared, answer in [*_INNER, *PART_PROTECTION, *HEADER_TEXT]}
    return {**answers, **PLAIN, "part.field": FIELD}
