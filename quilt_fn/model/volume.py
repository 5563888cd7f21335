"""Volumes as the API takes and gives them: create, record, inspection, entries of a folder, files.

Not here: who keeps them (`pool.volumes`), how they are attached (`Attachment` in `quilt_fn.model.common`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from quilt_fn.model import patterns
from quilt_fn.model.common import Labels, Model, Record
from quilt_fn.model.function import Name
from quilt_fn.states import VolumeState

SIZE_LIMIT_LOW_MB = 16
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=patterns.WITHOUT_NUL)]
"""Relative to the volume's top; without `..`."""


def mode_bits(value: object) -> object:
    """A mode as API.md has it: "644" or 644 is rw-r--r--; anything but nine bits is refused."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError('a mode is an octal text such as "644"')
    text = str(value)
    if not (1 <= len(text) <= 4 and all(digit in "01234567" for digit in text) and int(text, 8) <= 0o777):
        raise ValueError('a mode is an octal text from "0" to "777", such as "644"')
    return int(text, 8)


Mode = Annotated[int, BeforeValidator(mode_bits)]


class VolumeCreate(Model):
    name: Name
    labels: Labels = {}
    size_limit_mb: int | None = Field(None, ge=SIZE_LIMIT_LOW_MB, le=16_777_216)
    """None: as much as the disk holds."""


class VolumeRename(Model):
    new_name: Name


class FileWrite(Model):
    path: FilePath
    content: str
    """Base64."""
    mode: Mode | None = None
    """None keeps the mode of the file that is replaced; 644 for a new one."""


class VolumeRecord(Record):
    volume_id: str
    tenant_id: str
    name: str
    state: VolumeState
    labels: dict[str, str]
    size_limit_mb: int | None
    created_at: str
    attached_to: list[str]
    """`container:<name>` and `function:<name>`."""


class VolumeInspection(VolumeRecord):
    """What is in it now; with `complete` false (a million files, ten seconds) there is more than was counted."""

    size_bytes: int
    file_count: int
    complete: bool
    free_bytes: int


class Entry(Record):
    """One entry of a folder. `target` of a link is where it says it points, whatever is there."""

    name: str
    kind: Literal["file", "folder", "link", "other"]
    size: int
    mode: str
    """Octal."""
    modified_at: str
    target: str | None = None


class Listing(Record):
    path: str
    entries: list[Entry]
    next_cursor: str | None


class FileWritten(Record):
    path: str
    size: int


class Unpacked(Record):
    path: str
    entries: int
    bytes: int
