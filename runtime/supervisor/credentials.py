"""The first API key: given by QUILT_API_KEY, or made once and kept in the user's own config, by the platform's URL.

Not here: the file's form (`quilt_fn.credentials`), and the keys that the platform itself keeps (pool).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quilt_fn import credentials
from quilt_fn.settings import Settings


@dataclass(frozen=True, slots=True)
class FirstKey:
    """`file` keeps it (None: it came from QUILT_API_KEY); `made` where it was not there before."""

    key: str
    file: Path | None = None
    made: bool = False


def first_key(settings: Settings) -> FirstKey:
    """The key that the node accepts from the start."""
    if settings.api_key:
        return FirstKey(settings.api_key)
    key = credentials.lookup(settings.base_url)
    if key is not None:
        return FirstKey(key, credentials.file_path())
    key = f"quilt_sk_{secrets.token_hex(16)}"
    return FirstKey(key, credentials.store(settings.base_url, key), made=True)


@contextmanager
def kept_when_up(settings: Settings) -> Iterator[tuple[FirstKey, Callable[[], None]]]:
    """The first key, and what to call when the platform is up: without that call no key stays that was made for it."""
    first = first_key(settings)
    is_up = False

    def keep() -> None:
        nonlocal is_up
        is_up = True

    try:
        yield first, keep
    finally:
        if first.made and not is_up:
            credentials.forget(settings.base_url)
