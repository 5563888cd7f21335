"""The seal of secrets: its key's file, what it opens, and that nobody pays for it who has no secrets."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pool.sealing import SealBroken, Sealer

VALUES = {"A": "1", "\u00fc": "\ud83d\ude80".encode("utf-16", "surrogatepass").decode("utf-16")}


async def test_the_key_is_private_made_once_and_shared(tmp_path: Path) -> None:
    path = tmp_path / "node" / "secrets.key"
    sealed = await Sealer(path).seal(VALUES, "fn_1/1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["secrets.key"]
    assert await Sealer(path).open(sealed, "fn_1/1") == VALUES
    assert await Sealer(path).seal(VALUES, "fn_1/1") != sealed, "each time with a nonce of its own"


async def test_nothing_else_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    sealed = await Sealer(path).seal(VALUES, "fn_1/1")
    changed = sealed[:-8] + ("A" if sealed[-8] != "A" else "B") + sealed[-7:]
    for text, place in ((sealed, "fn_1/2"), (changed, "fn_1/1"), ("2:" + sealed[2:], "fn_1/1"), ("1:?", "fn_1/1")):
        with pytest.raises(SealBroken, match="update the function"):
            await Sealer(path).open(text, place)
    (tmp_path / "secrets.key").write_text("no key")
    with pytest.raises(SealBroken):
        await Sealer(path).open(sealed, "fn_1/1")
    path.unlink()
    with pytest.raises(SealBroken):
        await Sealer(path).open(sealed, "fn_1/1")
    assert not path.exists(), "no key is made where one is missing"


async def test_a_key_that_others_can_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    sealed = await Sealer(path).seal(VALUES, "fn_1/1")
    path.chmod(0o644)
    assert await Sealer(path).open(sealed, "fn_1/1") == VALUES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_library_is_imported_by_the_first_secret_only() -> None:
    code = "import sys, gateway.node; sys.exit('cryptography.hazmat' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
