"""Work on what a tenant sent or wrote, in a process without rights: it sees one folder, and is one of the tenant's ids.

Three ways in: as one plain id of a range (`as_user`); as root of a user namespace that has the tenant's range and
nothing else (`as_tenant`), who may do with the tenant's files what root in a container may; and as root of a container
that runs (`as_root_of`). Not here: the work.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runtime.spawner import kernel, tenants
from runtime.spawner.names import Config
from runtime.spawner.protocol import Refused

MEMORY_LIMIT = 1 << 30
CPU_LIMIT_S = 3600
FILES_LIMIT = 1024
"""Open at once: a walk keeps one for each level."""
FILE_RIGHTS = (kernel.CAP_CHOWN, kernel.CAP_DAC_OVERRIDE, kernel.CAP_FOWNER, kernel.CAP_FSETID)
ENTERED = {
    "net": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "user": kernel.CLONE_NEWUSER,
    "mnt": kernel.CLONE_NEWNS,
}
"""By their names in /proc, in the order in which they can be entered: the network is not the user namespace's own."""


def as_user(folder: int, uid: int) -> None:
    """Make the open `folder` the calling process's root for good, and it the user and group `uid`."""
    _into(folder)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _harmless(())


def namespace(config: Config, tenant: str) -> int:
    """A descriptor of a user namespace with the tenant's ids, for `as_tenant`."""
    return tenants.user_namespace(tenants.base_id(config, tenant))


def as_tenant(users: int, folder: int) -> None:
    """Make the open `folder` the calling process's root for good, and it the root of the tenant's ids alone.

    It keeps the four capabilities that are about files, in the user namespace `users` (closed here), which has no other
    ids than the tenant's.
    """
    kernel.setns(users, kernel.CLONE_NEWUSER)
    os.close(users)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _into(folder)
    _harmless(FILE_RIGHTS)


def as_root_of(namespaces: Mapping[str, int]) -> None:
    """Enter a container's namespaces (by the names of ENTERED, closed here), as its root with the capabilities about
    files alone. /proc/sys shows whose namespaces a process is in, so all that it shows are the container's.

    Its pid namespace is not entered: nothing in it can see, signal or trace this process.
    """
    for name, kind in ENTERED.items():
        kernel.setns(namespaces[name], kind)
        os.close(namespaces[name])
    os.chdir("/")
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _seal()
    _harmless(FILE_RIGHTS)


def outlive_parent() -> None:
    """From now on the calling process goes on where the one that waits for it is killed. What it reads must come to an
    end then.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 0)


def _into(folder: int) -> None:
    os.fchdir(folder)
    os.chroot(".")
    os.chdir("/")
    _seal()


def _seal() -> None:
    """What lies under the names of Python's own files is the tenant's from now on: none of it is imported or shown."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.tracebacklimit = 0


def _harmless(capabilities: Iterable[int]) -> None:
    kernel.keep_capabilities(capabilities)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of ids has undone it
    os.umask(0o022)


def call(work: Callable[[], Any], keep: Iterable[int], kind: str = "failed") -> Any:
    """Run `work` in a child with limits that has no descriptors but `keep` and goes when its parent goes; its answer.

    Raises the Refused that `work` raised; any other exception becomes a Refused of `kind` with its words.
    """
    read, write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.close_all_but([*keep, write])
            for what, limit in ((resource.RLIMIT_AS, MEMORY_LIMIT), (resource.RLIMIT_CPU, CPU_LIMIT_S),
                                (resource.RLIMIT_NOFILE, FILES_LIMIT), (resource.RLIMIT_CORE, 0)):  # fmt: skip
                resource.setrlimit(what, (limit, limit))
            text = json.dumps({"value": _tied(parent, work)})
        except Refused as error:
            text = json.dumps({"error": str(error), "kind": error.kind, "details": error.details})
        except BaseException as error:
            text = json.dumps({"error": f"{type(error).__name__}: {error}"[:2000], "kind": kind, "details": {}})
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(write, text.encode(errors="replace"))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode()
    os.waitpid(pid, 0)
    killed = {"error": "the process that did it was killed", "kind": kind, "details": {}}
    result: dict[str, Any] = json.loads(text) if text else killed
    if "error" in result:
        raise Refused(result["error"], result["kind"], result["details"])
    return result["value"]


def _tied(parent: int, work: Callable[[], Any]) -> Any:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    return work()
