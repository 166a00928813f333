"""The wheel as a stranger gets it: built, installed in an empty environment far from the tree, and started there.

Nothing is downloaded: the dependencies are seen through a .pth file, the program itself only through its wheel.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon import PATIENCE, free_ports

TREE = Path(__file__).parent.parent
SHIPPED = ["mta", "lua", "conf"]  # what must travel; `lua` and `conf` are the packages mta._lua and mta._conf
JUNK = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "build", "dist")


LONG = 5 * PATIENCE  # for pip


def environment() -> dict[str, str]:
    """Ours, with no trace of the tree in it."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV", "MTA_"))}


def run(*command: str | Path, cwd: Path) -> str:
    """What it says; it must succeed."""
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, f"{command} said:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no build folder is left in the tree."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for folder in SHIPPED:
        shutil.copytree(TREE / folder, source / folder, ignore=JUNK)
    for path in TREE.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--quiet"),
        *("--wheel-dir", place, source),
        cwd=place,
    )
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The bin folder of an environment that holds the wheel and sees our dependencies."""
    home = wheel.parent / "clean"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "--quiet", wheel),
        cwd=wheel.parent,
    )
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_everything_shipped_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = set()
    for folder, package in (("mta", "mta"), ("lua", "mta/_lua"), ("conf", "mta/_conf")):
        for path in (TREE / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts:
                wanted.add(f"{package}/{path.relative_to(TREE / folder).as_posix()}")
    assert not wanted - inside, "left behind: see packages and package_data in setup.cfg"
    assert not {name for name in inside if name.startswith("tests")}


def test_it_runs_from_its_own_place(installed: Path, tmp_path: Path) -> None:
    place = run(installed / "python", "-c", "import mta; print(mta.__file__)", cwd=tmp_path).strip()
    assert Path(place).is_relative_to(installed.parent), "the installed package, not the tree"


def test_help_reads(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "mta", "--help", cwd=tmp_path)
    for verb in ("dev", "serve", "status", "reload", "queue", "config"):
        assert verb in said


def test_every_module_can_be_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    said = run(
        installed / "python",
        "-c",
        "import importlib, pkgutil, mta\n"
        "for found in pkgutil.walk_packages(mta.__path__, 'mta.'):\n"
        "    if not found.name.endswith('__main__'): importlib.import_module(found.name)\n"
        "print('all')",
        cwd=tmp_path,
    )
    assert said.endswith("all\n")


def until(true: Callable[[], object], what: str) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.05)


def test_the_demo(installed: Path, tmp_path: Path) -> None:
    """What the README promises in sixty seconds: send, read, change the rule, be refused by it."""
    (port,) = free_ports(1)
    folder, mta = tmp_path / "mta-dev", installed / "mta"
    with (tmp_path / "said").open("w") as said:
        server = subprocess.Popen(
            [mta, "dev", "--port", str(port)], cwd=tmp_path, env=environment(), stdout=said, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: "taking mail" in (tmp_path / "said").read_text(), "a server that takes mail")
        assert "250 2.0.0" in run(mta, "send", "--to", "you@demo.test", "--subject", "hi", cwd=tmp_path)
        until(lambda: list(folder.glob("Maildir/new/*")), "the mail in the Maildir")
        (mail,) = folder.glob("Maildir/new/*")
        assert b"Subject: hi\n" in mail.read_bytes()
        until(lambda: "accepted" in run(mta, "log", cwd=tmp_path), "its line in the log")
        rules = 'on.rcpt("not today", function(mail) return deny("550 5.7.1 Come tomorrow") end)\n'
        (folder / "rules" / "main.lua").write_text(rules)
        again = [mta, "send", "--to", "you@demo.test", "--subject", "hi"]
        until(lambda: subprocess.call(again, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL), "a refusal")
        until(lambda: '"refused"' in (folder / "mta.log").read_text(), "its line in the log")
        refused = run(mta, "log", cwd=tmp_path)
        assert "550 5.7.1 Come tomorrow" in refused and "not today" in refused and "main.lua:1" in refused
    finally:
        server.terminate()
        assert server.wait(timeout=PATIENCE) == 0, (tmp_path / "said").read_text()
