"""The doctor's checks on machines made of plain values: what each says, and whether the platform can run.

Not here: this machine; what the doctor says of it is tested where the platform really runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from quilt_fn.settings import Settings
from runtime.doctor import NodeUser, checks_kernel, checks_tools, places, report
from runtime.doctor.finding import Finding
from runtime.doctor.node_user import first_closed
from runtime.doctor.redis_durability import Asked

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw,nosuid,nodev 0 0
cgroup2 /sys/fs/cgroup cgroup2 rw 0 0
"""
HYBRID = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
"""
NO_SWAP = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
SWAP = NO_SWAP + "/dev/vdb                                partition\t1048572\t\t0\t\t-2\n"


@dataclass
class FakeMachine:
    """A Debian 13 with everything; tests take away."""

    user_id: int = 0
    release: str = "6.12.41+deb13-cloud-amd64"
    files: dict[str, str] = field(
        default_factory=lambda: {
            "/": "",
            "/var/lib": "",
            "/proc/self/mounts": MOUNTS,
            "/proc/self/ns/user": "",
            "/proc/sys/user/max_user_namespaces": "15000\n",
            "/proc/sys/kernel/seccomp/actions_avail": "kill_process errno trace log allow\n",
            "/proc/sys/vm/unprivileged_userfaultfd": "0\n",
            "/proc/filesystems": "nodev\ttmpfs\n\text4\nnodev\toverlay\n",
            "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
            "/proc/swaps": NO_SWAP,
            "/proc/self/cgroup": "0::/user.slice/session-1.scope\n",
            "/sys/fs/cgroup/user.slice/session-1.scope/memory.max": "max\n",
            "/sys/fs/cgroup/user.slice/session-1.scope/memory.swap.max": "max\n",
            "/proc/net/route": "Iface\tDestination\tGateway\nens3\t00000000\t0202000A\t3\t0\t0\t0\t00000000\t0\t0\t0\n",
            str(places.INIT): "",
            str(places.WAITING): "",
            str(places.INSTANCE_FILTER): "",
            str(places.TEMPLATE_FILTER): "",
        }
    )
    programs: dict[str, tuple[int, str]] = field(
        default_factory=lambda: {
            "criu --version": (0, "Version: 4.1.1\n"),
            "criu check": (0, "Looks good.\n"),
            "/usr/bin/redis-server --version": (0, "Redis server v=8.0.2 sha=00000000:1 malloc=jemalloc-5.3.0\n"),
            "/usr/bin/python3 --version": (0, "Python 3.13.5\n"),
        }
    )
    installed: set[str] = field(default_factory=lambda: {"redis-server", "ip", "nft"})
    idmap_error: str | None = None
    user: NodeUser | str = field(default_factory=lambda: NodeUser(999, 999))
    criu_argv: list[str] | None = field(default_factory=lambda: ["criu"])

    room_mb: int | None = 10_000
    redis_says: Asked = field(default_factory=lambda: Asked(True, True, "append-only file, fsync always"))

    def redis(self, url: str) -> Asked:
        return self.redis_says

    def uid(self) -> int:
        return self.user_id

    def kernel(self) -> str:
        return self.release

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files

    def which(self, program: str) -> str | None:
        return f"/usr/bin/{program}" if program in self.installed else None

    def run(self, *argv: str) -> tuple[int, str]:
        return self.programs.get(" ".join(argv), (127, "no such program"))

    def idmap(self, path: str) -> str | None:
        return self.idmap_error

    def free_mb(self, path: str) -> int | None:
        assert self.exists(path)
        return self.room_mb

    def node_user(self) -> NodeUser | str:
        return self.user

    def criu(self) -> list[str] | None:
        return self.criu_argv


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


def find(machine: FakeMachine, name: str, settings: Settings | None = None) -> Finding:
    return next(f for f in report.examine(settings or Settings(), machine) if f.name == name)


def test_a_machine_with_everything(machine: FakeMachine) -> None:
    findings = report.examine(Settings(), machine)
    assert [finding.name for finding in findings if not finding.ok] == []
    assert report.can_run(findings)


def test_a_machine_with_nothing_never_makes_the_doctor_fail() -> None:
    bare = FakeMachine(1000, "?", {"/": ""}, {}, set(), "EPERM", "no user", None, room_mb=None)
    findings = report.examine(Settings(), bare)
    assert not any(finding.ok for finding in findings)
    assert not report.can_run(findings)
    assert all(finding.lost and finding.get for finding in findings)


@pytest.mark.parametrize(
    ("release", "ok"), [("6.1.0-37-amd64", True), ("6.18.44", True), ("5.15.0", False), ("10.0", True)]
)
def test_kernel(machine: FakeMachine, release: str, ok: bool) -> None:
    machine.release = release
    assert find(machine, "kernel").ok is ok


def test_user_namespaces_switched_off(machine: FakeMachine) -> None:
    machine.files["/proc/sys/user/max_user_namespaces"] = "0\n"
    finding = find(machine, "user namespaces")
    assert (finding.ok, finding.required) == (False, True)
    assert "sysctl" in finding.get


def test_cgroup_layouts(machine: FakeMachine) -> None:
    assert checks_kernel.cgroup_layout(machine)[0] == "v2"
    del machine.files["/sys/fs/cgroup/cgroup.controllers"]
    assert checks_kernel.cgroup_layout(machine) == ("none", frozenset())
    machine.files["/proc/self/mounts"] = HYBRID
    assert checks_kernel.cgroup_layout(machine) == ("hybrid", frozenset({"memory", "cpu", "cpuacct", "pids"}))
    machine.files["/proc/self/mounts"] = HYBRID.replace("cgroup2 ", "nothing ").replace(" cgroup2", " none")
    assert checks_kernel.cgroup_layout(machine)[0] == "v1"
    assert find(machine, "cgroups").ok


def test_a_cgroup_controller_that_is_missing(machine: FakeMachine) -> None:
    machine.files["/sys/fs/cgroup/cgroup.controllers"] = "cpu pids\n"
    finding = find(machine, "cgroups")
    assert (finding.ok, finding.required) == (False, True)
    assert "missing: memory" in finding.detail


def test_swap_is_limited_where_a_group_has_the_file(machine: FakeMachine) -> None:
    machine.files["/proc/swaps"] = SWAP
    assert find(machine, "swap limit").detail == "limited by memory.swap.max"
    machine.files["/proc/self/cgroup"] = "0::/\n"
    assert not find(machine, "swap limit").ok, "the root group has no limits, so nothing is known"
    for file in ("memory.max", "memory.swap.max"):
        machine.files[f"/sys/fs/cgroup/system.slice/{file}"] = "max\n"
    assert find(machine, "swap limit").ok


@pytest.mark.parametrize(("swaps", "ok", "words"), [(SWAP, False, "swap is on"), (NO_SWAP, True, "no swap is on")])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_swap_that_cannot_be_limited(machine: FakeMachine, version: str, swaps: str, ok: bool, words: str) -> None:
    machine.files["/proc/swaps"] = swaps
    if version == "v1":
        del machine.files["/sys/fs/cgroup/cgroup.controllers"]
        machine.files["/proc/self/mounts"] = HYBRID
        machine.files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n"
    else:
        del machine.files["/sys/fs/cgroup/user.slice/session-1.scope/memory.swap.max"]
    finding = find(machine, "swap limit")
    assert (finding.ok, finding.required) == (ok, False)
    assert words in finding.detail and "in this kernel" in finding.detail
    machine.files["/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"] = ""
    assert find(machine, "swap limit").ok is (ok or version == "v1")


def test_a_kernel_without_swap(machine: FakeMachine) -> None:
    del machine.files["/proc/swaps"]
    del machine.files["/sys/fs/cgroup/user.slice/session-1.scope/memory.swap.max"]
    assert find(machine, "swap limit").ok


def test_overlay_as_a_module(machine: FakeMachine) -> None:
    machine.files["/proc/filesystems"] = "nodev\ttmpfs\n"
    assert not find(machine, "overlay").ok
    machine.programs["modprobe --dry-run overlay"] = (0, "")
    assert find(machine, "overlay").ok


def test_the_state_folder_is_judged_by_the_mount_that_it_will_be_on(machine: FakeMachine) -> None:
    machine.files["/proc/self/mounts"] = MOUNTS + "/dev/vdb /srv/my\\040data xfs rw,nodev 0 0\n"
    machine.files["/srv/my data"] = ""
    finding = find(machine, "state folder", Settings(state_dir="/srv/my data/quilt"))
    assert not finding.ok
    assert "nodev" in finding.detail
    assert find(machine, "state folder").ok


def test_a_disk_that_is_nearly_full_is_told_and_stops_nothing(machine: FakeMachine) -> None:
    machine.room_mb = 100
    finding = find(machine, "disk")
    assert not finding.ok and "100 MB free" in finding.detail and "512" in finding.detail
    assert report.can_run(report.examine(Settings(), machine))
    assert find(machine, "disk", Settings(disk_reserve_mb=50)).ok


def test_a_filesystem_without_id_maps(machine: FakeMachine) -> None:
    machine.idmap_error = "[Errno 22] Invalid argument"
    finding = find(machine, "state folder")
    assert (finding.ok, finding.required) == (False, True)
    assert "Invalid argument" in finding.detail


def test_without_root_id_maps_are_judged_by_the_filesystem(machine: FakeMachine) -> None:
    machine.user_id = 1000
    machine.idmap_error = "never asked"
    assert find(machine, "state folder").ok
    machine.files["/proc/self/mounts"] = MOUNTS.replace("ext4", "nfs4")
    assert not find(machine, "state folder").ok


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ((0, "Version: 3.17.1\n"), "3.17.1 is too old"),
        ((1, "Unexpected rt vDSO area bounds\n"), "vDSO"),
        ((127, ""), "nothing"),
    ],
)
def test_a_criu_that_will_not_do(machine: FakeMachine, version: tuple[int, str], said: str) -> None:
    machine.programs["criu --version"] = version
    finding = find(machine, "criu")
    assert (finding.ok, finding.required) == (False, False)
    assert said in finding.detail


def test_without_criu_the_platform_runs(machine: FakeMachine) -> None:
    machine.criu_argv = None
    findings = report.examine(Settings(), machine)
    assert report.can_run(findings)
    assert not next(finding for finding in findings if finding.name == "criu").ok


def test_what_criu_check_says_is_passed_on(machine: FakeMachine) -> None:
    machine.programs["criu check"] = (1, "Warn: something\nError: no PIDFD support\n")
    assert "no PIDFD support" in find(machine, "criu").detail


def test_redis(machine: FakeMachine) -> None:
    machine.programs["/usr/bin/redis-server --version"] = (0, "Redis server v=5.0.3 sha=0\n")
    assert not find(machine, "redis-server").ok
    machine.installed.remove("redis-server")
    finding = find(machine, "redis-server")
    assert (finding.ok, finding.required) == (False, True)
    assert "apt-get install redis-server" in finding.get
    assert find(machine, "redis-server", Settings(redis_url="redis://elsewhere")).ok
    machine.redis_says = Asked(True, None, "durability unknown: CONFIG GET is refused there")
    assert find(machine, "redis-server", Settings(redis_url="redis://elsewhere")).ok
    machine.redis_says = Asked(False, None, "it does not answer (refused)")
    finding = find(machine, "redis-server", Settings(redis_url="redis://elsewhere"))
    assert (finding.ok, finding.required) == (False, True)
    assert "does not answer" in finding.detail and "QUILT_REDIS_URL" in finding.get


def test_network(machine: FakeMachine) -> None:
    machine.installed.remove("nft")
    assert find(machine, "ip and nft").detail == "missing: nft"
    machine.files["/proc/net/route"] = "Iface\tDestination\n"
    assert not find(machine, "egress").ok
    assert report.can_run(report.examine(Settings(), machine))


def test_the_node_as_root_is_said(machine: FakeMachine) -> None:
    machine.user = "user 'quilt' cannot enter /root"
    finding = find(machine, "node user")
    assert (finding.ok, finding.required, finding.detail) == (False, False, "user 'quilt' cannot enter /root")


def test_init_not_built(machine: FakeMachine) -> None:
    del machine.files[str(places.INIT)]
    assert find(machine, "static init").detail == "missing: quilt-init"


def test_no_criu_that_waits(machine: FakeMachine) -> None:
    del machine.files[str(places.WAITING)]
    finding = find(machine, "waiting criu")
    assert (finding.ok, finding.required, finding.detail) == (False, False, "missing: criu-waiting.so")


def test_both_forms_of_the_report(machine: FakeMachine) -> None:
    machine.criu_argv = None
    findings = report.examine(Settings(), machine)
    body = json.loads(json.dumps(report.as_json(findings)))
    parts = {part["name"]: part for part in body["parts"]}
    assert body["can_run"] is True
    assert parts["kernel"]["lost"] is None
    assert "tools/setup" in parts["criu"]["get"]
    text = StringIO()
    report.show(findings, Console(file=text, width=200))
    assert "Quilt runs here, with less: criu." in text.getvalue()
    assert "get it: run tools/setup as root, or set QUILT_CRIU" in text.getvalue()


def test_versions() -> None:
    assert checks_tools.version_in("Version: 4.1.1") == (4, 1, 1)
    assert checks_tools.version_in("none") == ()


def test_a_closed_folder_on_the_way(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert first_closed(closed / "a" / "b", NodeUser(65533, 65533)) is not None
    assert first_closed(Path("/usr/bin/python3"), NodeUser(65533, 65533)) is None
    assert first_closed(Path("/not/there/yet"), NodeUser(65533, 65533)) is None
