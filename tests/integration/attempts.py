# ruff: noqa
"""A function that tries to get out: at import, in both hooks and in the handler. It answers what came of each attempt.

Not here: what should come of it (`test_isolation`). This file's text is the function; it imports nothing of the tests.
"""

import ctypes
import errno
import os
import signal
import socket
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
X86 = os.uname().machine == "x86_64"
NUMBERS = {  # x86_64, aarch64
    "clone": (56, 220), "ptrace": (101, 117), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "bpf": (321, 280), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "userfaultfd": (323, 282),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kexec_load": (246, 104),
    "open_by_handle_at": (304, 265), "perf_event_open": (298, 241), "fanotify_init": (300, 262), "fsopen": (430, 430),
    "open_tree": (428, 428), "mount_setattr": (442, 442), "chroot": (161, 51), "swapon": (167, 224),
    "reboot": (169, 142), "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "syslog": (103, 116), "acct": (163, 89), "pidfd_getfd": (438, 438), "kcmp": (312, 272), "clone3": (435, 435),
    "setns": (308, 268), "unshare": (272, 97), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "move_mount": (429, 429), "sethostname": (170, 161), "kexec_file_load": (320, 294), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "memfd_secret": (447, 447), "personality": (135, 92), "socket": (41, 198),
}  # fmt: skip
NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
)  # fmt: skip


def call(name, *args):
    """The name of the error, or "done"."""
    ctypes.set_errno(0)
    number = NUMBERS[name][0 if X86 else 1]
    result = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def in_child(work):
    """`work`'s answer from a fork, so that what it changes is not changed here."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = str(work())
        except BaseException as error:
            text = errno.errorcode.get(getattr(error, "errno", None), repr(error))
        os.write(write, text.encode()[:4000])
        os._exit(0)
    os.close(write)
    text = os.read(read, 4096).decode()
    os.close(read)
    os.waitpid(pid, 0)
    return text


def made_socket(family, kind, protocol=0):
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def cloned(flags):
    pid = LIBC.syscall(
        ctypes.c_long(NUMBERS["clone"][0 if X86 else 1]), ctypes.c_long(flags | signal.SIGCHLD), 0, 0, 0, 0
    )
    if pid == 0:
        os._exit(0)
    if pid < 0:
        return errno.errorcode[ctypes.get_errno()]
    os.waitpid(pid, 0)
    return "done"


def joined(kind, name):
    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    return call("setns", fd, kind)


def namespaces():
    found = {}
    for name, flag in (("user", NEWUSER), ("net", NEWNET), ("cgroup", NEWCGROUP), ("time", NEWTIME), ("mnt", NEWNS),
                       ("uts", NEWUTS), ("ipc", NEWIPC), ("pid", NEWPID)):  # fmt: skip
        found[f"unshare {name}"] = in_child(lambda flag=flag: call("unshare", flag))
        if name != "time":
            found[f"clone {name}"] = in_child(lambda flag=flag: cloned(flag))
        found[f"setns {name}"] = in_child(lambda flag=flag, name=name: joined(flag, name))
    found["unshare user and mnt"] = in_child(lambda: call("unshare", NEWUSER | NEWNS))
    found["clone3"] = in_child(lambda: call("clone3", ctypes.create_string_buffer(88), 88))
    return found


def sockets():
    found = {"packet": made_socket(17, socket.SOCK_RAW, 0x300), "packet dgram": made_socket(17, socket.SOCK_DGRAM, 0x300),
             "raw": made_socket(2, socket.SOCK_RAW, 1), "raw of any": made_socket(2, socket.SOCK_RAW, 255),
             "raw 6": made_socket(10, socket.SOCK_RAW, 58), "sctp": made_socket(2, socket.SOCK_STREAM, 132),
             "dccp": made_socket(2, 6, 33), "mptcp": made_socket(2, socket.SOCK_STREAM, 262)}  # fmt: skip
    for number in range(1, 23):
        found[f"netlink {number}"] = made_socket(16, socket.SOCK_RAW, number)
    for family in (3, 4, 5, 9, 15, 21, 29, 30, 31, 38, 39, 40, 41, 42, 43, 44):
        for kind in (1, 2, 3, 5):
            found[f"family {family} {kind}"] = made_socket(family, kind)
    return found


def calls():
    page = ctypes.create_string_buffer(4096)
    found = {
        "ptrace traceme": in_child(lambda: call("ptrace", 0, 0, 0, 0)),
        "ptrace attach": call("ptrace", 16, 1, 0, 0), "ptrace seize": call("ptrace", 0x4206, 1, 0, 0),
        "bpf": call("bpf", 0, page, 128), "io_uring_setup": call("io_uring_setup", 4, page),
        "io_uring_enter": call("io_uring_enter", 0, 0, 0, 0, 0), "keyctl": call("keyctl", 0, -3, 1),
        "add_key": call("add_key", b"user", b"q", b"x", 1, -3),
        "request_key": call("request_key", b"user", b"q", 0, -3),
        "init_module": call("init_module", page, 16, b""), "finit_module": call("finit_module", 0, b"", 0),
        "delete_module": call("delete_module", b"x", 0), "kexec_load": call("kexec_load", 0, 0, 0, 0),
        "kexec_file_load": call("kexec_file_load", 0, 0, 0, 0, 0), "userfaultfd": call("userfaultfd", 1),
        "process_vm_readv": call("process_vm_readv", 1, page, 1, page, 1, 0),
        "process_vm_writev": call("process_vm_writev", 1, page, 1, page, 1, 0),
        "open_by_handle_at": call("open_by_handle_at", -100, page, 0),
        "perf_event_open": call("perf_event_open", page, 0, -1, -1, 0), "fanotify_init": call("fanotify_init", 0, 0),
        "fsopen": call("fsopen", b"tmpfs", 0), "open_tree": call("open_tree", -100, b"/usr", 1),
        "mount_setattr": call("mount_setattr", -100, b"/usr", 0, page, 32),
        "chroot": in_child(lambda: call("chroot", b"/tmp")), "swapon": call("swapon", b"/tmp", 0),
        "reboot": call("reboot", 0xFEE1DEAD, 672274793, 0, 0), "quotactl": call("quotactl", 0, b"/", 0, page),
        "settimeofday": call("settimeofday", page, 0), "clock_settime": call("clock_settime", 0, page),
        "syslog": call("syslog", 3, page, 100), "acct": call("acct", b"/tmp/x"), "kcmp": call("kcmp", 1, 1, 0, 0, 0),
        "pidfd_getfd": call("pidfd_getfd", 0, 0, 0), "migrate_pages": call("migrate_pages", 1, 1, page, page),
        "move_pages": call("move_pages", 1, 0, page, 0, page, 0), "memfd_secret": call("memfd_secret", 0),
        "personality without randomness": in_child(lambda: call("personality", 0x40000)),
        "x32": errno.errorcode.get(ctypes.get_errno()) if LIBC.syscall(ctypes.c_long(0x40000000 | 39)) < 0 else "done",
        "mknod disk": made(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0))),
        "mknod mem": made(lambda: os.mknod("/tmp/mem", 0o20600, os.makedev(1, 1))),
        "push characters into a terminal": made(lambda: __import__("fcntl").ioctl(0, 0x5412, b"x")),
    }  # fmt: skip
    return found


def made(work):
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def mounts():
    """What a template must not mount or change, though it may mount."""
    found = {}
    for kind in ("sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "devtmpfs", "pstore",
                 "fusectl", "nfsd", "efivarfs", "hugetlbfs", "ext4", "xfs", "btrfs"):  # fmt: skip
        source = b"/dev/vda" if kind in ("ext4", "xfs", "btrfs") else b"none"
        found[f"mount {kind}"] = in_child(
            lambda kind=kind, source=source: call("mount", source, b"/srv", kind.encode(), 0, 0)
        )
    MS_REMOUNT, MS_BIND = 32, 4096
    for name, flags in (("bind", MS_REMOUNT | MS_BIND), ("whole", MS_REMOUNT), ("rec", MS_REMOUNT | MS_BIND | 16384),
                        ("with magic", 0xC0ED0000 | MS_REMOUNT | MS_BIND)):  # fmt: skip
        found[f"remount /usr {name}"] = in_child(lambda flags=flags: call("mount", 0, b"/usr", 0, flags, 0))
    found["remount /"] = in_child(lambda: call("mount", 0, b"/", 0, MS_REMOUNT, 0))
    return found


def writes_to_usr():
    """Through every way that a mount can be had at: none of this machine's own files may be changed."""

    def through_bind():
        if LIBC.mount(b"/usr", b"/srv", None, ctypes.c_ulong(4096 | 16384), None) < 0:
            return errno.errorcode[ctypes.get_errno()]
        LIBC.mount(None, b"/srv", None, ctypes.c_ulong(32 | 4096), None)
        return written("/srv")

    def through_new_namespace():
        call("unshare", NEWNS)
        LIBC.mount(None, b"/usr", None, ctypes.c_ulong(32 | 4096), None)
        return written("/usr")

    return {"plainly": in_child(lambda: written("/usr")), "by a bind": in_child(through_bind),
            "in a namespace": in_child(through_new_namespace),
            "a file that is there": in_child(lambda: made(lambda: os.open("/usr/bin/env", os.O_WRONLY))),
            "its mode": in_child(lambda: made(lambda: os.chmod("/usr/bin/env", 0o777)))}  # fmt: skip


def written(folder):
    return made(lambda: os.close(os.open(folder + "/.quilt-was-here", os.O_CREAT | os.O_WRONLY)))


def others(pids):
    """Processes that are seen, and those of the machine that can be signalled."""
    mine = {os.getpid(), *(int(p) for p in open(f"/proc/self/task/{os.getpid()}/children").read().split())}
    seen = sorted(int(n) for n in os.listdir("/proc") if n.isdigit() and int(n) not in mine)
    signalled = [
        pid for pid in pids if pid not in mine and pid != 1 and made(lambda pid=pid: os.kill(pid, 0)) != "ESRCH"
    ]
    first = {name: made(lambda name=name: os.listdir(f"/proc/1/{name}")) for name in ("root", "cwd", "map_files")}
    first["fd"] = "EACCES" if os.listdir("/proc/1/fd") == [] else made(lambda: os.readlink("/proc/1/fd/0"))
    first |= {
        name: made(lambda name=name: open(f"/proc/1/{name}", "rb").read(1)) for name in ("environ", "mem", "maps")
    }
    first |= {"ns": made(lambda: os.readlink("/proc/1/ns/mnt")), "exe": made(lambda: os.readlink("/proc/1/exe"))}
    first |= {"kill": in_child(lambda: made(lambda: os.kill(1, signal.SIGKILL)))}
    return {"seen": seen, "signalled": signalled, "first": first}


def files(paths):
    """Which of `paths` there are here, directly and by way of every descriptor that is open."""
    found = [path for path in paths if os.path.lexists(path)]
    for name in os.listdir("/proc/self/fd"):
        for path in paths:
            try:
                os.stat(path.lstrip("/"), dir_fd=int(name))
                found.append(f"{path} by {name}")
            except OSError:
                pass
            try:
                os.stat("../../../../../../.." + path, dir_fd=int(name))
                found.append(f"{path} above {name}")
            except OSError:
                pass
    return found


def writable_settings():
    """Files in /proc/sys, and others of the kernel's, that open for writing."""
    found = []
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            path = os.path.join(folder, name)
            try:
                os.close(os.open(path, os.O_WRONLY))
                found.append(path)
            except OSError:
                pass
    for path in ("/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse",
                 "/dev/net/tun", "/dev/vda", "/sys/kernel/uevent_helper"):  # fmt: skip
        for mode in (os.O_RDONLY, os.O_WRONLY):
            try:
                os.close(os.open(path, mode | os.O_NONBLOCK))
                found.append(path)
            except OSError:
                pass
    return found


def reached(addresses, paths):
    """Which [host, port]s and unix sockets answer."""
    found = []
    for host, port in addresses:
        with socket.socket() as sock:
            sock.settimeout(0.3)
            try:
                sock.connect((host, port))
                found.append([host, port])
            except OSError:
                pass
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(b"quilt", (host, port))
            except OSError:
                pass
    for path in paths:
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_UNIX, kind) as sock:
                try:
                    sock.connect(path)
                    found.append(path)
                except OSError:
                    pass
    return found


def gateway():
    """The address behind our network, from the kernel's routing table."""
    for line in open("/proc/net/route").read().splitlines()[1:]:
        words = line.split()
        if words[1] == "00000000":
            return socket.inet_ntoa(struct.pack("<I", int(words[2], 16)))
    return None


def rights():
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    return {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")}


def everything():
    return {"namespaces": namespaces(), "sockets": sockets(), "calls": calls(), "mounts": mounts(), "usr": writes_to_usr(),
            "settings": writable_settings(), "rights": rights()}  # fmt: skip


at_import = everything()
before_snapshot, after_restore = {}, {}


def before():
    before_snapshot.update(everything())


def after():
    after_restore.update(everything())


def handler(event):
    what = event.get("what")
    if what == "others":
        return others(event["pids"])
    if what == "files":
        return files(event["paths"])
    if what == "reached":
        addresses = [[gateway() if host == "gateway" else host, port] for host, port in event["addresses"]]
        return reached([a for a in addresses if a[0]], event["paths"])
    if what == "gateway":
        return gateway()
    return {"at import": at_import, "before the snapshot": before_snapshot, "after the restore": after_restore,
            "in the handler": everything()}  # fmt: skip
