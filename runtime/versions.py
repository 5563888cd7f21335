"""One version on this node: how it is built, and by which way an instance of it is started.

The ways down are fork → restore → boot. A way that fails is written down with its reason and the next one is tried; a
function never fails because a faster way was not to be had. Not here: what a version is made of (`contents`), and how
many instances there are (the pool).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from quilt_fn.errors import BuildFailed, HookFailed, PythonMismatch, SpawnerError, StartFailed
from quilt_fn.model.common import new_id
from quilt_fn.states import StartKind
from runtime import kits, templates
from runtime.api import Built, Progress, VersionSpec, WayDown
from runtime.bundle_store import BundleStore
from runtime.contents import Contents, snapshot_id
from runtime.instance import LiveInstance
from runtime.kits import KitStock
from runtime.spawner_client import SpawnerClient, SpawnerFailed
from runtime.templates import ForkFailed, Loaded, Template, TemplateGone

log = logging.getLogger("runtime.versions")


class Version:
    """State of one version: its snapshot (on disk), its live template, its kits. Safe for concurrent callers."""

    def __init__(self, spec: VersionSpec, spawner: SpawnerClient, bundles: BundleStore, facts: dict[str, Any],
                 kits_wanted: int) -> None:  # fmt: skip
        self.spec = spec
        self.spawner = spawner
        self.facts = facts
        self.contents = Contents(spec, spawner, bundles, facts)
        self.layer = self.contents.layer
        self.snapshot = snapshot_id(spec, self.layer, facts)
        self.template: Template | None = None
        self.leaving: set[Template] = set()
        self.loaded: Loaded | None = None
        self.frozen = False
        """Whether the snapshot's writable layer is on disk, so that kits can stand on it."""
        self.dumped = False
        """Whether it can be restored, as far as is known."""
        self.size_bytes: int | None = None
        self.taken_at: str | None = None
        self.reasons: dict[StartKind, str] = {}
        attached = [[each.volume_id, each.target, each.read_only] for each in spec.attached]
        self.kits = KitStock(spawner, self.snapshot, {**templates.limits(spec), "volumes": attached}, kits_wanted)
        self._bringing: asyncio.Task[None] | None = None

    @property
    def forkable(self) -> bool:
        return self.loaded is None or not self.loaded.shared

    def unavailable(self) -> tuple[WayDown, ...]:
        return tuple(WayDown(kind, reason) for kind, reason in self.reasons.items())

    def ways(self) -> list[StartKind]:
        found = [StartKind.FORK] if self.template is not None and self.forkable else []
        return [*found, *([StartKind.RESTORE] if self.dumped else []), StartKind.BOOT]

    # --- build ----------------------------------------------------------------------------------------------------

    async def build(self, progress: Callable[[Progress], None]) -> Built:
        """Bundle, layer, then a template from the snapshot that is there or from a boot. Idempotent."""
        spec = self.spec
        if spec.python is not None and spec.python != self.facts["python"]:
            raise PythonMismatch(
                f"the bundle was pickled by Python {spec.python}, but image {spec.image!r} has Python "
                f"{self.facts['python']}",
                hint=f"deploy from Python {self.facts['python']}, or deploy a file instead of a pickled function",
            )
        ms = await self.contents.bring(progress)
        await self.look()
        booted = self.template is None and not (self.dumped and await self._try_restore())
        if booted:
            ms |= await self._boot(progress)
        self.kits.fill()
        if spec.after_restore:
            ms["after_restore"] = await self._try_hooks(progress)
        assert self.loaded is not None
        return Built(
            self.layer, ms, self.size_bytes, self.taken_at, self.unavailable(), self.loaded.wants_request,
            self.loaded.output if booted else "",
        )  # fmt: skip

    async def _try_hooks(self, progress: Callable[[Progress], None]) -> float:
        """Start one instance, so that a broken hook is told by the deploy and not by the first call."""
        begun = time.monotonic()
        progress(Progress("after_restore", "trying the after_restore hooks"))
        try:
            instance = await self.start()
        except HookFailed as error:
            raise BuildFailed(error.message, details=error.details) from None
        await instance.close("it was only to try the hooks")
        took = (time.monotonic() - begun) * 1e3
        progress(Progress("after_restore", "after_restore hooks ran", True, took))
        return took

    async def look(self) -> None:
        """See what is on disk for this version's key."""
        try:
            about, _ = await self.spawner.request("about", snapshot=self.snapshot)
        except SpawnerFailed:
            self.frozen = self.dumped = False
            return
        self.frozen, self.dumped = True, bool(about["dump"])
        self.size_bytes = int(about["size_bytes"]) or None
        self.taken_at = datetime.fromtimestamp(float(about["taken_at"]), UTC).isoformat() if self.dumped else None

    async def _try_restore(self) -> bool:
        try:
            await self._restore()
        except (SpawnerError, TemplateGone) as error:
            self._restore_failed(error)
            return False
        return True

    # --- templates ------------------------------------------------------------------------------------------------

    async def _boot(self, progress: Callable[[Progress], None] = lambda _: None) -> dict[str, float]:
        """Boot, load, keep a snapshot: milliseconds of each."""
        spec, clock = self.spec, time.monotonic
        ms: dict[str, float] = {}
        begun = clock()
        progress(Progress("boot", "booting a container"))
        template = await templates.boot(self.spawner, spec, self.layer, self._label())
        ms["boot"] = (clock() - begun) * 1e3
        progress(Progress("boot", "container booted", True, ms["boot"]))
        try:
            return ms | await self._load(template, progress)
        except asyncio.CancelledError:
            await template.delete()  # nobody else knows of it
            raise

    async def _load(self, template: Template, progress: Callable[[Progress], None]) -> dict[str, float]:
        spec, clock = self.spec, time.monotonic
        ms: dict[str, float] = {}
        begun = clock()
        progress(Progress("import", f"importing {spec.handler}"))
        loaded = await templates.load(template, spec)
        ms["import"] = (clock() - begun) * 1e3
        progress(Progress("import", f"{spec.handler} imported", True, ms["import"]))
        if loaded.shared and spec.attached:
            await template.delete()
            raise BuildFailed(
                "a function with volumes starts its instances by forks, and the copies of this one would share "
                + "; ".join(loaded.shared),
                details={"stage": "import"}, hint="Open it in an after_restore hook, or take the volumes away.",
            )  # fmt: skip
        self.loaded = loaded
        self.reasons = {}
        if loaded.shared:
            self.reasons[StartKind.FORK] = "its copies would share " + "; ".join(loaded.shared)
        begun = clock()
        progress(Progress("snapshot", "taking a snapshot"))
        await self._keep(template, loaded)
        ms["snapshot"] = (clock() - begun) * 1e3
        text = f"snapshot of {self.size_bytes / 1e6:.1f} MB" if self.size_bytes else "no snapshot"
        progress(Progress("snapshot", text, True, ms["snapshot"]))
        return ms

    async def _keep(self, template: Template, loaded: Loaded) -> None:
        """Dump where it can be, else freeze its files; then it is our live template."""
        why = "; ".join(loaded.undumpable)
        if not why and not self.facts["criu"]:
            why = "CRIU is not installed on this machine"
        if not why:
            try:
                await templates.snapshot(template, self.snapshot, dump=True)
            except (SpawnerError, TimeoutError) as error:
                why = str(error)
        if why:
            self.reasons[StartKind.RESTORE] = why
            try:
                if template.link.gone.is_set():
                    await self._reconnect(template)
                await templates.snapshot(template, self.snapshot, dump=False)
            except (SpawnerError, TemplateGone, TimeoutError) as error:
                await template.delete()
                raise BuildFailed(f"the template could not be kept: {error}", details={"stage": "snapshot"}) from None
        await self.look()
        self._live(template)

    async def _reconnect(self, template: Template) -> None:
        """After a dump that failed: nobody is connected to the template, which goes on running."""
        again = await templates.adopt(self.spawner, template.container_id)
        for fd in (template.pidfd, template.gauge):
            os.close(fd)
        template.link, template.pidfd, template.gauge = again.link, again.pidfd, again.gauge

    async def _restore(self) -> None:
        template = await templates.restore(self.spawner, self.spec, self.snapshot, self._label(), self.loaded)
        if template.loaded is None:
            await template.delete()
            raise TemplateGone("the snapshot holds no handler")
        self.loaded = template.loaded
        self.reasons.pop(StartKind.RESTORE, None)
        if template.loaded.shared:
            self.reasons[StartKind.FORK] = "its copies would share " + "; ".join(template.loaded.shared)
        self._live(template)

    def _restore_failed(self, error: Exception) -> None:
        self.dumped = False
        self.reasons[StartKind.RESTORE] = str(error)
        # A boot that follows takes a new snapshot, and the reason is of the past: here it stays.
        log.warning("%s: the restore failed: %s", self.spec.key, error)

    def _label(self) -> str:
        return f"{self.spec.key} {self.snapshot}"

    def _live(self, template: Template) -> None:
        """It is the one that is forked from now on; one that was brought up beside it is let go, not lost."""
        before, self.template = self.template, template
        if before is not None and before is not template:
            before.link.on_gone = lambda: None
            self._let_go(before)
        template.link.on_gone = lambda: self._gone(template)
        if template.link.gone.is_set():
            self._gone(template)

    def _gone(self, template: Template) -> None:
        """The template's process ended by itself; its instances go on."""
        if self.template is template:
            self.template = None
        if not template.dropped:
            self._let_go(template)

    def _let_go(self, template: Template) -> None:
        self.leaving.add(template)

        async def leave() -> None:
            try:
                await template.drop()
            except SpawnerError:
                template.deleted = None  # the spawner's sweep or our next reconciliation takes it

        task = asyncio.create_task(leave(), name=f"drop {template.container_id}")
        task.add_done_callback(lambda _: self.leaving.discard(template))

    async def drop(self) -> bool:
        """End the live template; its instances go on. False where none was live."""
        template, self.template = self.template, None
        if template is None:
            return False
        template.link.on_gone = lambda: None
        await template.drop()
        return True

    async def forget_snapshot(self) -> None:
        """Delete the snapshot, and the kits that stand on it."""
        await self.kits.empty()
        self.frozen = self.dumped = False
        self.size_bytes = self.taken_at = None
        await self.spawner.request("forget", snapshot=self.snapshot)

    # --- starts ---------------------------------------------------------------------------------------------------

    async def start(self) -> LiveInstance:
        """A new instance, by the first way that works. Raises StartFailed when all did not."""
        begun = time.monotonic()
        kind = StartKind.FORK
        last: Exception | None = None
        for _ in range(3):
            if self.template is None:
                kind = await self._bring_up()
            template = self.template
            if template is None:
                continue
            try:
                start = self._fork(template, kind) if self.forkable else self._become(template, template.came_by)
                instance = await start
            except (ForkFailed, TemplateGone, SpawnerError) as error:
                last = error
                self.reasons[StartKind.FORK] = str(error)
                if self.template is template:
                    await self.drop()
                continue
            instance.start_ms = (time.monotonic() - begun) * 1e3
            return instance
        raise StartFailed(f"no instance could be started: {last}", details={"ways": dict(self.reasons)})

    async def _bring_up(self) -> StartKind:
        """A live template, by restore or boot; FORK where somebody else was already bringing one up and this one
        waited.
        """
        if not self.forkable:
            # Each instance takes a template of its own with it: nobody can share it.
            return await self._bring_up_one()
        if self._bringing is not None:
            await asyncio.shield(self._bringing)
            return StartKind.FORK
        kind: list[StartKind] = []

        async def bring() -> None:
            try:
                kind.append(await self._bring_up_one())
            finally:
                self._bringing = None

        self._bringing = asyncio.create_task(bring(), name=f"template of {self.spec.key}")
        await asyncio.shield(self._bringing)
        return kind[0]

    async def _bring_up_one(self) -> StartKind:
        if not self.frozen:
            await self.look()
        if self.frozen and self.forkable:
            self.kits.fill()  # on the other processor, while CRIU works
        if self.dumped and await self._try_restore():
            return StartKind.RESTORE
        try:
            if not self.contents.there:
                await self.contents.bring(lambda _: None)
            await self._boot()
        except BuildFailed as error:
            raise StartFailed(f"it could not be booted: {error.message}", details=error.details) from None
        return StartKind.BOOT

    async def _fork(self, template: Template, kind: StartKind) -> LiveInstance:
        kit = await self.kits.take()
        template.instances += 1

        async def end() -> int:
            try:
                return await kits.end(self.spawner, kit.kit_id)
            finally:
                await template.instance_ended()

        async def fork(data: int, out: int, err: int, on_exit: Callable[[int], None]) -> int:
            try:
                return await template.fork(kit.kit_id, [kit.root, data, out, err, *kit.doors], on_exit)
            finally:
                kit.close_handed_over()

        return await LiveInstance.create(
            kit.kit_id, self.spec, kind, end, kit.gauge, fork, self._config(kit.kit_id, kind)
        )

    async def _become(self, template: Template, kind: StartKind) -> LiveInstance:
        """The container serves as one instance, and ends with it."""
        self.template = None
        template.link.on_gone = lambda: None
        template.dropped = True
        name = new_id("ins")
        watch, gauge = os.dup(template.pidfd), os.dup(template.gauge)

        async def become(data: int, out: int, err: int, on_exit: Callable[[int], None]) -> int:
            template.link.become([data, out, err])
            return watch

        return await LiveInstance.create(
            name, self.spec, kind, template.delete, gauge, become, self._config(name, kind)
        )

    def _config(self, instance_id: str, kind: StartKind) -> dict[str, Any]:
        return {
            "instance_id": instance_id, "function_name": self.spec.function_name, "version": self.spec.version,
            "memory_limit_mb": self.spec.memory_limit_mb, "secrets": dict(self.spec.secrets), "start": kind.value,
            "result_limit": self.spec.result_limit_bytes, "clock_offset_s": 0.0,
        }  # fmt: skip

    async def close(self, *, keep_template: bool) -> None:
        await self.kits.close()
        if self.template is not None and not keep_template:
            await self.drop()
        elif self.template is not None:
            self.template.link.on_gone = lambda: None
            self.template.link.close()
