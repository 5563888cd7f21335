"""The spawner's loop: one message, one child. It never blocks on work, and reaps whatever ends below it.

Only the node's user (and root) may connect. When the node's connection ends, its instances end: they died with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any

from runtime.spawner import kernel, machines, operations, protocol, sweeping, wires
from runtime.spawner.cgroups import Cgroups
from runtime.spawner.names import Config
from runtime.spawner.networks import Networks
from runtime.spawner.protocol import Refused
from runtime.spawner.waiting_criu import WaitingCriu

NETWORK_USERS = ("boot", "restore", "start")
REQUESTS_AT_ONCE = 256
REFILL_DELAY_S = 0.02
"""From the end of a request that took a network until another is made: beside the start that it is for, which goes on
at the node and in the container, making one would take a third of a processor's time from it.
"""


class Server:
    def __init__(self, config: Config, groups: Cgroups, networks: Networks, waiting: WaitingCriu) -> None:
        self.config = config
        self.groups = groups
        self.networks = networks
        self.waiting = waiting
        self.stopping = False
        self.refill: int | None = None
        self.node: socket.socket | None = None
        self.requests: dict[int, tuple[Any, str]] = {}
        """Children that serve a request of the node that is connected: its id and operation."""
        self.takers: set[int] = set()
        """Those of them that take a network: when one has ended, another has to be made."""
        self.refill_at: float | None = None
        self.taken = False
        """Whether a network was taken while the pool was being filled, so that it has to be looked at again."""
        self.wake_r, self.wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self, listener: socket.socket) -> None:
        """Serve until SIGTERM or SIGINT."""
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._refill()
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self.wake_r, select.POLLIN)
        while not self.stopping:
            if self.node is not None:  # what is over the limit waits in the socket
                poll.modify(self.node, select.POLLIN if len(self.requests) < REQUESTS_AT_ONCE else 0)
            for fd, _ in poll.poll(self._until_due_ms()):
                if fd == self.wake_r:
                    os.read(self.wake_r, 4096)
                    self._reap()
                elif fd == listener.fileno():
                    self._accept(listener, poll)
                elif self.node is not None and fd == self.node.fileno():
                    self._serve(poll)
            self._do_what_is_due()

    def _until_due_ms(self) -> float | None:
        due = [moment for moment in (self.refill_at, self.waiting.due) if moment is not None]
        return max(0.0, (min(due) - time.monotonic()) * 1e3) if due else None

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self.refill_at is not None and self.refill_at <= now:
            self.refill_at = None
            self._refill()
        if self.waiting.due is not None and self.waiting.due <= now:
            self.waiting.start()

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True

    def _accept(self, listener: socket.socket, poll: select.poll) -> None:
        """A new node replaces the old one: there is one at a time."""
        sock, _ = listener.accept()
        uid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in (0, self.config.node_uid):
            sock.close()
            return
        self._drop(poll)
        self.node = sock
        poll.register(sock, select.POLLIN)

    def _drop(self, poll: select.poll) -> None:
        if self.node is None:
            return
        poll.unregister(self.node)
        self.node.close()
        self.node = None
        for pid in self.requests:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.requests.clear()
        if self.takers:  # what a start that was killed had taken is gone from the pool
            self.refill_at = self.refill_at or time.monotonic() + REFILL_DELAY_S
        self.takers.clear()
        # Waited for, so that nothing which the next node makes is taken for what the last one left.
        os.waitpid(self._child(self._sweep), 0)

    def _sweep(self) -> None:
        """After the last request of a node has ended."""
        sweeping.sweep(self.config, self.groups, set())
        self.networks.containers.sweep(machines.alive(self.config))

    def _serve(self, poll: select.poll) -> None:
        assert self.node is not None
        try:
            message, fds = protocol.receive(self.node)
        except Refused as error:
            _tell(self.node, {"id": None, "ok": False, "error": str(error), "kind": error.kind, "details": {}})
            return
        except OSError:
            message, fds = None, []
        if message is None:
            self._drop(poll)
            return
        node = self.node
        if message.get("op") == "keep":
            self._keep(node, message)
            return
        try:
            pid = self._child(lambda: answer(self.config, self.groups, self.networks, node, message, fds))
        except (
            OSError
        ) as error:  # the machine has no room for another process: that ends this request, not the platform
            _tell(node, {"id": message.get("id"), "ok": False, "error": str(error), "kind": "failed", "details": {}})
            return
        finally:
            protocol.close(fds)
        self.requests[pid] = (message.get("id"), str(message.get("op"))[:100])
        if message.get("op") in NETWORK_USERS:
            self.takers.add(pid)

    def _keep(self, node: socket.socket, message: dict[str, Any]) -> None:
        """{kits: [ids]} → {}: a node's first words. Every other kit goes, before this node can ask for new ones."""
        kits = message.get("kits")
        if isinstance(kits, list):
            names = {kit for kit in kits if isinstance(kit, str)}
            os.waitpid(self._child(lambda: sweeping.sweep(self.config, self.groups, names)), 0)
        _tell(node, {"id": message.get("id"), "ok": isinstance(kits, list), "error": "kits must be a list",
                     "kind": "refused"})  # fmt: skip

    def _refill(self) -> None:
        self.taken = self.refill is not None
        if self.refill is None:
            self.refill = self._child(self.networks.refill)

    def _child(self, work: Any) -> int:
        spawner = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            # It holds the node's connection: where it outlived the spawner, the node would not see that die.
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != spawner:
                os._exit(code)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.waiting.ended(pid)
            request = self.requests.pop(pid, None)
            if request is not None and status and self.node is not None:
                _tell(self.node, died(*request, status))
            if pid == self.refill:
                self.refill = None
                if self.taken:
                    self._refill()
            if pid in self.takers:
                self.takers.discard(pid)
                self.refill_at = self.refill_at or time.monotonic() + REFILL_DELAY_S


def died(number: Any, op: str, status: int) -> dict[str, Any]:
    """The answer to a request whose child ended with the wait status `status` and no success. Where it had answered
    before it ended, the node passes over this one: it waits for that id no more.
    """
    code = os.waitstatus_to_exitcode(status)
    how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"
    text = f"the spawner's process for `{op}` {how}; try again, and see the log and the machine's free memory"
    return {"id": number, "ok": False, "error": text, "kind": "died", "details": {}}


def _tell(node: socket.socket, message: dict[str, Any]) -> None:
    """Words of the loop itself: a node that does not read them, or has gone, must neither hold nor end the spawner."""
    with contextlib.suppress(OSError):
        node.sendmsg([json.dumps(message).encode()], [], socket.MSG_DONTWAIT)


def answer(
    config: Config, groups: Cgroups, networks: Networks, node: socket.socket, message: dict[str, Any], fds: list[int]
) -> None:
    """Carry out one request and answer it, whatever happens."""
    number = message.get("id")

    def say(text: str, pct: float | None = None) -> None:
        protocol.send(node, {"id": number, "progress": text, "pct": pct})

    out: list[int] = []
    try:
        name = str(message.get("op"))
        if name in machines.TABLE:
            result, out = machines.TABLE[name](machines.Machines(config, groups, networks, say), message, fds)
        elif name in wires.TABLE:
            result, out = wires.TABLE[name](wires.Wires(config, groups, networks, say), message, fds)
        elif name in operations.TABLE:
            result, out = operations.TABLE[name](operations.Operations(config, groups, networks, say), message, fds)
        else:
            raise Refused(f"no such operation: {name!r}"[:200])
        reply = {"id": number, "ok": True, **result}
    except Refused as error:
        reply = {"id": number, "ok": False, "error": str(error), "kind": error.kind, "details": error.details}
    except Exception as error:
        traceback.print_exc()
        reply = {
            "id": number,
            "ok": False,
            "error": f"{type(error).__name__}: {error}",
            "kind": "failed",
            "details": {},
        }
    protocol.send(node, reply, out)
