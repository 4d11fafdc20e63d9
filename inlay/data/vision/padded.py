"""One padded view a picture, as F-LMM prepares it: nothing cut off, nothing squeezed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.core.io import fingerprint
from inlay.core.types import ImagePlan, Pixels, View
from inlay.data.vision.common import add_special_tokens
from inlay.data.vision.encoder import tokens_per_view
from inlay.data.vision.geometry import square_around, token_grids
from inlay.data.vision.resize import (
    BICUBIC,
    normalise,
    pad_to_square,
    planes,
    shrink,
    unit_floats,
)

if TYPE_CHECKING:
    from PIL.Image import Image


class PaddedImageProcessor:
    """An ``ImageProcessor`` that resizes the longest side and pads the rest (arXiv 2406.05821).

    DeepSeek-VL's own way, and F-LMM's with LLaVA-1.5 and HPT: each side becomes
    ``int(side / longest * image_size)``, at least ``min_size`` px (bicubic, on bytes); then the
    picture stands in the middle of a square of background, half of the padding, rounded down,
    before it. Tokens: the patches of the square, row by row. Pixels: ``{"pixel_values": float32
    [1, 3, image_size, image_size]}``.

    With ``high_resolution`` (DeepSeek-VL's hybrid) the picture is resized and padded at that size,
    which gives ``high_res_pixel_values``; ``pixel_values`` are that square shrunk (bilinear,
    antialiased, on floats), as in DeepSeek's code.
    """

    placeholder: str | None = None
    num_levels = 1

    def __init__(
        self,
        tokenizer: Any,
        *,
        image_size: int,
        patch_size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        pixel_shuffle_factor: int = 1,
        min_size: int = 14,
        background: Sequence[int] | None = None,
        image_token: str = "<image>",
        high_resolution: int | None = None,
        high_res_mean: Sequence[float] | None = None,
        high_res_std: Sequence[float] | None = None,
    ) -> None:
        """Work out the sizes; ``tokenizer`` learns ``image_token`` if it lacks it.

        Args:
            tokenizer: of the language model.
            image_size: side of the view, px.
            patch_size: side of the encoder's patches, px.
            image_mean: per channel, of pixels in [0, 1].
            image_std: likewise.
            pixel_shuffle_factor: side of the squares of patches that the projector joins.
            min_size: least side of the resized picture, px.
            background: colour of the padding, bytes; None: ``int(255 * mean)``, of
                ``high_res_mean`` where that is given.
            image_token: text of the token that features replace.
            high_resolution: side of the second view, px; None for none.
            high_res_mean: of the second view; None: ``image_mean``.
            high_res_std: likewise.

        Raises:
            ConfigError: the patches of the view do not divide by ``pixel_shuffle_factor``.
        """
        self.image_size, self.patch_size = image_size, patch_size
        self.pixel_shuffle_factor, self.min_size = pixel_shuffle_factor, min_size
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.high_resolution = high_resolution
        self.high_res_mean = list(high_res_mean or image_mean)
        self.high_res_std = list(high_res_std or image_std)
        self.background = [int(255 * x) for x in self.high_res_mean]
        if background is not None:
            self.background = list(background)
        self.image_token = image_token
        tokens = tokens_per_view(image_size, image_size, patch_size, pixel_shuffle_factor)
        (self.image_token_id,) = add_special_tokens(tokenizer, [image_token])
        self._plan = ImagePlan("", (self.image_token_id,) * tokens, 1)

    @classmethod
    def from_settings(cls, tokenizer: Any, settings: dict[str, Any]) -> PaddedImageProcessor:
        """Return a processor from ``settings()``."""
        return cls(tokenizer, **settings)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Height and width before padding, px."""
        side, longest = self.high_resolution or self.image_size, max(width, height)
        # the order of these float operations is the original's
        rows, columns = (int(px / longest * side) for px in (height, width))
        return max(rows, self.min_size), max(columns, self.min_size)

    def plan(self, width: int, height: int, index: int = 0, count: int = 1) -> ImagePlan:
        """Return the tokens of a picture: the same for every size."""
        return self._plan

    def views(self, width: int, height: int) -> tuple[View, ...]:
        """Return where the image tokens of a picture of this size (px) lie in it: one view, whose
        box reaches outside of the picture where it is padded."""
        box = square_around(width, height, self._resized(width, height))
        cell = self.patch_size * self.pixel_shuffle_factor
        side, pixels = self.image_size // cell, (self.image_size, self.image_size)
        return token_grids(box, pixels, (side, side), cell=cell)

    def pixels(self, image: Image, seed: int = 0) -> Pixels:
        """Return ``pixel_values`` float32 ``[1, 3, S, S]`` of an RGB picture, with a second view
        ``high_res_pixel_values``, and ``num_rows`` and ``num_tokens`` as ``HFImageProcessor`` has
        them."""
        rows, columns = self._resized(*image.size)
        image = image if image.mode == "RGB" else image.convert("RGB")
        square = pad_to_square(image.resize((columns, rows), BICUBIC), self.background)
        view = unit_floats(planes(square))
        counts = {
            "num_rows": np.ones(1, np.int64),
            "num_tokens": np.array([len(self._plan.ids)], np.int64),
        }
        if self.high_resolution is None:
            return {
                "pixel_values": normalise(view[None], self.image_mean, self.image_std),
                **counts,
            }
        small = shrink(view, self.image_size)
        return {
            "pixel_values": normalise(small[None], self.image_mean, self.image_std),
            "high_res_pixel_values": normalise(view[None], self.high_res_mean, self.high_res_std),
            **counts,
        }

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that make this processor again, as JSON values."""
        return {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "pixel_shuffle_factor": self.pixel_shuffle_factor,
            "min_size": self.min_size,
            "background": self.background,
            "image_token": self.image_token,
            "high_resolution": self.high_resolution,
            "high_res_mean": self.high_res_mean,
            "high_res_std": self.high_res_std,
        }

    def identity(self) -> str:
        """Fingerprint of everything that decides tokens and pixels."""
        return fingerprint([self.settings(), self.image_token_id])
