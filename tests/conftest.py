"""What all tests stand on: the standard library patched for gevent, as in the running server, and the --long switch."""

from gevent import monkey

monkey.patch_all()

import pytest  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the long rounds (fuzz, crash, soak)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="a long round: give --long"))
