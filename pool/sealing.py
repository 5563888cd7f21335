"""Secrets as they lie in Redis: sealed with a key that is in a file of this node's, so that Redis, its append-only file
and copies of both do not give them away.

AES-256-GCM with a random nonce for each value. What is sealed is bound to its place (a function's version), and opens
at no other. Not here: who may see secrets in the node's memory. The library costs 0.1 s to import, which a platform
without secrets never does.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import orjson

log = logging.getLogger(__name__)

KEY_BYTES = 32
NONCE_BYTES = 12
FORMAT = "1:"
"""In front of base64 of nonce and sealed text."""


class SealBroken(Exception):
    """It can't be opened: another key's, another place's, or changed. The message is for the function's owner."""


class _Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class Sealer:
    """The key is made at the first seal, and read at the first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cipher: _Cipher | None = None

    async def seal(self, values: Mapping[str, str], place: str) -> str:
        """Raises OSError where the key can be neither read nor made."""
        cipher = self._cipher if self._cipher is not None else await asyncio.to_thread(self._ready, make=True)
        nonce = os.urandom(NONCE_BYTES)
        sealed = cipher.encrypt(nonce, orjson.dumps(dict(values)), place.encode())
        return FORMAT + base64.b64encode(nonce + sealed).decode()

    async def open(self, sealed: str, place: str) -> dict[str, str]:
        """Raises SealBroken."""
        try:
            cipher = self._cipher if self._cipher is not None else await asyncio.to_thread(self._ready, make=False)
            if not sealed.startswith(FORMAT):
                raise ValueError("it has a format of a later Quilt")
            raw = base64.b64decode(sealed.removeprefix(FORMAT), validate=True)
            plain = cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.encode())
        except Exception as error:  # of the library, of base64, of the file: each means the same
            log.error("%s does not open what is kept: %s", self.path, str(error) or type(error).__name__)
            raise SealBroken(
                "its secrets can't be opened with this node's key: put back secrets.key as it was and start the "
                "platform again, or update the function with all of its secrets"
            ) from error
        found: dict[str, str] = orjson.loads(plain)
        return found

    def _ready(self, *, make: bool) -> _Cipher:
        """Blocks."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if make and not self.path.exists():
            self._make()
        fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if os.fstat(fd).st_mode & 0o077:
                log.warning("others could read %s: it is made private now; give its functions new secrets", self.path)
                os.fchmod(fd, 0o600)
            key = bytes.fromhex(file.read().decode())
        self._cipher = cipher = AESGCM(key)
        return cipher

    def _make(self) -> None:
        """Whole and on disk when it has its name; of two that make one at once the first wins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_hex(KEY_BYTES) + "\n")
                file.flush()
                os.fsync(fd)
            try:
                os.link(fresh, self.path)
            except FileExistsError:
                log.info("%s was made by another process meanwhile", self.path)
        finally:
            fresh.unlink()
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
