"""Where in a root a volume may be mounted: `<volume>:<target>[:ro]` taken apart and checked. Pure.

Not here: whether the volume is there. The spawner checks targets again, by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import TypeAdapter, ValidationError

from quilt_fn.errors import InvalidValue
from quilt_fn.model.common import Attachment
from runtime.spawner.volume_mounts import refused_for

_ATTACHMENT: TypeAdapter[str] = TypeAdapter(Attachment)


@dataclass(frozen=True, slots=True)
class Wanted:
    volume: str
    target: str
    read_only: bool


def parse(attachments: Sequence[str]) -> tuple[Wanted, ...]:
    """Raises InvalidValue: not of that form, a target that is refused, one target twice or below another."""
    found = tuple(_one(each) for each in attachments)
    for one, other in itertools.permutations([each.target for each in found], 2):
        if other == one or other.startswith(one + "/"):
            raise InvalidValue(f"volumes: two volumes can't be mounted at {one!r} and {other!r}")
    return found


def _one(text: str) -> Wanted:
    try:
        _ATTACHMENT.validate_python(text)
    except ValidationError:
        raise InvalidValue(
            f"volumes: {text[:200]!r} must be `<volume>:<target>` or `<volume>:<target>:ro`",
            hint="The target is an absolute path in the container.",
        ) from None
    volume, target, *mode = text.split(":")
    plain = PurePosixPath(target)
    if ".." in plain.parts or target.startswith("//"):
        raise InvalidValue(f"volumes: the target {target!r} must be a plain absolute path")
    place = str(plain)
    why = refused_for(place)
    if why:
        raise InvalidValue(
            f"volumes: nothing can be mounted at {place!r}: {why}", hint="Take a folder of your own, such as /data."
        )
    return Wanted(volume, place, mode == ["ro"])
