"""What the supervisor starts and how: command lines, environments, users, and how each child says that it is ready.

Not here: starting them (`child`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quilt_fn.errors import Unavailable
from quilt_fn.settings import Settings
from runtime.doctor import NodeUser, places

PASSED_ON = ("PATH", "LANG", "LANGUAGE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What the node sees of our environment beside QUILT_*: it is unprivileged, and our secrets are not its."""
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Command:
    """One child. `user` None: ours. `ready` None: it writes b"ready\\n" to the descriptor in QUILT_READY_FD.

    Otherwise `ready` is asked every now and then, must not block, and answers whether the child can be used.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: NodeUser | None = None
    ready: Callable[[], bool] | None = None
    ready_seconds: float = 60.0
    stop_seconds: float = STOP_SECONDS


Plan = Callable[[Settings, NodeUser | None, str], list[Command]]
"""(settings, the node's user or None for ours, the first API key) → children, in the order of their start."""


def real_plan(settings: Settings, user: NodeUser | None, key: str) -> list[Command]:
    """Redis (none where QUILT_REDIS_URL names one), spawner, node. Raises Unavailable where one is not installed."""
    children = [] if settings.redis_url else [redis(settings, user)]
    return [*children, spawner(settings, user), node(settings, user, key)]


def redis(settings: Settings, user: NodeUser | None) -> Command:
    program = places.redis_server()
    if program is None:
        raise Unavailable(
            "there is no redis-server on this machine",
            hint="apt-get install redis-server, or name a Redis of yours in QUILT_REDIS_URL",
        )
    listen = settings.run_path / "redis" / "redis.sock"
    options = {
        "port": "0",
        "unixsocket": str(listen),
        "unixsocketperm": "600",
        "dir": str(Path(settings.state_dir) / "redis"),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return Command(
        name="redis",
        argv=(program, *words),
        environment=passed_on(),
        user=user,
        ready=lambda: redis_answers(listen),
        # A long append-only file takes its time to be read.
        ready_seconds=600.0,
    )


def redis_answers(path: Path) -> bool:
    """Whether a Redis on the socket `path` answers PING; one that is still loading does not count."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(str(path))
            sock.sendall(b"PING\r\n")
            return sock.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def spawner(settings: Settings, user: NodeUser | None) -> Command:
    """The spawner, with its config in the run folder. Its environment is ours: uv may need the proxy that it names."""
    config = settings.run_path / "spawner.json"
    uv = places.uv_path()
    if uv is None:
        raise Unavailable("there is no uv for building layers", hint="run tools/setup")
    write_private(config, spawner_config(settings, user, uv))
    return Command(
        name="spawner",
        argv=(sys.executable, "-P", "-m", "runtime.spawner", "--config", str(config)),
        # The certificates that the machine trusts, not those that uv brings.
        environment={**os.environ, "UV_SYSTEM_CERTS": "1", "UV_PYTHON_DOWNLOADS": "never"},
    )


def spawner_config(settings: Settings, user: NodeUser | None, uv: str) -> dict[str, object]:
    owner = user or NodeUser(os.geteuid(), os.getegid())
    return {
        "state": str(settings.root_dir),
        "run": str(settings.run_path),
        "socket": str(settings.spawner_socket),
        "platform": settings.platform,
        "node_uid": owner.uid,
        "node_gid": owner.gid,
        "criu": places.criu_argv(settings),
        "init": str(places.INIT),
        "instance_bpf": str(places.INSTANCE_FILTER),
        "waiting": str(places.WAITING),
        "repo": str(places.REPOSITORY),
        "python": places.SYSTEM_PYTHON,
        "uv": uv,
        "netns_pool": settings.netns_pool,
        "cloudpickle": package_folder("cloudpickle"),
    }


def package_folder(name: str) -> str:
    """Where an installed package lies, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise Unavailable(f"the package {name} is not installed", hint="run tools/setup")
    return found.submodule_search_locations[0]


def node(settings: Settings, user: NodeUser | None, key: str) -> Command:
    ours = {name: value for name, value in os.environ.items() if name.startswith("QUILT_")}
    redis_url = settings.redis_url or f"unix://{settings.redis_socket}"
    return Command(
        name="node",
        argv=(sys.executable, "-P", "-m", "gateway.node"),
        environment={
            **passed_on(),
            **ours,
            "HOME": str(settings.node_dir),
            "QUILT_STATE_DIR": settings.state_dir,
            "QUILT_RUN_DIR": str(settings.run_path),
            "QUILT_REDIS_URL": redis_url,
            "QUILT_BOOTSTRAP_KEY": key,
        },
        user=user,
        stop_seconds=settings.shutdown_seconds + 5.0,
    )


def passed_on() -> dict[str, str]:
    return {name: os.environ[name] for name in os.environ if name in PASSED_ON or name.startswith("LC_")}


def write_private(path: Path, content: object) -> None:
    """`content` as JSON in a file that only we read, replaced in one step."""
    temporary = path.with_name(f".{path.name}.new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(content, file)
    temporary.replace(path)
