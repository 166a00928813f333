"""`mta` as a person runs it: a process of its own in some folder, without a configuration of this machine in sight."""

import os
import subprocess
import sys
from pathlib import Path

from daemon import PATIENCE

TREE = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MTA_CONFIG"}
    return {**kept, "PYTHONPATH": str(TREE), **more}


def mta(*words: str, cwd: Path, code: int | None = 0, given: str = "") -> str:
    """All it says. It must end with `code`; None: with any."""
    done = subprocess.run(
        [sys.executable, "-m", "mta", *words],
        cwd=cwd,
        env=environment(),
        input=given,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert code is None or done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr
