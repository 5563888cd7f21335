"""The first API key: given by QUILT_API_KEY, or made once and kept in the user's own config, by the platform's URL.

Not here: the file's form (`quilt_fn.credentials`), and the keys that the platform itself keeps (pool).
"""

from __future__ import annotations

import secrets
from pathlib import Path

from quilt_fn import credentials
from quilt_fn.settings import Settings


def first_key(settings: Settings) -> tuple[str, Path | None]:
    """The key that the node accepts from the start, and the file that keeps it (None: it came from QUILT_API_KEY)."""
    if settings.api_key:
        return settings.api_key, None
    key = credentials.lookup(settings.base_url)
    if key is None:
        key = f"quilt_sk_{secrets.token_hex(16)}"
        credentials.store(settings.base_url, key)
    return key, credentials.file_path()
