"""The folders of a platform: who owns which, and taking the run folder away again.

Not here: what lies in them; that is the children's.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from quilt_fn.errors import InvalidValue
from quilt_fn.settings import Settings
from runtime.doctor import NodeUser

MARK = ".quilt"
"""In every run folder of ours: only what has it is ever emptied."""
SOCKET_PATH_LIMIT = 107


def make_state(settings: Settings) -> None:
    """The state folder itself. Raises InvalidValue where others than its owner could swap what is in it."""
    state = Path(settings.state_dir)
    try:
        if not state.exists():
            state.mkdir(parents=True, mode=0o755)
            state.chmod(0o755)
        mode = state.stat()
    except OSError as error:
        raise InvalidValue(
            f"the state folder {state} cannot be used: {error.strerror}", hint="set QUILT_STATE_DIR"
        ) from error
    if not stat.S_ISDIR(mode.st_mode) or mode.st_mode & 0o022 or mode.st_uid != os.geteuid():
        raise InvalidValue(
            f"the state folder {state} must be a folder that belongs to root and that nobody else may write to",
            hint="set QUILT_STATE_DIR to a folder of its own",
        )


def make(settings: Settings, user: NodeUser) -> None:
    """Every folder that the children expect, with its owner. The run folder holds nothing but what is made here."""
    state = Path(settings.state_dir)
    _own(settings.root_dir, 0o700, None)
    _own(settings.node_dir, 0o750, user)
    _own(state / "redis", 0o700, user)
    clear_run(settings)
    run = settings.run_path
    run.mkdir(parents=True, exist_ok=True)
    run.chmod(0o755)
    (run / MARK).write_text(f"{os.path.realpath(state)}\n")
    # Redis makes its socket as the node's user, who may not write to the run folder itself: the spawner mounts there.
    _own(run / "redis", 0o750, user)
    longest = len(os.fsencode(run / "redis" / "redis.sock"))
    if longest > SOCKET_PATH_LIMIT:
        raise InvalidValue(f"the run folder's name is too long for a socket in it: {run}", hint="set QUILT_RUN_DIR")
    settings.redis_socket.symlink_to("redis/redis.sock")


def clear_run(settings: Settings) -> None:
    """Take the run folder away where it is there. Raises InvalidValue where it is not one of ours."""
    run = settings.run_path
    if not run.exists():
        return
    if not (run / MARK).exists():
        if any(run.iterdir()):
            raise InvalidValue(f"{run} holds files that are not Quilt's", hint="set QUILT_RUN_DIR to a new folder")
        return
    owner = (run / MARK).read_text().strip()
    if owner != os.path.realpath(settings.state_dir):
        raise InvalidValue(f"{run} is the run folder of the platform in {owner}", hint="set QUILT_RUN_DIR to another")
    shutil.rmtree(run)


def _own(folder: Path, mode: int, user: NodeUser | None) -> None:
    """Make `folder`; never through a link, since what is inside may belong to the node's user."""
    folder.mkdir(exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)
        if user is not None and os.fstat(fd).st_uid != user.uid:
            os.fchown(fd, user.uid, user.gid)
            _chown_below(fd, user)
    finally:
        os.close(fd)


def _chown_below(fd: int, user: NodeUser) -> None:
    """After a change of user (set-up was run later, say) everything below is the new one's too."""
    for _, folders, files, here in os.fwalk(dir_fd=fd, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, user.uid, user.gid, dir_fd=here, follow_symlinks=False)
