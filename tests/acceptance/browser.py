"""A headless Chromium, driven by its DevTools protocol over one websocket: open a page, type, read.

Not here: anything of what is tested. The browser is the distribution's; no driver and no download is needed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.slowness import patience

PATIENCE_S = patience(60.0)


def executable() -> str | None:
    """Where Chromium is, or None."""
    return next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws
        self._numbers = itertools.count(1)
        self.console: list[str] = []
        """What the page complained of."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._ws.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = json.loads((await self._ws.receive()).data)
                if message.get("id") == number:
                    assert "error" not in message, message
                    return dict(message["result"])
                if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                    self.console.append(json.dumps(message["params"]))

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The first true value of a JavaScript expression."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if found := await self.value(expression):
                    return found
                await asyncio.sleep(0.05)

    async def type(self, text: str) -> None:
        """Through the keyboard's way in; a newline is the enter key."""
        for character in text:
            if character == "\n":
                key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
                await self.call("Input.dispatchKeyEvent", type="keyDown", **key)
                await self.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter")
            else:
                await self.call("Input.insertText", text=character)


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A browser with a profile of its own, ended and removed afterwards."""
    program = executable()
    assert program is not None
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="quilt-browser-")
    process = await asyncio.create_subprocess_exec(
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port(Path(folder) / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as listed:
                tab = next(each for each in await listed.json() if each["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as ws:
                yield Page(ws)
    finally:
        process.terminate()
        await process.wait()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _port(path: Path) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if text := await asyncio.to_thread(_text, path):
                return int(text.split()[0])
            await asyncio.sleep(0.05)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
