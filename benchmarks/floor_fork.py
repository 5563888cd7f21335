"""The floor of a fork: a plain process with the same imports that forks for each connection; the child answers over it.

`python floor_fork.py LISTENING_FD LAYER MODULE…`, by the image's own Python. Not here: namespaces, a cgroup,
a root of its own, a filter. Standard library only; a request is the milliseconds that the child sleeps first.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import time


def main(fd: int, layer: str, modules: list[str]) -> None:
    """Until SIGTERM. Says `ready` on stdout."""
    sys.path.append(layer)
    for name in modules:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    listener = socket.socket(fileno=fd)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            asked = connection.recv(64)
            time.sleep(float(asked) / 1e3)
            connection.sendall(b"{}")
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
