"""A file that is larger than what the platform may keep in memory.

Not here: what files are and are refused for (`test_volumes`).
"""

from __future__ import annotations

import contextlib
import http.client
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.integration import census
from tests.integration.live import ANSWER_TIMEOUT_S, Live
from tests.integration.volume_tools import MIB, volume

__all__ = ["volume"]

SIZE = 512 * MIB
"""More would show no more: what may be kept is an eighth of it."""
PIECE = bytes(4 * MIB)
MAY_GROW = 64 * MIB
LOOK_EVERY = 64 * MIB


def test_an_upload_takes_the_same_memory_whatever_its_size(live: Live, volume: Callable[..., str]) -> None:
    name = volume()
    before = {pid: resident for pid in census.processes(live) if (resident := _memory(pid, "VmRSS"))}
    for pid in before:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak from now on, whatever other tests did
    peaks: Counter[int] = Counter()
    path = f"/api/volumes/{name}/files/zeros"
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=ANSWER_TIMEOUT_S)
    try:
        body = _zeros(lambda: _look(live, peaks))
        connection.request("PUT", path, body, {"X-Api-Key": live.key, "Content-Length": str(SIZE)})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (201, b'{"path":"zeros","size":%d}' % SIZE)
        _look(live, peaks)
    finally:
        connection.close()
        live.ask("DELETE", path)
    assert {live.pid("node"), live.pid("spawner")} <= set(peaks)
    # Who is a fork of the spawner has at its begin what the spawner has.
    grown = {pid: peak - before.get(pid, before[live.pid("spawner")]) for pid, peak in peaks.items()}
    assert max(grown.values()) < MAY_GROW, {pid: f"{more / MIB:.0f} MiB" for pid, more in grown.items()}


def _zeros(look: Callable[[], None]) -> Iterator[bytes]:
    for sent in range(0, SIZE, len(PIECE)):
        if sent % LOOK_EVERY == 0:
            look()
        yield PIECE


def _look(live: Live, peaks: Counter[int]) -> None:
    """Put down the highest that each process of the platform has had."""
    peaks |= Counter({pid: _memory(pid, "VmHWM") for pid in census.processes(live)})


def _memory(pid: int, field: str) -> int:
    """Bytes; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
