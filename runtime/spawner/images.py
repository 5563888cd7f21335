"""The image `host` (a skeleton around this machine's /usr) and the guest: the two lowest layers of every root.

Not here: the image `debian` (`debian`), and which image a name means (`image_names`).

Both are made anew when what they are made from changes, under a name that is its fingerprint, so that containers which
run on an older one keep theirs. /usr itself is not copied: it is mounted read-only into each root (`roots`).
"""

from __future__ import annotations

import compileall
import functools
import hashlib
import os
import py_compile
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from runtime.spawner.names import Config
from runtime.spawner.tenants import locked

LAYOUT = "5"
"""Part of every fingerprint: raise it when the skeleton, the mounts or the filters change."""

GUEST = "/opt/quilt"
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_ETC = (
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "protocols", "services",
    "mime.types", "os-release", "debian_version", "ssl/certs", "ssl/openssl.cnf", "python3", "python3.11", "python3.12",
    "python3.13", "python3.14", "gai.conf", "host.conf", "rpc", "fonts",
)  # fmt: skip


def host_fingerprint(config: Config) -> str:
    """Changes with the package database, the interpreter, libc and our own layout."""
    digest = hashlib.sha256(f"{LAYOUT} {nameservers()}".encode())
    for path in ("/var/lib/dpkg/status", os.path.realpath(config.python), "/etc/ld.so.cache"):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        digest.update(f"{path}:{found.st_size}:{found.st_mtime_ns}:{found.st_ino}\n".encode())
    return digest.hexdigest()[:32]


def host(config: Config) -> str:
    """The skeleton's folder below the store, made where it is not there."""
    name = f"images/host-{host_fingerprint(config)}"
    _make_once(config, name, lambda root: _skeleton(root))
    return name


@functools.cache
def guest(config: Config) -> str:
    """The folder below the store that holds /opt/quilt: init, filter, guest, cloudpickle, and the SDK.

    Looked at once in a spawner's life, so that the node and all of its containers speak of the same guest.
    """
    sources = {
        "guest/_quilt_guest": config.repo / "runtime" / "guest",
        "guest/cloudpickle": config.cloudpickle,
        "sdk/quilt_fn": config.repo / "quilt_fn",
    }
    digest = hashlib.sha256(LAYOUT.encode())
    for path in [config.init, config.instance_bpf, *(p for s in sources.values() for p in _python_files(s))]:
        digest.update(str(path).encode())
        digest.update(path.read_bytes())
    name = f"guest/{digest.hexdigest()[:32]}"

    def make(root: Path) -> None:
        top = root / GUEST.lstrip("/")
        for target, source in sources.items():
            for path in _python_files(source):
                copy = top / target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        shutil.copyfile(config.init, top / "quilt-init")
        (top / "quilt-init").chmod(0o755)
        shutil.copyfile(config.instance_bpf, top / "instance.bpf")
        compileall.compile_dir(top, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                               stripdir=str(root))  # fmt: skip

    _make_once(config, name, make)
    return name


def _python_files(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.rglob("*.py") if not {"__pycache__", "cli"} & set(p.parts))


def _make_once(config: Config, name: str, make: object) -> None:
    target = config.store / name
    with locked(config.state / "images.lock"):
        if target.exists():
            return
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        assert callable(make)
        old = os.umask(0o022)
        try:
            make(temporary)
        finally:
            os.umask(old)
        temporary.rename(target)


def _skeleton(root: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        source = Path("/") / name
        if source.is_symlink():
            (root / name).symlink_to(os.readlink(source))
    for name in ("usr", "proc", "dev", "dev/pts", "dev/shm", "etc", "home", "mnt", "opt", "run", "run/lock", "srv",
                 "sys", "root", "tmp", "var", "var/cache", "var/lib", "var/lib/python", "var/log", "var/tmp",
                 "fn"):  # fmt: skip
        (root / name).mkdir(exist_ok=True)
    (root / "var/run").symlink_to("/run")
    for name in ("tmp", "var/tmp", "dev/shm", "run/lock"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o700)
    devices(root)
    etc = root / "etc"
    for name in _ETC:
        _copy(Path("/etc") / name, etc / name)
    (etc / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    (etc / "group").write_text("root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    (etc / "hostname").write_text("quilt\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    (etc / "mtab").symlink_to("/proc/self/mounts")
    servers = nameservers()
    (etc / "resolv.conf").write_text("".join(f"nameserver {s}\n" for s in servers))


def devices(root: Path) -> None:
    """The few device nodes that every container has, and the links of /dev, in the empty folder `dev` of `root`."""
    for name, (major, minor) in _DEVICES.items():
        node = root / "dev" / name
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        node.chmod(0o666)
    for name, link in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ):
        (root / "dev" / name).symlink_to(link)


def nameservers() -> list[str]:
    """The name servers that this machine itself asks, without those on its loopback, which a container can't reach."""
    found: list[str] = []
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver" and not words[1].startswith("127.") and "." in words[1]:
                found.append(words[1])
    return list(dict.fromkeys(found))[:3]


def _copy(source: Path, target: Path) -> None:
    """Copy what every user may read, links as links."""
    try:
        found = source.lstat()
    except FileNotFoundError:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(found.st_mode):
        resolved = os.readlink(source)
        if resolved.startswith("/etc/") and source.name in ("os-release", "localtime"):
            shutil.copyfile(source, target)
        else:
            target.symlink_to(resolved)
    elif stat.S_ISDIR(found.st_mode) and found.st_mode & 0o005 == 0o005:
        target.mkdir(exist_ok=True)
        for entry in source.iterdir():
            _copy(entry, target / entry.name)
    elif stat.S_ISREG(found.st_mode) and found.st_mode & 0o004:
        shutil.copyfile(source, target)
        target.chmod(stat.S_IMODE(found.st_mode) & 0o755)
