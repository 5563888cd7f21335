"""The bundle packer: the same bytes for the same files, what stays out, and what is refused."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quilt_fn import bundle, ignore
from quilt_fn.bundle import Entry
from quilt_fn.errors import BundleInvalid, PayloadTooLarge


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def members(packed: bundle.Bundle) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(packed.data), mode="r:gz") as archive:
        return archive.getmembers()


def test_same_files_same_bytes_whatever_their_times_and_order(tmp_path: Path) -> None:
    first = put(tmp_path / "a", "b.py", "a/x.py", "z.txt")
    second = put(tmp_path / "b", "z.txt", "a/x.py", "b.py")
    os.utime(second / "b.py", (1, 1))
    (second / "b.py").chmod(0o600)
    assert bundle.pack_path(first).bundle_id == bundle.pack_path(second).bundle_id
    assert bundle.pack_path(first).files == ("a/x.py", "b.py", "z.txt")


def test_the_x_bit_counts_and_nothing_else_of_a_file(tmp_path: Path) -> None:
    folder = put(tmp_path, "run.sh", "plain")
    before = bundle.pack_path(folder)
    (folder / "run.sh").chmod(0o755)
    after = bundle.pack_path(folder)
    assert before.bundle_id != after.bundle_id
    assert {(m.name, m.mode) for m in members(after)} == {("run.sh", 0o755), ("plain", 0o644)}
    assert all(m.mtime == m.uid == m.gid == 0 and m.isfile() for m in members(after))


def test_what_never_goes_into_a_bundle(tmp_path: Path) -> None:
    put(tmp_path, "app.py", ".git/config", "a/__pycache__/x.pyc", ".venv/lib/y.py", "node_modules/z.js", "old.pyc",
        "env/pyvenv.cfg", "env/lib/site.py", "a/keep.py")  # fmt: skip
    assert bundle.pack_path(tmp_path).files == ("a/keep.py", "app.py")


def test_ignore_files_of_the_folder_quiltignore_has_the_last_word(tmp_path: Path) -> None:
    put(tmp_path, "app.py", "data/big.bin", "data/model.bin", "notes.md", "sub/notes.md", "build/x", "sub/build/y")
    (tmp_path / ".gitignore").write_text("# comment\n*.bin\n/build/\nnotes.md\n\n")
    (tmp_path / ".quiltignore").write_text("!data/model.bin\n")
    assert bundle.pack_path(tmp_path).files == ("app.py", "data/model.bin", "sub/build/y")


@pytest.mark.parametrize(
    ("line", "path", "is_folder", "out"),
    [
        ("*.log", "a/b.log", False, True),
        ("/*.log", "a/b.log", False, False),
        ("a/**/z", "a/b/c/z", False, True),
        ("a/**/z", "a/z", False, True),
        ("**/tmp", "x/tmp", True, True),
        ("tmp/", "tmp", False, False),
        ("tmp/", "tmp", True, True),
        ("a?c", "abc", False, True),
        ("a?c", "a/c", False, False),
        ("[a-c]x", "bx", False, True),
        ("[!a-c]x", "bx", False, False),
        (r"\#x", "#x", False, True),
        ("a.c", "abc", False, False),
    ],
)
def test_patterns(line: str, path: str, is_folder: bool, out: bool) -> None:
    assert ignore.parse([line]).matches(path, is_folder=is_folder) is out


def test_links_within_are_packed_as_files_and_others_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "app", "real/x.py", "main.py")
    (folder / "link.py").symlink_to("main.py")
    (folder / "again").symlink_to("real")
    packed = bundle.pack_path(folder)
    assert packed.files == ("again/x.py", "link.py", "main.py", "real/x.py")
    assert all(m.isfile() for m in members(packed))

    outside = put(tmp_path, "secret")
    (folder / "out").symlink_to(outside / "secret")
    with pytest.raises(BundleInvalid, match=r"out leads to .*secret, outside of"):
        bundle.pack_path(folder)
    (folder / ".quiltignore").write_text("/out\n")
    assert "out" not in bundle.pack_path(folder).files

    (folder / "real" / "up").symlink_to(folder)
    with pytest.raises(BundleInvalid, match="a folder that holds it"):
        bundle.pack_path(folder)
    (folder / "real" / "up").unlink()
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(BundleInvalid, match="which is not there"):
        bundle.pack_path(folder)


def test_pipes_and_missing_paths_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleInvalid, match="pipe is neither a file nor a folder"):
        bundle.pack_path(tmp_path)
    with pytest.raises(BundleInvalid):
        bundle.pack_path(tmp_path / "nothing")


def test_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match="no file"):
        bundle.pack_path(tmp_path)


def test_too_large_names_the_limit_and_the_largest_files(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(os.urandom(5000))
    with pytest.raises(PayloadTooLarge, match=r"big\.bin") as caught:
        bundle.pack_path(tmp_path, limit_bytes=1000)
    assert caught.value.details is not None and caught.value.details["limit_bytes"] == 1000


@given(
    st.dictionaries(st.text("abcdé/ ", min_size=1).filter(lambda n: n.strip("/ ") == n and "//" not in n), st.binary())
)
def test_what_is_packed_comes_out(files: dict[str, bytes]) -> None:
    if not files:
        return
    packed = bundle.pack({name: Entry(data) for name, data in files.items()})
    with tarfile.open(fileobj=io.BytesIO(packed.data), mode="r:gz") as archive:
        read = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    assert read == files
