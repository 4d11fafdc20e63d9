"""Uploaded pictures: bounded before anything is decoded, and nothing but pictures."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from inlay.chat.web.parts import Limits, Refused
from inlay.core.errors import DataError
from inlay.core.types import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

# Decoding takes several times the memory of the picture: no more than two at a time.
_DECODING = threading.BoundedSemaphore(2)


def read_upload(path: str, limits: Limits) -> Image:
    """Open an uploaded file as an RGB picture, turned upright and no larger than is kept.

    Args:
        path: a file of this machine.

    Raises:
        Refused: no file, too large, or not a picture.
    """
    file = Path(path)
    if not file.is_file():
        raise Refused("the picture did not arrive: please upload it again")
    with file.open("rb") as stream:
        data = stream.read(limits.upload_bytes + 1)
    if len(data) > limits.upload_bytes:
        raise Refused(f"the picture is larger than {limits.upload_bytes >> 20} MB: a smaller one?")
    with _DECODING:
        return _decoded(data, limits)


def _decoded(data: bytes, limits: Limits) -> Image:
    from PIL import ImageOps

    from inlay.data.vision.files import FORMATS, open_image, probe

    ref = ImageRef(data=data, place="the upload")
    try:
        width, height, _ = probe(ref, verify=False)
        if width * height > limits.pixels:
            raise Refused(
                f"the picture has {width} x {height} pixels, at most {limits.pixels:,} are taken: "
                "a smaller one?"
            )
        image = open_image(ref)
    except DataError as error:
        known = ", ".join(FORMATS)
        raise Refused(f"this file cannot be opened as a picture ({known})") from error
    upright = ImageOps.exif_transpose(image)
    upright.info.clear()
    share = limits.kept_pixels / (upright.width * upright.height)
    if share < 1:
        width, height = (max(1, int(side * share**0.5)) for side in upright.size)
        upright.thumbnail((width, height))
    return upright
