"""The tree of one archive while it is being read, and its move into place when it is whole: all of it, or nothing.

It waits in a folder of the platform's own in the mount that it is to go into: of a volume in its incoming/, in a
container at the top of the mount. Not here: what an archive may hold (`archives`).

Nothing at the tree's place is touched before the archive has been read to its end, is valid, and was found to fit what
is there. Then it is moved: what is new by one rename for a folder with all that is in it, what is merged by one rename
for each file. Only a power cut, a kill of this very process or a change made meanwhile by somebody else can leave a
part moved; each file is then the old or the new one, whole. A kill of node or spawner does not end this process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from runtime.spawner import kernel, trees
from runtime.spawner import volume_files as files
from runtime.spawner.protocol import Refused

_MARK = stat.S_ISVTX
"""On a staged folder that the archive has no entry for: it changes no mode of the one that is there. No entry of an
archive has this bit (`archives` takes the nine of permissions)."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_AT_ONCE = 1000


class Stage:
    """An open staging folder for what goes to `path` of `top`. Made by `opened`."""

    def __init__(self, top: files.Top, path: str, folder: int, rest: contextlib.ExitStack) -> None:
        self._top, self._path, self._folder, self._rest = top, path, folder, rest
        self._others: list[Stage] = []
        os.mkdir("tree", 0o755 | _MARK, dir_fd=folder)
        os.mkdir("new", 0o700, dir_fd=folder)
        self._tree = _kept(rest, os.open("tree", files.FOLDER, dir_fd=folder))
        self._new = _kept(rest, os.open("new", files.FOLDER, dir_fd=folder))
        self._mount = kernel.mount_id(folder)
        self.place = files.Top(self._tree, self._new, top.reserve, folder_mode=0o755 | _MARK)
        """Where the archive's entries go, by their names in it."""

    def put(self) -> None:
        """Move the tree into place. Raises Refused, with nothing changed, where it does not fit what is there."""
        self._fit(self._tree, self._path)
        for stage in (self, *self._others):
            stage._merge(stage._folder, "tree", stage._path)

    # --- does it fit ----------------------------------------------------------------------------------------------

    def _fit(self, folder: int, path: str) -> bool:
        """Whether the staged `folder` goes to `path` from here; False where it was copied to that mount's stage."""
        target = self._there(path)
        if target is None:
            _unmark(folder)
            return True
        try:
            if kernel.mount_id(target) != self._mount:
                self._elsewhere(folder, path)
                return False
            away = []
            with os.scandir(folder) as entries:
                for entry in entries:
                    below = str(PurePosixPath(path, entry.name))
                    if not entry.is_dir(follow_symlinks=False):
                        self._fits(target, entry.name, below)
                        continue
                    inner = os.open(entry.name, files.FOLDER, dir_fd=folder)
                    try:
                        away += [] if self._fit(inner, below) else [entry.name]
                    finally:
                        os.close(inner)
            for name in away:
                os.rename(name, files.waiting_name(), src_dir_fd=folder, dst_dir_fd=self._new)
            return True
        finally:
            os.close(target)

    def _there(self, path: str) -> int | None:
        """The open folder that is at `path` now; None where nothing is. Raises Refused where it is something else."""
        try:
            return self._top.open(path, _DIRECTORY)
        except FileNotFoundError:
            try:
                with files.parent(self._top, path) as (fd, name):
                    os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return None
            shown = self._top.shown(path)
            raise Refused(f"{shown} is a folder in the archive, and a link that leads to nothing here") from None
        except NotADirectoryError:
            shown = self._top.shown(path)
            raise Refused(f"{shown} would be a folder, and something there is a file: remove that first") from None

    def _fits(self, target: int, name: str, path: str) -> None:
        try:
            found = os.stat(name, dir_fd=target, follow_symlinks=False)
            mount = kernel.mount_id(target, name)
        except FileNotFoundError:
            return
        shown = self._top.shown(path)
        if stat.S_ISDIR(found.st_mode):
            raise Refused(f"{shown} is a folder here, and a file or a link in the archive: remove the folder first")
        if mount != self._mount:
            raise Refused(f"{shown} is mounted here, so it can't be replaced: leave it out of the archive")

    def _elsewhere(self, folder: int, path: str) -> None:
        """A volume is mounted at `path`, into which nothing can be renamed from here."""
        other = self._rest.enter_context(opened(self._top, path))
        _copy(folder, other._tree, other.place)
        if not other._fit(other._tree, path):
            raise Refused(f"what is mounted at {self._top.shown(path)} changes all the time")
        self._others += [other, *other._others]

    # --- the move -------------------------------------------------------------------------------------------------

    def _merge(self, above: int, name: str, path: str) -> None:
        """The staged folder `name` in the open folder `above` to `path`."""
        target = self._moved(above, name, path)
        if target is None:
            return
        folder = os.open(name, files.FOLDER, dir_fd=above)
        try:
            mode = os.fstat(folder).st_mode
            if not mode & _MARK:
                os.fchmod(target, stat.S_IMODE(mode))
            while entries := _some(folder):
                for entry, is_folder in entries:
                    if is_folder:
                        self._merge(folder, entry, str(PurePosixPath(path, entry)))
                    else:
                        _replace(folder, entry, target)
        finally:
            os.close(folder)
            os.close(target)
        os.rmdir(name, dir_fd=above)

    def _moved(self, above: int, name: str, path: str) -> int | None:
        """None where the whole folder could be renamed, else the open one that is there."""
        try:
            return self._top.open(path, _DIRECTORY)
        except FileNotFoundError:
            pass
        with files.parent(self._top, path, make=True) as (fd, last):
            try:
                os.rename(name, last, src_dir_fd=above, dst_dir_fd=fd)
                return None
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # made meanwhile
                    raise
        return self._top.open(path, _DIRECTORY)


def _some(folder: int) -> list[tuple[str, bool]]:
    """Up to a thousand entries (name, whether a folder): what is moved is not in the next ones."""
    with os.scandir(folder) as entries:
        return [(e.name, e.is_dir(follow_symlinks=False)) for e in itertools.islice(entries, _AT_ONCE)]


def _replace(folder: int, name: str, target: int) -> None:
    """A plain file takes the place of one with its owner."""
    with contextlib.suppress(FileNotFoundError):
        before = os.stat(name, dir_fd=target, follow_symlinks=False)
        new = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(before.st_mode) and stat.S_ISREG(new.st_mode):
            os.chown(name, before.st_uid, before.st_gid, dir_fd=folder, follow_symlinks=False)
    os.rename(name, name, src_dir_fd=folder, dst_dir_fd=target)


def _unmark(folder: int) -> None:
    os.fchmod(folder, stat.S_IMODE(os.fstat(folder).st_mode) & ~_MARK)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner = os.open(entry.name, files.FOLDER, dir_fd=folder)
                try:
                    _unmark(inner)
                finally:
                    os.close(inner)


def _copy(source: int, target: int, place: files.Top) -> None:
    """What is staged in `source` to the open folder `target`, modes and times of files with it."""
    os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode))
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_symlink():
                os.symlink(os.readlink(entry.name, dir_fd=source), entry.name, dir_fd=target)
            elif entry.is_dir():
                os.mkdir(entry.name, 0o700, dir_fd=target)
                with (
                    _opened(entry.name, files.FOLDER, source) as below,
                    _opened(entry.name, files.FOLDER, target) as to,
                ):
                    _copy(below, to, place)
            else:
                new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                old = os.O_RDONLY | os.O_NOFOLLOW
                with _opened(entry.name, old, source) as below, _opened(entry.name, new, target) as to:
                    _copy_file(below, to, place)


def _copy_file(source: int, target: int, place: files.Top) -> None:
    while os.sendfile(target, source, None, 1 << 20):
        files.check_room(place)
    found = os.fstat(source)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


# --- the folder itself ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(top: files.Top, path: str) -> Iterator[Stage]:
    """A stage for what goes to the folder `path`, which need not be there. All of it is gone at the end."""
    with contextlib.ExitStack() as stack:
        waiting = _kept(stack, os.dup(top.incoming) if top.incoming >= 0 else _mount_top(_nearest(top, path)))
        name = files.waiting_name()
        try:
            os.mkdir(name, 0o700, dir_fd=waiting)
        except OSError as error:  # says where it was to go: an archive for / reaches into other mounts
            raise files.told(error, top.shown(path), path, top.noun) from None
        stack.callback(files.clear, waiting, name)
        folder = _kept(stack, os.open(name, files.FOLDER, dir_fd=waiting))
        fcntl.flock(folder, fcntl.LOCK_EX)  # until this process has ended: no sweep takes it
        yield Stage(top, path, folder, stack)


def _kept(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


@contextlib.contextmanager
def _opened(name: str, flags: int, folder: int) -> Iterator[int]:
    fd = os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _nearest(top: files.Top, path: str) -> int:
    """The deepest folder on the way to `path` that is there."""
    here = PurePosixPath(path)
    while True:
        try:
            return top.open(str(here), _DIRECTORY)
        except FileNotFoundError:
            if here == here.parent:
                raise
            here = here.parent


def _mount_top(fd: int) -> int:
    """The topmost folder of the mount that the open folder `fd`, closed here, lies in."""
    mount = kernel.mount_id(fd)
    while True:
        above = os.open("..", files.FOLDER, dir_fd=fd)
        if kernel.mount_id(above) != mount or os.path.samestat(os.fstat(above), os.fstat(fd)):
            os.close(above)
            return fd
        os.close(fd)
        fd = above


def sweep(folder: Path) -> None:
    """Remove what waits in `folder` and belongs to no process any more, which a power cut can leave. Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        _sweep(folder)


def _sweep(folder: Path) -> None:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if files.waits(entry.name)]
    for name in names:
        if not _at_work(folder / name):
            trees.remove(folder / name)


def _at_work(path: Path) -> bool:
    try:
        fd = os.open(path, files.FOLDER)
    except OSError:  # no folder, or gone
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
