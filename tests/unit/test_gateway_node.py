"""The node process's edges: the ready line, its id, and a port that is taken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import node
from quilt_fn.settings import Settings


def test_ready_is_written_once_and_the_descriptor_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setenv("QUILT_READY_FD", str(writer))
    node.say_ready()
    node.say_ready()
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"ready\n"  # to its end: the other side is closed


def test_the_nodes_id_stays(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path))
    first = node.node_id(settings)
    assert first.startswith("node_")
    assert node.node_id(settings) == first


def test_a_port_in_use_is_one_clear_line_and_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = os.environ | {"QUILT_PORT": str(port), "QUILT_STATE_DIR": str(tmp_path)}
        command = [sys.executable, "-m", "gateway.node"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"quilt node: 127.0.0.1:{port} is in use by another program (QUILT_PORT names another port)\n"
    )
