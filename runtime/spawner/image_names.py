"""Which image a name means for a container that is about to start.

Not here: what images are made of (`images`, `debian`), nor building and deleting them (`image_operations`).
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.spawner import debian, images
from runtime.spawner.names import Config
from runtime.spawner.protocol import Refused


@dataclass(frozen=True, slots=True)
class Image:
    """What a container stands on: a folder below the store, and whether this machine's /usr is mounted on it."""

    folder: str
    borrows_usr: bool


def named(config: Config, name: object, standing: str | None = None) -> Image:
    """The image that is called `name`. Raises Refused (absent) where there is none.

    `standing` is the folder that the container stood on at its last start: a writable layer goes with the packages
    below it, so it keeps a Debian build though there is a newer one.
    """
    if name == "host":
        return Image(images.host(config), borrows_usr=True)
    if name == debian.NAME:
        if standing and standing.startswith(f"images/{debian.NAME}-") and (config.store / standing).is_dir():
            return Image(standing, borrows_usr=False)
        found = debian.read(config)
        if found is None:
            raise Refused("the image debian is not built yet", "absent", {"what": "build"})
        return Image(found["folder"], borrows_usr=False)
    raise Refused(f"there is no image {name!r}"[:200], "absent")


def still_there(config: Config, image: Image) -> None:
    """Asked once a container is known to stand on `image`. Raises Refused where a delete was quicker."""
    if not (config.store / image.folder).is_dir():
        raise Refused("the image was deleted at this moment", "absent")
