"""The fork audit, on descriptors, mappings, threads and children that each test makes in this process.

Findings are compared with those of before, because pytest and its neighbours hold some of their own.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest

from runtime.guest import loop
from runtime.guest.audit import audit, read_only_files, reopen_files, undumpable


@contextmanager
def new_findings(find: Callable[[set[int]], list[str]] = audit) -> Iterator[Callable[[], list[str]]]:
    before = set(find(set()))
    yield lambda: [finding for finding in find(set()) if finding not in before]


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_quiet_process_has_no_findings() -> None:
    source = "from runtime.guest.audit import audit, undumpable; print(audit({0, 1, 2}), undumpable())"
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert ran.stdout == "[] []\n"


def test_numpys_own_threads_are_allowed() -> None:
    source = (
        "import numpy; numpy.ones((400, 400)) @ numpy.ones((400, 400));"
        "from runtime.guest.audit import audit; print(audit({0, 1, 2}))"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n", numpy.__version__


def test_a_writable_file_is_found_and_what_the_guest_shows_is_not(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with new_findings() as found, path.open("w") as file:
        assert found() == [f"descriptor {file.fileno()} (file {path}) is open for writing"]
        assert not any(str(path) in finding for finding in audit({file.fileno()}))
        second = os.dup(file.fileno())
        assert not any(str(path) in finding for finding in audit({second}))
        os.close(second)


def test_what_leads_into_the_templates_root_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with new_findings() as found, opened(str(tmp_path / "data"), os.O_RDONLY):
        assert "on a mount that can be written to" in found()[0]
    with new_findings() as found, opened("/usr", os.O_RDONLY | os.O_DIRECTORY):
        assert "leads into the template's root" in found()[0]
    with new_findings() as found, opened("/usr/bin/env", os.O_PATH):
        assert "leads into the template's root" in found()[0]


def test_harmless_devices_are_no_findings() -> None:
    with new_findings() as found, opened("/dev/null", os.O_RDWR), opened("/dev/urandom", os.O_RDONLY):
        assert found() == []


def test_connections_are_found_by_their_addresses() -> None:
    with new_findings() as found, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert found() == [f"descriptor {server.fileno()} (INET stream socket at 127.0.0.1:{port}) is open"]
        with new_findings(undumpable) as worse, socket.create_connection(("127.0.0.1", port)):
            assert f"connected to 127.0.0.1:{port}) is an open connection" in worse()[0]


def test_pipes_and_anonymous_descriptors_are_found() -> None:
    with new_findings() as found:
        made = [*os.pipe(), os.eventfd(0)]
        kinds = " ".join(found())
        for fd in made:
            os.close(fd)
    assert kinds.count("(pipe ") == 2
    assert "(eventfd " in kinds


def test_epoll_is_found() -> None:
    with new_findings() as found, select.epoll():
        assert "(epoll " in found()[0]


def test_shared_memory_is_found() -> None:
    with new_findings() as found, mmap.mmap(-1, 4096):
        assert "memory is shared and writable" in found()[0]
    with new_findings() as found, mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE):
        assert found() == []


def test_threads_are_found_by_name() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="poller", daemon=True)
    with new_findings() as found:
        thread.start()
        seen = found()
        end.set()
        thread.join()
    assert seen == ["the thread 'poller' of Python runs"]


def test_children_are_found_by_name() -> None:
    pipe = subprocess.PIPE
    with new_findings() as found, subprocess.Popen(["cat"], stdin=pipe, stdout=pipe, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"there")
        child.stdout.read(5)
        assert f"the child process {child.pid} (cat) runs" in found()
        child.stdin.close()


def test_what_criu_cannot_take_is_named(tmp_path: Path) -> None:
    import fcntl

    with new_findings(undumpable) as found, (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "holds a file lock" in found()[0]
    with new_findings(undumpable) as found, tempfile.TemporaryFile(dir=tmp_path) as file:
        file.truncate(2 << 20)
        assert "a deleted file of 2097152 bytes" in found()[0]
    with new_findings(undumpable) as found:
        ring = _io_uring()
        if ring is None:
            pytest.skip("io_uring is switched off on this machine")
        seen = found()
        os.close(ring)
    assert "(io_uring " in seen[0]


def _io_uring() -> int | None:
    import ctypes

    fd = ctypes.CDLL(None, use_errno=True).syscall(425, 1, ctypes.create_string_buffer(120))
    return fd if fd >= 0 else None


def test_the_guests_own_loop_is_no_finding() -> None:
    with new_findings() as found:
        loop.get()
        seen = found()
        loop.close()
    assert seen == []


def test_reopened_files_have_a_position_of_their_own() -> None:
    with opened("/etc/passwd", os.O_RDONLY) as fd:
        os.lseek(fd, 5, os.SEEK_SET)
        other = os.dup(fd)
        others = {int(name) for name in os.listdir("/proc/self/fd")} - {fd}  # noqa: PTH208
        reopen_files(read_only_files(others))
        os.lseek(other, 9, os.SEEK_SET)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
        os.close(other)


def test_a_fork_gives_the_loop_wake_up_sockets_of_its_own() -> None:
    source = """
import asyncio, os, threading
from runtime.guest import loop
async def woken():
    future = asyncio.get_running_loop().create_future()
    thread = threading.Thread(target=loop.get().call_soon_threadsafe, args=(future.set_result, 7))
    thread.start()
    answer = await future
    thread.join()
    return answer
loop.run(woken())
inode = lambda: {os.fstat(fd).st_ino for fd in loop.get().descriptors()}
before = inode()
pid = os.fork()
if pid == 0:
    os._exit(loop.run(woken()) if not inode() & before else 1)
assert os.waitpid(pid, 0)[1] == 7 << 8
assert inode() == before
loop.close()
"""
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
