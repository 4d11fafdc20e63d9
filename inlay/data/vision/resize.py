"""Pictures to arrays: resize and crop on bytes (PIL), one conversion to float at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.core.errors import ConfigError
from inlay.core.types import Box
from inlay.data.vision.geometry import square_around, whole_box

if TYPE_CHECKING:
    from PIL.Image import Image

BILINEAR, BICUBIC = 2, 3
"""PIL's numbers of its filters, without PIL."""


@dataclass(frozen=True)
class View:
    """How a picture becomes one view of fixed size, in the terms of transformers' processors.

    Attributes:
        height, width: of the view, px.
        shortest_edge: first resize the shorter side to this length (px) and cut the centre out;
            None: resize to ``height`` x ``width`` whatever the picture's shape.
        resample: PIL's number of the filter.
        mean, std: per channel, of pixels in [0, 1]; None leaves them in [0, 1].
    """

    height: int
    width: int
    shortest_edge: int | None = None
    resample: int = BICUBIC
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, processor: Any) -> View:
        """Read the view off an image processor of transformers.

        Raises:
            ConfigError: the processor makes views of varying size or has steps of its own.
        """
        size, crop = dict(processor.size or {}), dict(processor.crop_size or {})
        crop = crop if getattr(processor, "do_center_crop", None) else {}
        edge = size.get("shortest_edge")
        height = crop.get("height") or size.get("height")
        width = crop.get("width") or size.get("width")
        fixed = edge or (size.get("height") and not crop)
        if not (height and width and fixed and processor.do_resize and processor.do_rescale):
            raise ConfigError(
                f"{type(processor).__name__} does not make views of one fixed size (size {size},"
                f" crop {crop or None}): use an encoder with a fixed input size"
            )
        normal = processor.do_normalize
        return cls(
            height=height,
            width=width,
            shortest_edge=edge,
            resample=int(processor.resample),
            mean=_floats(processor.image_mean) if normal else None,
            std=_floats(processor.image_std) if normal else None,
        )

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> View:
        """Return the view of ``settings()``, read back from JSON."""
        mean, std = settings["mean"], settings["std"]
        return cls(**{**settings, "mean": _floats(mean), "std": _floats(std)})

    def settings(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def __call__(self, image: Image) -> np.ndarray:
        """Return an RGB picture as float32 ``[1, 3, height, width]``."""
        if self.shortest_edge is None:
            image = image.resize((self.width, self.height), self.resample)
        else:
            image = self._centre(image.resize(self._by_edge(*image.size), self.resample))
        pixels = unit_floats(planes(image))
        return normalise(pixels[None], self.mean, self.std)

    def box(self, width: int, height: int, padded: bool = False) -> Box:
        """Return what the view shows of a picture (px), in px of the picture.

        Args:
            padded: the picture is first padded to a square, see ``pad_to_square``.
        """
        if padded:
            left, top, _, _ = square_around(width, height)
            shown = self.box(max(width, height), max(width, height))
            return (left + shown[0], top + shown[1], left + shown[2], top + shown[3])
        if self.shortest_edge is None:
            return whole_box(width, height)
        wide, high = self._by_edge(width, height)
        left, top = (wide - self.width) // 2, (high - self.height) // 2
        across, down = width / wide, height / high
        right, bottom = left + self.width, top + self.height
        return (left * across, top * down, right * across, bottom * down)

    def _by_edge(self, width: int, height: int) -> tuple[int, int]:
        edge, short, long = self.shortest_edge or 0, min(width, height), max(width, height)
        other = int(edge * long / short)
        return (edge, other) if width <= height else (other, edge)

    def _centre(self, image: Image) -> Image:
        # outside of a picture that is smaller than the view, PIL's crop is black
        left = (image.width - self.width) // 2
        top = (image.height - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))


def pad_to_square(image: Image, colour: Sequence[int]) -> Image:
    """Return the picture in the middle of a square of its longer side, ``colour`` around it."""
    from PIL import Image as pil

    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = pil.new("RGB", (side, side), tuple(colour))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def shrink(whole: np.ndarray, side: int) -> np.ndarray:
    """Return float32 ``[3, H, W]`` as ``[3, side, side]``: bilinear, antialiased."""
    import torch

    tensor = torch.from_numpy(whole)[None]
    small = torch.nn.functional.interpolate(
        tensor, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return small[0].numpy()


def planes(image: Image) -> np.ndarray:
    """Return an RGB picture as uint8 ``[3, H, W]``, contiguous."""
    return np.stack([np.asarray(channel) for channel in image.split()])


def unit_floats(array: np.ndarray) -> np.ndarray:
    """Return uint8 values as float32 in [0, 1]."""
    return np.divide(array, np.float32(255), dtype=np.float32)


def normalise(
    pixels: np.ndarray, mean: Sequence[float] | None, std: Sequence[float] | None
) -> np.ndarray:
    """Return ``(pixels - mean) / std`` per channel, in place; ``pixels`` is float32 [N, 3, H, W].

    Both None leaves the pixels as they are.
    """
    if mean is not None and std is not None:
        pixels -= np.array(mean, np.float32)[:, None, None]
        pixels /= np.array(std, np.float32)[:, None, None]
    return pixels


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)
