"""The filters on a real kernel, as root: each call that must be refused is tried, and ordinary programs must run.

The calls are made so that they change nothing where a filter would let them through: with arguments that the kernel
refuses in another way, which is how "allowed" is told from "refused".
"""

from __future__ import annotations

import json
import os
import platform
import signal

import pytest

from tests.integration.quilt_init import under

ALL = [("template",), ("template", "instance"), ("strict",)]
TIGHT = ALL[1:]
MACHINE = platform.machine()

NUMBERS = {  # x86_64, aarch64
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "sethostname": (170, 161), "chroot": (161, 51),
    "ptrace": (101, 117), "bpf": (321, 280), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "kexec_load": (246, 104), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224),
    "open_by_handle_at": (304, 265), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "clock_settime": (227, 112), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116),
    "fanotify_init": (300, 262), "personality": (135, 92), "unshare": (272, 97), "clone": (56, 220),
    "prlimit64": (302, 261), "setns": (308, 268), "ioctl": (16, 29), "prctl": (157, 167), "getpid": (39, 172), 
    "name_to_handle_at": (303, 264),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "open_tree": (428, 428), "clone3": (435, 435), "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "quotactl_fd": (443, 443), "open_tree_attr": (467, 467),
}  # fmt: skip

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET, NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80
CLONE_THREAD = 0x10000
"""Without CLONE_SIGHAND the kernel refuses it as EINVAL, so no child is ever made."""
INVALID_UNSHARE = 0x1

TRY = """
libc.syscall.restype = ctypes.c_long
answers = []
for call in json.loads(sys.argv[2]):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(argument) for argument in call])
    answers.append("ok" if result >= 0 else __import__("errno").errorcode[ctypes.get_errno()])
print(json.dumps(answers))
"""


def number(name: str) -> int:
    return NUMBERS[name][0 if MACHINE == "x86_64" else 1]


def answers(filters: tuple[str, ...], calls: list[tuple[int, ...]]) -> list[str]:
    ran = under(filters, TRY, json.dumps([[*call, *[0] * (6 - len(call))] for call in calls]))
    assert ran.returncode == 0, ran.stderr
    found: list[str] = json.loads(ran.stdout)
    return found


def answer(filters: tuple[str, ...], name: str, *arguments: int) -> str:
    return answers(filters, [(number(name), *arguments)])[0]


REFUSED = [
    "chroot", "ptrace", "bpf", "keyctl", "add_key", "request_key", "userfaultfd", "perf_event_open", "kexec_load",
    "init_module", "finit_module", "delete_module", "reboot", "swapon", "open_by_handle_at", "process_vm_readv",
    "process_vm_writev", "kcmp", "clock_settime", "acct", "quotactl", "quotactl_fd", "syslog", "fanotify_init",
    "fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "open_tree_attr", "mount_setattr", "pidfd_getfd",
    "io_uring_setup", "io_uring_enter", "io_uring_register",
]  # fmt: skip


@pytest.mark.parametrize("filters", ALL)
def test_what_nobody_may(filters: tuple[str, ...]) -> None:
    found = answers(filters, [(number(name),) for name in REFUSED])
    assert dict(zip(REFUSED, found, strict=True)) == dict.fromkeys(REFUSED, "EPERM")


def test_a_template_may_mount_and_an_instance_may_not() -> None:
    calls = [(number("mount"),), (number("umount2"),), (number("pivot_root"),), (number("move_mount"),),
             (number("sethostname"), 0, 1000)]  # fmt: skip
    assert not {"EPERM", "ENOSYS"} & set(answers(("template",), calls))
    for filters in TIGHT:
        assert answers(filters, calls) == ["EPERM"] * 5


@pytest.mark.parametrize("filters", ALL)
@pytest.mark.parametrize("flag", [NEWUSER, NEWNET, NEWCGROUP, NEWUSER | NEWNS, NEWNS, NEWPID, NEWIPC, NEWUTS])
def test_namespaces_by_clone_and_unshare(filters: tuple[str, ...], flag: int) -> None:
    allowed = filters == ("template",) and not flag & (NEWUSER | NEWNET | NEWCGROUP)
    high = 0x7FFFFFFF << 32  # the kernel cuts clone's flags to 32 bits, so the filter must not be misled by the rest
    calls = [(number("clone"), flag | CLONE_THREAD), (number("unshare"), flag | INVALID_UNSHARE),
             (number("clone"), flag | CLONE_THREAD | high)]  # fmt: skip
    assert answers(filters, calls) == ["EINVAL" if allowed else "EPERM"] * 3


@pytest.mark.parametrize("filters", ALL)
def test_namespaces_by_other_ways(filters: tuple[str, ...]) -> None:
    assert answer(filters, "unshare", NEWTIME | INVALID_UNSHARE) == "EPERM"
    assert answer(filters, "clone3") == "ENOSYS"
    assert answer(filters, "setns", -1, NEWPID) == ("EBADF" if filters == ("template",) else "EPERM")
    for kind in (0, NEWNET, NEWUSER, NEWNS, NEWPID | NEWNS):
        assert answer(filters, "setns", -1, kind) == "EPERM"


@pytest.mark.parametrize("filters", ALL)
def test_arguments_that_matter(filters: tuple[str, ...]) -> None:
    tiocsti, tioclinux, tiocgwinsz = 0x5412, 0x541C, 0x5413
    found = [answer(filters, "ioctl", -1, request) for request in (tiocsti, tioclinux, tiocsti | 1 << 32, tiocgwinsz)]
    assert found == ["EPERM", "EPERM", "EPERM", "EBADF"]
    assert [answer(filters, "personality", value) for value in (8, 0x40000, 0xFFFFFFFF, 0)] == ["EPERM"] * 2 + [
        "ok"
    ] * 2
    assert answer(filters, "prctl", 35, 1) == "EPERM"
    assert answer(filters, "name_to_handle_at", -1) == "EFAULT"
    assert [answer(filters, "prlimit64", pid, 7) for pid in (0, 1, 1 | 1 << 32)] == ["ok", "EPERM", "EPERM"]


SOCKETS = """
import socket
answers = []
for call, *arguments in json.loads(sys.argv[2]):
    try:
        made = getattr(socket, call)(*arguments)
        for each in made if isinstance(made, tuple) else (made,):
            each.close()
        answers.append("ok")
    except OSError as error:
        answers.append(__import__("errno").errorcode[error.errno])
print(json.dumps(answers))
"""
CLOEXEC = 0o2000000


@pytest.mark.parametrize("filters", ALL)
def test_sockets(filters: tuple[str, ...]) -> None:
    cases = {
        ("socket", 1, 1, 0): "ok", ("socket", 1, 5, 0): "ok", ("socketpair", 1, 1, 0): "ok", ("socket", 2, 1, 0): "ok",
        ("socket", 2, 2 | CLOEXEC, 17): "ok", ("socket", 10, 1, 6): "ok", ("socket", 16, 3, 0): "ok",
        ("socket", 2, 3, 255): "EPERM", ("socket", 10, 3, 58): "EPERM", ("socket", 2, 10, 0): "EPERM",
        ("socket", 2, 1, 262): "EPROTONOSUPPORT", ("socket", 2, 1, 132): "EPROTONOSUPPORT",
        ("socket", 16, 3, 9): "EPROTONOSUPPORT", ("socket", 16, 3, 12): "EPROTONOSUPPORT",
        ("socket", 17, 3, 0): "EAFNOSUPPORT", ("socket", 38, 5, 0): "EAFNOSUPPORT",
        ("socket", 40, 1, 0): "EAFNOSUPPORT", ("socket", 44, 3, 0): "EAFNOSUPPORT",
    }  # fmt: skip
    ran = under(filters, SOCKETS, json.dumps(list(cases)))
    assert ran.returncode == 0, ran.stderr
    assert dict(zip(cases, json.loads(ran.stdout), strict=True)) == cases


@pytest.mark.parametrize("filters", ALL)
def test_unknown_calls_are_unknown(filters: tuple[str, ...]) -> None:
    calls = [(511,), (600,), (100_000,)] + ([(0x40000000 | number("getpid"),)] if MACHINE == "x86_64" else [])
    assert set(answers(filters, calls)) == {"ENOSYS"}


@pytest.mark.skipif(MACHINE != "x86_64", reason="int 0x80 is x86's other door")
@pytest.mark.parametrize("filters", ALL)
def test_the_32_bit_door_kills(filters: tuple[str, ...]) -> None:
    source = """
import mmap
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
libc.prctl(4, 0, 0, 0, 0)
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
"""
    assert under(filters, source).returncode == -signal.SIGSYS


PROGRAMS = {
    "threads": """
import concurrent.futures, threading
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(lambda n: n, range(100))))""",
    "subprocesses": """
import subprocess
print(subprocess.check_output(["sh", "-c", "ls / | wc -l; sleep 0"], text=True) != "")
print(subprocess.run("exit 3", shell=True, start_new_session=True).returncode)
pid = os.fork()
if pid == 0: os._exit(4)
print(os.waitpid(pid, 0)[1])""",
    "asyncio": """
import asyncio
async def main():
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print((await child.communicate(b"through"))[0])
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    print(await reader.read())
    writer.close(); server.close()
    print(await asyncio.to_thread(sum, [1, 2]))
asyncio.run(main())""",
    "sqlite and files": """
import mmap, shutil, sqlite3, tempfile
with tempfile.TemporaryDirectory() as folder:
    with sqlite3.connect(folder + "/x.db") as db:
        db.execute("pragma journal_mode=wal"); db.execute("create table t (a)"); db.execute("insert into t values (1)")
        print(db.execute("select * from t").fetchall())
    db.close()
    shutil.copytree(folder, folder + "/copy")
    os.chmod(folder, 0o700); os.utime(folder); os.symlink("a", folder + "/b")""",
    "multiprocessing": """
import multiprocessing
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))""",
    "numpy": """
import numpy
print(float((numpy.ones((500, 500)) @ numpy.ones((500, 500))).sum()))""",
    "names and addresses": """
import socket, getpass, platform, select, signal, resource, time, uuid
print(socket.getaddrinfo("localhost", 80) != [], socket.gethostname() != "", platform.node() != "")
print(uuid.uuid1() != uuid.uuid1(), resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0)
signal.setitimer(signal.ITIMER_REAL, 100); signal.alarm(0); time.sleep(0); select.epoll().close()""",
}


@pytest.mark.parametrize("filters", ALL)
@pytest.mark.parametrize("name", PROGRAMS)
def test_ordinary_programs_run(filters: tuple[str, ...], name: str) -> None:
    ran = under(filters, PROGRAMS[name])
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


def test_filters_are_small_enough_to_be_cheap() -> None:
    from tests.integration.quilt_init import filter_file

    assert filter_file("instance").stat().st_size <= 64 * 8
    assert all(filter_file(kind).stat().st_size <= 400 * 8 for kind in ("template", "strict"))
    assert os.access(filter_file("strict"), os.R_OK)
