"""The public suffix list: under which domains anybody may register a name."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


@functools.cache
def suffixes() -> PublicSuffixList:
    """The list that came with the package; read once a process (60 ms)."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=True)
