"""API keys by platform in the user's own config: $XDG_CONFIG_HOME/quilt/credentials.json, mode 0600.

Not here: which keys a platform accepts. The file is `{base_url: {"api_key": key}}`; `quilt up` writes the first one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quilt_fn.errors import InvalidValue


def file_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the credentials are: below $XDG_CONFIG_HOME, by default ~/.config."""
    env = os.environ if environ is None else environ
    base = env.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path("~/.config").expanduser()) / "quilt" / "credentials.json"


def lookup(base_url: str, path: Path | None = None) -> str | None:
    """The API key kept for the platform at `base_url`. Raises InvalidValue where the file is not what it should be."""
    entry = _read(path or file_path()).get(_normal(base_url))
    key = entry.get("api_key") if isinstance(entry, dict) else None
    return key if isinstance(key, str) else None


def store(base_url: str, api_key: str, path: Path | None = None) -> Path:
    """Keep `api_key` for `base_url`, replacing the file in one step; answers its path."""
    target = path or file_path()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    entries = _read(target)
    entries[_normal(base_url)] = {"api_key": api_key}
    _write(target, entries)
    return target


def forget(base_url: str, path: Path | None = None) -> None:
    """Drop what is kept for `base_url`; nothing happens where nothing is."""
    target = path or file_path()
    entries = _read(target)
    if entries.pop(_normal(base_url), None) is not None:
        _write(target, entries)


def _normal(base_url: str) -> str:
    return base_url.rstrip("/")


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidValue(f"the credentials in {path} cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise InvalidValue(f"the credentials in {path} are not a JSON object by platform URL")
    return entries


def _write(path: Path, entries: dict[str, Any]) -> None:
    # mkstemp makes the file with mode 0600 from the start: at no moment can another user read the key.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".credentials-")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(entries, file, indent=2, sort_keys=True)
            file.write("\n")
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
