"""An image thumbnailer: a JPEG of the size of a photograph in, a small one out.

Without an image in the event it makes one itself, so that it can be tried with nothing at hand.
"""

import base64
import functools
import io
import math

from PIL import Image

WIDTH, HEIGHT = 4000, 3000
"""12 megapixels, as a telephone makes them."""


@functools.lru_cache(maxsize=1)
def photograph():
    """A JPEG with smooth and fine parts, the same in every run."""
    small = Image.new("RGB", (WIDTH // 8, HEIGHT // 8))
    small.putdata(
        [
            (
                int(127 + 127 * math.sin(x / 31 + y / 17)),
                int(127 + 127 * math.sin(x / 7) * math.cos(y / 11)),
                (x * y) % 256,
            )
            for y in range(small.height)
            for x in range(small.width)
        ]
    )
    return jpeg(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def jpeg(image):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def handler(event):
    """{"image": base64 (or none), "width": pixels (320)} → the thumbnail as image/jpeg."""
    event = event if isinstance(event, dict) else {}
    data = base64.b64decode(event["image"]) if event.get("image") else photograph()
    width = int(event.get("width") or 320)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (width, width))
        image.thumbnail((width, width))
        return jpeg(image.convert("RGB")), 200, {"Content-Type": "image/jpeg"}
