"""Settings from an environment: what is taken, and what is refused with the variable's name.

Not here: the page that tells them (test_setup_files, test_docs).
"""

from __future__ import annotations

from dataclasses import fields

import pytest

from quilt_fn import settings
from quilt_fn.errors import InvalidValue, exit_code


def test_each_number_has_a_range_and_its_default_is_within_it() -> None:
    numbers = {field.name: field.default for field in fields(settings.Settings) if field.type in ("int", "float")}
    assert numbers.keys() == settings.RANGES.keys()
    for name, default in numbers.items():
        least, most = settings.RANGES[name]
        assert least <= default <= most, name


@pytest.mark.parametrize(("name", "ends"), settings.RANGES.items())
def test_the_ends_of_a_range_are_taken_and_what_lies_beyond_is_refused(name: str, ends: tuple[int, int]) -> None:
    variable = f"QUILT_{name.upper()}"
    for end in ends:
        assert getattr(settings.read({variable: str(end)}), name) == end
    for beyond in (str(ends[0] - 1), str(ends[1] + 1), "nan", "inf", "-inf", "x", ""):
        with pytest.raises(InvalidValue, match=rf"^{variable} must be a .*from {ends[0]} to {ends[1]}") as refused:
            settings.read({variable: beyond})
        assert exit_code(refused.value) == 2


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1", "rediss://:word@host:6380/1", "unix:///run/redis.sock"])
def test_a_redis_url_is_taken(url: str) -> None:
    assert settings.read({"QUILT_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize("url", ["bogus", "http://host", "redis://", "redis://:word@host:99999", "unix://", "redis:/x"])
def test_what_is_no_redis_url_is_refused_and_its_password_not_shown(url: str) -> None:
    with pytest.raises(InvalidValue, match=r"^QUILT_REDIS_URL must be a URL that begins with redis://") as refused:
        settings.read({"QUILT_REDIS_URL": url})
    assert exit_code(refused.value) == 2
    assert "word" not in refused.value.message
