"""What all tests stand on: the standard library patched for gevent, as in the running server, `--long`, and `needs`.

    @pytest.mark.needs("postfix", "swaks")      programs of Debian that must be here
    @pytest.mark.needs("postfix", root=True)    and the right to start them
    @pytest.mark.needs(ipv6=True)               the address ::1

A test whose programs are missing is skipped with a word on what to install. With CI=true in the environment whatever
skips fails instead, but for the long rounds, so that no proof disappears unnoticed from the machine that is to give it.
"""

from gevent import monkey

monkey.patch_all(os=False, signal=False)  # gevent's os.close closes a folder or a pipe at some later turn of the loop

import os  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import ssl  # noqa: E402
from collections.abc import Generator  # noqa: E402
from typing import Any  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# Who starts us in the background makes us deaf to Ctrl-C, and every program we start: their tests would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs whose package has another name.
_PACKAGES = {
    "smtp-sink": "postfix",
    "smtp-source": "postfix",
    "gpg": "gnupg",
    "systemd-analyze": "systemd",
    "doveadm": "dovecot-core",
}
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where servers live; not on everyone's path

# A run tries the same examples everywhere; the long one looks for new ones.
hypothesis.settings.register_profile("short", deadline=None, max_examples=100, derandomize=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=5000, derandomize=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the long rounds (fuzz, crash, soak)")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="a long round: give --long"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        missing = [name for name in mark.args if not shutil.which(name, path=_PATH)]
        if missing:
            packages = dict.fromkeys(_PACKAGES.get(name, name) for name in missing)
            pytest.skip(f"needs {', '.join(missing)}: apt-get install {' '.join(packages)}")
        if mark.kwargs.get("root") and os.geteuid() != 0:
            pytest.skip("needs root")
        if mark.kwargs.get("ipv6") and not _ipv6():
            pytest.skip("needs IPv6: this machine has no ::1")


def _ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if "long" not in item.keywords or item.config.getoption("--long"):
        _no_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _no_skip(report)
    return report


def _no_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI") == "true":
        assert isinstance(report.longrepr, tuple)
        report.outcome, report.longrepr = "failed", f"{report.longrepr[2]}: in CI nothing may skip (.ci/run)"


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """What a made-up server of somebody else needs for TLS."""
    from fake_smtp import certificate

    from mta.net.tls import server_context

    return server_context(*certificate(tmp_path_factory.mktemp("tls")))


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The events the test has caused so far, each with its fields."""
    from mta import log

    seen: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(log, "event", lambda event, **fields: seen.append((event, fields)))
    return seen
