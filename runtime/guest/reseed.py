"""Makes a copy of a process differ from its siblings where it must: random numbers, uuid1, temporary names, OpenSSL.

Run in each instance, forked or restored, before hooks and user code. It cannot reach generators that user code made
for itself (random.Random(…), numpy.random.default_rng(…), torch's): an `after_restore` hook does that. The seed of str
hashing is fixed when Python starts, so siblings share it: it guards dicts against chosen keys, and identifies nothing.
`secrets`, os.urandom and uuid4 ask the kernel each time and need nothing: the template's filter sees to it that the C
library can't keep any of its bytes (`check_mappings` in init/filters.c).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def reseed(entropy: bytes) -> None:
    """Derive new state from `entropy` (≥ 32 bytes, never the same twice) for what is imported. Imports nothing."""
    if len(entropy) < 32:
        raise ValueError(f"entropy of {len(entropy)} bytes; at least 32 are needed")
    for name, renew in _SOURCES.items():
        module = sys.modules.get(name)
        if module is not None:
            renew(module, entropy)


def _random(random: Any, entropy: bytes) -> None:
    random.seed(b"random" + entropy)


def _numpy(mtrand: Any, entropy: bytes) -> None:
    """The legacy global generator, that of numpy.random.seed and its kin."""
    words = entropy[: len(entropy) // 4 * 4]
    mtrand.seed([int.from_bytes(words[i : i + 4], "little") for i in range(0, len(words), 4)])


def _uuid(uuid: Any, entropy: bytes) -> None:
    """uuid1 in pure Python with a random node: libuuid keeps its node, clock sequence and last time out of reach."""
    multicast = 1 << 40  # RFC 9562 §6.10: a node that is no network card's
    uuid._node = int.from_bytes(entropy[-6:], "big") | multicast
    uuid._generate_time_safe = None
    for name in ("_last_timestamp", "_last_timestamp_v6", "_last_timestamp_v7"):
        if hasattr(uuid, name):
            setattr(uuid, name, None)


def _tempfile(tempfile: Any, entropy: bytes) -> None:
    tempfile._name_sequence = None


def _multiprocessing(process: Any, entropy: bytes) -> None:
    """The key with which processes of one program know each other."""
    process.current_process().authkey = os.urandom(32)


def _openssl(ssl: Any, entropy: bytes) -> None:
    """OpenSSL notices a fork by itself, but not a restore; what is added here reseeds all of its generators."""
    ssl.RAND_add(b"openssl" + entropy, float(len(entropy)))


_SOURCES: dict[str, Callable[[Any, bytes], None]] = {
    "random": _random,
    "numpy.random.mtrand": _numpy,
    "uuid": _uuid,
    "tempfile": _tempfile,
    "multiprocessing.process": _multiprocessing,
    "_ssl": _openssl,
}
"""By the module that must have been imported for there to be something to renew."""
