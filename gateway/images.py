"""The routes of images: list, build, delete.

Not here: building (`pool.images`).
"""

from __future__ import annotations

from aiohttp import web

from gateway import examples, health, pages
from gateway.context import Ask
from gateway.operations import accepted
from gateway.route import Concern, Route
from quilt_fn.model.operation import Accepted


async def list_(ask: Ask) -> web.StreamResponse:
    return pages.page("images", await ask.platform.images.list(*pages.asked(ask)))


async def build(ask: Ask) -> web.StreamResponse:
    return accepted(await ask.platform.images.build(ask.tenant_id, ask.path("name")))


async def delete(ask: Ask) -> web.StreamResponse:
    await ask.platform.images.delete(ask.path("name"))
    return web.Response(status=204)


CONCERN = Concern(
    "images",
    "What containers stand on: `host`, this machine's own /usr, and `debian`, a Debian root of its own.",
    (
        Route("GET", "/api/images", list_, "`{images, next_cursor}`, by name", answers=pages.example("images"),
              query=pages.QUERY),
        Route("POST", "/api/images/{name}/build", build, "202; also where it is built already: new packages then",
              answers=Accepted, status=202, fills=True),
        Route("DELETE", "/api/images/{name}", delete, "204; 409 while containers stand on it", status=204),
    ),
    health=health.all_of(health.spawner, health.disk),
    examples=examples.IMAGES,
    rules=(
        "A container of an image that is not built is refused: 404 IMAGE_NOT_FOUND, and the hint says how to build it.",
        "Images belong to the platform: what one tenant has built all can use, and any may delete it while unused.",
        "A container keeps the build that it was first started on; a new build is for new containers.",
        "As root of a container of `debian`, apt-get install and pip install work; `host` has no package database.",
    ),
)  # fmt: skip
