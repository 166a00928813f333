"""The accounts of the machine we run on, and of the directory it may ask."""

from __future__ import annotations

import pwd


def exists(name: str) -> bool:
    """Whether there is an account of that name. A directory may take its time: call it off the loop."""
    if not isinstance(name, str) or not name or len(name) > 256 or "\0" in name or "/" in name:
        return False
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: a name that cannot be written in this machine's encoding
        return False
    return True
