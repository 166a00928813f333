"""What conftest.py does with tests that would skip: where CI=true stands, nothing may, but the long rounds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

TESTS = {
    "test_several.py": """
import pytest

@pytest.mark.needs("no-such-program-here")
def test_a_program(): pass

@pytest.mark.skipif(True, reason="no such kernel")
def test_a_condition(): pass

def test_in_the_middle(): pytest.skip("no such machine")

@pytest.mark.long
def test_a_long_round(): pass

def test_nothing_special(): pass
""",
    "test_whole.py": 'import pytest\npytest.importorskip("no_such_module_here")\ndef test_it(): pass\n',
}


def test_what_is_closed_is_closed() -> None:
    """Not so with gevent's os.close: a lock on a folder would live until the loop's next turn."""
    folder = os.open(HERE, os.O_RDONLY)
    os.close(folder)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(folder)


@pytest.mark.parametrize(
    ("ci", "counts", "code"),
    [("true", "1 failed, 1 passed, 1 skipped, 3 errors", 1), ("", "1 passed, 5 skipped", 0)],
)
def test_a_skip_is_a_failure_in_ci(tmp_path: Path, ci: str, counts: str, code: int) -> None:
    (tmp_path / "tests").mkdir()
    for path in (HERE / "conftest.py", HERE.parent / "setup.cfg"):
        shutil.copy(path, tmp_path / path.relative_to(HERE.parent))
    for name, text in TESTS.items():
        (tmp_path / "tests" / name).write_text(text, "utf-8")
    words = ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert counts in done.stdout and done.returncode == code, done.stdout + done.stderr
    if ci:
        assert "apt-get install no-such-program-here: in CI nothing may skip" in done.stdout
