"""How many instructions a worker needs for a mail: `python tests/bench/instructions.py`, about a minute a line.

On a noisy machine times tell nothing below 10 %. valgrind counts what the worker's own code executes, not the kernel's,
and repeats within 0.3 %: two runs, 200 and 1,200 mails as in compare.py, and the difference of their counts.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare import CONFIG, RULES, free_port
from load import family, source

TREE = Path(__file__).parents[2]
FEW, MANY = 200, 1200


def count(mails: int, keep: bool) -> int:
    """Instructions of the worker from its start to its end. Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "rules").mkdir()
        (folder / "rules" / "main.lua").write_text(RULES)
        (folder / "mta.toml").write_text(CONFIG.format(port=port, workers=1))
        words = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/%p.out", sys.executable, "-m", "mta"]
        with open(folder / "output", "w+") as output:
            server = subprocess.Popen(
                [*words, "serve", "-c", str(folder / "mta.toml")],
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(TREE), "PYTHONHASHSEED": "1"},
            )
            try:
                until = time.monotonic() + 120
                while "taking mail" not in (folder / "output").read_text():
                    if server.poll() is not None or time.monotonic() > until:
                        raise RuntimeError((folder / "output").read_text())
                    time.sleep(0.5)
                source(port, mails, sessions=20, size=4096, keep=keep)
                time.sleep(2)  # the queue is empty by then
                worker = max(family(server.pid))  # the youngest
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(60)
        found = re.search(r"^totals: (\d+)", (folder / f"{worker}.out").read_text(), re.M)
        if found is None:
            raise RuntimeError("valgrind left no count")
        return int(found[1])


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--only", choices=["c20", "d20"], help="a connection for each mail, or kept connections")
    only = words.parse_args().only
    for name, keep in (("c20", False), ("d20", True)):
        if only in (None, name):
            each = (count(MANY, keep) - count(FEW, keep)) // (MANY - FEW)
            print(f"{name}  {each:>9,} instructions a mail", flush=True)


if __name__ == "__main__":
    main()
