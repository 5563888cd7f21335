"""`quilt exec` and `quilt shell` as users type them, on a real platform; and what it does to running commands."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.cli import QUILT, environment, quilt
from tests.integration.live import REPOSITORY, Answer, Live, wait_for


@pytest.fixture(scope="module")
def container(live: Live) -> Iterator[str]:
    """The name of one that runs."""
    made = live.ok("POST", "/api/containers", {"name": "for-exec", "environment": {"OWN": "1"}})
    yield "for-exec"
    live.ok("DELETE", f"/api/containers/{made['container_id']}")


@pytest.fixture
def container_id(live: Live, container: str) -> str:
    return str(live.ok("GET", f"/api/containers/by-name/{container}")["container_id"])


def test_exec_passes_everything_on(live: Live, container: str) -> None:
    every = bytes(range(256)) * 1000
    done = quilt(live, "exec", container, "--", "sh", "-c", "cat; echo $OWN $B >&2; exit 7", stdin=every)
    assert (done.returncode, done.stdout, done.stderr) == (7, every, b"1\n")
    done = quilt(live, "exec", "-e", "B=2", "-w", "/usr", "-u", "nobody", container, "sh", "-c", "echo $B; pwd; id -un")
    assert (done.returncode, done.stdout) == (0, b"2\n/usr\nnobody\n")


def test_exit_codes_of_exec(live: Live, container: str) -> None:
    for words, code, said in (
        ((container, "no-such-command"), 127, b"no-such-command"),
        ((container, "/etc/passwd"), 126, b"Permission denied"),
        (("no-such-container", "true"), 125, b"no-such-container"),
        ((container, "--", "sh", "-c", "kill -9 $$"), 137, b""),
    ):
        done = quilt(live, "exec", *words)
        assert (done.returncode, said in done.stderr) == (code, True), done
    timed = quilt(live, "exec", "--timeout", "0.3", container, "sleep", "100")
    assert timed.returncode == 124 and b"time limit" in timed.stderr
    assert quilt(live, "exec", container).returncode == 2
    assert quilt(live, "exec", "-e", "NOT_SET_ANYWHERE", container, "true").returncode == 2


def test_exec_says_that_memory_ran_out(live: Live) -> None:
    made = live.ok("POST", "/api/containers", {"name": "small", "memory_limit_mb": 64})
    try:
        done = quilt(live, "exec", "small", "python3", "-c", "a = []\nwhile True: a.append(bytearray(1 << 20))")
    finally:
        live.ok("DELETE", f"/api/containers/{made['container_id']}")
    assert (done.returncode, b"memory ran out" in done.stderr) == (137, True), done


def test_ctrl_c_at_exec_ends_the_command(live: Live, container: str, container_id: str) -> None:
    # Where these tests run in the background, the shell that started them lets its children ignore Ctrl-C.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *QUILT, "exec", container, "--", "sh", "-c", "echo on; exec sleep 7654"],
        cwd=REPOSITORY, env=environment(live), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout and process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 130
        finally:
            process.kill()
    find = {"command": ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 765[4]'"]}
    wait_for(
        lambda: live.ok("POST", f"/api/containers/{container_id}/exec", find)["stdout"] == "0\n", "the command's end"
    )


class Shell:
    """`quilt shell` under a terminal of this test's."""

    def __init__(self, live: Live, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(REPOSITORY)
            os.execve(sys.executable, [*QUILT, "shell", *words], environment(live))
        self.seen = b""
        self.resize(101, 33)
        self.modes = termios.tcgetattr(self.fd)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)

    def until(self, wanted: bytes) -> None:
        deadline = time.monotonic() + 30
        while wanted not in self.seen:
            assert time.monotonic() < deadline, self.seen[-2000:]
            if select.select([self.fd], [], [], 0.2)[0]:
                self.seen += os.read(self.fd, 65536)
        self.seen = self.seen.split(wanted, 1)[1]

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def code(self) -> int:
        """Reads on until the end, as a terminal does."""
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:
            pass  # how a terminal says that the last one who had it open is gone
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_shell(live: Live, container: str) -> None:
    shell = Shell(live, "-e", "PS1=ready> ", "--shell", "/bin/sh", container)
    shell.until(b"ready> ")
    shell.type(b"stty size\n")
    shell.until(b"33 101\r\n")
    shell.type(b"sh -c 'echo r$((0))nning; exec sleep 1000'\n")
    shell.until(b"r0nning\r\n")
    shell.type(b"\x03")
    shell.until(b"ready> ")
    shell.resize(70, 20)
    shell.type(b"until [ \"$(stty size)\" = '20 70' ]; do sleep 0.05; done; echo res$((0))zed\n")
    shell.until(b"res0zed\r\n")
    raw = termios.tcgetattr(shell.fd)
    assert not raw[3] & termios.ICANON and not raw[3] & termios.ISIG
    shell.type(b"exit 42\n")
    wait_for(lambda: termios.tcgetattr(shell.fd) == shell.modes, "the terminal as it was")
    assert shell.code() == 42


def test_a_shell_that_is_killed_can_be_attached_again(live: Live, container: str) -> None:
    shell = Shell(live, "-e", "PS1=ready> ", "--shell", "/bin/sh", container)
    shell.until(b"ready> ")
    shell.type(b"echo left be$((1))hind\n")
    shell.until(b"left be1hind\r\n")
    os.kill(shell.pid, signal.SIGKILL)
    shell.code()
    session = next(s for s in live.ok("GET", "/api/terminal/sessions")["sessions"] if s["state"] == "running")
    again = Shell(live, "--session", session["session_id"], container)
    again.until(b"left be1hind\r\n")
    again.type(b"exit 3\n")
    assert again.code() == 3


def test_shell_needs_a_terminal_and_a_container(live: Live, container: str) -> None:
    done = quilt(live, "shell", container)
    assert done.returncode == 2 and b"quilt exec" in done.stderr
    assert Shell(live, "no-such-container").code() == 125


@pytest.mark.parametrize("verb", ["stop", "kill", "delete"])
def test_the_container_goes_during_an_exec(live: Live, verb: str) -> None:
    """The caller is told so, or, where the command was ended before init was, how it ended."""
    made = live.ok("POST", "/api/containers", {"name": "goes"})
    one = f"/api/containers/{made['container_id']}"
    answers: list[Answer] = []
    body = {"command": ["sh", "-c", "touch /tmp/on; exec sleep 1000"]}
    waiting = threading.Thread(target=lambda: answers.append(live.ask("POST", one + "/exec", body)))
    waiting.start()
    look = {"command": ["test", "-e", "/tmp/on"]}
    wait_for(lambda: live.ok("POST", one + "/exec", look)["exit_code"] == 0, "the command")
    if verb == "delete":
        live.ok("DELETE", one)
    else:
        live.ok("POST", f"{one}/{verb}", {"timeout_s": 1} if verb == "stop" else None)
    waiting.join(30)
    if answers[0].status == 200:
        assert answers[0].json()["exit_code"] in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
    else:
        assert (answers[0].status, answers[0].code) == (409, "CONTAINER_NOT_RUNNING")
    again = live.ask("POST", one + "/exec", {"command": ["true"]})
    gone, ended = (404, "CONTAINER_NOT_FOUND"), (409, "CONTAINER_NOT_RUNNING")
    assert (again.status, again.code) == (gone if verb == "delete" else ended)
    if verb != "delete":
        live.ok("DELETE", one)


def test_commands_and_containers_go_on_when_the_node_is_killed(live: Live, container: str, container_id: str) -> None:
    """exec works at once afterwards; what was begun before goes on, and terminals are gone."""
    one = f"/api/containers/{container_id}/exec"
    live.ok("POST", one, {"command": ["sh", "-c", "(sleep 3; touch /tmp/went-on) >/dev/null 2>&1 &"]})
    live.ok("POST", "/api/terminal/sessions", {"container_id": container_id})
    live.kill("node")
    wait_for(lambda: live.ask("GET", "/health").status == 200, "the node")
    assert live.ok("POST", one, {"command": ["echo", "well"]})["stdout"] == "well\n"
    assert live.ok("GET", "/api/terminal/sessions")["sessions"] == []
    look = {"command": ["test", "-e", "/tmp/went-on"]}
    wait_for(lambda: live.ok("POST", one, look)["exit_code"] == 0, "the command of before")
