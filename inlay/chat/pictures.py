"""The pictures of a conversation: read once, then tokens and model inputs."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.core.errors import DataError
from inlay.core.types import IMAGE_MARK, ImagePlan, ImageProcessor, ImageRef, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_DOWNLOAD = 64 << 20
"""Bytes of a picture from the web."""
PATIENCE = 10.0
"""Seconds to wait for a picture from the web."""


def read_picture(source: str) -> Image:
    """Open a picture as RGB.

    Args:
        source: a file, or an ``http(s)`` address.

    Raises:
        DataError: it is missing, unreachable, too large, or not a picture.
    """
    from inlay.data.vision.files import open_image

    if source.startswith(("http://", "https://")):
        return open_image(ImageRef(data=_download(source), place=source))
    return open_image(ImageRef(path=str(Path(source).expanduser().absolute()), place=source))


def _download(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            data: bytes = answer.read(LARGEST_DOWNLOAD + 1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise DataError(f"the picture {address} cannot be reached: {error}") from error
    if len(data) > LARGEST_DOWNLOAD:
        raise DataError(f"the picture {address} is larger than {LARGEST_DOWNLOAD >> 20} MB")
    return data


def behind_pictures(text: str, count: int, processor: ImageProcessor, template: Any) -> str:
    """Return a user's text with ``count`` picture marks in front of it, as training rows have it.

    LLaVA's rows have a line break behind each mark. Chat templates that know pictures, and rows
    of tiled pictures, have none.

    Args:
        template: the named template in use, None for the tokenizer's own.
    """
    own_parts = template is None and processor.placeholder is not None
    gap = "" if own_parts or hasattr(processor, "tile_size") else "\n"
    return (IMAGE_MARK + gap) * count + text


class Pictures:
    """The pictures of one conversation; each is turned into pixels once.

    Args:
        processor: of the model; None where it has no eyes.
    """

    def __init__(self, processor: ImageProcessor | None) -> None:
        self.processor = processor
        self._images: list[Image] = []
        self._pixels: list[Pixels] = []

    def __len__(self) -> int:
        return len(self._images)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(self._images)

    def add(self, images: Sequence[Image]) -> None:
        """Append pictures, in the order of their marks in the text."""
        assert self.processor is not None
        self._images += images
        self._pixels += [self.processor.pixels(image) for image in images]

    def keep(self, count: int) -> None:
        """Drop all but the first ``count`` pictures."""
        del self._images[count:], self._pixels[count:]

    def plans(self) -> list[ImagePlan]:
        """Return the tokens of every picture, which depend on how many there are."""
        if self.processor is None:
            return []
        count = len(self)
        sizes = (image.size for image in self._images)
        return [self.processor.plan(*size, i, count) for i, size in enumerate(sizes)]

    def inputs(self, ids: Sequence[int]) -> dict[str, Any]:
        """Return the keyword arguments of a model's ``generate`` for prompt tokens ``ids``: none
        without pictures, else ``images`` and ``image_positions``, as a ``Batch`` has them."""
        if self.processor is None or not self._images:
            return {}
        return picture_inputs(self.processor, self._pixels, ids)


def picture_inputs(
    processor: ImageProcessor, pixels: Sequence[Pixels], ids: Sequence[int]
) -> dict[str, Any]:
    """Join the pixels of pictures and find where their features go in ``ids``.

    Returns:
        ``images``, tensors by name, joined along the first axis, and ``image_positions``, int64
        ``[K]``.
    """
    import numpy as np
    import torch

    names: Mapping[str, Any] = pixels[0]
    images = {name: torch.from_numpy(np.concatenate([p[name] for p in pixels])) for name in names}
    at = torch.tensor(list(ids)) == processor.image_token_id
    return {"images": images, "image_positions": at.nonzero(as_tuple=True)[0]}
