"""One node's runtime: the composition of spawner, bundles and versions behind `runtime.api.FunctionRuntime`.

Not here: what happens for one version (`versions`). This keeps the set of them, and the budget of live templates.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from quilt_fn.errors import BuildFailed, SpawnerError, StartFailed
from quilt_fn.settings import Settings
from quilt_fn.states import StartKind
from runtime import templates
from runtime.api import Built, Progress, VersionSpec, WayDown
from runtime.bundle_store import BundleStore
from runtime.containers.node import NodeContainers
from runtime.images import NodeImages
from runtime.instance import LiveInstance
from runtime.network.node import NodeNetwork
from runtime.spawner_client import SpawnerClient, SpawnerFailed
from runtime.templates import TemplateGone
from runtime.versions import Version
from runtime.volumes.store import NodeVolumes


class NodeRuntime:
    """See runtime.api.FunctionRuntime for the contract of each method."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.spawner = SpawnerClient(settings.spawner_socket)
        self.volumes = NodeVolumes(self.spawner)
        self.bundles = BundleStore(settings.node_dir / "bundles")
        self.images = NodeImages(self.spawner)
        self.containers = NodeContainers(self.spawner, self.images.is_ready)
        self.network = NodeNetwork(self.spawner)
        self.facts: dict[str, Any] = {}
        self.cgroup = ""
        self.missing: dict[str, str] = {}
        self._versions: dict[str, Version] = {}
        self._evicting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect to the spawner. Raises SpawnerError where there is none."""
        await self.spawner.start()
        answer, _ = await self.spawner.request("facts")
        self.facts, self.cgroup, self.missing = answer["facts"], answer["cgroup"], answer["missing"]
        await self.images.list()

    def _version(self, spec: VersionSpec) -> Version:
        version = self._versions.get(spec.key)
        if version is None:
            version = Version(spec, self.spawner, self.bundles, self.facts, self.settings.kits_per_template)
            self._versions[spec.key] = version
        return version

    async def build(self, spec: VersionSpec, progress: Callable[[Progress], None]) -> Built:
        version = self._version(spec)
        try:
            built = await version.build(progress)
        except (BuildFailed, StartFailed, SpawnerError):
            await self.forget(spec)
            raise
        self._keep_budget(version)
        return built

    async def start(self, spec: VersionSpec) -> LiveInstance:
        version = self._version(spec)
        instance = await version.start()
        self._keep_budget(version)
        return instance

    def ways(self, spec: VersionSpec) -> list[StartKind]:
        return self._version(spec).ways()

    def unavailable(self, spec: VersionSpec) -> tuple[WayDown, ...]:
        return self._version(spec).unavailable()

    async def drop_template(self, spec: VersionSpec, *, snapshot: bool = False) -> bool:
        version = self._version(spec)
        dropped = await version.drop()
        if snapshot:
            await version.forget_snapshot()
        return dropped

    def _keep_budget(self, just_used: Version) -> None:
        if self._evicting is None or self._evicting.done():
            self._evicting = asyncio.create_task(self._evict(just_used), name="evict templates")

    async def _evict(self, just_used: Version) -> None:
        """Let the least recently used templates go until the rest fit the budget; only those that can be restored."""
        budget = self.settings.template_memory_mb << 20
        live = [(v.template.used_at, v.template.memory_bytes(), v) for v in self._versions.values() if v.template]
        total = sum(size for _, size, _ in live)
        for _, size, version in sorted(live, key=lambda entry: entry[0]):
            if total <= budget:
                return
            if version.dumped and (version is not just_used or budget == 0):
                total -= size
                await version.drop()

    async def forget(self, spec: VersionSpec) -> None:
        version = self._versions.pop(spec.key, None)
        if version is None:
            version = Version(spec, self.spawner, self.bundles, self.facts, 0)
        await version.close(keep_template=False)
        for other in list(version.leaving):
            await other.delete()
        with contextlib.suppress(SpawnerFailed):
            await self.spawner.request("forget", snapshot=version.snapshot)
            bundle = (spec.tenant_id, spec.bundle_id)
            if all((v.spec.tenant_id, v.spec.bundle_id) != bundle for v in self._versions.values()):
                await self.spawner.request("forget", tenant=spec.tenant_id, bundle=spec.bundle_id)

    async def put_bundle(self, tenant_id: str, body: AsyncIterator[bytes]) -> tuple[str, int, bool]:
        return await self.bundles.put(tenant_id, body)

    async def put_source(self, tenant_id: str, filename: str, text: str) -> str:
        return await self.bundles.put_source(tenant_id, filename, text)

    async def has_bundle(self, tenant_id: str, bundle_id: str) -> bool:
        return await asyncio.to_thread(self.bundles.has, tenant_id, bundle_id)

    def features(self) -> dict[str, dict[str, Any]]:
        criu = self.facts.get("criu")
        network, swap = self.missing.get("network"), self.missing.get("swap_limit")
        connected = self.spawner.connected
        return {
            "spawner": {
                "available": connected,
                "reason": None if connected else "the spawner is away; it is started again",
            },
            "criu": {"available": criu is not None, "version": criu, "reason": self.missing.get("criu")},
            "cgroup": {"available": True, "version": self.cgroup, "reason": None},
            "swap_limit": {"available": swap is None, "reason": swap},
            "network": {"available": network is None, "reason": network},
            "images": {
                "available": True,
                "images": sorted(self.images.ready),
                "python": self.facts.get("python"),
                "reason": None,
            },
        }

    async def keep_only(self, specs: list[VersionSpec]) -> list[str]:
        """Adopt the templates of `specs`; end every other container, and delete what else is stored.

        Bundles are unpacked again, and layers built again, by a build of a version that needs them.
        """
        wanted = {spec.key: self._version(spec) for spec in specs}
        ended: list[str] = []
        answer, _ = await self.spawner.request("containers")
        for found in answer["containers"]:
            key, _, snapshot = str(found["label"]).partition(" ")
            version = wanted.get(key)
            ours = version is not None and version.snapshot == snapshot and version.template is None
            if not (ours and found["alive"] and version and await self._adopt(version, found["container"])):
                await self.spawner.request("delete", container=found["container"])
                ended.append(found["container"])
        snapshots = {version.snapshot for version in wanted.values()}
        stored, _ = await self.spawner.request("stored")
        for snapshot in stored["snapshots"]:
            if snapshot not in snapshots:
                await self.spawner.request("forget", snapshot=snapshot)
        for kind, used in (
            ("bundle", {(v.spec.tenant_id, v.spec.bundle_id) for v in wanted.values()}),
            ("layer", {(v.spec.tenant_id, v.layer) for v in wanted.values()}),
        ):
            for tenant, name in stored[f"{kind}s"]:
                if (tenant, name) not in used:
                    await self.spawner.request("forget", tenant=tenant, **{kind: name})
        for version in wanted.values():
            await version.look()
        return ended

    async def _adopt(self, version: Version, container_id: str) -> bool:
        try:
            template = await templates.adopt(self.spawner, container_id)
        except (SpawnerError, TemplateGone):
            return False
        if template.loaded is None or template.loaded.shared:
            return False
        await version.look()
        version.loaded = template.loaded
        version._live(template)
        version.kits.fill()
        return True

    async def close(self) -> None:
        if self._evicting is not None:
            await asyncio.wait([self._evicting])
        for version in self._versions.values():
            await version.close(keep_template=True)
        await self.network.close()
        await self.containers.close()
        await self.spawner.close()
