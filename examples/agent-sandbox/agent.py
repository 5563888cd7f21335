"""Gives an AI agent a machine of its own: write a file, run it, read what it made, and the machine is gone.

Not here: the model. Put its answer where `CODE` stands; `run` is the tool that you would give it.
"""

from __future__ import annotations

import secrets

from quilt_fn.client import Client

CODE = """
import json
squares = [n * n for n in range(5)]
json.dump(squares, open("/tmp/result.json", "w"))
print("wrote", len(squares), "numbers")
"""


def run(code: str) -> tuple[int, str, bytes]:
    """Run `code` in a fresh container without a network: exit code, output, and /tmp/result.json if it made one."""
    with Client().containers.create(f"agent-{secrets.token_hex(4)}", network="none", memory_limit_mb=256) as box:
        box.files.write("/tmp/task.py", code.encode())
        done = box.exec("python3", "/tmp/task.py", timeout_s=20)
        made = box.exec("test", "-f", "/tmp/result.json").exit_code == 0
        return done.exit_code, done.stdout + done.stderr, box.files.read("/tmp/result.json") if made else b""


def main() -> None:
    exit_code, output, result = run(CODE)
    print(f"exit code {exit_code}: {output.strip()}")
    print(result.decode())


if __name__ == "__main__":
    main()
