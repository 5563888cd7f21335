"""Fixtures of the chaos tests: a platform of their own, because it is killed in parts and started again.

Not here: the faults themselves (each test file).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration import census
from tests.integration.conftest import assert_nothing_left, delete_all, settled
from tests.integration.live import Live, running


@pytest.fixture(scope="session")
def platform() -> Iterator[Live]:
    with running() as live:
        name = live.deploy("def handler(event): return event")
        live.call(name)
        live.delete(name)
        yield live


@pytest.fixture
def live(platform: Live) -> Iterator[Live]:
    """The platform; after each test every function is deleted, and nothing may be left that was not there before."""
    before = settled(platform)
    yield platform
    delete_all(platform)
    assert_nothing_left(platform, before, census.more)
