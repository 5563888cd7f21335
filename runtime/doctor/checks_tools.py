"""What is installed and reachable: CRIU, Redis, Python, the static init, ip and nft, a way out, the node's user.

Pure: everything is asked of a `Machine`. Not here: the kernel (`checks_kernel`).
"""

from __future__ import annotations

import re

from quilt_fn.settings import Settings
from runtime.doctor import places
from runtime.doctor.finding import Finding
from runtime.doctor.machine import Machine

CRIU_WANTED = (4, 1)
PYTHON_WANTED = (3, 11)
SETUP = "run tools/setup as root"


def version_in(text: str) -> tuple[int, ...]:
    """The first dotted number in `text`, empty where there is none."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def criu(machine: Machine, settings: Settings) -> Finding:
    lost = "no snapshots: a function that is not live in memory boots anew, as slowly as its imports are"
    argv = machine.criu()
    if argv is None:
        return Finding("criu", False, "not found", lost, f"{SETUP}, or set QUILT_CRIU")
    code, text = machine.run(*argv, "--version")
    version = version_in(text)
    if code != 0 or not version:
        return Finding("criu", False, f"{argv[-1]} does not run: {last_line(text)}", lost, SETUP)
    shown = ".".join(map(str, version))
    if version < CRIU_WANTED:
        return Finding("criu", False, f"{shown} is too old (4.1 is needed)", lost, SETUP)
    if machine.uid() != 0:
        return Finding("criu", True, f"{shown}; not checked, that takes root", lost, SETUP)
    code, text = machine.run(*argv, "check")
    return Finding(
        "criu", code == 0, f"{shown}; it says: {last_line(text)}", lost, "use a kernel that has what it names"
    )


def waiting_criu(machine: Machine, settings: Settings) -> Finding:
    there = machine.exists(str(places.WAITING))
    return Finding(
        "waiting criu",
        there,
        str(places.WAITING) if there else f"missing: {places.WAITING.name}",
        "each restore starts a CRIU of its own, which takes several milliseconds",
        SETUP,
    )


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def redis(machine: Machine, settings: Settings) -> Finding:
    lost = "functions and invocations have nowhere to be kept, so the platform does not start"
    get = "apt-get install redis-server, or name a Redis of yours in QUILT_REDIS_URL"
    if settings.redis_url:
        asked = machine.redis(settings.redis_url)
        detail = f"QUILT_REDIS_URL names one; {asked.why}"
        if not asked.answers:
            cure = "start it or correct the URL; without QUILT_REDIS_URL `quilt up` starts one of its own"
            return Finding("redis-server", False, detail, lost, cure, required=True)
        return Finding(
            "redis-server", asked.durable is not False, detail,
            "what was answered as done may be gone after a crash of that Redis",
            "CONFIG SET appendonly yes and appendfsync always there",
        )  # fmt: skip
    program = machine.which("redis-server")
    if program is None:
        return Finding("redis-server", False, "not found", lost, get, required=True)
    code, text = machine.run(program, "--version")
    found = re.search(r"v=(\S+)", text)
    ok = code == 0 and found is not None and version_in(found[1]) >= (6, 2)
    detail = f"{found[1]} ({program})" if found else f"{program} does not run: {last_line(text)}"
    return Finding("redis-server", ok, detail, lost, get, required=True)


def python(machine: Machine, settings: Settings) -> Finding:
    code, text = machine.run(places.SYSTEM_PYTHON, "--version")
    ok = code == 0 and version_in(text)[:2] >= PYTHON_WANTED
    return Finding(
        "python",
        ok,
        f"{places.SYSTEM_PYTHON}: {last_line(text)}",
        "functions run on the system's Python",
        "apt-get install python3 (3.11 or later)",
        required=True,
    )


def static_init(machine: Machine, settings: Settings) -> Finding:
    missing = [
        path.name
        for path in (places.INIT, places.INSTANCE_FILTER, places.TEMPLATE_FILTER)
        if not machine.exists(str(path))
    ]
    return Finding(
        "static init",
        not missing,
        f"missing: {', '.join(missing)}" if missing else str(places.INIT),
        "containers have no first process and no system call filter, so none is started",
        SETUP,
        required=True,
    )


def network_tools(machine: Machine, settings: Settings) -> Finding:
    missing = [name for name in ("ip", "nft") if machine.which(name) is None]
    return Finding(
        "ip and nft",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "both there",
        "functions with network `egress` cannot reach anything",
        "apt-get install iproute2 nftables",
    )


def egress(machine: Machine, settings: Settings) -> Finding:
    routes = [line.split() for line in (machine.read("/proc/net/route") or "").splitlines()[1:]]
    uplinks = sorted(
        {words[0] for words in routes if len(words) > 7 and words[1] == "00000000" and words[7] == "00000000"}
    )
    return Finding(
        "egress",
        bool(uplinks),
        f"by {', '.join(uplinks)}" if uplinks else "no default route (IPv4)",
        "functions reach only what is on this machine's own networks; requirements cannot be fetched",
        "give the machine a default route",
    )


def node_user(machine: Machine, settings: Settings) -> Finding:
    found = machine.node_user()
    ok = not isinstance(found, str)
    return Finding(
        "node user",
        ok,
        found if isinstance(found, str) else f"{settings.user} (uid {found.uid})",
        "the HTTP server and Redis run as root: a fault in them is a fault with all rights",
        "run tools/setup, and keep the code and the state folder where that user can enter (not below /root)",
    )
