# ruff: noqa
"""What a container's root tries, beside what every function tries (`attempts`, which lies beside this in the container).

Prints JSON: what came of each attempt. Not here: what should come of it (`test_container_isolation`).
"""

import fcntl
import json
import os
import signal
import socket
import struct
import sys

import attempts
from attempts import call, in_child, made


def init():
    """Process 1: its memory, its descriptors, its signals, its socket."""
    found = {f"write {name}": made(lambda name=name: open(f"/proc/1/{name}", "w", 1).write("0 0 1\n"))
             for name in ("mem", "uid_map", "gid_map", "timerslack_ns")}  # fmt: skip
    found |= {f"setns {name}": made(lambda name=name: os.open(f"/proc/1/ns/{name}", os.O_RDONLY))
              for name in ("mnt", "net", "user", "pid")}  # fmt: skip
    found["pidfd"] = made(lambda: steal(os.pidfd_open(1)))
    found["prlimit"] = made(lambda: __import__("resource").prlimit(1, 7, (0, 0)))
    return found


def steal(pidfd):
    said = call("pidfd_getfd", pidfd, 0, 0)
    raise OSError(getattr(attempts.errno, said, 0), said)


def signals():
    """Every signal to init: it is there afterwards, which the test sees."""
    for number in range(1, signal.NSIG):
        made(lambda number=number: os.kill(1, number))
        made(lambda number=number: signal.pidfd_send_signal(os.pidfd_open(1), number))


def spoken_to_init():
    """What init answers to each of its requests, from inside: bytes of each answer."""
    answers = []
    for op in (1, 2, 3, 4, 99):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(5)
        sock.connect("\0quilt-init")
        try:
            message = struct.pack("=IIIiiII", op, 7, 0, -1, 9, 1, 0) + b"/\0\0/bin/true\0"
            socket.send_fds(sock, [message], [0, 1])
            answers.append(len(sock.recv(100)))
        except (BrokenPipeError, ConnectionResetError):
            answers.append(0)
        sock.close()
    return answers


def network():
    """Of its own link: no other address, no other neighbour, no filter, no socket option that needs a right."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14s", b"eth0", socket.AF_INET, bytes(2) + bytes([10, 1, 2, 3]) + bytes(8))
        for name, number in (("address", 0x8916), ("hardware address", 0x8924), ("flags", 0x8914), ("mtu", 0x8922)):
            found[name] = made(lambda number=number: fcntl.ioctl(sock, number, request))
        arp = struct.pack(
            "H14sH14si16s16s", 2, bytes(2) + bytes([10, 1, 2, 3]) + bytes(8), 1, b"\2" * 14, 6, b"", b"eth0"
        )
        found["neighbour"] = made(lambda: fcntl.ioctl(sock, 0x8955, arp))
        for name, level, option in (("mark", 1, 36), ("force buffer", 1, 33), ("transparent", 0, 19), ("debug", 1, 1)):
            found[name] = made(lambda level=level, option=option: sock.setsockopt(level, option, 1))
        found["header included"] = made(lambda: sock.setsockopt(0, 3, 1))
        found["source of another"] = made(lambda: sock.bind(("192.0.2.77", 0)))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        for name, kind, body in (
            ("netlink address", 20, struct.pack("BBBBI", 2, 24, 0, 0, 2) + struct.pack("HH4s", 8, 2, bytes([10, 1, 2, 3]))),
            ("netlink link", 16, struct.pack("BxHiII", 0, 0, 2, 0, 1)),
            ("netlink route", 24, struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0)),
            ("netlink neighbour", 28, struct.pack("BxxxiHBB", 2, 2, 0x80, 0, 0)),
        ):  # fmt: skip
            sock.send(struct.pack("IHHII", 16 + len(body), kind, 0x405, 1, 0) + body)
            answer = sock.recv(4096)
            code = struct.unpack_from("i", answer, 16)[0] if struct.unpack_from("H", answer, 4)[0] == 2 else 0
            found[name] = attempts.errno.errorcode[-code] if code else "done"
    return found


def files():
    """Ways to files that are not the container's, by root's rights over its own."""
    page = attempts.ctypes.create_string_buffer(128)
    found = {"own handle": call("open_by_handle_at", -100, page, 0)}
    for kind in ("block", "char"):
        mode = 0o60600 if kind == "block" else 0o20600
        for folder in ("/", "/tmp", "/dev", "/dev/shm", "/data"):
            for device in ((8, 0), (254, 0), (1, 1), (1, 11), (10, 229), (10, 232), (10, 200), (7, 0)):
                path = f"{folder}/x-{kind}"
                name = f"{kind} {device} in {folder}"
                found[name] = made(lambda: os.mknod(path, mode, os.makedev(*device)))
    found["move /proc"] = made(lambda: os.rename("/proc", "/proc2"))
    found["move /usr"] = made(lambda: os.rename("/usr", "/usr2"))
    found["trusted attribute"] = made(lambda: os.setxattr("/tmp", "trusted.overlay.opaque", b"y"))
    return found


def above_a_chroot():
    """The classic way out of a root that is a folder, by the right to chroot that installing packages needs."""

    def work():
        os.makedirs("/tmp/jail", exist_ok=True)
        fd = os.open("/", os.O_RDONLY)
        os.chroot("/tmp/jail")
        os.fchdir(fd)
        for _ in range(50):
            os.chdir("..")
        os.chroot(".")
        return ",".join(sorted(os.listdir("/")))

    return in_child(work)


def terminals():
    """How many pseudo-terminals there are to be had."""
    held = []
    while len(held) < 2000:
        try:
            held.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            break
    return len(held)


def files_of_the_machine(paths):
    return attempts.files(paths)


def reached(addresses, paths):
    return attempts.reached(addresses, paths)


def everything():
    found = attempts.at_import | {
        "init": init(), "spoken to init": spoken_to_init(), "network": network(), "files": files(),
        "above a chroot": above_a_chroot(), "others": attempts.others(range(2, 40_000)),
        "gateway": attempts.gateway(), "root": ",".join(sorted(os.listdir("/"))), "sys": os.listdir("/sys"),
        "cgroup files": [p for p in ("/sys/fs/cgroup", "/proc/cgroup") if os.path.exists(p)],
    }  # fmt: skip
    signals()
    return found


if __name__ == "__main__":
    what = sys.argv[1]
    print(json.dumps(globals()[what](*map(json.loads, sys.argv[2:]))))
