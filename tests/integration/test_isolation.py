"""From inside a function, at import, in both hooks and in the handler: there is no way out. `attempts` is the function.

Not here: one function's instances kept apart (`test_bad_days`, `test_snapshots`), and the filters by themselves
(`test_seccomp`).
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.spawner.cgroups import SWAPS, Cgroups
from runtime.spawner.names import Config
from tests.integration import census
from tests.integration.live import Live, wait_for
from tests.slowness import patience

SOURCE = Path(__file__).with_name("attempts.py").read_text()
PLACES = ["at import", "before the snapshot", "after the restore", "in the handler"]
IN_THE_INSTANCE = PLACES[2:]
REFUSED = {
    "EPERM",
    "EACCES",
    "ENOSYS",
    "EAFNOSUPPORT",
    "EPROTONOSUPPORT",
    "EROFS",
    "ENODEV",
    "EINVAL",
    "ESOCKTNOSUPPORT",
}
NOT_THERE = {"EBADF", "ENOTTY", "ENXIO", "ENOENT", "ENOTBLK", "ENOTSUP", "EOPNOTSUPP"}


@pytest.fixture(scope="module")
def prisoner(live: Live) -> str:
    return live.deploy(
        SOURCE, hooks={"before_snapshot": ["main:before"], "after_restore": ["main:after"]}, timeout_seconds=60
    )


@pytest.fixture(scope="module")
def outcome(live: Live, prisoner: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = live.call(prisoner)
    return found


def not_refused(found: dict[str, str], allowed: set[str] = frozenset()) -> dict[str, str]:  # type: ignore[assignment]
    return {name: result for name, result in found.items() if result not in REFUSED and name not in allowed}


@pytest.mark.parametrize("place", PLACES)
def test_namespaces(outcome: dict[str, Any], place: str) -> None:
    """A template needs some for its instances: never those that give rights or a network. An instance makes none."""
    in_template = {f"{how} {what}" for how in ("unshare", "clone") for what in ("mnt", "uts", "ipc", "pid")}
    allowed = set() if place in IN_THE_INSTANCE else in_template | {"setns pid"}
    assert not_refused(outcome[place]["namespaces"], allowed) == {}
    assert outcome[place]["namespaces"]["clone3"] == "ENOSYS"


@pytest.mark.parametrize("place", PLACES)
def test_sockets(outcome: dict[str, Any], place: str) -> None:
    assert not_refused(outcome[place]["sockets"]) == {}


@pytest.mark.parametrize("place", PLACES)
def test_system_calls(outcome: dict[str, Any], place: str) -> None:
    found = outcome[place]["calls"]
    assert {name: result for name, result in found.items() if result not in REFUSED | NOT_THERE} == {}
    assert found["ptrace attach"] == found["bpf"] == found["keyctl"] == found["init_module"] == "EPERM"
    assert found["io_uring_setup"] == found["userfaultfd"] == "EPERM"


@pytest.mark.parametrize("place", PLACES)
def test_mounts(outcome: dict[str, Any], place: str) -> None:
    found = outcome[place]["mounts"]
    assert {name: result for name, result in found.items() if result not in REFUSED | NOT_THERE} == {}
    if place in IN_THE_INSTANCE:
        assert set(found.values()) == {"EPERM"}
    else:
        assert {result for name, result in found.items() if name.startswith("remount")} == {"EPERM"}


@pytest.mark.parametrize("place", PLACES)
def test_this_machines_usr_is_not_written(outcome: dict[str, Any], place: str) -> None:
    """It is this machine's own: a file written there as root would be the end of it."""
    assert set(outcome[place]["usr"].values()) <= {"EROFS", "EPERM", "EACCES"}
    assert not Path("/usr/.quilt-was-here").exists()


@pytest.mark.parametrize("place", PLACES)
def test_settings_of_the_kernel(outcome: dict[str, Any], place: str) -> None:
    """What opens for writing is of the function's own ipc and pid namespaces."""
    own = ("/proc/sys/fs/mqueue/", "/proc/sys/kernel/msg", "/proc/sys/kernel/shm", "/proc/sys/kernel/sem",
           "/proc/sys/kernel/auto_msgmni", "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/pid_max")  # fmt: skip
    assert [path for path in outcome[place]["settings"] if not path.startswith(own)] == []


def test_rights(outcome: dict[str, Any]) -> None:
    sys_admin_and_setpcap = f"{1 << 21 | 1 << 8:016x}"
    for place in PLACES:
        rights = outcome[place]["rights"]
        kept = "0" * 16 if place in IN_THE_INSTANCE else sys_admin_and_setpcap
        assert (rights["CapInh"], rights["CapAmb"]) == ("0" * 16, "0" * 16)
        assert (rights["CapPrm"], rights["CapEff"], rights["CapBnd"]) == (kept, kept, kept), place
        assert (rights["NoNewPrivs"], rights["Seccomp"]) == ("1", "2")


def test_a_template_that_cannot_fork_keeps_no_right(live: Live) -> None:
    name = live.deploy("""
        import threading, time
        threading.Thread(target=time.sleep, args=(10**6,), daemon=True).start()
        def rights():
            lines = open("/proc/self/status").read().splitlines()
            return [line.split()[1] for line in lines if line.startswith("CapEff")]
        def handler(event): return rights()
    """)
    assert not live.way(name, "fork")["available"]
    assert live.call(name) == ["0" * 16]


@pytest.mark.parametrize("cold", [False, True], ids=["fork", "restore"])
def test_other_processes(live: Live, prisoner: str, cold: bool) -> None:
    if cold:
        live.drop_instances(prisoner, template=True)
    pids = sorted(pid for pid in census.parents() if pid > 40)
    found = live.call(prisoner, {"what": "others", "pids": pids})
    assert found["seen"] == [1], "only the init of its own"
    assert found["signalled"] == []
    assert set(found["first"].values()) - {"ESRCH"} <= {"EACCES", "EPERM", "done"}
    assert [n for n, result in found["first"].items() if result == "done"] in ([], ["kill"]), found["first"]
    assert live.call(prisoner, {"what": "gateway"}) is not None, "its init has ignored the kill"


@pytest.fixture
def planted(live: Live) -> Iterator[list[str]]:
    """Files that everybody on this machine may read, and the platform's own."""
    made = []
    for folder in ("/tmp", "/var/tmp", "/home", "/srv", "/root", "/opt", "/mnt", "/run", "/etc"):
        fd, name = tempfile.mkstemp(prefix="quilt-planted-", dir=folder)
        os.close(fd)
        Path(name).chmod(0o644)
        made.append(name)
    yield made
    for name in made:
        Path(name).unlink()


def test_files_of_the_machine(live: Live, prisoner: str, planted: list[str]) -> None:
    own = [
        str(live.folder), str(live.settings.run_path), str(live.root_dir), str(Path(__file__)), "/etc/shadow",
        "/var/lib/dpkg/status", "/boot/vmlinuz", "/sys/kernel", "/sys/fs/cgroup", "/proc/1/root/etc/shadow", "/dev/vda",
        "/var/lib/quilt-ids", "/root/.bashrc", "/etc/machine-id", "/etc/ssh", "/lib/modules/.x",
    ]  # fmt: skip
    assert live.call(prisoner, {"what": "files", "paths": [*planted, *own]}) == []


def addresses_of_this_machine() -> list[str]:
    found = json.loads(subprocess.run(["ip", "-json", "-4", "addr", "show"], check=True, capture_output=True).stdout)
    return [info["local"] for link in found for info in link.get("addr_info", [])]


def test_services_of_the_machine(live: Live, prisoner: str) -> None:
    """Neither the node's port nor anybody's else, by any address of the machine; nor the platform's unix sockets."""
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("0.0.0.0", 0))
        tcp.listen()
        port = tcp.getsockname()[1]
        udp.bind(("0.0.0.0", port))
        hosts = ["gateway", "127.0.0.1", "0.0.0.0", *addresses_of_this_machine()]
        run = live.settings.run_path
        paths = [str(live.settings.spawner_socket), str(live.settings.redis_socket), *map(str, run.rglob("*.sock"))]
        found = live.call(
            prisoner,
            {"what": "reached", "paths": paths,
             "addresses": [[host, p] for host in dict.fromkeys(hosts) for p in (port, live.port)]},
        )  # fmt: skip
        assert found == []
        assert select.select([tcp, udp], [], [], 0)[0] == [], "something arrived"
    link_local = [["169.254.169.254", 80], ["169.254.169.254", 53]]
    assert live.call(prisoner, {"what": "reached", "paths": [], "addresses": link_local}) == []


SERVER = """
import socket, threading
def handler(event):
    if event.get("connect"):
        with socket.socket() as sock:
            sock.settimeout(0.5)
            try:
                sock.connect(tuple(event["connect"]))
                return sock.recv(10).decode()
            except OSError as error:
                return type(error).__name__
    listener = socket.create_server(("0.0.0.0", 9999))
    def serve():
        while True:
            sock, _ = listener.accept()
            sock.sendall(b"hello")
            sock.close()
    threading.Thread(target=serve, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]
"""


def test_two_functions_do_not_reach_each_other(live: Live) -> None:
    server, client = live.deploy(SERVER), live.deploy(SERVER)
    address = live.call(server)
    assert live.call(server, {"connect": [address, 9999]}) == "hello", "the server is there"
    assert live.call(client, {"connect": [address, 9999]}) != "hello"


def test_no_network_means_none(live: Live) -> None:
    name = live.deploy(
        "import socket\ndef handler(event): return [i[1] for i in socket.if_nameindex()]", network="none"
    )
    assert live.call(name) == ["lo"]


def test_the_templates_control_socket_is_of_no_use(live: Live) -> None:
    """Instances share the template's network, so they can connect: they are hung up on, whatever they say or hold."""
    name = live.deploy("""
        import array, os, socket
        held = []
        def handler(event):
            answers = []
            for words in (b'{"op": "leave"}', b'{"op": "hello"}', b'{"op": "fork", "instance": "x"}', b"nonsense"):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.settimeout(2)
                sock.connect("\\0quilt-template")
                try:
                    fds = array.array("i", [0, 1, 2])
                    sock.sendmsg([words], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                    answers.append(sock.recv(1000).decode())
                except (BrokenPipeError, ConnectionResetError):
                    answers.append("")
            for _ in range(50):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.setblocking(False)
                try:
                    sock.connect("\\0quilt-template")
                except BlockingIOError:
                    pass
                held.append(sock)
            return answers
    """)
    assert live.call(name) == ["", "", "", ""]
    live.drop_instances(name)
    assert live.ask("POST", f"/fn/{name}", {}).start == "fork", "the template is still there, and answers the node"


def test_an_instance_cannot_stand_in_for_the_template(live: Live) -> None:
    """It may take the address when the template is gone; a node that comes back does not talk to it."""
    name = live.deploy("""
        import socket, threading
        heard = []
        def handler(event):
            if not event.get("bind"):
                return heard
            try:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.bind("\\0quilt-template")
            except OSError as error:
                return type(error).__name__
            sock.listen(8)
            def serve():
                while True:
                    peer, _ = sock.accept()
                    heard.append(peer.recv(1000).decode())
            threading.Thread(target=serve, daemon=True).start()
            return "bound"
    """, max_instances=2)  # fmt: skip
    assert live.call(name, {"bind": True}) == "OSError"
    live.ok("POST", f"/api/functions/{live.id(name)}/template/drop")
    wait_for(lambda: live.call(name, {"bind": True}) == "bound", "the address to be free")
    assert live.call(name) == []


def test_the_processor_is_limited(live: Live) -> None:
    name = live.deploy(
        """
        import os, time
        def handler(event):
            begun, used = time.monotonic(), sum(os.times()[:2])
            while time.monotonic() - begun < 1.5:
                pass
            return sum(os.times()[:2]) - used
        """,
        cpu_limit_percent=20,
    )
    assert live.call(name) < 0.75, "half of what it could have had without a limit"


def test_swap_is_limited_or_said_not_to_be(live: Live) -> None:
    groups = Cgroups(Config.read(str(live.settings.run_path / "spawner.json")).platform)
    reason = groups.swap_unlimited()
    said = live.ok("GET", "/api/system/info")["features"]["swap_limit"]
    assert said == {"available": reason is None, "reason": reason}
    name = live.deploy("import os\ndef handler(event): return os.environ['QUILT_INSTANCE_ID']", memory_limit_mb=96)
    group = live.call(name)
    memory = groups.bases[0] if groups.v2 else next(base for base in groups.bases if base.parent.name == "memory")
    file = memory / group / ("memory.swap.max" if groups.v2 else "memory.memsw.limit_in_bytes")
    if reason is None and SWAPS.exists():
        assert int(file.read_text()) == (0 if groups.v2 else 96 << 20)


def test_limits_hold_at_import(live: Live) -> None:
    name = live.deploy(
        """
        import os, signal
        made = 0
        for _ in range(1000):
            try:
                pid = os.fork()
            except OSError:
                break
            if pid == 0:
                while True:
                    signal.pause()
            made += 1
        os.kill(-1, signal.SIGKILL)
        while made:
            try:
                os.wait()
            except ChildProcessError:
                break
        def handler(event): return made
        """,
        pids_limit=40,
    )
    assert 10 < live.call(name) < 40


HOSTILE = """
import os, sys, socket, array
template = sys.modules["_quilt_guest.template"]
Template, fork = template.Template, template._ACTIONS["fork"]
def hostile(self, message, fds):
    {words}
template._ACTIONS["fork"] = hostile
def handler(event): os._exit(3)
"""


@pytest.mark.parametrize(
    "words",
    [
        'self._say({"op": "exited", "instance": message["instance"], "status": 127}); return fork(self, message, fds)',
        'self.node.sendmsg([b\'{"op":"exited","instance":"x","status":Infinity}\']); return fork(self, message, fds)',
        'self.node.sendmsg([b"[" * 100000]); return fork(self, message, fds)',
        'self.node.sendmsg([b"\\xff\\xfe"]); return fork(self, message, fds)',
        'self._say({"op": "forked", "instance": message["instance"], "pid": 1})',
        'self._say({"op": "forked", "instance": message["instance"], "pid": 1}, [os.open("/fn/main.py", os.O_RDONLY)])',
        'self._say({"op": "forked", "instance": message["instance"], "pid": 1}, [socket.socket().detach()])',
        'self._say({"op": "fork_failed", "instance": message["instance"], "error": "x" * 100000})',
        "os._exit(0)",
        "os.close(self.node.fileno())",
    ],
)
def test_a_template_that_lies_harms_only_itself(live: Live, function: Callable[..., str], words: str) -> None:
    liar = live.deploy(HOSTILE.format(words=words), timeout_seconds=60)
    got = live.ask("POST", f"/fn/{liar}", {})
    assert got.status in (502, 503), got.body
    assert live.call(function("def handler(event): return 'well'")) == "well"
    live.delete(liar)


def test_a_link_in_place_of_usr_leads_nowhere(live: Live) -> None:
    name = live.create(
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(b"/usr", 2)
        os.rmdir("/usr")
        os.symlink("/etc", "/usr")
        def handler(event): return sorted(os.listdir("/etc"))
    """,
        timeout_seconds=patience(30),  # three starts fail before the caller is told
    )
    live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
    got = live.ask("POST", f"/fn/{name}", {})
    assert got.status == 503, got.body
    live.delete(name)
