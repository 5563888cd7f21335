"""What the checks see of a machine: a few small questions, answered by the real one here and by plain values in tests.

Not here: any judgement of the answers (`checks`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from quilt_fn.settings import Settings
from runtime.doctor import places, redis_durability
from runtime.doctor.node_user import NodeUser, node_user
from runtime.doctor.redis_durability import Asked

PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class Machine(Protocol):
    """Answers never raise: what cannot be read is None."""

    def uid(self) -> int: ...

    def kernel(self) -> str: ...

    def read(self, path: str) -> str | None: ...

    def exists(self, path: str) -> bool: ...

    def which(self, program: str) -> str | None: ...

    def run(self, *argv: str) -> tuple[int, str]:
        """Exit code and all output; 127 where the program could not be started."""
        ...

    def idmap(self, path: str) -> str | None:
        """Why an idmapped mount of `path` failed; None where it worked."""
        ...

    def free_mb(self, path: str) -> int | None:
        """What an unprivileged process can still write on the disk of `path`."""
        ...

    def node_user(self) -> NodeUser | str: ...

    def criu(self) -> list[str] | None: ...

    def redis(self, url: str) -> Asked:
        """Whether the Redis at `url` answers and is durable, and why."""
        ...


class RealMachine:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def uid(self) -> int:
        return os.geteuid()

    def kernel(self) -> str:
        return os.uname().release

    def read(self, path: str) -> str | None:
        try:
            return Path(path).read_text()
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def which(self, program: str) -> str | None:
        return shutil.which(program, path=PROGRAMS)

    def run(self, *argv: str) -> tuple[int, str]:
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return 127, str(error)
        return done.returncode, done.stdout

    def idmap(self, path: str) -> str | None:
        # Imported late: these are the spawner's system calls, which only root can make.
        from runtime.spawner import kernel, tenants

        try:
            namespace = tenants.user_namespace(tenants.BASE_ID)
            try:
                tree = kernel.open_tree(path, kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC)
                try:
                    kernel.mount_setattr(tree, kernel.MOUNT_ATTR_IDMAP, namespace)
                finally:
                    os.close(tree)
            finally:
                os.close(namespace)
        except (OSError, RuntimeError) as error:
            return str(error)
        return None

    def free_mb(self, path: str) -> int | None:
        try:
            found = os.statvfs(path)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize >> 20

    def node_user(self) -> NodeUser | str:
        return node_user(self._settings)

    def redis(self, url: str) -> Asked:
        return redis_durability.ask(url)

    def criu(self) -> list[str] | None:
        return places.criu_argv(self._settings)
