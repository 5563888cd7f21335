"""Ending tasks that we own.

Not here: who owns which (each part of the pool keeps its own).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_AFTER_S = 1.0


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel all of them and wait for their ends, whatever those are.

    Again each second: a cancellation that comes in the same turn as the answer that was awaited can be lost on its way
    through a library (asyncio.wait_for up to Python 3.11, redis-py's own time limits), and who loops would then go on
    for ever.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=AGAIN_AFTER_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # seen: what ended it was said where it happened
