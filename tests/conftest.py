"""For all tests: a machine that is slower than usual has more time for each."""

from __future__ import annotations

import pytest

from tests.slowness import patience


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("timeout") is not None:  # somebody has said how long
        return
    limit = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(patience(float(marker.args[0]) if marker else limit)), append=False)
