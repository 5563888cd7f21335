"""From inside a user's container, by its root: there is no way out, nor into another tenant's.

The attempts are `container_attempts` and, beneath it, those of functions, `attempts`. Not here: the filters by
themselves (`test_seccomp`), archives and volumes (`test_volumes`), who reaches whom by network (`test_attachments`).
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import select
import socket
import tarfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gateway.app import ROUTES
from runtime.spawner import processes
from runtime.spawner.sandbox import TERMINALS_MAX
from runtime.spawner.tenants import BASE_ID
from tests.integration.live import Live, wait_for
from tests.integration.test_containers import Machines
from tests.integration.test_isolation import NOT_THERE, REFUSED, addresses_of_this_machine, not_refused, planted
from tests.integration.volume_tools import tar, volume

__all__ = ["planted", "volume"]

PROGRAMS = [Path(__file__).with_name(name) for name in ("attempts.py", "container_attempts.py")]
KEPT = 0
for _capability in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31):
    KEPT |= 1 << _capability
"""chown, files, users, ports, chroot, audit: as in runtime/guest/init/serve.c."""


@pytest.fixture(scope="module")
def prison(live: Live) -> Iterator[Machines]:
    made = Machines(live)
    yield made
    made.delete_all()


@pytest.fixture
def machines(live: Live) -> Iterator[Machines]:
    made = Machines(live)
    yield made
    made.delete_all()


@pytest.fixture(scope="module", params=[False, True], ids=["root", "strict"])
def prisoner(prison: Machines, request: pytest.FixtureRequest) -> tuple[str, bool]:
    """A container with the programs of attempts in it, and whether it is strict."""
    ctr = prison.new(strict=request.param)["container_id"]
    for program in PROGRAMS:
        body = {"command": ["sh", "-c", f"cat > /tmp/{program.name}"], "stdin": program.read_text()}
        assert prison.ask(ctr, "exec", body)["exit_code"] == 0
    return ctr, request.param


def attempt(machines: Machines, ctr: str, what: str, *about: Any) -> Any:
    command = ["/usr/bin/python3", "/tmp/container_attempts.py", what, *map(json.dumps, about)]
    done = machines.ask(ctr, "exec", {"command": command, "timeout_ms": 60_000})
    assert done["exit_code"] == 0, done["stderr"][-2000:]
    return json.loads(done["stdout"])


@pytest.fixture(scope="module")
def outcome(prison: Machines, prisoner: tuple[str, bool]) -> dict[str, Any]:
    found: dict[str, Any] = attempt(prison, prisoner[0], "everything")
    return found | {"strict": prisoner[1]}


def test_namespaces_and_mounts(outcome: dict[str, Any]) -> None:
    assert not_refused(outcome["namespaces"]) == {}
    assert outcome["namespaces"]["clone3"] == "ENOSYS"
    assert set(outcome["mounts"].values()) == {"EPERM"}
    assert set(outcome["usr"].values()) <= {"EROFS", "EPERM", "EACCES"}
    assert not Path("/usr/.quilt-was-here").exists()


def test_system_calls_and_sockets(outcome: dict[str, Any]) -> None:
    calls = dict(outcome["calls"])
    assert calls.pop("chroot") == ("EPERM" if outcome["strict"] else "done")
    assert {name: result for name, result in calls.items() if result not in REFUSED | NOT_THERE} == {}
    for name in ("ptrace attach", "bpf", "keyctl", "add_key", "init_module", "io_uring_setup", "userfaultfd",
                 "process_vm_readv", "open_by_handle_at", "push characters into a terminal"):  # fmt: skip
        assert calls[name] == "EPERM", name
    assert not_refused(outcome["sockets"]) == {}


def test_its_network_is_not_its_own_to_change(outcome: dict[str, Any]) -> None:
    assert {n: r for n, r in outcome["network"].items() if r not in REFUSED | {"EADDRNOTAVAIL", "ENOPROTOOPT"}} == {}


def test_settings_of_the_kernel(outcome: dict[str, Any]) -> None:
    """What opens for writing is of the container's own ipc and pid namespaces."""
    own = ("/proc/sys/fs/mqueue/", "/proc/sys/kernel/msg", "/proc/sys/kernel/shm", "/proc/sys/kernel/sem",
           "/proc/sys/kernel/auto_msgmni", "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/pid_max")  # fmt: skip
    assert [path for path in outcome["settings"] if not path.startswith(own)] == []
    assert (outcome["sys"], outcome["cgroup files"]) == ([], [])


def test_rights(outcome: dict[str, Any]) -> None:
    rights, kept = outcome["rights"], f"{0 if outcome['strict'] else KEPT:016x}"
    assert (rights["CapInh"], rights["CapAmb"], rights["CapBnd"]) == ("0" * 16, "0" * 16, kept)
    assert (rights["CapPrm"], rights["CapEff"]) == (kept, kept)
    assert (rights["NoNewPrivs"], rights["Seccomp"]) == ("1", "2")


def test_devices_and_files(outcome: dict[str, Any]) -> None:
    refused = REFUSED | {"EBUSY", "ENOENT", "ENOTSUP", "EOPNOTSUPP", "EXDEV"}
    assert {name: result for name, result in outcome["files"].items() if result not in refused} == {}
    if not outcome["strict"]:
        assert outcome["above a chroot"] == outcome["root"], "out of the inner root, not of the container's"


def test_init_is_out_of_reach(outcome: dict[str, Any], prison: Machines, prisoner: tuple[str, bool]) -> None:
    assert {name: result for name, result in outcome["init"].items() if result not in REFUSED} == {}
    assert outcome["spoken to init"] == [0, 0, 0, 0, 0]
    others = outcome["others"]
    assert others["signalled"] == [], "no process of this machine's, by its number here"
    assert {name for name, result in others["first"].items() if result == "done"} <= {"kill"}
    assert prison.sh(prisoner[0], "echo it lives") == "it lives\n"
    assert prison.get(prisoner[0])["state"] == "running"


def test_an_exec_holds_its_pipes_alone(prison: Machines, prisoner: tuple[str, bool]) -> None:
    done = prison.run(prisoner[0], "/usr/bin/ls", "-l", "/proc/self/fd")
    found = dict(re.findall(r"(\d+) -> (\w+)?", done["stdout"]))
    assert found == {"0": "pipe", "1": "pipe", "2": "pipe", "3": ""}, "and the folder that it lists"


def test_terminals_are_left_for_others(prison: Machines, prisoner: tuple[str, bool]) -> None:
    assert 0 < attempt(prison, prisoner[0], "terminals") <= TERMINALS_MAX


def test_its_own_command_holds_its_pipes_alone(live: Live, machines: Machines) -> None:
    ctr = machines.new(command=["ls", "-l", "/proc/self/fd"])["container_id"]
    lines = wait_for(lambda: live.ask("GET", f"/api/containers/{ctr}/logs").body.decode(), "its output")
    assert sorted(re.findall(r"(\d+) -> (\w*)", lines)) == [("0", "pipe"), ("1", "pipe"), ("2", "pipe"), ("3", "")]


def test_files_of_this_machine(live: Live, prison: Machines, prisoner: tuple[str, bool], planted: list[str]) -> None:
    own = [str(live.folder), str(live.settings.run_path), str(Path(__file__)), "/etc/shadow", "/var/lib/dpkg/status",
           "/sys/kernel", "/proc/1/root/etc/shadow", "/var/lib/quilt-ids", "/etc/machine-id"]  # fmt: skip
    assert attempt(prison, prisoner[0], "files_of_the_machine", [*planted, *own]) == []


@pytest.mark.parametrize("prisoner", [False], ids=["root"], indirect=True)
def test_services_of_this_machine(live: Live, prison: Machines, prisoner: tuple[str, bool], gateway: str) -> None:
    """Neither the node's port nor anybody else's, by any address of this machine, nor the platform's sockets."""
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("0.0.0.0", 0))
        tcp.listen()
        port = tcp.getsockname()[1]
        udp.bind(("0.0.0.0", port))
        hosts = dict.fromkeys([gateway, "127.0.0.1", "0.0.0.0", *addresses_of_this_machine()])
        targets = [[host, p] for host in hosts for p in (port, live.port)] + [["169.254.169.254", 80]]
        paths = [str(live.settings.spawner_socket), str(live.settings.redis_socket)]
        assert attempt(prison, prisoner[0], "reached", targets, paths) == []
        assert select.select([tcp, udp], [], [], 0)[0] == [], "something arrived"


@pytest.fixture
def gateway(outcome: dict[str, Any]) -> str:
    assert outcome["gateway"], "there is a network to try"
    return str(outcome["gateway"])


# --- what a life leaves for the next start ----------------------------------------------------------------------------

FAKE_INIT = "/opt/quilt/quilt-init"
HARMLESS_TRAPS = {
    "init replaced": f"rm {FAKE_INIT}; printf '#!/bin/sh\\nexec sleep 1000\\n' > {FAKE_INIT}; chmod 755 {FAKE_INIT}",
    "init gone": "rm -rf /opt/quilt",
    "init elsewhere": "mv /opt /srv/opt; mkdir -p /srv/fake/quilt; cp /usr/bin/sleep /srv/fake/quilt/quilt-init;"
    " ln -s /srv/fake /opt",
    "etc by a descriptor": "mv /etc /etc2; ln -s /proc/self/fd/5/../../../../../../../../../../../etc /etc",
    "names as links and folders": "rm /etc/hosts /etc/hostname; ln -s {planted} /etc/hosts; mkdir /etc/hostname",
    "null is a link": "rm -f /dev/null; ln -s {planted} /dev/null",
    "null by a descriptor": "rm -f /dev/null; ln -s /proc/self/fd/3 /dev/null",
    "null is a pipe": "rm -f /dev/null; mkfifo /dev/null",
    "no devices": "mv /dev /dev2 2>/dev/null; rm -rf /dev2; rm -f /dev/null /dev/zero /dev/tty",
    "root is closed": "chmod 0 / /root /etc /tmp",
    "users": "rm /etc/passwd; mkfifo /etc/passwd; rm /etc/group; ln -s /dev/zero /etc/group",
}


@pytest.mark.parametrize("trap", HARMLESS_TRAPS)
def test_the_next_start_steps_on_no_trap(machines: Machines, tmp_path: Path, trap: str) -> None:
    """Whatever its root has left in its files, the next init is this platform's own, with the rights of every init."""
    victim = Path("/var/tmp") / f"quilt-planted-{os.urandom(4).hex()}"
    victim.write_text("of this machine\n")
    victim.chmod(0o666)
    try:
        ctr = machines.new()["container_id"]
        machines.run(ctr, "sh", "-c", HARMLESS_TRAPS[trap].format(planted=victim))
        machines.ask(ctr, "stop", {"timeout_s": 0})
        ended = machines.begin(ctr, "start")
        assert ended["status"] == "succeeded", ended
        assert_own_init(machines.get(ctr)["pid"])
        assert machines.run(ctr, "/usr/bin/sleep", "0")["exit_code"] == 0
        assert victim.read_text() == "of this machine\n"
    finally:
        victim.unlink()


def assert_own_init(pid: int) -> None:
    program = Path(f"/proc/{pid}/exe").read_bytes()
    assert program == (Path(__file__).parents[2] / ".tools/bin/quilt-init").read_bytes()
    status = dict(re.findall(r"^(\w+):\s+(\S+)", Path(f"/proc/{pid}/status").read_text(), re.M))
    assert (status["Name"], status["NoNewPrivs"], status["Seccomp"]) == ("quilt-init", "1", "2")
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == KEPT
    standard = [Path(f"/proc/{pid}/fd/{number}").stat() for number in range(3)]
    assert {each.st_rdev for each in standard} == {os.makedev(1, 3)}


@pytest.mark.parametrize("what", ["proc/link", "proc/file", "dev/link", "dev/file", "data/link", "data/pipe"])
def test_a_start_that_finds_no_folder_is_refused(volume: Callable[..., str], machines: Machines, what: str) -> None:
    """Under a mount nothing can be renamed from inside. Should that be got round: no such start goes on."""
    ctr = machines.new(volumes=[f"{volume()}:/data"])["container_id"]
    machines.ask(ctr, "stop", {"timeout_s": 0})
    name, kind = what.split("/")
    place = machines.live.root_dir / "machines" / ctr / "upper" / name
    if place.exists():
        place.rmdir()
    {"link": lambda: place.symlink_to("/etc"), "file": place.touch, "pipe": lambda: os.mkfifo(place)}[kind]()
    before = sorted(Path("/etc").iterdir())
    ended = machines.begin(ctr, "start")
    assert (ended["status"], machines.get(ctr)["state"]) == ("failed", "exited"), ended
    assert f"/{name}" in ended["error"], ended["error"]
    assert sorted(Path("/etc").iterdir()) == before


def test_an_init_in_a_volume_is_not_started(volume: Callable[..., str], machines: Machines) -> None:
    spec = {"name": f"c-{secrets.token_hex(4)}", "volumes": [f"{volume()}:/opt"]}
    assert machines.live.ask("POST", "/api/containers", spec).status == 422


# --- another tenant's -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rival(live: Live) -> str:
    """A key of another tenant, as pool.api_keys keeps it."""
    key = "quilt_sk_" + secrets.token_hex(16)
    record = {"key_id": "key_" + "e" * 20, "tenant_id": "rival", "name": "test", "created_at": "2026-01-01T00:00:00Z"}
    live.redis("HSET", "quilt:api-keys", sha256(key.encode()).hexdigest(), json.dumps(record))
    return key


BODIES: dict[str, Any] = {
    "exec": {"command": ["true"]}, "exec-stream": {"command": ["true"]}, "stream": {"command": ["true"]},
    "stop": {"timeout_s": 0}, "rename": {"new_name": "stolen"}, "env": {"environment": {"A": "b"}},
    "resize": {"memory_limit_mb": 64},
}  # fmt: skip


def test_no_route_shows_another_tenants_container(live: Live, prison: Machines, rival: str) -> None:
    """Every route that names a container answers another tenant as it does for one that there is not."""
    own = prison.new(name="not-yours", labels={"secret": "label"})
    ctr, nobody = own["container_id"], "ctr_" + "0" * 20
    tried = 0
    for route in ROUTES:
        if "{container_id}" not in route.path:
            continue
        answers = []
        for named in (ctr, nobody):
            address = re.sub(r"\{\w+\}", "1", route.path.replace("{container_id}", named))
            body = BODIES.get(address.rsplit("/", 1)[1]) if route.method in ("POST", "PUT", "PATCH") else None
            got = live.ask(route.method, address, body, key=rival, headers={"X-Tenant-Id": "rival"})
            text = re.sub(r'"request_id":"[^"]*"', "", got.body.decode()).replace(named, "ID")
            answers.append((got.status, text))
        assert answers[0] == answers[1], route.path
        assert answers[0][0] in (400, 404, 422), (route, answers[0])
        tried += 1
    assert tried >= 15, tried
    assert live.ok("GET", "/api/containers", key=rival)["containers"] == []
    assert live.ask("GET", "/api/containers/by-name/not-yours", key=rival).status == 404
    assert live.ok("GET", f"/api/containers/{ctr}")["state"] == "running"
    assert prison.sh(ctr, "echo $A; hostname") == "\nnot-yours\n"


def test_no_terminal_into_another_tenants_container(live: Live, prison: Machines, rival: str) -> None:
    ctr = prison.new()["container_id"]
    assert live.ask("POST", "/api/terminal/sessions", {"container_id": ctr}, key=rival).status == 404
    session = live.ok("POST", "/api/terminal/sessions", {"container_id": ctr})["session_id"]
    for method, path in (("GET", ""), ("POST", "/resize"), ("POST", "/signal"), ("DELETE", "")):
        body = {"/resize": {"cols": 80, "rows": 24}, "/signal": {"signal": "INT"}}.get(path)
        got = live.ask(method, f"/api/terminal/sessions/{session}{path}", body, key=rival)
        assert got.status in (404, 405), (method, path, got.body)
    live.ok("DELETE", f"/api/terminal/sessions/{session}")


def test_what_it_was_asked_for_and_its_volumes_are_nobody_elses(
    live: Live, volume: Callable[..., str], machines: Machines, rival: str
) -> None:
    name = volume()
    ctr = machines.new(volumes=[f"{name}:/data"])["container_id"]
    machines.ask(ctr, "stop", {"timeout_s": 0})
    operation = machines.begin(ctr, "start")["operation_id"]
    for path in (f"/api/operations/{operation}", f"/api/volumes/{name}", f"/api/volumes/{name}/ls"):
        assert live.ask("GET", path).status == 200
        assert live.ask("GET", path, key=rival).status == 404
    assert live.ask("DELETE", f"/api/operations/{operation}", key=rival).status in (404, 405)
    spec = {"name": "thief", "volumes": [f"{name}:/data"]}
    assert live.ask("POST", "/api/containers", spec, key=rival).code == "VOLUME_NOT_FOUND"
    assert live.ok("GET", "/api/operations", key=rival)["operations"] == []


def test_an_archive_of_proc_shows_the_containers_own(live: Live, machines: Machines) -> None:
    """It is packed by a process of the spawner's: what /proc/sys shows depends on who looks."""
    ctr = machines.new()["container_id"]
    packed = live.ask("GET", f"/api/containers/{ctr}/archive?path=/proc/sys/net/ipv4/conf")
    with tarfile.open(fileobj=io.BytesIO(packed.body)) as archive:
        shown = {name.split("/")[0] for name in archive.getnames()}
    assert sorted(shown) == machines.sh(ctr, "ls /proc/sys/net/ipv4/conf").split()
    entry = tar(("hostname", tarfile.REGTYPE, b"stolen"), ("domainname", tarfile.REGTYPE, b"stolen"))
    before = socket.gethostname()
    begun = live.ok("POST", f"/api/containers/{ctr}/archive?path=/proc/sys/kernel", entry)
    assert live.ok("GET", f"{begun['status_url']}?wait_s=20")["status"] == "failed"
    assert socket.gethostname() == before


def test_a_process_that_is_not_the_tenants_is_not_shown() -> None:
    """Between the list of a container's processes and the look at one, its number may become another's."""
    me, mine = os.getpid(), os.getuid()
    shown = processes.look(me, mine)
    assert shown is not None and (shown["pid"], shown["user"]) == (me, 0)
    assert processes.look(me, mine + 1) is None and processes.look(me, BASE_ID) is None
    gone = os.posix_spawn("/usr/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    assert processes.look(gone, mine) is None


@pytest.mark.parametrize(
    "name", ["../x", "a/b", ".", "..", "a\0b", "A", "-a", "a" * 64, "", "a.b", "{container_id}", "a\n"]
)
def test_names_are_no_paths(live: Live, name: str) -> None:
    assert live.ask("POST", "/api/containers", {"name": name}).status == 422
    assert live.ask("POST", "/api/containers", {"name": "fine", "image": f"x{name}/../.."}).status in (404, 422)
