"""Calls and functions as tests need them, with everything that does not matter filled in.

Not here: anything that asserts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from quilt_fn.model.common import new_id
from quilt_fn.model.function import FunctionCreate, FunctionRecord
from runtime.api import Call
from tests.slowness import patience

TENANT = "default"


def call(body: bytes = b"{}", timeout_s: float = 30.0, **fields: Any) -> Call:
    """One invocation of `body`, due in `timeout_s`."""
    return Call(new_id("inv"), "json", body, time.time() + timeout_s, **fields)


def create(name: str = "hello", **fields: Any) -> FunctionCreate:
    """What a client would send to make a function."""
    return FunctionCreate.model_validate({"name": name, "handler": "main:handler", "source": "x = 1"} | fields)


async def deployed(platform: Any, name: str = "hello", **fields: Any) -> FunctionRecord:
    """A function that serves."""
    record = await platform.create(TENANT, create(name, **fields))
    return await platform.deploy(TENANT, record.function_id)  # type: ignore[no-any-return]


async def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Return once `condition()` holds; fails after `limit_s`."""
    async with asyncio.timeout(patience(limit_s)):
        while not condition():  # noqa: ASYNC110 - any condition of the test's, not an event
            await asyncio.sleep(0.002)
