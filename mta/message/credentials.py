"""What a client shows to be let in, and how its password stays out of whatever is written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

HIDDEN = "***"


@dataclass(frozen=True)
class Credentials:
    """`user` is as the client wrote it, `identity`, whom it wants to act as, empty or the same. repr() shows no
    password."""

    mechanism: str
    user: str
    password: str = field(repr=False)
    identity: str = ""

    def hide(self, value: Any) -> Any:
        """A text without the password; a list, tuple or dict with such texts. Anything else is as it was."""
        if isinstance(value, str):
            for form in self._forms:
                value = value.replace(form, HIDDEN)
            return value
        if isinstance(value, list | tuple):
            return type(value)(map(self.hide, value))
        if isinstance(value, dict):
            return {self.hide(key): self.hide(one) for key, one in value.items()}
        return value

    @cached_property
    def _forms(self) -> list[str]:
        """The password as text and as rules have it (bytes in disguise), plain and as Python, JSON and Lua quote it."""
        if not self.password:
            return []
        forms: set[str] = set()
        for text in (self.password, self.password.encode().decode("latin-1")):
            forms |= {text, repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        return sorted(forms, key=len, reverse=True)
