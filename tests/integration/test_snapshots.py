"""Snapshots and forks on a real platform: what copies must not share, what they must, and when a faster way is not had.

Not here: leaving the sandbox (`test_isolation`), and restarts of the platform (tests/chaos).
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.api import VersionSpec
from runtime.contents import snapshot_id
from tests.integration.live import REPOSITORY, Live, wait_for
from tests.slowness import patience

IDENTITIES = """
import multiprocessing, os, random, secrets, socket, ssl, tempfile, time, uuid
import numpy
random.random(); numpy.random.rand(); uuid.uuid1(); os.close(tempfile.mkstemp()[0]); ssl.RAND_bytes(8); uuid.getnode()
multiprocessing.current_process().authkey

def handler(event):
    time.sleep(event.get("s", 0))
    first = uuid.uuid1()
    return {
        "random": random.random(), "numpy": float(numpy.random.rand()), "numpy integers": numpy.random.bytes(8).hex(),
        "uuid1": str(first), "uuid1's node and clock": [first.node, first.clock_seq], "uuid4": str(uuid.uuid4()),
        "urandom": os.urandom(8).hex(), "ssl": ssl.RAND_bytes(8).hex(), "secrets": secrets.token_hex(8),
        "temporary name": os.path.basename(tempfile.mkstemp()[1]), "hostname": socket.gethostname(),
        "authkey": bytes(multiprocessing.current_process().authkey).hex(), "id": os.environ["QUILT_INSTANCE_ID"],
    }
"""


def two_at_once(live: Live, name: str) -> tuple[list[str | None], list[dict[str, Any]]]:
    answers = live.many(2, lambda _: live.ask("POST", f"/fn/{name}", {"s": 0.5}), 2)
    assert [a.status for a in answers] == [200, 200], answers
    return sorted(str(a.start) for a in answers), [a.json() for a in answers]


def assert_all_differ(found: list[dict[str, Any]]) -> None:
    assert len(found) == 6
    for what in found[0]:
        values = [json.dumps(each[what]) for each in found]
        assert len(set(values)) == 6, f"{what}: {values}"


def test_what_copies_must_not_share(live: Live) -> None:
    """Two forks, two after a restore, two after another restore of the same snapshot: six that differ in everything."""
    name = live.deploy(IDENTITIES, requirements=["numpy"], memory_limit_mb=512)
    starts, found = two_at_once(live, name)
    assert starts == ["fork", "fork"]
    for _ in range(2):
        live.drop_instances(name, template=True)
        starts, more = two_at_once(live, name)
        assert starts[-1] == "restore" and set(starts) <= {"fork", "restore"}
        found += more
    assert_all_differ(found)


def test_what_copies_of_a_copy_must_not_share(live: Live) -> None:
    """The second generation: twice two restores of a dump of a restored process, beside two forks of the first."""
    before = snapshots_there(live)
    name = live.deploy(IDENTITIES, requirements=["numpy"], memory_limit_mb=512)
    (snapshot,) = snapshots_there(live) - before
    images = {path.name: path.stat().st_ino for path in (snapshot / "images").iterdir()}
    _, found = two_at_once(live, name)
    live.drop_instances(name, template=True)
    config = str(live.settings.run_path / "spawner.json")
    argv = [sys.executable, "-m", "tests.integration.generations", config, str(live.pid("spawner")), snapshot.name]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.stat().st_ino != images.get(path.name) for path in (snapshot / "images").iterdir())
    for _ in range(2):
        starts, more = two_at_once(live, name)
        assert starts[-1] == "restore" and set(starts) <= {"fork", "restore"}
        found += more
        live.drop_instances(name, template=True)
    assert_all_differ(found)


DROPPABLE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

def tried():
    mapped = libc.mmap(None, 4096, 3, 0x28, -1, 0)  # MAP_ANONYMOUS | MAP_DROPPABLE
    return os.strerror(ctypes.get_errno()) if mapped == ctypes.c_void_p(-1).value else "mapped"

os.urandom(8)
at_import = tried()

def handler(event):
    flags = {flag for line in open("/proc/self/smaps") if line.startswith("VmFlags") for flag in line.split()[1:]}
    return [at_import, tried(), sorted(flags & {"rd", "dp"})]
"""


def test_random_bytes_are_kept_in_no_memory_that_is_copied(live: Live) -> None:
    """glibc 2.41 and Linux 6.11 keep some in droppable memory, so that getrandom needs no system call: a snapshot would
    give the same to all of its copies.
    """
    assert live.call(live.deploy(DROPPABLE)) == ["Invalid argument", "Invalid argument", ["rd"]]


def test_secrets_are_in_no_file(live: Live) -> None:
    """Neither in the snapshot nor elsewhere but in Redis; the environment is, which shows that this looks."""
    secret, plain = "secret-" + secrets.token_hex(12), "plain-" + secrets.token_hex(12)
    name = live.deploy(
        "import os\ndef handler(event): return [os.environ['SECRET'], os.environ['PLAIN']]",
        secrets={"SECRET": secret}, environment={"PLAIN": plain},
    )  # fmt: skip
    assert live.call(name) == [secret, plain]
    live.drop_instances(name, template=True)
    got = live.ask("POST", f"/fn/{name}", {})
    assert (got.start, got.json()) == ("restore", [secret, plain])
    state = Path(live.settings.state_dir)
    assert files_with(live.root_dir / "snapshots", plain), "the environment is in the memory that was dumped"
    for folder in (live.root_dir, live.settings.node_dir, live.settings.run_path, state / "cache", live.log):
        assert files_with(folder, secret) == []
    assert secret not in json.dumps(live.record(name))


def test_a_secret_that_the_import_needs_fails_the_deploy_with_a_hint(live: Live) -> None:
    name = live.create("import os\nX = os.environ['SECRET']\ndef handler(event): pass", secrets={"SECRET": "s"})
    got = live.ask("POST", f"/api/functions/{live.id(name)}/deploy")
    assert (got.status, got.code) == (422, "BUILD_FAILED")
    assert "after_restore" in got.json()["hint"]


def snapshots_there(live: Live) -> set[Path]:
    return set((live.root_dir / "snapshots").glob("snp_*"))


def files_with(folder: Path, text: str) -> list[Path]:
    files = [folder] if folder.is_file() else [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return [path for path in files if text.encode() in path.read_bytes()]


@pytest.fixture
def snapshot_of(live: Live) -> Iterator[tuple[str, Path]]:
    """A function and the folder of its snapshot."""
    before = snapshots_there(live)
    name = live.deploy("def handler(event): return 'well'")
    (folder,) = snapshots_there(live) - before
    yield name, folder
    live.delete(name)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def largest(folder: Path) -> Path:
    return max((folder / "images").iterdir(), key=lambda path: path.stat().st_size)


def reseal(folder: Path) -> None:
    """Another manifest that fits the files, with the old seal."""
    raw = json.loads((folder / "manifest.json").read_text())
    raw["manifest"]["files"].pop(largest(folder).name)
    largest(folder).unlink()
    (folder / "manifest.json").write_text(json.dumps(raw))


TAMPER = {
    "a byte in the memory": (lambda folder: flip(largest(folder)), "not what was signed"),
    "a byte in the core": (lambda folder: flip(next((folder / "images").glob("core-*"))), "not what was signed"),
    "a file more": (lambda folder: (folder / "images" / "extra.img").write_bytes(b"x"), "not what was signed"),
    "a file less": (lambda folder: largest(folder).unlink(), "not what was signed"),
    "another manifest": (reseal, "not signed by this platform"),
}


@pytest.mark.parametrize("how", TAMPER)
def test_a_snapshot_that_was_tampered_with_is_not_restored(live: Live, snapshot_of: tuple[str, Path], how: str) -> None:
    name, folder = snapshot_of
    live.drop_instances(name, template=True)
    assert live.ask("POST", f"/fn/{name}", {}).start == "restore", "it was verified, and is known"
    tamper, words = TAMPER[how]
    tamper(folder)
    live.drop_instances(name, template=True)
    got = live.ask("POST", f"/fn/{name}", {})
    assert (got.status, got.start, got.body) == (200, "boot", b"well")
    said = [line for line in live.log.read_text().splitlines() if live.id(name) in line and "restore failed" in line]
    assert words in said[-1]
    live.drop_instances(name, template=True)
    assert live.ask("POST", f"/fn/{name}", {}).start == "restore", "the boot took a new one"


SPEC = VersionSpec("default", "fn_1", "f", 1, "b" * 64, "main:handler")
FACTS = {"python": "3.11", "kernel": "6.12", "criu": "4.1"}


@pytest.mark.parametrize(
    "changed",
    [
        {"environment": {"A": "1"}}, {"tenant_id": "other"}, {"bundle_id": "c" * 64}, {"handler": "main:other"},
        {"memory_limit_mb": 128}, {"cpu_limit_percent": 50}, {"pids_limit": 99}, {"network": "none"},
        {"before_snapshot": ("main:a",)}, {"after_restore": ("main:a",)}, {"warmup_event": 1}, {"version": 2},
        {"function_id": "fn_2"},
    ],
    ids=str,
)  # fmt: skip
def test_the_key_changes_with(changed: dict[str, Any]) -> None:
    assert snapshot_id(SPEC, None, FACTS) != snapshot_id(replace(SPEC, **changed), None, FACTS)


def test_the_key_changes_with_the_machine_and_not_with_secrets() -> None:
    same = snapshot_id(SPEC, None, FACTS)
    assert same == snapshot_id(replace(SPEC, secrets={"A": "1"}), None, FACTS)
    assert same != snapshot_id(SPEC, "lyr_1", FACTS)
    for name in FACTS:
        assert same != snapshot_id(SPEC, None, {**FACTS, name: "another"})


def test_an_update_of_the_environment_is_seen(live: Live) -> None:
    name = live.deploy("import os\nAT_IMPORT = os.environ['A']\ndef handler(event): return AT_IMPORT",
                       environment={"A": "one"})  # fmt: skip
    assert live.call(name) == "one"
    live.ok("PUT", f"/api/functions/{live.id(name)}", {"environment": {"A": "two"}})
    live.ok("POST", f"/api/functions/{live.id(name)}/deploy")
    for template in (False, True):
        assert live.call(name) == "two"
        live.drop_instances(name, template=template)
    assert live.call(name) == "two"


def test_files_that_the_import_wrote_are_in_each_instance(live: Live) -> None:
    name = live.deploy("""
        import os
        os.makedirs("/tmp/deep/er")
        for place in ("/tmp/deep/er/file", "/var/tmp/file", "/root/file", "/fn/file", "/etc/file"):
            with open(place, "w") as file:
                file.write("from the import")
        os.unlink("/etc/hostname"); os.symlink("/tmp/deep", "/tmp/link"); os.chmod("/tmp/deep/er/file", 0o640)
        PLACES = ("/tmp/link/er/file", "/var/tmp/file", "/root/file", "/fn/file", "/etc/file")
        def handler(event):
            found = [open(place).read() for place in PLACES]
            for place in PLACES:
                with open(place, "a") as file:
                    file.write(" and mine")
            return found, os.path.exists("/etc/hostname"), oct(os.stat("/tmp/deep/er/file").st_mode)
    """)
    expected = [["from the import"] * 5, False, "0o100640"]
    starts = []
    for drop in ({}, {"template": True}, {}, {"template": True, "snapshot": True}):
        live.drop_instances(name, **drop)
        got = live.ask("POST", f"/fn/{name}", {})
        starts.append(got.start)
        assert got.json() == expected
    assert starts == ["fork", "restore", "fork", "boot"]


OPENED = {
    "a file open for writing": (
        "file = open('/tmp/log', 'a+')",
        "file.write(event['me']); file.flush(); file.seek(0); said = file.read()",
        "/tmp/log",
    ),
    "a shared mapping": (
        "import mmap\nfile = open('/tmp/map', 'wb+'); file.write(bytes(64)); file.flush()\n"
        "shared = mmap.mmap(file.fileno(), 64); file.close()",
        "end = shared.find(b'\\0'); shared[end:end + 1] = event['me'].encode(); "
        "said = shared[:].rstrip(b'\\0').decode()",
        "/tmp/map",
    ),
    "an anonymous shared mapping": (
        "import mmap\nshared = mmap.mmap(-1, 4096)",
        "end = shared[:].find(b'\\0'); shared[end:end + 1] = event['me'].encode(); "
        "said = shared[:].rstrip(b'\\0').decode()",
        "shared and writable",
    ),
    "a thread": (
        "import queue, threading\nasked, answered, kept = queue.Queue(), queue.Queue(), []\n"
        "def work():\n    while True:\n        kept.append(asked.get()); answered.put(''.join(kept))\n"
        "threading.Thread(target=work, daemon=True, name='the-worker').start()",
        "asked.put(event['me']); said = answered.get(timeout=5)",
        "the-worker",
    ),
    "a pipe": (
        "import os\nread, write = os.pipe()",
        "os.write(write, event['me'].encode()); said = os.read(read, 100).decode()",
        "pipe",
    ),
    "a socket pair": (
        "import socket\none, other = socket.socketpair()",
        "one.send(event['me'].encode()); said = other.recv(100).decode()",
        "socket",
    ),
    "an epoll": ("import select\npoll = select.epoll()", "said = event['me'] if not poll.closed else ''", "epoll"),
    "a folder": ("import os\nfolder = os.open('/tmp', os.O_RDONLY)",
                 "os.mkdir(event['me'], dir_fd=folder); said = ''.join(n for n in os.listdir(folder) if len(n) == 1)",
                 "/tmp"),
    "a child": ("import subprocess\nchild = subprocess.Popen(['cat'], stdin=-1, stdout=-1)\n"
                "child.stdin.write(b'x'); child.stdin.flush(); child.stdout.read(1)",
                "child.stdin.write(event['me'].encode()); child.stdin.flush(); "
                "said = os.read(child.stdout.fileno(), 9).decode()",
                "cat"),
}  # fmt: skip


@pytest.mark.parametrize("what", OPENED)
def test_what_forks_would_share_is_restored_for_each_instance(live: Live, what: str) -> None:
    """The reason names it; each instance goes on with its own, as the import left it, and sees nothing of another's."""
    at_import, in_handler, named = OPENED[what]
    source = (
        f"{at_import}\nimport os, time\nmine = []\n"
        f"def handler(event):\n    mine.append(event['me'])\n    {in_handler}\n"
        f"    time.sleep({patience(0.4)})\n    return said, ''.join(mine), os.environ['QUILT_INSTANCE_ID']\n"
    )
    name = live.deploy(source, max_instances=3, min_instances=2)
    assert not live.way(name, "fork")["available"]
    assert named in live.way(name, "fork")["reason"]
    instances = set()
    for letters in ("ab", "cd"):
        for said, mine, instance in live.many(2, lambda n, letters=letters: live.call(name, {"me": letters[n]}), 2):
            assert said in (mine, mine[-1]), "another instance's"
            instances.add(instance)
        live.drop_instances(name)
    assert len(instances) == 4
    ready = wait_for(lambda: (pool := live.pool(name))["ready_count"] == 2 and pool, "two instances")
    assert {each["start"] for each in ready["instances"]} == {"restore"}


def test_what_cannot_be_dumped_is_forked_or_booted(live: Live) -> None:
    """A mapping of a deleted file that is too large for CRIU: live only, and booted when the template is gone."""
    name = live.deploy("""
        import mmap, os
        with open("/tmp/large", "wb+") as file:
            file.write(os.urandom(16 << 20))
            file.flush()
            held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        os.unlink("/tmp/large")
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink("/proc/self/fd/" + name).startswith("/tmp/large"):
                    os.close(int(name))
            except OSError:
                pass
        def handler(event): return len(held)
    """)
    assert live.way(name, "fork")["available"], live.way(name, "fork")
    restore = live.way(name, "restore")
    assert not restore["available"] and restore["reason"]
    assert live.record(name)["snapshot"]["state"] != "ready"
    got = live.ask("POST", f"/fn/{name}", {})
    assert (got.start, got.json()) == ("fork", 16 << 20)
    live.drop_instances(name, template=True)
    assert live.ask("POST", f"/fn/{name}", {}).start == "boot"


def test_what_can_neither_be_forked_nor_dumped_is_booted(live: Live) -> None:
    name = live.deploy("""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        held = libc.syscall(444, ctypes.byref(ctypes.c_uint64(1)), ctypes.c_size_t(8), 0)
        assert held > 0
        def handler(event): return "well"
    """)
    for kind in ("fork", "restore"):
        assert not live.way(name, kind)["available"]
        assert "landlock" in live.way(name, kind)["reason"]
    for _ in range(2):
        live.call(name)
        live.drop_instances(name)
    assert live.ask("POST", f"/fn/{name}", {}).start == "boot"
