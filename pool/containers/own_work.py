"""Work on containers that goes on by itself, beside the requests: it ends with this node.

Not here: what is done (`lifecycle`, `main_command`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from pool import tasks
from quilt_fn.errors import QuiltError

log = logging.getLogger(__name__)


class OwnWork:
    """Tasks of one node's containers."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._returning: Counter[str] = Counter()

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """What it raises of ours is logged."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(_logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def begin_return(self, container_id: str, work: Coroutine[Any, Any, None], name: str) -> None:
        """Of a container whose command has just ended, or its init: `work` may start them again."""
        self._returning[container_id] += 1

        def over(_task: object) -> None:
            self._returning[container_id] -= 1
            if not self._returning[container_id]:
                del self._returning[container_id]

        self.begin(work, f"{container_id}: {name}").add_done_callback(over)

    def returns(self, container_id: str) -> bool:
        """Whether work is under way that may start it, or its command, again."""
        return bool(self._returning[container_id])

    async def close(self) -> None:
        """End all of it. Containers run on."""
        await tasks.end(self._tasks)


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except QuiltError as error:
        log.warning("%s: %s", name, error.message)
