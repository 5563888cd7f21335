"""The node process, `python -m gateway.node`: settings, runtime, platform and HTTP put together, until SIGTERM.

The only place that knows every room's real class. Not here: redis-server and the spawner, which the supervisor starts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from gateway import logs
from gateway.server import bind, listening
from pool.api import Platform
from pool.platform import Platform as RealPlatform
from quilt_fn.errors import QuiltError
from quilt_fn.model.common import new_id
from quilt_fn.settings import Settings, read
from runtime.node import NodeRuntime

log = logging.getLogger("gateway.node")


@asynccontextmanager
async def real_platform(settings: Settings) -> AsyncIterator[Platform]:
    """Runtime and pool of this machine, started; closed in reverse, also where the second failed to start."""
    runtime = NodeRuntime(settings)
    await runtime.open()
    try:
        redis_url = settings.redis_url or f"unix://{settings.redis_socket}"
        platform = RealPlatform(settings, redis_url, runtime, node_id(settings))
        try:
            await platform.start()
            yield platform
        finally:
            await platform.close()
    finally:
        await runtime.close()


def node_id(settings: Settings) -> str:
    """This node's id: made once and kept in the state folder, so that a restart is the same node."""
    kept = Path(settings.node_dir) / "node_id"
    try:
        return kept.read_text().strip()
    except FileNotFoundError:
        made = new_id("node")
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".new")
        fresh.write_text(made + "\n")
        fresh.rename(kept)
        return made


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and close everything in reverse."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sock = bind(settings)
    try:
        async with real_platform(settings) as platform, listening(platform, settings, sock) as here:
            log.info("listening on %s", here.url)
            say_ready()
            await stop.wait()
            log.info("stopping: running requests get %g s", settings.shutdown_seconds)
    finally:
        sock.close()
    log.info("stopped")


def say_ready() -> None:
    """Tell whoever started us: `ready` on the descriptor that QUILT_READY_FD names, once."""
    text = os.environ.pop("QUILT_READY_FD", "")
    if text:
        fd = int(text)
        os.write(fd, b"ready\n")
        os.close(fd)


def main() -> int:
    """0 after a clean stop; 1 with one clear line where it could not start."""
    logs.configure()
    # Each instance takes five descriptors, and the soft limit is 1,024 where nobody raised it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        settings = read()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except QuiltError as exc:
        hint = f" ({exc.hint})" if exc.hint else ""
        print(f"quilt node: {exc.message}{hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
