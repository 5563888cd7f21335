"""`quilt-init serve` and the link to it: what a container keeps, what it can't reach, commands and their ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quilt_fn.errors import Conflict, ContainerNotRunning, InvalidValue, NotFound
from runtime.containers.api import Command, CommandNotStarted
from runtime.containers.ends import MemoryKills
from runtime.containers.exec import Completed, run_to_end
from runtime.containers.link import InitLink
from runtime.containers.log import ContainerLog, open_files
from runtime.containers.pipes import Leftovers
from tests.integration.quilt_init import wait_for
from tests.integration.serve import Served

KEPT = sum(1 << cap for cap in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31))


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.end()


async def run(
    link: InitLink,
    *argv: str,
    stdin: bytes = b"",
    timeout_s: float = 20,
    leftovers: Leftovers | None = None,
    **fields: object,
) -> Completed:
    own = leftovers or Leftovers()
    try:
        return await run_to_end(
            link, MemoryKills(lambda: 0), Command(argv, **fields),  # type: ignore[arg-type]
            stdin=stdin, timeout_s=timeout_s, limit_bytes=1 << 20, leftovers=own,
        )  # fmt: skip
    finally:
        if leftovers is None:
            own.close()


async def text(link: InitLink, script: str, **fields: object) -> str:
    done = await run(link, "/bin/sh", "-c", script, **fields)  # type: ignore[arg-type]
    assert done.exit_code == 0, done
    return done.stdout.decode().strip()


async def busy(link: InitLink) -> None:
    """Until something else than init runs in there."""
    while not (await link.status()).others:
        pass


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


async def test_output_input_and_exit_code(served: Served) -> None:
    link = served.link()
    every = bytes(range(256)) * 512
    done = await run(link, "/bin/cat", stdin=every)
    assert (done.exit_code, done.stdout, done.stderr, done.timed_out) == (0, every, b"", False)
    done = await run(link, "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.exit_code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    done = await run(link, "/bin/sh", "-c", "kill -9 $$")
    assert done.exit_code == 128 + 9
    link.close()


async def test_what_a_command_finds(served: Served) -> None:
    link = served.link()
    found = await text(link, "pwd; echo $A; id -u; echo $HOME; ls /proc/self/fd | wc -l; ps -o pgid=,sid= -p $$",
                       environment={"A": "b c"}, working_directory="/usr")  # fmt: skip
    pwd, a, uid, home, fds, groups = found.splitlines()
    assert (pwd, a, uid, home) == ("/usr", "b c", "0", "/root")
    assert int(fds) <= 5  # 0, 1, 2, what ls opens, and what the pipe needs
    assert len(set(groups.split())) == 1
    for user, shown in (("nobody", "65534:65534"), ("1234", "1234:1234"), ("1234:5", "1234:5"), ("root:tty", "0:5")):
        assert await text(link, "echo $(id -u):$(id -g); echo again >/dev/stdout", user=user) == shown + "\nagain"
    link.close()


async def test_what_cannot_be_started_is_told_as_a_shell_does(served: Served) -> None:
    link = served.link()
    missing = await run(link, "no-such-command")
    assert missing.exit_code == 127 and b"no-such-command: No such file" in missing.stderr
    assert (await run(link, "/etc/passwd")).exit_code == 126
    assert (await run(link, "/usr")).exit_code == 126
    nobody = await run(link, "/bin/true", user="no-such-user")
    assert nobody.exit_code == 125 and b"no such user" in nobody.stderr
    nowhere = await run(link, "/bin/true", working_directory="/no/such")
    assert nowhere.exit_code == 125 and b"/no/such" in nowhere.stderr
    with pytest.raises(CommandNotStarted):
        await link.run(Command(("no-such-command",)))
    with pytest.raises(InvalidValue):
        await link.run(Command(("/bin/echo", "x" * 200_000)))
    with pytest.raises(InvalidValue):
        await link.run(Command(("/bin/echo", "a\0b")))
    assert (await run(link, "/bin/true")).exit_code == 0
    link.close()


async def test_a_folder_is_made(served: Served) -> None:
    link = served.link()
    before = descriptors()
    await link.make_folder("/root/a/b//c/")
    await link.make_folder("/root/a/b/c")
    await link.make_folder("/usr/bin")  # read-only, and there
    assert await text(link, "stat -c '%u %a' /root/a /root/a/b/c; cd /root/a/b/c && pwd") == (
        "0 755\n0 755\n/root/a/b/c"
    )
    await run(link, "/bin/sh", "-c", "ln -s loop /root/loop; echo > /root/file")
    for path, words in (
        ("/root/file", "Not a directory"), ("/root/file/a", "Not a directory"), ("/root/loop/a", "Too many levels"),
        ("/proc/a", "No such file"),
    ):  # fmt: skip
        with pytest.raises(CommandNotStarted, match=f"working directory {path}: {words}"):
            await link.make_folder(path)
    assert await text(link, "echo on") == "on"
    assert descriptors() == before
    link.close()


async def test_capabilities_and_seccomp(served: Served) -> None:
    link = served.link()
    status = await text(link, "cat /proc/self/status")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {KEPT}
    assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2"
    assert await text(link, "chroot / /bin/echo in; touch /root/f; chown 5:5 /root/f; stat -c %u /root/f") == "in\n5"
    for refused in ("mount -t tmpfs none /mnt", "unshare -U true", "mknod /root/null c 1 3", "unshare -m true"):
        assert (await run(link, "/bin/sh", "-c", refused)).exit_code != 0, refused
    link.close()


async def test_strict_keeps_nothing() -> None:
    served = Served("--strict")
    try:
        link = served.link()
        status = await text(link, "cat /proc/self/status; umask")
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0}
        assert status.endswith("0077")
        assert (await run(link, "/usr/sbin/chroot", "/", "/bin/true")).exit_code != 0
        assert (await run(link, "/bin/true", user="1234")).exit_code == 125
        link.close()
    finally:
        served.end()


async def test_init_is_out_of_reach_of_the_containers_root(served: Served) -> None:
    link = served.link()
    for path in ("mem", "environ", "maps", "fd/0", "cwd/", "auxv"):
        done = await run(link, "/bin/dd", f"if=/proc/1/{path}", "bs=1", "count=1")
        assert done.exit_code != 0, path
    assert (await run(link, "/bin/sh", "-c", "echo x >/proc/1/mem")).exit_code != 0
    assert "PID 1" not in await text(link, "kill -9 1; kill -TERM 1; echo still here")
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(chr(0) + 'quilt-init')\n"
        "try:\n s.send(bytes([1, 0, 0, 0]) + bytes(24)); print(len(s.recv(100)))\n"
        "except OSError: print(0)"
    )
    done = await run(link, "/usr/bin/python3", "-c", ask)
    assert done.stdout.strip() == b"0", done
    link.close()


async def test_a_starting_commands_descriptors_are_out_of_reach_too(served: Served, tmp_path: Path) -> None:
    """Between fork and exec a command has copies of init's own: the log's files, say. Root inside races for them."""
    link = served.link()
    files = open_files(tmp_path)
    await link.set_log(files, 1 << 20)
    for fd in files:
        os.close(fd)
    thief = await link.run(Command((
        "/usr/bin/python3", "-c",
        "import os\nprint('ready', flush=True)\nwhile True:\n"
        " for p in os.listdir('/proc'):\n"
        "  if p.isdigit():\n"
        "   try:\n"
        "    for fd in os.listdir(f'/proc/{p}/fd'):\n"
        "     t = os.readlink(f'/proc/{p}/fd/{fd}')\n"
        f"     if {str(tmp_path)!r} in t: print('STOLEN', t, flush=True)\n"
        "   except OSError: pass\n",
    )))  # fmt: skip
    await asyncio.gather(*(run(link, "/bin/true") for _ in range(300)))
    await thief.kill(signal.SIGKILL)
    await thief.wait()
    seen = os.read(thief.stdout, 65536)
    assert seen == b"ready\n"
    for fd in (thief.stdin, thief.stdout, thief.stderr):
        os.close(fd)  # type: ignore[arg-type]
    link.close()


async def test_time_limit_ends_the_group_and_says_so(served: Served) -> None:
    link = served.link()
    done = await run(link, "/bin/sh", "-c", "echo begun; sleep 100 & wait", timeout_s=0.3)
    assert (done.timed_out, done.exit_code, done.stdout) == (True, 128 + 15, b"begun\n")
    stubborn = await run(link, "/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", timeout_s=0.2)
    assert (stubborn.timed_out, stubborn.exit_code) == (True, 128 + 9)
    assert stubborn.execution_time_ms >= 2000
    wait_for("all to be gone", lambda: served.processes() == 1)
    link.close()


async def test_background_children_survive_and_hold_nothing_up(served: Served) -> None:
    link = served.link()
    leftovers = Leftovers()
    script = "(while :; do echo tick; date +%s%N >/root/new; mv /root/new /root/tick; sleep 0.02; done) & echo started"
    done = await run(link, "/bin/sh", "-c", script, leftovers=leftovers)
    assert (done.exit_code == 0 and done.stdout.startswith(b"started")) or b"started" in done.stdout
    assert done.execution_time_ms < 10_000
    first = await text(link, "until [ -s /root/tick ]; do sleep 0.01; done; cat /root/tick")
    await text(link, f"until [ $(cat /root/tick) -gt {int(first) + 200_000_000} ]; do sleep 0.01; done")
    assert served.processes() >= 2
    leftovers.close()
    link.close()


async def test_output_is_capped_and_the_command_goes_on(served: Served) -> None:
    link = served.link()
    done = await run(link, "/bin/sh", "-c", "head -c 5000000 /dev/zero; echo end >&2; exit 3")
    assert (len(done.stdout), done.truncated, done.stderr, done.exit_code) == (1 << 20, True, b"end\n", 3)
    exact = await run(link, "/usr/bin/head", "-c", str(1 << 20), "/dev/zero")
    assert (len(exact.stdout), exact.truncated) == (1 << 20, False)
    link.close()


async def test_three_hundred_at_once(served: Served) -> None:
    link = served.link()
    all_of_them = await asyncio.gather(*(run(link, "/bin/sh", "-c", f"echo {n}; exit {n % 7}") for n in range(300)))
    assert [(d.stdout, d.exit_code) for d in all_of_them] == [(f"{n}\n".encode(), n % 7) for n in range(300)]
    wait_for("all to be gone", lambda: served.processes() == 1)
    assert len(served.descriptors()) < 12
    link.close()


async def test_main_its_log_and_its_end(served: Served, tmp_path: Path) -> None:
    link = served.link()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    link.on_main_exit = ended.set_result
    log = ContainerLog(tmp_path)
    files = open_files(tmp_path)
    await link.set_log(files, 1 << 20)
    for fd in files:
        os.close(fd)
    script = "echo one; echo two >&2; printf unfinished; exit 9"
    pid = await link.start_main(Command(("/bin/sh", "-c", script)))
    assert pid > 1
    assert await asyncio.wait_for(ended, 10) == 9
    status = await link.status()
    assert (status.main_pid, status.main_exit) == (pid, 9)
    link.close()
    again = served.link()  # main's end is kept for who asks later
    assert (await again.status()).main_exit == 9
    lines = [(line.stream, line.text) async for line in log.lines(100, follow=False)]
    assert sorted(lines) == [("stderr", "two"), ("stdout", "one"), ("stdout", "unfinished")]
    await again.start_main(Command(("/bin/sleep", "100")))
    with pytest.raises(Conflict):
        await again.start_main(Command(("/bin/true",)))
    await again.kill(-1, signal.SIGKILL)
    wait_for("all to be gone", lambda: served.processes() == 1)
    await again.set_log(None)
    assert not any(str(tmp_path) in name for name in served.descriptors())
    again.close()


async def test_a_chatty_main_is_kept_within_its_limit_and_holds_nothing_up(served: Served, tmp_path: Path) -> None:
    link = served.link()
    log = ContainerLog(tmp_path)
    files = open_files(tmp_path)
    await link.set_log(files, 256 * 1024)
    for fd in files:
        os.close(fd)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    link.on_main_exit = ended.set_result
    script = "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done"
    await link.start_main(Command(("/bin/sh", "-c", script)))
    seen = []
    reader = log.lines(10, follow=True)
    async for line in reader:
        seen.append(line.text)
        if line.text == "line 59999":
            break
        assert (await link.status()).main_pid  # it answers all the while
    await reader.aclose()  # type: ignore[attr-defined]
    assert await ended == 0
    assert sizes(tmp_path) <= 2 * 256 * 1024
    last = [line.text async for line in log.lines(3, follow=False)]
    assert last == ["line 59997", "line 59998", "line 59999"]
    link.close()


@pytest.mark.parametrize("size", [65_536, 1 << 20])
async def test_who_is_told_of_the_end_finds_the_last_words(served: Served, tmp_path: Path, size: int) -> None:
    link = served.link()
    files = open_files(tmp_path)
    await link.set_log(files, 8 << 20)
    for fd in files:
        os.close(fd)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    link.on_main_exit = ended.set_result
    script = f"import fcntl, os; fcntl.fcntl(1, 1031, {size}); os.write(1, b'x' * ({size} - 5) + b'\\nlast')"
    await link.start_main(Command((sys.executable, "-c", script)))
    lines = [line.text async for line in ContainerLog(tmp_path).lines(100, follow=True, ended=ended.done)]
    assert (ended.result(), lines[-1], sum(map(len, lines))) == (0, "last", size - 1)
    link.close()


async def test_signals_to_one_process(served: Served) -> None:
    link = served.link()
    process = await link.run(Command(("/bin/sleep", "100")))
    await link.kill(process.pid, signal.SIGTERM)
    assert await process.wait() == 128 + 15
    assert await process.wait() == 128 + 15
    await process.kill(signal.SIGTERM)
    with pytest.raises(NotFound):
        await link.kill(process.pid, signal.SIGTERM)
    with pytest.raises(InvalidValue):
        await link.kill(1, signal.SIGKILL)
    for fd in (process.stdin, process.stdout, process.stderr):
        os.close(fd)  # type: ignore[arg-type]
    link.close()


async def test_the_end_of_the_container_is_told_to_whoever_waits(served: Served) -> None:
    link = served.link()
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    link.on_lost = lambda: lost.set_result(None)
    waiting = asyncio.create_task(run(link, "/bin/sleep", "100"))
    await busy(link)
    os.kill(served.pid, signal.SIGKILL)
    with pytest.raises(ContainerNotRunning):
        await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(lost, 10)
    with pytest.raises(ContainerNotRunning):
        await link.status()


async def test_a_cancelled_run_is_ended(served: Served) -> None:
    link = served.link()
    task = asyncio.create_task(run(link, "/bin/sleep", "1000"))
    await busy(link)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Not by blocking the loop: where the cancel came before the answer, the answer still has to be seen.
    await asyncio.to_thread(wait_for, "the command's end", lambda: served.processes() == 1)
    link.close()


async def test_a_start_whose_caller_is_gone_is_ended_too(served: Served) -> None:
    link = served.link()
    for turns in range(4):  # before it is sent, after that, and when the answer has come
        task = asyncio.create_task(link.run(Command(("/bin/sleep", "1000"))))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await run(link, "/bin/echo", "well")).stdout == b"well\n"
    while (await link.status()).others:
        pass
    link.close()


async def test_hostile_messages_do_no_harm(served: Served) -> None:
    """A peer of this machine that speaks nonsense; init goes on."""
    good = served.link()

    def request(*numbers: int) -> bytes:
        return struct.pack("=IIIiiII", *numbers)

    for nonsense in (
        b"", b"x", b"\xff" * 28,
        request(2, 1, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF) + b"a\0",
        request(2, 1, 0, 0, 0, 5, 5) + b"no end",
        request(2, 1, 0, 0, 0, 0, 0) + b"\0\0",
        request(3, 1, 0, 1, 9, 0, 0),
        request(4, 1, 0, 1, 9, 0, 0),
    ):  # fmt: skip
        sock = served.connect()
        if nonsense:
            sock.send(nonsense)
        sock.close()
    silent = [served.connect() for _ in range(8)]
    sock = served.connect()
    sock.settimeout(5)
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(6)]
    socket.send_fds(sock, [request(1, 1, 0, 0, 0, 0, 0)], files)
    assert len(sock.recv(100)) == 20
    assert (await run(good, "/bin/echo", "well")).stdout == b"well\n"
    assert len(served.descriptors()) < 20
    for each in (*silent, sock):
        each.close()
    for fd in files:
        os.close(fd)
    good.close()


async def test_a_fork_bomb_in_an_exec(served: Served) -> None:
    """Under a limit of processes, as a container has. Init answers all the while, and can end it."""
    link = served.link()
    bomb = "import os, resource\nresource.setrlimit(resource.RLIMIT_NPROC, (200, 200))\nos.setuid(1234)\n" + (
        "while True:\n try: os.fork()\n except OSError: pass\n"
    )
    task = asyncio.create_task(run(link, "/usr/bin/python3", "-c", bomb, timeout_s=1.5))
    while served.processes() < 100:
        assert (await link.status(timeout_s=10)).main_pid is None
    assert (await run(link, "/bin/echo", "well")).stdout == b"well\n"
    done = await task
    assert done.timed_out
    wait_for("all to be gone", lambda: served.processes() == 1)
    link.close()


def test_needs_to_be_pid_1() -> None:
    from tests.integration.quilt_init import program

    assert subprocess.run([program(), "serve"], capture_output=True).returncode == 125
    assert subprocess.run([program(), "serve", "--bogus"], capture_output=True).returncode == 2
