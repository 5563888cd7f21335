"""`python supervised.py {up,down,status} …`: the supervisor's command line, with small stand-ins for spawner and node.

Redis is the real one. FAKE_NODE_FAILS makes the node's first start fail, FAKE_NODE_STUBBORN makes it ignore SIGTERM.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from quilt_fn.settings import Settings
from runtime.doctor import NodeUser
from runtime.supervisor.__main__ import main
from runtime.supervisor.commands import Command, passed_on, redis

CHILD = """
import http.server, json, os, signal, sys, threading

name = sys.argv[1]

def stop(number, frame):
    if not (name == "node" and os.environ.get("FAKE_NODE_STUBBORN")):
        print("stopping", flush=True)
        os._exit(0)

signal.signal(signal.SIGTERM, stop)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"path": self.path, "key": self.headers.get("X-Api-Key")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

if os.environ.get("FAKE_NODE_FAILS"):
    sys.exit("no port, no pride")
if name == "node":
    print("key", os.environ["QUILT_BOOTSTRAP_KEY"], "uid", os.getuid(), flush=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["QUILT_PORT"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
os.write(int(os.environ["QUILT_READY_FD"]), b"ready\\n")
while True:
    signal.pause()
"""


def plan(settings: Settings, user: NodeUser | None, key: str) -> list[Command]:
    fakes = {name: value for name, value in os.environ.items() if name.startswith(("FAKE_NODE", "QUILT_"))}
    return [
        redis(settings, user),
        Command("spawner", (sys.executable, "-c", CHILD, "spawner"), passed_on()),
        Command(
            "node",
            (sys.executable, "-c", CHILD, "node"),
            {**passed_on(), **fakes, "QUILT_BOOTSTRAP_KEY": key},
            user=user,
            stop_seconds=settings.shutdown_seconds,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main(plan=plan, program=(sys.executable, str(Path(__file__).resolve()))))
