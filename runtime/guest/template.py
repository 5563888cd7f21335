"""The template: boots, imports the handler, stands at the fork point, and forks instances on request.

It is told what to do by the node over a SOCK_SEQPACKET connection, JSON with descriptors (`_ACTIONS` names the
messages). Nothing here blocks but the poll, no descriptor is open at the fork point but the listening socket, so that
CRIU can dump it.
"""

from __future__ import annotations

import _socket
import array
import gc
import io
import json
import os
import select
import signal
import struct
import sys
import time
import traceback

from . import instance, lockdown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ADDRESS = "\0quilt-template"
INIT = "/opt/quilt/quilt-init"
CODE, LAYER, SDK = "/fn", "/opt/quilt/layer", "/opt/quilt/sdk"
MESSAGE_LIMIT = 192 * 1024
"""What a socket takes in one piece, by default. Texts are cut so that an answer fits with six bytes for each
character.
"""


class Template:
    """State: what was loaded, who is connected, which instances live."""

    def __init__(self) -> None:
        self.listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.listener.bind(ADDRESS)
        self.listener.listen(4)
        self.node: _socket.socket | None = None
        self.filter = lockdown.read_filter()
        self.loaded: dict[str, Any] | None = None
        self.handler: Any = None
        self.hooks: list[Callable[[], object]] = []
        self.files: list[int] = []
        """Files that the import left open for reading: each fork gets positions of its own in them."""
        self.output_file = -1
        self.pid_namespace: int | None = None
        self.children: dict[int, tuple[int, int, str]] = {}
        """pidfd → (pid, pid of its init, instance id)"""

    def run(self) -> None:
        while True:
            poll = select.poll()
            poll.register(self.listener, select.POLLIN)
            if self.node is not None:
                poll.register(self.node, select.POLLIN)
            for pidfd in self.children:
                poll.register(pidfd, select.POLLIN)
            for fd, _ in poll.poll():
                if fd == self.listener.fileno():
                    self._accept()
                elif self.node is not None and fd == self.node.fileno():
                    self._read()
                elif fd in self.children:
                    self._ended(fd)

    def _accept(self) -> None:
        """Only who is outside of this pid namespace (its pid reads 0 here) is the node: instances share the network."""
        sock = _socket.socket(fileno=self.listener._accept()[0])  # type: ignore[attr-defined]
        pid = struct.unpack("iII", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))[0]
        if pid != 0:
            sock.close()
            return
        if self.node is not None:
            self.node.close()
        self.node = sock

    def _read(self) -> None:
        assert self.node is not None
        fds = array.array("i")
        try:
            data, ancillary, _, _ = self.node.recvmsg(
                MESSAGE_LIMIT, _socket.CMSG_SPACE(32 * fds.itemsize), _socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            data, ancillary = b"", []
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        if not data:
            self._hang_up()
            return
        message = json.loads(data)
        _ACTIONS[message["op"]](self, message, list(fds))

    def _say(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        if self.node is None:
            return
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.node.sendmsg([json.dumps(message, ensure_ascii=False).encode(errors="replace")], ancillary)
        except OSError:
            self._hang_up()

    def _hang_up(self) -> None:
        if self.node is not None:
            self.node.close()
            self.node = None

    # --- what the node may ask ------------------------------------------------------------------------------------

    def hello(self, message: dict[str, Any], fds: list[int]) -> None:
        self._say({"op": "hello", "loaded": self.loaded, "instances": [c[2] for c in self.children.values()]})

    def output(self, message: dict[str, Any], fds: list[int]) -> None:
        """→ [file]: takes what is printed during the `load` that follows, and outlives this process at the node."""
        self.output_file = os.memfd_create("output", os.MFD_CLOEXEC)
        self._say({"op": "output"}, [self.output_file])

    def load(self, message: dict[str, Any], fds: list[int]) -> None:
        """Import the handler, run hooks and warm-up, audit. The answer is kept for who connects later."""
        file, self.output_file = self.output_file, -1
        answer = _captured(file, lambda: self._load(message))
        if answer["ok"]:
            self.loaded = answer
        self._say({"op": "loaded", **answer})

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        from . import audit, handler

        clock = time.monotonic
        ms: dict[str, float] = {}
        stage = "import"
        try:
            begun = clock()
            _set_paths()
            os.environ.update(message["environment"])
            self.handler = handler.load(message["handler"], CODE)
            self.hooks = [handler.resolve(name, CODE) for name in message["after_restore"]]
            before = [handler.resolve(name, CODE) for name in message["before_snapshot"]]
            ms["import"] = (clock() - begun) * 1e3
            stage = "hook"
            for hook in before:
                hook()
            if "warmup" in message:
                stage = "warmup"
                begun = clock()
                failed = self._warm_up(message["warmup"])
                if failed is not None:
                    return _not_loaded(stage, failed["type"], failed["message"], failed["traceback"] or "")
                ms["warmup"] = (clock() - begun) * 1e3
        except BaseException as error:
            return _not_loaded(stage, type(error).__name__, str(error), handler.clean_traceback(error))
        ssl = sys.modules.get("_ssl")
        if ssl is not None:
            # OpenSSL sets its generators up at the first use, which takes each fork over a millisecond.
            ssl.RAND_bytes(1)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            if isinstance(stream, io.TextIOWrapper):  # a handler's `print` is in the log when it was made
                stream.reconfigure(line_buffering=True)
        own = {0, 1, 2, self.listener.fileno()} | ({self.node.fileno()} if self.node else set())
        shared = audit.audit(own)
        undumpable = audit.undumpable(own)
        self.files = audit.read_only_files(own)
        if shared:
            lockdown.drop_everything(self.filter)
        gc.collect()
        gc.freeze()
        return {"ok": True, "ms": ms, "shared": _cut(shared), "undumpable": _cut(undumpable),
                "wants_request": bool(self.handler.wants_request)}  # fmt: skip

    def _warm_up(self, event: Any) -> dict[str, Any] | None:
        """One call with the warm-up event: what its FAIL said where it failed, which fails the deploy."""
        from . import wire

        failures: list[dict[str, Any]] = []

        def send(kind: int, meta: dict[str, Any], body: bytes) -> None:
            if kind == wire.FAIL:
                failures.append(meta)

        meta = {"id": "inv_warmup", "kind": "json", "deadline": time.time() + 60, "attempt": 1, "req": {}}
        self.handler.serve(meta, json.dumps(event).encode(), send, instance.static_info({}))
        return failures[0] if failures else None

    def quiet(self, message: dict[str, Any], fds: list[int]) -> None:
        """Nobody may be connected at a dump."""
        self._say({"op": "quiet"})
        self._hang_up()

    def leave(self, message: dict[str, Any], fds: list[int]) -> None:
        """End the template alone; its instances go on as children of the container's init."""
        os._exit(0)

    def fork(self, message: dict[str, Any], fds: list[int]) -> None:
        """{instance}, [root, data, stdout, stderr, doors…] → forked {instance, pid}, [pidfd]; later exited {status}."""
        name = message["instance"]
        try:
            pid, init = self._fork(name, fds)
        except OSError as error:
            self._say({"op": "fork_failed", "instance": name, "error": str(error)})
            return
        finally:
            for fd in fds:
                os.close(fd)
        pidfd = os.pidfd_open(pid)
        self.children[pidfd] = (pid, init, name)
        self._say({"op": "forked", "instance": name, "pid": pid}, [pidfd])

    def _fork(self, name: str, fds: list[int]) -> tuple[int, int]:
        root, data, out, err, *doors = fds
        if self.pid_namespace is None:
            self.pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        lockdown.setns(self.pid_namespace, lockdown.CLONE_NEWPID)
        lockdown.unshare(lockdown.CLONE_NEWPID)
        ready, tell = os.pipe()
        try:
            for fd in (tell, *doors):
                os.set_inheritable(fd, True)
            init = os.posix_spawn(INIT, [INIT, "instance", str(tell), *map(str, doors)], {})
            os.close(tell)
            tell = -1
            try:
                pid = os.fork()
            except OSError:
                _end(init)
                raise
            if pid == 0:
                _child(lambda: self._become(name, root, data, out, err, doors, ready))
            return pid, init
        finally:
            os.close(ready)
            if tell >= 0:
                os.close(tell)

    def _become(self, name: str, root: int, data: int, out: int, err: int, doors: list[int], ready: int) -> None:
        """In the child: leave everything of the template's, take what is the instance's, serve."""
        lockdown.unshare(lockdown.CLONE_NEWNS | lockdown.CLONE_NEWIPC | lockdown.CLONE_NEWUTS)
        for door in doors:
            os.write(door, b"0")
        lockdown.enter_root(root)
        _socket.sethostname(name.replace("_", "-"))
        assert self.pid_namespace is not None
        for fd in (root, *doors, self.pid_namespace, self.listener.detach(), *self.children):
            os.close(fd)
        if self.node is not None:
            os.close(self.node.detach())
        if self.files:
            from . import audit

            audit.reopen_files(self.files)
        said = os.read(ready, 200)
        os.close(ready)
        if said != b"R":
            raise OSError(f"the instance's init did not start: {said[1:].decode(errors='replace')}")
        lockdown.drop_everything(self.filter)
        self._serve(data, out, err)

    def become(self, message: dict[str, Any], fds: list[int]) -> None:
        """[data, stdout, stderr]: the template itself serves, where it can't be forked. It is one instance, and goes
        with it.
        """
        data, out, err = fds
        if self.loaded is not None and not self.loaded["shared"]:
            lockdown.drop_everything(self.filter)
        os.close(self.listener.detach())
        self._hang_up()
        _child(lambda: self._serve(data, out, err))

    def _serve(self, data: int, out: int, err: int) -> None:
        for fd, number in ((out, 1), (err, 2)):
            os.dup2(fd, number)
            os.close(fd)
        instance.serve(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, data), self.handler, self.hooks)

    def _ended(self, pidfd: int) -> None:
        pid, init, name = self.children.pop(pidfd)
        os.close(pidfd)
        status = os.waitpid(pid, 0)[1]
        _end(init)
        self._say({"op": "exited", "instance": name, "status": status})


def _child(work: Callable[[], None]) -> None:
    """Run `work` as the whole rest of this process."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _not_loaded(stage: str, kind: str, text: str, trace: str) -> dict[str, Any]:
    return {"ok": False, "stage": stage, "type": kind, "message": text[:4000], "traceback": trace[-12_000:]}


def _cut(findings: list[str]) -> list[str]:
    return [text[:500] for text in findings[:20]]


def _set_paths() -> None:
    sys.path.insert(0, CODE)
    sys.path.insert(1, LAYER)
    sys.path.append(SDK)
    os.chdir(CODE)
    sys.argv = ["quilt"]
    if os.path.isdir(LAYER) and any(name.endswith(".pth") for name in os.listdir(LAYER)):
        import site

        site.addsitedir(LAYER)


def _captured(file: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`work`'s answer, while what it (and what it started) writes to stdout and stderr goes to `file`."""
    for fd in (1, 2):
        os.dup2(file, fd)
    os.close(file)
    try:
        return work()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (1, 2):
            os.dup2(null, fd)
        os.close(null)


_ACTIONS: dict[str, Callable[[Template, dict[str, Any], list[int]], None]] = {
    "hello": Template.hello,
    "output": Template.output,
    "load": Template.load,
    "quiet": Template.quiet,
    "leave": Template.leave,
    "fork": Template.fork,
    "become": Template.become,
}


def main() -> None:
    lockdown.limits()  # the template's own, because its forks inherit them
    Template().run()
