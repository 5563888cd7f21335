"""One version's live template when several bring one up at once. The spawner is played; no processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from quilt_fn.states import StartKind
from runtime.api import VersionSpec
from runtime.bundle_store import BundleStore
from runtime.spawner_client import SpawnerClient
from runtime.templates import Template
from runtime.versions import Version

SPEC = VersionSpec("t", "fn_1", "hello", 1, "0" * 64, "app:handler")
FACTS = {"python": "3.13", "criu": "4.1"}


class PlayedSpawner:
    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def request(self, op: str, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        assert op == "delete", "nothing else is asked of it here"
        self.deleted.append(fields["container"])
        return {"oom_kills": 0}, []


class PlayedLink:
    """As much of a TemplateLink as letting a template go takes."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.on_gone: Callable[[], None] = lambda: None
        self.left = False

    def leave(self) -> None:
        self.left = True

    def close(self) -> None:
        if not self.gone.is_set():
            self.gone.set()
            self.on_gone()


@pytest.fixture
def spawner() -> PlayedSpawner:
    return PlayedSpawner()


@pytest.fixture
def version(spawner: PlayedSpawner, tmp_path: Path) -> Version:
    return Version(SPEC, cast(SpawnerClient, spawner), BundleStore(tmp_path), FACTS, 0)


def template(spawner: PlayedSpawner, name: str, instances: int = 0) -> Template:
    watch, gauge = os.pipe()
    return Template(name, cast(SpawnerClient, spawner), cast(Any, PlayedLink()), watch, gauge, instances=instances)


async def settled(version: Version) -> None:
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith("drop ")))
    assert not version.leaving


async def test_of_two_templates_that_came_up_at_once_the_later_serves_and_the_other_is_deleted(
    version: Version, spawner: PlayedSpawner
) -> None:
    first, second = template(spawner, "ctr_1"), template(spawner, "ctr_2")
    version._live(first)
    version._live(second)
    await settled(version)
    assert version.template is second
    assert spawner.deleted == ["ctr_1"]
    await second.delete()


async def test_the_instances_of_the_one_that_is_let_go_go_on(version: Version, spawner: PlayedSpawner) -> None:
    first, second = template(spawner, "ctr_1", instances=1), template(spawner, "ctr_2")
    version._live(first)
    version._live(second)
    await settled(version)
    assert spawner.deleted == []
    await first.instance_ended()
    assert spawner.deleted == ["ctr_1"]
    await second.delete()


async def test_a_template_that_is_live_again_is_kept(version: Version, spawner: PlayedSpawner) -> None:
    only = template(spawner, "ctr_1")
    version._live(only)
    version._live(only)
    await settled(version)
    assert version.template is only
    assert spawner.deleted == []
    await only.delete()


async def test_one_is_brought_up_for_all_also_where_who_asked_first_has_given_up(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = 0
    done = asyncio.Event()

    async def bring() -> StartKind:
        nonlocal begun
        begun += 1
        await done.wait()
        return StartKind.RESTORE

    monkeypatch.setattr(version, "_bring_up_one", bring)
    first = asyncio.create_task(version._bring_up())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    others = [asyncio.create_task(version._bring_up()) for _ in range(3)]
    await asyncio.sleep(0)
    done.set()
    assert await asyncio.gather(*others) == [StartKind.FORK] * 3
    assert begun == 1
    again = asyncio.create_task(version._bring_up())
    assert await again is StartKind.RESTORE
    assert begun == 2
