"""Settings from the environment: one frozen object, read once by each process, told in docs/reference/settings.md.

Not here: limits of a single function (`quilt_fn.model.function`). Standard library only: the CLI reads it each time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from quilt_fn.errors import InvalidValue

REDIS_SCHEMES = ("redis", "rediss", "unix")
RANGES: Mapping[str, tuple[int, int]] = {
    "port": (1, 65_535),
    "max_body_mb": (1, 4096),
    "template_memory_mb": (0, 16_777_216),
    "kits_per_template": (0, 256),
    "netns_pool": (0, 256),
    "records_per_function": (1, 1_000_000),
    "records_days": (0, 36_500),
    "operations_per_tenant": (1, 1_000_000),
    "operations_days": (0, 36_500),
    "rate_limit_per_s": (0, 1_000_000),
    "rate_limit_burst": (1, 1_000_000),
    "quota_containers": (0, 1_000_000),
    "quota_container_memory_mb": (0, 1_000_000_000),
    "quota_volumes": (0, 1_000_000),
    "quota_volume_mb": (0, 1_000_000_000),
    "disk_reserve_mb": (0, 1_000_000_000),
    "log_file_mb": (1, 65_536),
    "shutdown_seconds": (0, 86_400),
}
"""What each number may be, both ends included. `tools/docs` reads it as it stands here."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field `x_y` is set by QUILT_X_Y. Units are in the names."""

    state_dir: str = "/var/lib/quilt"
    """Everything that outlives a restart. A folder of root's own on ext4, xfs or btrfs; it names the platform."""
    run_dir: str = ""
    """Sockets and private mounts; by default a folder in /run/quilt named by the state folder, so none is shared."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for every one of the machine."""
    port: int = 8420
    """The port to listen on."""
    redis_url: str = ""
    """A Redis of your own; empty: `quilt up` starts a private one with an append-only file in the state folder."""
    api_key: str = ""
    """The client's credential; for `quilt up` also the first key to accept, else one is made."""
    url: str = ""
    """Where the client finds the platform; empty: http://QUILT_HOST:QUILT_PORT."""
    user: str = "quilt"
    """The unprivileged user of the node process and of the private redis-server."""
    max_body_mb: int = 32
    """A request with a larger body is answered 413."""
    template_memory_mb: int = 2048
    """Live templates are kept within this budget, least recently used first out; 0 keeps none (starts are restores)."""
    kits_per_template: int = 4
    """Instance roots and cgroups made ahead for each live template."""
    netns_pool: int = 4
    """Network namespaces made ahead for boots and restores."""
    records_per_function: int = 1000
    """The records of the last so many invocations of a function are kept."""
    records_days: float = 7.0
    """Records older than this are dropped."""
    operations_per_tenant: int = 1000
    """The receipts of a tenant's newest so many operations are kept; what has not ended is kept besides."""
    operations_days: float = 7.0
    """Receipts of operations that began longer ago are dropped."""
    rate_limit_per_s: float = 0.0
    """Requests a second that one API key may make to this node, /fn/ included; 0: as many as it likes."""
    rate_limit_burst: int = 50
    """So many at once before QUILT_RATE_LIMIT_PER_S holds."""
    quota_containers: int = 0
    """Containers that a tenant may have; 0: any number."""
    quota_container_memory_mb: int = 0
    """The sum of the memory limits of a tenant's containers; 0: any."""
    quota_volumes: int = 0
    """Volumes that a tenant may have; 0: any number."""
    quota_volume_mb: int = 0
    """The sum of the size limits of a tenant's volumes, each of which then needs one; 0: any."""
    disk_reserve_mb: int = 512
    """With less room than this on the disk of the state folder nothing new is taken (507 DISK_FULL); 0: no floor."""
    log_file_mb: int = 8
    """Output of a function beyond what its records hold is kept in up to four files of this size."""
    public_metrics: bool = False
    """Whether /metrics, /docs and /openapi.json need no key from loopback."""
    shutdown_seconds: float = 10.0
    """How long running invocations get at shutdown."""
    criu: str = ""
    """Path of a criu program; empty: the one that set-up found or unpacked."""

    @property
    def base_url(self) -> str:
        """The URL a client uses."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return self.url or f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def platform(self) -> str:
        """12 hex of the state folder's real path; names the platform's cgroups, bridge and run folder here."""
        return hashlib.sha256(os.path.realpath(self.state_dir).encode()).hexdigest()[:12]

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir) if self.run_dir else Path("/run/quilt") / self.platform

    @property
    def spawner_socket(self) -> Path:
        return self.run_path / "spawner.sock"

    @property
    def redis_socket(self) -> Path:
        return self.run_path / "redis.sock"

    @property
    def node_dir(self) -> Path:
        """What the node process writes: uploaded bundles, logs. Owned by the node's user."""
        return Path(self.state_dir) / "node"

    @property
    def root_dir(self) -> Path:
        """What only the spawner reads and writes: root's, mode 0700."""
        return Path(self.state_dir) / "root"


def _parse(field: str, kind: object, text: str) -> object:
    name = f"QUILT_{field.upper()}"
    if kind in ("int", "float"):
        least, most = RANGES[field]
        what = "a whole number" if kind == "int" else "a number"
        try:
            number = int(text) if kind == "int" else float(text)
        except ValueError:
            raise InvalidValue(f"{name} must be {what} from {least} to {most}, not {text!r}") from None
        if not least <= number <= most:  # nan is within no range
            raise InvalidValue(f"{name} must be {what} from {least} to {most}, not {text}")
        return number
    if kind == "bool":
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off", ""):
            return False
        raise InvalidValue(f"{name} must be true or false, not {text!r}")
    if field == "redis_url" and text and not _is_redis_url(text):
        # Not shown: there may be a password in it.
        raise InvalidValue(
            f"{name} must be a URL that begins with redis://, rediss:// or unix://, then a host or a path"
        )
    return text


def _is_redis_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        found = parts.port, parts.hostname
    except ValueError:  # its port is no port
        return False
    return parts.scheme in REDIS_SCHEMES and bool(parts.path if parts.scheme == "unix" else found[1])


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ` (the process's own by default). Raises InvalidValue naming the variable."""
    env = os.environ if environ is None else environ
    values = {}
    for field in fields(Settings):
        name = f"QUILT_{field.name.upper()}"
        if name in env:
            values[field.name] = _parse(field.name, field.type, env[name])
    return Settings(**values)  # type: ignore[arg-type]
