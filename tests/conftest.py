"""What all tests stand on: the standard library patched for gevent, as in the running server, `--long`, and `needs`.

    @pytest.mark.needs("postfix", "swaks")      programs of Debian that must be here
    @pytest.mark.needs("postfix", root=True)    and the right to start them

A test whose programs are missing is skipped with a word on what to install. With CI=true in the environment it fails
instead, so that no proof disappears unnoticed from the machine that is to give it.
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import shutil  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# Programs whose package has another name.
_PACKAGES = {
    "smtp-sink": "postfix",
    "smtp-source": "postfix",
    "gpg": "gnupg",
    "systemd-analyze": "systemd",
    "doveadm": "dovecot-core",
}
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where servers live; not on everyone's path

hypothesis.settings.register_profile("short", deadline=None, max_examples=100)
hypothesis.settings.register_profile("long", deadline=None, max_examples=5000)


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
        if missing and os.environ.get("CI") == "true":
            pytest.fail(f"not installed here: {', '.join(missing)} (.ci/run installs them)", pytrace=False)
        if missing:
            packages = dict.fromkeys(_PACKAGES.get(name, name) for name in missing)
            pytest.skip(f"needs {', '.join(missing)}: apt-get install {' '.join(packages)}")
        if mark.kwargs.get("root") and os.geteuid() != 0:
            pytest.skip("needs root")
