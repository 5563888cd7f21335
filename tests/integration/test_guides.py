"""Every example of every concern, run as it is printed and in its order, as JSON says it and as the shell would.

Takes root. Not here: what the guides say (`tests/unit/test_gateway_guides.py`).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest

from gateway.app import CONCERNS
from tests.integration.live import Answer, Live
from tests.slowness import patience

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="real sandboxes need root"),
    pytest.mark.timeout(120),
]
REFERENCE = re.compile(r"\{\{(\w+)\}\}")


class Answers:
    """What earlier answers hold, by the rule that the guide states: the newest that has the field."""

    def __init__(self) -> None:
        self._seen: list[dict[str, Any]] = []

    def note(self, body: bytes) -> None:
        try:
            found = json.loads(body)
        except ValueError:
            return  # raw bytes, lines, nothing
        if isinstance(found, dict):
            self._seen.append(found)

    def fill(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            return str(next(seen[match[1]] for seen in reversed(self._seen) if match[1] in seen))

        return REFERENCE.sub(value, text)


def as_json(live: Live, example: dict[str, Any], answers: Answers) -> Answer:
    path = answers.fill(example["path"])
    headers = {name: answers.fill(value) for name, value in example["headers"].items()}
    body = example["body"]
    if isinstance(body, str):
        body = answers.fill(body).encode()
    elif body is not None:
        body = json.loads(answers.fill(json.dumps(body)))
    if not example["lines"]:
        return live.ask(example["method"], path, body, headers=headers)
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=patience(30))
    try:
        connection.request(example["method"], path, body, {**headers, "X-Api-Key": live.key})
        got = connection.getresponse()
        return Answer(got.status, {}, b"".join(got.readline() for _ in range(example["lines"])))
    finally:
        connection.close()


def as_shell(live: Live, example: dict[str, Any], answers: Answers) -> Answer:
    """The curl command as it is printed; a configuration of curl's own adds the status, on stderr."""
    home = live.folder / "curl"
    home.mkdir(exist_ok=True)
    (home / ".curlrc").write_text('write-out = "%{stderr}%{http_code}"\n')
    done = subprocess.run(
        ["bash", "-c", answers.fill(example["curl"])], capture_output=True, timeout=patience(90), check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "QUILT_API_KEY": live.key,
             "QUILT_URL": f"http://127.0.0.1:{live.port}"},
    )  # fmt: skip
    if example["lines"]:  # `head` has left before curl could say it; an error would have been one line of JSON
        return Answer(example["status"] if done.stdout.count(b"\n") == example["lines"] else 0, {}, done.stdout)
    return Answer(int(done.stderr[-3:]), {}, done.stdout)


@pytest.mark.parametrize("way", [as_json, as_shell])
@pytest.mark.parametrize("concern", [concern.name for concern in CONCERNS])
def test_examples_run_as_printed(live: Live, concern: str, way: Any) -> None:
    if way is as_shell and shutil.which("curl") is None:
        pytest.skip("curl is not here")
    answers = Answers()
    for number, example in enumerate(live.ok("GET", f"/api/{concern}/examples")["examples"], 1):
        got = way(live, example, answers)
        assert got.status == example["status"], (number, example["curl"], got.body[:1000])
        answers.note(got.body)
        if example["path"].startswith("/api/operations/"):
            assert got.json()["status"] == "succeeded", got.json()


def test_every_concern_is_healthy(live: Live) -> None:
    for concern in CONCERNS:
        found = live.ok("GET", f"/api/{concern.name}/health")
        network = live.ok("GET", "/api/system/info")["features"]["network"]
        wanted = network["reason"] if concern.name == "network" else None
        assert (found["healthy"], found["reason"]) == (wanted is None, wanted), found


def test_health_tells_that_redis_is_away(live: Live) -> None:
    """Frozen, not killed, so that nobody starts another."""
    pid = live.pid("redis")
    os.kill(pid, 19)
    try:
        found = live.ok("GET", "/api/operations/health")
        assert not found["healthy"]
        assert "Redis" in found["reason"]
        assert live.ok("GET", "/api/events/health")["healthy"]
    finally:
        os.kill(pid, 18)
    live.ok("GET", "/api/operations")
