"""Build a layer: requirements resolved and installed by uv, wheels only, as a user of its own, then owned by root.

Wheels run no code when they are installed. The cache is the tenant's. uv is started from an open descriptor, so that
it can lie where the builder may not look. Bytecode is compiled: it makes a boot two to three times quicker.
"""

from __future__ import annotations

import functools
import os
import selectors
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from runtime.spawner import kernel, programs, tenants
from runtime.spawner.bundles import own_by_root
from runtime.spawner.cgroups import Cgroups, Limits
from runtime.spawner.names import Config
from runtime.spawner.protocol import Refused

TIMEOUT_S = 900.0
LIMITS = Limits(memory_mb=4096, cpu_percent=400, pids=512)
_PASS_ON = ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


def build(
    config: Config, groups: Cgroups, tenant: str, layer: str, requirements: list[str], say: Callable[[str], None]
) -> int:
    """Build `layer` of `requirements`; its size in bytes. Idempotent; raises Refused (build) with the resolver's own
    words.
    """
    target = config.layer(tenant, layer)
    with tenants.locked(config.state / "locks" / f"{layer}.lock"):
        if not target.exists():
            _build(config, groups, tenant, target, requirements, say)
    return int((target / "opt/quilt/layer-size").read_text())


def _build(config: Config, groups: Cgroups, tenant: str, target: Path, requirements: list[str],
           say: Callable[[str], None]) -> None:  # fmt: skip
    builder = tenants.base_id(config, tenant) + tenants.BUILDER
    # The state folder may lie where the builder can't go, below /root say: it works on a mount of its cache elsewhere.
    place = config.mounts / "build" / f"{target.name}-{os.getpid()}"
    cache = config.state.parent / "cache" / tenant
    work = cache / f".build-{target.name}-{os.getpid()}"
    for folder in (cache, work, place):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in (cache, work):
        os.chown(folder, builder, builder)
        folder.chmod(0o700)
    group = f"build-{target.name}"
    groups.make(group, LIMITS)
    try:
        _install(config, groups, group, builder, work, place, requirements, say)
        own_by_root(work)
        work.chmod(0o755)
        top = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(top, ignore_errors=True)
        (top / "opt/quilt").mkdir(parents=True)
        (work / "site").rename(top / "opt/quilt/layer")
        size = sum(p.lstat().st_size for p in top.rglob("*") if p.is_file() and not p.is_symlink())
        (top / "opt/quilt/layer-size").write_text(str(size))
        top.rename(target)
    finally:
        groups.remove(group)
        shutil.rmtree(work, ignore_errors=True)
        place.rmdir()


def _install(config: Config, groups: Cgroups, group: str, builder: int, work: Path, place: Path,
             requirements: list[str], say: Callable[[str], None]) -> None:  # fmt: skip
    (work / "requirements.txt").write_text("\n".join(requirements) + "\n")
    uv = os.open(config.uv, os.O_RDONLY)
    inside = place / work.name
    command = ["uv", "pip", "install", "--python", config.python, "--target", str(inside / "site"), "--only-binary",
               ":all:", "--link-mode", "copy", "--compile-bytecode", "--no-config", "--no-python-downloads",
               "--cache-dir", str(place / "uv"), "-r", str(inside / "requirements.txt")]  # fmt: skip
    passed = {k: v for k, v in os.environ.items() if k.upper() in _PASS_ON or k.startswith("UV_")}
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(inside), "LANG": "C.UTF-8", "NO_COLOR": "1", **passed}
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            groups.join(group)
            os.dup2(write, 1)
            os.dup2(write, 2)
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
            kernel.mount(str(work.parent), str(place), None, kernel.MS_BIND)
            os.setgroups([])
            os.setresgid(builder, builder, builder)
            os.setresuid(builder, builder, builder)
            os.chdir(inside)
            os.umask(0o022)
            os.set_inheritable(uv, True)
            os.execve(uv, command, environment)
        except BaseException as error:
            os.write(2, f"uv could not be started: {error}\n".encode())
        finally:
            os._exit(127)
    os.close(write)
    os.close(uv)
    words = listen(read, pid, say)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise Refused(_explain(words, code), "build", {"log": words[-16_000:]})
    (work / "site").mkdir(exist_ok=True)


def listen(read: int, pid: int, say: Callable[[str], None], heard: Callable[[str], object] = str) -> str:
    """Say what a builder writes to the pipe, its last line each time; its last words at its end. `heard` gets every
    line. After TIMEOUT_S it is killed.
    """
    deadline = time.monotonic() + TIMEOUT_S
    words = rest = b""
    selector = selectors.DefaultSelector()
    selector.register(read, selectors.EVENT_READ)
    while True:
        if not selector.select(timeout=max(0.0, deadline - time.monotonic())):
            os.kill(pid, signal.SIGKILL)
            words += f"\nthe build took over {TIMEOUT_S:g} s".encode()
            break
        piece = os.read(read, 65536)
        if not piece:
            break
        words = (words + piece)[-64_000:]
        *whole, rest = (rest + piece)[-64_000:].split(b"\n")
        for each in whole:
            heard(each.decode(errors="replace"))
        line = piece.decode(errors="replace").strip().splitlines()
        if line:
            say(line[-1][:200])
    os.close(read)
    return words.decode(errors="replace").strip()


def _explain(words: str, code: int) -> str:
    if "no wheels" in words or "only-binary" in words or "has no usable wheels" in words or "no-build" in words:
        return "a requirement has no wheel for this Python and machine, and Quilt installs wheels only:\n" + words
    return words or f"uv ended with {code}"


@functools.cache
def version(config: Config) -> str:
    """The minor version of the image's Python, such as 3.11."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return programs.checked(config.python, "-I", "-S", "-c", code).decode().strip()
