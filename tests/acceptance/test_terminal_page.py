"""The terminal's page in a real browser: it attaches, a command is typed, its output is read, nothing leaks.

Over a real init and a real gateway; the platform between them is the fake of the gateway's tests.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from pool.terminals import Terminals
from tests.acceptance.browser import browser, executable
from tests.fakes_gateway.http import serving
from tests.fakes_gateway.platform import FakePlatform
from tests.integration.serve import Served
from tests.integration.test_commands import OneContainer

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a container needs root"),
    pytest.mark.skipif(executable() is None, reason="no Chromium is installed: apt-get install chromium"),
]

TEXT = "document.querySelector('.xterm-rows').innerText"
STATE = "document.getElementById('state').innerText"


async def test_a_command_is_typed_and_its_output_is_read() -> None:
    served = await asyncio.to_thread(Served)
    link = served.link()
    platform = FakePlatform()
    platform.terminals = Terminals(OneContainer(link))
    try:
        async with serving(platform) as http, browser() as page:
            body = {"container_id": "ctr_1", "shell": "/bin/sh", "environment": {"PS1": "ready> "}}
            record = (await http("POST", "/api/terminal/sessions", json=body)).json
            await page.open(http.url + record["page_url"])
            await page.until(f"document.querySelector('.xterm-rows') && {TEXT}.includes('ready>')")
            assert await page.value("location.href") == f"{http.url}/terminal/{record['session_id']}"
            assert await page.value("localStorage.length + sessionStorage.length + document.cookie.length") == 0
            await page.type("echo it w$((0))rks; stty size\n")
            await page.until(f"{TEXT}.includes('it w0rks')")
            columns = platform.terminals.get("t1", record["session_id"]).cols
            assert columns != 80  # fitted to the window
            await page.until(f"/\\d+ {columns}\\b/.test({TEXT})")
            await page.type("exit 5\n")
            assert "exit code 5" in await page.until(f"{STATE}.includes('ended') && {STATE}")
            await page.open(f"{http.url}/terminal/{record['session_id']}")  # without its ticket
            assert await page.until("!document.getElementById('ask').hidden") is True
            assert not [line for line in page.console if "Content Security Policy" in line or "exception" in line]
    finally:
        await platform.terminals.close()
        link.close()
        served.end()
