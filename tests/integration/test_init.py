"""quilt-init as pid 1, in namespaces that `unshare` makes: what a container keeps, what an instance has left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.quilt_init import program, wait_for
from tests.slowness import patience

UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount", "--ipc", "--uts",
           "--net", "--mount-proc"]  # fmt: skip
TWO_CAPABILITIES = 1 << 21 | 1 << 8
ASK = """
import json, socket
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect("\\0quilt-init")
print(sock.recv(100_000).decode(), end="")
"""

Start = Callable[..., "Container"]


class Container:
    """One init in its own namespaces; `pid` is init's, as seen from here."""

    def __init__(self, options: list[str], command: list[str]) -> None:
        self.outer = subprocess.Popen([*UNSHARE, str(program()), "container", *options, "--", *command])
        self.pid = wait_for("init", self._init)

    def _init(self) -> int | None:
        assert self.outer.poll() is None, "init has ended"
        for pid in Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split():
            if Path(f"/proc/{pid}/comm").read_text() == "quilt-init\n":
                return int(pid)
        return None

    def status(self) -> list[dict[str, int]]:
        """The ring, asked from outside of the pid namespace (but in its network namespace, where the socket is)."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", sys.executable, "-c", ASK]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=patience(20))
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.outer.wait(20)


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[Container] = []

    def make(*command: str, options: tuple[str, ...] = ()) -> Container:
        made.append(Container(list(options), list(command)))
        return made[-1]

    yield make
    for container in made:
        container.end()


def run_inside(start: Start, tmp_path: Path, source: str, options: tuple[str, ...] = ()) -> Any:
    """What Python `source` puts into `answer`, run as a container's command."""
    target = tmp_path / "answer"
    epilogue = f"\nimport json, os; open({str(target)!r} + '.new', 'w').write(json.dumps(answer))\n"
    container = start("/usr/bin/python3", "-c", source + epilogue, options=options)
    ended = wait_for("the command's end", container.status)
    assert ended[0]["status"] == 0, ended
    return json.loads(target.with_name("answer.new").read_text())


def status_fields(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def capabilities(fields: dict[str, str]) -> dict[str, int]:
    return {name: int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


READ_STATUS = "answer = open('/proc/self/status').read(), open('/proc/self/stat').read()"


def test_a_command_keeps_two_capabilities_under_the_filter(start: Start, tmp_path: Path) -> None:
    text, stat = run_inside(start, tmp_path, READ_STATUS)
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    two = TWO_CAPABILITIES
    assert capabilities(fields) == {"CapInh": 0, "CapPrm": two, "CapEff": two, "CapBnd": two, "CapAmb": 0}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert int(fields["Pid"]) > 10
    assert int(fields["SigBlk"], 16) == 0
    assert stat.rpartition(")")[2].split()[3] == fields["Pid"], "a session of its own"


def test_without_capabilities_none_is_left(start: Start, tmp_path: Path) -> None:
    text, _ = run_inside(start, tmp_path, READ_STATUS, options=("--no-caps",))
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    assert set(capabilities(fields).values()) == {0}


def test_init_itself_is_confined_and_holds_one_socket(start: Start) -> None:
    container = start("sleep", "1000")
    fields = wait_for("the filter", lambda: (f := status_fields(container.pid))["Seccomp"] == "2" and f)
    assert capabilities(fields)["CapEff"] == TWO_CAPABILITIES
    wait_for("the command", container.children)
    fds = {int(entry.name): str(entry.readlink()) for entry in Path(f"/proc/{container.pid}/fd").iterdir()}
    assert [target.partition(":")[0] for fd, target in fds.items() if fd > 2] == ["socket"]
    assert Path(f"/proc/{container.pid}/stat").read_text().rpartition(")")[2].split()[3] != "0", "a session within"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 3"], 3 << 8),
        (["sh", "-c", "kill -9 $$"], 9),
        (["/no/such/program"], 127 << 8),
        (["/etc/passwd"], 126 << 8),
    ],
)
def test_the_exit_of_the_command_is_kept_and_init_stays(start: Start, command: list[str], status: int) -> None:
    container = start(*command)
    ended = wait_for("an exit", container.status)
    assert [entry["status"] for entry in ended] == [status]
    assert ended[0]["pid"] > 10
    assert container.outer.poll() is None


def test_orphans_are_reaped_and_the_last_256_exits_kept(start: Start) -> None:
    container = start("sh", "-c", "for n in $(seq 300); do (sh -c 'exit 7' &) ; done; exit 1")
    wait_for("300 exits", lambda: len(container.status()) == 256 and not container.children())
    assert 7 << 8 in {entry["status"] for entry in container.status()}


def test_signals_reach_everybody_but_init(start: Start, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    inner = f"trap 'exit 5' TERM; trap : HUP; touch {ready}; while :; do sleep 0.05; done"
    container = start("sh", "-c", inner)
    wait_for("the trap", ready.exists)
    os.kill(container.pid, signal.SIGHUP)
    os.kill(container.pid, signal.SIGTERM)
    wait_for("the exit", lambda: 5 << 8 in {entry["status"] for entry in container.status()})
    assert container.outer.poll() is None


def test_those_inside_are_not_answered(start: Start, tmp_path: Path) -> None:
    source = ASK.replace("print(", "answer = (").replace(', end=""', "")
    assert run_inside(start, tmp_path, source) == ""


def test_the_ring_is_found_by_who_comes_while_it_is_busy(start: Start) -> None:
    container = start("sh", "-c", "exit 0")
    wait_for("an exit", container.status)
    assert all(container.status() for _ in range(5))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [([], 2), (["nonsense"], 2), (["container", "true"], 2), (["container", "--"], 2), (["filter"], 2),
     (["filter", "loose"], 2), (["instance"], 2), (["instance", "x"], 2), (["container", "--", "true"], 125)],
)  # fmt: skip
def test_wrong_use_is_said(arguments: list[str], code: int) -> None:
    ran = subprocess.run([program(), *arguments], capture_output=True, text=True)
    assert ran.returncode == code
    assert ran.stderr


INSTANCE = """
import ctypes, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
init, out = {init!r}, {out!r}

def spawn(*doors):
    ready, tell = os.pipe()
    for fd in (tell, *doors):
        os.set_inheritable(fd, True)
    pid = os.posix_spawn(init, [init, "instance", str(tell), *map(str, doors)], {{}})
    os.close(tell)
    said = os.read(ready, 300)
    return pid, said.decode(), os.read(ready, 1) == b""

own = os.open("/proc/self/ns/pid", os.O_RDONLY)
assert libc.setns(own, 0x20000000) == 0 and libc.unshare(0x20000000) == 0
door = os.open(out, os.O_WRONLY | os.O_CREAT)
pid, said, closed = spawn(door)
"""


def run_template(start: Start, tmp_path: Path, source: str) -> Any:
    prologue = INSTANCE.format(init=str(program()), out=str(tmp_path / "tasks"))
    return run_inside(start, tmp_path, prologue + source)


def test_an_instances_init_gives_up_everything(start: Start, tmp_path: Path) -> None:
    answer = run_template(start, tmp_path, """
def look(path):
    try:
        return str(os.listdir(path) if path.endswith("/fd") else os.readlink(path))
    except OSError as error:
        return type(error).__name__
answer = [said, closed, open(f"/proc/{pid}/status").read(), look(f"/proc/{pid}/root"), look(f"/proc/{pid}/fd")]
""")  # fmt: skip
    assert answer[:2] == ["R", True]
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in answer[2].splitlines())}
    assert set(capabilities(fields).values()) == {0}
    assert fields["Seccomp_filters"] == "2"
    assert fields["NSpid"].split()[-1] == "1"
    assert answer[3] == "PermissionError"
    assert answer[4] in ("[]", "PermissionError")
    assert (tmp_path / "tasks").read_text() == "0", "it has entered the cgroup before it said so"


def test_an_instances_init_holds_no_descriptor(start: Start, tmp_path: Path) -> None:
    answer = run_template(start, tmp_path, """
first, second = os.pipe()
os.set_inheritable(second, True)
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
libc.setns(own, 0x20000000); libc.unshare(0x20000000)
pid, said, closed = spawn()
os.close(second)
answer = said, os.read(first, 1) == b""
""")  # fmt: skip
    assert answer == ["R", True]


def test_an_instances_init_reaps_and_ends_by_kill_alone(start: Start, tmp_path: Path) -> None:
    answer = run_template(start, tmp_path, """
ready, tell = os.pipe()
child = os.fork()
if child == 0:                      # the instance, pid 2
    inner = os.fork()
    if inner == 0:                  # becomes an orphan of its pid namespace
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.waitpid(inner, 0)
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
        os.kill(1, sig)
    os.write(tell, json.dumps([os.getpid(), os.getppid()]).encode())
    signal.pause()
seen = json.loads(os.read(ready, 100))
os.kill(pid, signal.SIGTERM)
import time
for _ in range(1000):
    left = open(f"/proc/{pid}/task/{pid}/children").read().split()
    if not left: break
    time.sleep(0.01)
alive = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
os.kill(pid, signal.SIGKILL)
# In this order: a pid namespace's init is not gone before the template has collected the instance.
statuses = [os.waitpid(child, 0)[1], os.waitpid(pid, 0)[1]]
answer = [seen, left, alive, statuses]
""")  # fmt: skip
    assert answer == [[2, 0], [], "S", [9, 9]]


def test_an_instances_init_says_what_failed(start: Start, tmp_path: Path) -> None:
    answer = run_template(start, tmp_path, """
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
libc.setns(own, 0x20000000); libc.unshare(0x20000000)
pid, said, closed = spawn(os.open("/dev/null", os.O_RDONLY))
answer = said, os.waitpid(pid, 0)[1]
""")  # fmt: skip
    assert answer == ["Eentering the cgroup: Bad file descriptor", 1 << 8]
