"""Functions on a private platform, deployed once and then started in the one way that a measurement asks for.

Not here: which measurements there are (`suites`, `demo`). Each answer's own word for its start is checked: a start of
another kind than claimed ends the run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.wire import Answer, CallFailed, Http
from quilt_fn.bundle import Bundle

IDLE_S = 0.5
"""Before each start that is measured: back to back, costs of waking up hide."""
DRAIN_TIMEOUT_S = 30.0
LABEL = "benchmark"


@dataclass(slots=True)
class Function:
    """A deployed function. `once`: each of its instances serves one invocation and goes."""

    http: Http
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def path(self) -> str:
        return f"/api/functions/{self.record['id']}"

    def call(self, event: Any = None, expect: str | None = None) -> Answer:
        """One invocation over HTTP. Raises CallFailed where it failed or was started in another way than `expect`."""
        body = json.dumps({} if event is None else event).encode()
        answer = self.http.request("POST", f"/fn/{self.name}", body, {"Content-Type": "application/json"})
        check(self.name, answer, expect)
        return answer

    def to_zero(self) -> None:
        """No instance is left; template and snapshot stay as they are."""
        self.http.api("POST", f"{self.path}/pause")
        self.wait_for(lambda pool: pool["total_count"] == 0)
        self.http.api("POST", f"{self.path}/resume")

    def drop(self, *, snapshot: bool = False) -> None:
        """The live template goes; with `snapshot` that too."""
        self.http.api("POST", f"{self.path}/template/drop" + ("?snapshot=true" if snapshot else ""))

    def pool(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.api("GET", f"{self.path}/pool")
        return found

    def wait_for(self, reached: Callable[[dict[str, Any]], bool], timeout_s: float = DRAIN_TIMEOUT_S) -> dict[str, Any]:
        """The pool, once it is as wanted. Raises CallFailed."""
        deadline = time.monotonic() + timeout_s
        while not reached(pool := self.pool()):
            if time.monotonic() > deadline:
                raise CallFailed(f"{self.name}: its pool did not become what was waited for: {pool}")
            time.sleep(0.01)
        return pool

    def set_target(self, least: int, most: int) -> None:
        self.http.api(
            "POST", f"/api/elasticity/functions/{self.record['id']}/pool-target",
            {"min_instances": least, "max_instances": most}, {"X-Tenant-Id": self.record["tenant_id"]},
        )  # fmt: skip


def check(name: str, answer: Answer, expect: str | None) -> None:
    """Raises CallFailed where `answer` is no success, or says another start than `expect`."""
    if answer.status != 200:
        raise CallFailed(f"{name} answered {answer.status}: {answer.body.decode(errors='replace')[:2000]}")
    start = answer.headers.get("x-quilt-start")
    if expect is not None and start != expect:
        raise CallFailed(f"{name}: the start should have been {expect!r} but was {start!r}")


def deploy(http: Http, name: str, bundle: Bundle, fields: Mapping[str, Any]) -> Function:
    """Deploy, or find it deployed from an earlier run of exactly the same code and settings."""
    http.request("POST", "/api/bundles", bundle.data, {"Content-Type": "application/gzip"})
    spec = {"name": name, "bundle_id": bundle.bundle_id, **fields}
    mark = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:32]
    spec["labels"] = {LABEL: mark}
    found = http.request("GET", f"/api/functions/by-name/{name}")
    if found.status == 200:
        record = found.json()
        if record["labels"].get(LABEL) != mark:
            record = http.api("PUT", f"/api/functions/{record['id']}", {k: v for k, v in spec.items() if k != "name"})
        elif record["state"] == "paused":
            http.api("POST", f"/api/functions/{record['id']}/resume")
    else:
        record = http.api("POST", "/api/functions", spec)
    return Function(http, http.api("POST", f"/api/functions/{record['id']}/deploy"))


def idle(seconds: float = IDLE_S) -> None:
    """Let the machine fall asleep, as it does between the requests of a function that is called now and then."""
    time.sleep(seconds)
