"""The image `debian`: a Debian root of its own, built by mmdebstrap from the site that this machine's apt uses.

It is built when somebody asks for it and kept until it is deleted. Its folder's name is a fingerprint of its packages,
so containers which stand on an older build keep that one. Not here: the operations (`image_operations`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from runtime.spawner import image_progress, images, layers, programs, trees
from runtime.spawner.cgroups import Cgroups, Limits
from runtime.spawner.context import Say
from runtime.spawner.names import Config, write_json
from runtime.spawner.protocol import Refused
from runtime.spawner.tenants import locked

NAME = "debian"
PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
LIMITS = Limits(memory_mb=4096, cpu_percent=400, pids=512)
_CERTIFICATES = "usr/local/share/ca-certificates"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_NO_START = "#!/bin/sh\n# Nothing here starts services when a package is installed.\nexit 101\n"


def read(config: Config) -> dict[str, Any] | None:
    """{folder, fingerprint, suite, size_bytes, built_at} of the build that new containers get; None without one."""
    try:
        found: dict[str, Any] = json.loads(_record(config).read_text())
    except FileNotFoundError:
        return None
    return found if (config.store / found["folder"]).is_dir() else None


def kept(config: Config) -> set[str]:
    """Folders below the store that stay though nothing stands on them."""
    found = read(config)
    return {found["folder"]} if found else set()


def forget(config: Config) -> None:
    """New containers get it no more; the folder stays. Idempotent."""
    _record(config).unlink(missing_ok=True)


def restore(config: Config, record: dict[str, Any]) -> None:
    """Take `forget` back."""
    _record(config).parent.mkdir(parents=True, exist_ok=True)
    write_json(_record(config), record)


def build(config: Config, groups: Cgroups, say: Say) -> dict[str, Any]:
    """Build it now, beside what is there; the new record. `say` gets percent with each line. Raises Refused
    (build) with the builder's own words.

    Two builds at once wait for each other. Cut short, it leaves a folder with a dot, which the next sweep removes.
    """
    suite, sources = _sources()
    with locked(config.state / "locks" / "debian.lock"):
        top = config.store / "images" / f".{NAME}.{os.getpid()}"
        trees.remove(top)
        top.parent.mkdir(parents=True, exist_ok=True)
        group = f"image-{NAME}"
        groups.make(group, LIMITS)
        try:
            _bootstrap(groups, group, suite, sources, top, say)
            say("finishing the image", image_progress.FINISHING)
            _finish(top, sources)
            digest = hashlib.sha256(f"{images.LAYOUT} {sources}".encode())
            digest.update((top / "var/lib/dpkg/status").read_bytes())
            fingerprint = digest.hexdigest()[:32]
            target = top.with_name(f"{NAME}-{fingerprint}")
            found = [p.lstat() for p in top.rglob("*")]
            record = {
                "folder": f"images/{target.name}",
                "fingerprint": fingerprint,
                "suite": suite,
                "size_bytes": sum(s.st_size for s in found),
                "built_at": time.time(),
            }
            if not target.exists():
                top.rename(target)
            restore(config, record)
            return record
        finally:
            groups.remove(group)
            trees.remove(top)


def _record(config: Config) -> Path:
    return config.state / "images" / f"{NAME}.json"


def _sources() -> tuple[str, str]:
    """This machine's release, and lines of sources.list with the sites and suites that its apt has for it."""
    release = _os_release()
    suite = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or not re.fullmatch(r"[a-z]+", suite):
        raise Refused("the image debian is built on Debian only: this machine is something else", "build")
    if shutil.which("mmdebstrap") is None:
        raise Refused("mmdebstrap is not installed; `make setup` installs it", "build")
    wanted = "$(SITE)\t$(RELEASE)\t$(COMPONENT)"
    out = programs.checked("apt-get", "indextargets", "--format", wanted, "Created-By: Packages").decode()
    ours = {suite: 0, f"{suite}-updates": 1, f"{suite}-security": 2}
    found = {tuple(line.split("\t")) for line in out.splitlines()}
    lines = sorted((ours[t[1]], f"deb {t[0]} {t[1]} main") for t in found if t[1] in ours and t[2] == "main")
    if not lines or lines[0][0] != 0:
        raise Refused(f"this machine's apt has no packages site for {suite}; see `apt-get indextargets`", "build")
    return suite, "".join(f"{line}\n" for _, line in lines)


def _os_release() -> dict[str, str]:
    lines = (line.partition("=") for line in Path("/etc/os-release").read_text().splitlines())
    return {key: value.strip('"') for key, _, value in lines}


def _bootstrap(groups: Cgroups, group: str, suite: str, sources: str, top: Path, say: Say) -> None:
    """mmdebstrap in namespaces of its own, which end with it, and it with this process."""
    command = [
        "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        "mmdebstrap", "--verbose", "--mode=root", "--variant=minbase", "--format=directory",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"', "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=path-exclude=/usr/share/man/*",
        suite, str(top), "-",
    ]  # fmt: skip
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
    environment |= {name: os.environ[name] for name in _PROXIES if name in os.environ}
    given_r, given_w = os.pipe()
    os.write(given_w, sources.encode())  # a few lines: less than a pipe holds
    os.close(given_w)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            groups.join(group)
            os.dup2(given_r, 0)
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.chdir("/")
            os.umask(0o022)
            os.execvpe(command[0], command, environment)
        except BaseException as error:
            os.write(2, f"mmdebstrap could not be started: {error}\n".encode())
        finally:
            os._exit(127)
    os.close(given_r)
    os.close(write)
    progress = image_progress.ImageProgress()
    words = layers.listen(read, pid, lambda line: say(_without_secrets(line), progress.pct), progress.take)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        words = _without_secrets(words)
        raise Refused(f"mmdebstrap ended with {code}:\n{words[-2000:]}", "build", {"log": words[-16_000:]})


def _without_secrets(text: str) -> str:
    """A site's user and password are nobody's business but apt's."""
    return re.sub(r"(\w://)[^/@\s]+@", r"\1", text)


def _finish(top: Path, sources: str) -> None:
    """What makes a root a container's: devices, names, trust; and nothing of this machine's that is secret."""
    etc = top / "etc"
    shutil.rmtree(top / "dev")
    for name in ("dev", "dev/pts", "dev/shm", "fn"):
        (top / name).mkdir(exist_ok=True)
    (top / "dev/shm").chmod(0o1777)
    images.devices(top)
    (etc / "apt/sources.list").write_text("".join(f"{_public(line)}\n" for line in sources.splitlines()))
    for own in (etc / "apt/apt.conf.d").glob("*mmdebstrap"):
        own.unlink()
    (etc / "apt/apt.conf.d/90quilt").write_text(
        'APT::Install-Recommends "false";\n// The container is the sandbox: apt needs no user of its own in it.\n'
        'APT::Sandbox::User "root";\n'
    )
    # Debian keeps pip out of its own packages' way; in a container of one's own that is in one's own way.
    (etc / "pip.conf").write_text("[global]\nbreak-system-packages = true\nroot-user-action = ignore\n")
    policy = top / "usr/sbin/policy-rc.d"
    policy.write_text(_NO_START)
    policy.chmod(0o755)
    (etc / "hostname").write_text("quilt\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    (etc / "resolv.conf").unlink(missing_ok=True)
    (etc / "resolv.conf").write_text("".join(f"nameserver {server}\n" for server in images.nameservers()))
    _trust(top)


def _public(line: str) -> str:
    """A line of sources.list without the user and password that its site may have."""
    kind, site, *rest = line.split()
    parts = urlsplit(site)
    site = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return " ".join((kind, site, *rest))


def _trust(top: Path) -> None:
    """The certificate authorities that this machine's administrator added, in the image too: public by nature."""
    for path in sorted(Path("/", _CERTIFICATES).rglob("*.crt")):
        copy = top / _CERTIFICATES / path.relative_to(Path("/", _CERTIFICATES))
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = programs.run("chroot", str(top), "update-ca-certificates", environment=environment)
    if done.code != 0:
        raise Refused(f"update-ca-certificates in the image: {done.said[-1000:]}", "build")
