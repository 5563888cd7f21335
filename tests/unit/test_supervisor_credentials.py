"""The first key of a platform: whose it is, and that none stays of a platform that did not come up."""

from __future__ import annotations

from pathlib import Path

import pytest

from quilt_fn import credentials
from quilt_fn.settings import Settings
from runtime.supervisor.credentials import kept_when_up

SETTINGS = Settings(port=8555)


@pytest.fixture(autouse=True)
def own_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_a_key_that_was_made_stays_where_the_platform_came_up() -> None:
    with kept_when_up(SETTINGS) as (first, keep):
        assert first.made and first.file == credentials.file_path()
        keep()
    assert credentials.lookup(SETTINGS.base_url) == first.key
    with pytest.raises(RuntimeError), kept_when_up(SETTINGS) as (again, _keep):
        raise RuntimeError
    assert credentials.lookup(SETTINGS.base_url) == again.key == first.key  # an older one is left alone


def test_no_key_stays_of_a_start_that_failed_or_was_broken_off() -> None:
    credentials.store("http://elsewhere", "other")
    with pytest.raises(RuntimeError), kept_when_up(SETTINGS) as (first, _keep):
        assert credentials.lookup(SETTINGS.base_url) == first.key
        raise RuntimeError
    assert credentials.lookup(SETTINGS.base_url) is None
    with kept_when_up(SETTINGS):
        pass
    assert credentials.lookup(SETTINGS.base_url) is None
    assert credentials.lookup("http://elsewhere") == "other"


def test_a_key_of_ones_own_is_in_no_file() -> None:
    with kept_when_up(Settings(api_key="own")) as (first, _keep):
        assert (first.key, first.file, first.made) == ("own", None, False)
