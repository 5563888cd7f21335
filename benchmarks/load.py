"""A load of some connections for some seconds, each sending its next request when the last was answered.

`python -m benchmarks.load PORT PATH CONNECTIONS SECONDS` (key in BENCH_KEY) prints `{"requests", "errors", "per_s"}`.
A process of its own, the same for the platform and its floor; not here: anything but counting.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import cast

import uvloop

from benchmarks.together import complete
from benchmarks.wire import request_bytes

BODY = b"{}"
WARM_UP_S = 0.5


class Connection(asyncio.Protocol):
    """Sends `data` again and again until `stop`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.answered = self.errors = 0
        self.stopping = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._got = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own has no such base
        self._transport.write(self.data)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not complete(self._got):
            return
        self.answered += 1
        self.errors += not self._got.startswith(b"HTTP/1.1 200")
        self._got = b""
        assert self._transport is not None
        if self.stopping:
            self._transport.close()
        else:
            self._transport.write(self.data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.stopping:
            self.errors += 1
        if not self.ended.done():
            self.ended.set_result(None)


async def load(port: int, path: str, connections: int, seconds: float, key: str) -> dict[str, float]:
    """Requests answered in `seconds`, after a warm-up that is not counted."""
    loop = asyncio.get_running_loop()
    data = request_bytes("POST", path, BODY, {"X-Api-Key": key, "Content-Type": "application/json"})
    made = [await loop.create_connection(lambda: Connection(data), "127.0.0.1", port) for _ in range(connections)]
    everyone = [protocol for _, protocol in made]
    await asyncio.sleep(WARM_UP_S)
    before, begun = sum(c.answered for c in everyone), time.perf_counter()
    await asyncio.sleep(seconds)
    count, took = sum(c.answered for c in everyone) - before, time.perf_counter() - begun
    for connection in everyone:
        connection.stopping = True
    await asyncio.wait_for(asyncio.gather(*(c.ended for c in everyone)), 30.0)
    return {"requests": count, "errors": sum(c.errors for c in everyone), "per_s": count / took}


if __name__ == "__main__":
    port, path, connections, seconds = sys.argv[1:5]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(load(int(port), path, int(connections), float(seconds), os.environ.get("BENCH_KEY", "")))
    print(json.dumps(found))
