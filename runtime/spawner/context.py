"""What every operation of the spawner is given, and what they share: checks, claims, children, identities of processes.

Not here: any operation (`operations` for functions, `machines` for containers of users).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runtime.spawner import trees
from runtime.spawner.cgroups import Cgroups, Limits
from runtime.spawner.names import Config, integer
from runtime.spawner.networks import Networks
from runtime.spawner.protocol import Refused

Message = dict[str, Any]
Answer = tuple[Message, list[int]]

PF_EXITING = 0x4
"""Of the flags in /proc/<pid>/stat (include/linux/sched.h)."""


class Say(Protocol):
    def __call__(self, text: str, pct: float | None = None) -> None:
        """Send a line of progress, and how much is done, where that is known."""
        ...


@dataclass(slots=True)
class Context:
    """One platform, and the request that is being served."""

    config: Config
    groups: Cgroups
    networks: Networks
    say: Say


def in_child(work: Callable[[], Any]) -> Any:
    """Run `work` in a child, whose namespaces and cgroup may change; its answer, or its Refused again."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = json.dumps({"value": work()})
        except Refused as error:
            text = json.dumps({"error": str(error), "kind": error.kind, "details": error.details})
        except BaseException as error:
            text = json.dumps({"error": f"{type(error).__name__}: {error}", "kind": "failed", "details": {}})
        with os.fdopen(write, "w") as out:
            out.write(text)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    os.waitpid(pid, 0)
    result: dict[str, Any] = (
        json.loads(text) if text else {"error": "the spawner's helper was killed", "kind": "failed", "details": {}}
    )
    if "error" in result:
        raise Refused(result["error"], result["kind"], result["details"])
    return result["value"]


def claimed(folder: Path) -> Path:
    """`folder`, made here and now: of two requests for one id the second is refused, and harms nothing of the first."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise Refused(f"{folder.name} is there already") from None
    return folder


def limits_of(message: Message) -> Limits:
    return Limits(
        memory_mb=integer(message, "memory_mb", 16, 1 << 20),
        cpu_percent=integer(message, "cpu_percent", 1, 100_000),
        pids=integer(message, "pids", 4, 32_768),
    )


def remove(path: Path) -> None:
    """Remove a folder whose contents a container may have made: links are never followed."""
    if path.exists():
        trees.remove(path)


def started_at(pid: int) -> str:
    """The process's start time in clock ticks: with the pid and the boot, its identity."""
    return _stat(pid)[19] + "@" + Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str]:
    """The fields of its stat from the third, its state, on."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def is_ending(pid: int) -> bool:
    """Whether it has been killed, or is gone: also where it is no zombie yet, because its end waits for something."""
    try:
        fields = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] in "ZXx" or bool(int(fields[6]) & PF_EXITING)


def same_process(meta: dict[str, Any]) -> bool:
    """Whether the process that was noted still runs. A dead one that nobody has waited for yet does not: after a
    spawner's death that is up to the machine's init, which may take its time.
    """
    try:
        return meta["pid"] > 0 and started_at(meta["pid"]) == meta["started"] and _stat(meta["pid"])[0] not in "ZXx"
    except (FileNotFoundError, ProcessLookupError):
        return False
