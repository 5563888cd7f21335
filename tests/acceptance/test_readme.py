"""The commands of the README and of the pages on containers, commands, volumes, networks and the HTTP API, run as a
newcomer runs them: a real platform, an own home.

Not here: set-up itself, which made the Python that runs this test (blocks marked `by hand`). Takes root.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.markdown import ROOT, blocks
from tests.slowness import patience

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="`quilt up` needs root")

END_OF_FILE = "QUILT_END_OF_FILE"
TYPED = "echo typed $((6 * 7)); exit\n"
TYPIST = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
typed, seen = sys.stdin.read().encode(), b""
while True:
    try:
        piece = os.read(terminal, 65536)
    except OSError:  # the end, as a terminal says it
        break
    os.write(1, piece)
    seen += piece
    if typed and (b"# " in seen or b"$ " in seen):
        os.write(terminal, typed)
        typed = b""
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
"""Runs a command in a terminal of its own, and types what is on stdin at the first prompt."""
TIMEOUT_S = patience(110.0)


@dataclass(slots=True)
class Home:
    """A user's home, and the environment that keeps a platform apart from all others."""

    folder: Path
    environment: dict[str, str]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=TIMEOUT_S,
        )  # fmt: skip


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def newcomer() -> Iterator[Home]:
    # Not pytest's own folder: the node's user must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="quilt-readme-", dir="/var/tmp"))
    folder.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUILT_", "XDG_"))}
    own = {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "QUILT_STATE_DIR": str(folder / "state"),
        "QUILT_PORT": str(free_port()),
    }
    home = Home(folder, {**kept, **own})
    try:
        yield home
    finally:
        home.run("quilt down || true")
        shutil.rmtree(folder)


@pytest.fixture
def home() -> Iterator[Home]:
    with newcomer() as home:
        yield home


@pytest.fixture(scope="module")
def up() -> Iterator[Home]:
    """With a platform that is up, its address and key in the environment, for the pages that begin so."""
    with newcomer() as home:
        url = f"http://127.0.0.1:{home.environment['QUILT_PORT']}"
        home.environment |= {"QUILT_URL": url, "QUILT_API_KEY": f"quilt_sk_{secrets.token_hex(16)}"}
        done = home.run("quilt up --detach")
        assert done.returncode == 0, done.stdout
        yield home


def script(page: str) -> str:
    """All blocks in their order: files are written, commands run; `BLOCK n` stands before the output of each."""
    parts = []
    for number, block in enumerate(blocks(ROOT / page)):
        if block.by_hand:
            continue
        if block.file is not None:
            parts.append(f"cat > {block.file} <<'{END_OF_FILE}'\n{block.text}{END_OF_FILE}\n")
        elif block.language == "sh":
            text = at_a_terminal(block.text) if block.at_a_terminal else block.text
            parts.append(f"echo BLOCK {number}\n{text}")
    return "\n".join(parts)


def at_a_terminal(text: str) -> str:
    """The same commands with a terminal around them, in which somebody types TYPED once there is a prompt."""
    run = f"python -c {shlex.quote(TYPIST)} bash -euo pipefail -c {shlex.quote(text)}"
    return f"{run} <<'{END_OF_FILE}'\n{TYPED}{END_OF_FILE}\n"


def test_the_readme_runs(home: Home) -> None:
    done = home.run(script("README.md"))
    said = done.stdout
    assert done.returncode == 0, said

    assert "Quilt is up at" in said
    assert (home.folder / ".config/quilt/credentials.json").stat().st_mode & 0o777 == 0o600
    first = re.search(r"^HTTP/1.1 200 OK\r?$.*?^X-Quilt-Start: (\w+)\r?$", said, re.MULTILINE | re.DOTALL)
    assert first is not None and first[1] == "fork", said
    assert re.search(r'\{"hello": ?"Ada", ?"imported_s_ago": ?[\d.]+\}', said), said
    assert re.search(r'\{"hello": ?"Grace", ?"imported_s_ago": ?[\d.]+\}', said), said
    assert "greeting Ada" in said
    assert "144\n[0, 1, 4, 9, 16]\n" in said

    status = home.run("quilt status")
    assert status.returncode == 1, status.stdout


def test_the_page_of_containers_runs(home: Home) -> None:
    done = home.run(script("docs/how-to/containers.md"))
    said = done.stdout
    assert done.returncode == 0, said
    for words in (
        "hello from box", "count 3", "kept", "mine", "42", "resized poller", r"one +succeeded +ctr_\w+ .*",
        r".* container_update container_id=ctr_\w+ name=\w+ state=running .*",
    ):  # fmt: skip
        assert re.search(f"^.*{words}$", said, re.MULTILINE), (words, said)


def test_the_page_of_commands_runs(home: Home) -> None:
    done = home.run(script("docs/how-to/run-commands-in-containers.md"))
    said = done.stdout
    assert done.returncode == 0, said
    for words in (
        "Linux", "nobody in /tmp at level 2", "<h1>hello</h1>", "exit code 3", "exit code 124", "exit code 137",
        r"hint: quilt containers resize web --memory-mb …", r'  "exit_reason": "exited",', r'  "stderr": "err\\n",',
        "typed 42", r"http://127\.0\.0\.1:\d+/terminal/ses_\w+#token=tkt_\S+", r"ses_\w+ +ctr_\w+ +running.*",
        r"b'\\xff\\x00'", r"came: b'one\\n'", "24 80", "the shell's exit code was 4",
        r'\{.*"stdout":"by HTTP\\n".*\}', r'\{"type":"exit","code":0,"exit_reason":"exited".*\}',
    ):  # fmt: skip
        assert re.search(f"^{words}\r?$", said, re.MULTILINE), (words, said)


def test_the_page_of_volumes_runs(up: Home) -> None:
    done = up.run(script("docs/how-to/volumes.md"))
    said = done.stdout
    assert done.returncode == 0, said
    for words in (
        "models", r"644 +3893 .* numbers\.txt", "weights", "it can only be read", "trained",
        r'\{"path":"v2/numbers\.txt","size":3893\}1000', r'\{"path":"v3","entries":2,"bytes":3901\}(a|numbers)\.txt',
        r'.*"attached_to": \["container:trainer", "function:predict"\].*', "exit code 6", "deleted models",
    ):  # fmt: skip
        assert re.search(f"^{words}$", said, re.MULTILINE), (words, said)


def test_the_page_of_networks_runs(up: Home) -> None:
    done = up.run(script("docs/how-to/networks-and-services.md"))
    said = done.stdout
    assert done.returncode == 0, said
    assert len(re.findall(r"^HTTP/1.0 200 OK\r?$", said, re.MULTILINE)) == 3, said
    for words in (
        r"web +web\.quilt\.internal +[\d.]+", "exit code 6",
        r"dns +ok .*", r"egress +– +switched off.*", "200 with the token", "200 with the header", "401 without",
        "503 while nothing listens", "HTTP/1.1 200 OK", "404 afterwards",
    ):  # fmt: skip
        assert re.search(f"^{words}\r?$", said, re.MULTILINE), (words, said)


def test_the_page_of_the_api_runs(up: Home) -> None:
    page = script("docs/how-to/use-the-http-api.md")
    for placeholder, name in (("http://127.0.0.1:8420", "QUILT_URL"), ("quilt_sk_…", "QUILT_API_KEY")):
        assert page.count(f"export {name}={placeholder}\n") == 1
        page = page.replace(f"{name}={placeholder}", f"{name}={up.environment[name]}")
    ask = 'curl -sS "$QUILT_URL/api/containers/batch" -H "X-Api-Key: $QUILT_API_KEY"'
    begun = up.run(f"""{ask} -d '{{"items": [{{"name": "asked-for"}}]}}'""")
    operation = json.loads(begun.stdout)["operation_id"]
    done = up.run(f"operation_id={operation}\n{page}")
    said = done.stdout
    assert done.returncode == 0, said
    for words in (
        r'\{.*"version":.*\}.*', "# containers.*", r"## .*", r".*curl .*/api/containers.*", r'.*"healthy":true.*',
        rf'.*"operation_id":"{operation}".*"status":"succeeded".*',
    ):  # fmt: skip
        assert re.search(f"^{words}$", said, re.MULTILINE), (words, said)


def test_the_agents_example_leaves_no_container(home: Home) -> None:
    example = ROOT / "examples/agent-sandbox/agent.py"
    done = home.run(f"quilt up --detach\npython {example}\nquilt containers list --json")
    assert done.returncode == 0, done.stdout
    assert "exit code 0: wrote 5 numbers\n[0, 1, 4, 9, 16]\n" in done.stdout
    assert '"containers": []' in done.stdout
