"""What a version is made of: bundle and layer, brought into the spawner's store, and the ids that follow from it all.

Not here: what is started from it (`versions`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from quilt_fn.errors import BuildFailed
from runtime.api import Progress, VersionSpec
from runtime.bundle_store import BundleStore
from runtime.spawner_client import LAYER_TIMEOUT_S, SpawnerClient, SpawnerFailed

GUEST_KEY = "1"
"""Raise it when the meaning of what a template loads changes without its files changing."""


def layer_id(requirements: tuple[str, ...], facts: dict[str, Any]) -> str | None:
    """Content address of a layer: its requirement lines, Python and machine. None where nothing is required."""
    if not requirements:
        return None
    lines = sorted(" ".join(line.split()) for line in requirements)
    text = json.dumps([lines, facts["python"], os.uname().machine])
    return "lyr_" + hashlib.sha256(text.encode()).hexdigest()[:32]


def snapshot_id(spec: VersionSpec, layer: str | None, facts: dict[str, Any]) -> str:
    """The hash of everything that a snapshot depends on: any change gives another id, and the old one is never
    restored.
    """
    key = {
        "tenant": spec.tenant_id, "bundle": spec.bundle_id, "handler": spec.handler, "layer": layer,
        "image": spec.image,
        "environment": sorted(spec.environment.items()), "hooks": [spec.before_snapshot, spec.after_restore],
        "warmup": spec.warmup_event, "network": spec.network, "guest": GUEST_KEY, "facts": facts, "version": spec.key,
        "limits": [spec.memory_limit_mb, spec.cpu_limit_percent, spec.pids_limit],
    }  # fmt: skip
    return "snp_" + hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


class Contents:
    """Bundle and layer of one version. `there`: whether they are known to be in the spawner's store."""

    def __init__(self, spec: VersionSpec, spawner: SpawnerClient, bundles: BundleStore, facts: dict[str, Any]) -> None:
        self.layer = layer_id(spec.requirements, facts)
        self.there = False
        self._spec = spec
        self._spawner = spawner
        self._bundles = bundles

    async def bring(self, progress: Callable[[Progress], None]) -> dict[str, float]:
        """Milliseconds that each took. Idempotent. Raises BuildFailed for what can't be unpacked or installed."""
        ms: dict[str, float] = {}
        begun = time.monotonic()
        progress(Progress("bundle", "unpacking the bundle"))
        await self._unpack()
        ms["bundle"] = (time.monotonic() - begun) * 1e3
        progress(Progress("bundle", "bundle unpacked", True, ms["bundle"]))
        if self.layer:
            begun = time.monotonic()
            progress(Progress("layer", f"installing {len(self._spec.requirements)} requirements"))
            size_bytes = await self._install(progress)
            ms["layer"] = (time.monotonic() - begun) * 1e3
            progress(Progress("layer", f"layer of {size_bytes >> 20} MB", True, ms["layer"]))
        self.there = True
        return ms

    async def _unpack(self) -> None:
        tenant, bundle = self._spec.tenant_id, self._spec.bundle_id
        archive = await asyncio.to_thread(self._bundles.open, tenant, bundle)
        try:
            await self._spawner.request("unpack", [archive], tenant=tenant, bundle=bundle)
        except SpawnerFailed as error:
            if error.kind == "build":
                text = f"the bundle can't be unpacked: {error.message}"
                raise BuildFailed(text, details={"stage": "bundle"}) from None
            raise
        finally:
            os.close(archive)

    async def _install(self, progress: Callable[[Progress], None]) -> int:
        try:
            answer, _ = await self._spawner.request(
                "layer", tenant=self._spec.tenant_id, layer=self.layer, requirements=list(self._spec.requirements),
                progress=lambda text: progress(Progress("layer", text)), timeout_s=LAYER_TIMEOUT_S,
            )  # fmt: skip
        except SpawnerFailed as error:
            if error.kind == "build":
                details = {"stage": "layer", "log": (error.details or {}).get("log")}
                raise BuildFailed(error.message, details=details) from None
            raise
        return int(answer["size_bytes"])
