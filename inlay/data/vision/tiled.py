"""Tiles of a large picture with a view of the whole, as nanoVLM has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inlay.core.errors import ConfigError
from inlay.core.io import fingerprint
from inlay.core.types import ImagePlan, Pixels, View
from inlay.data.vision.common import ImageTransform, Transform, add_special_tokens
from inlay.data.vision.encoder import encoder_view, tokens_per_view
from inlay.data.vision.geometry import on_both_levels, token_grids, whole_box
from inlay.data.vision.resize import BICUBIC, normalise, planes, shrink, unit_floats

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_GRID = 8
"""Rows and columns of tiles that get a token of their own."""

Channels = Sequence[float] | Literal["encoder"] | None


class TiledImageProcessor:
    """An ``ImageProcessor`` that cuts pictures into square tiles, each seen by the encoder alone.

    A picture is resized (bicubic) to whole tiles. Its tokens: ``<|global_image|>`` and the tokens
    of the whole picture at tile size, then, unless it is a single tile, ``<row_i_col_j>`` and the
    tokens of every tile, row by row. Of several pictures each begins with the text ``<image: k>``.
    Pixels: ``{"pixel_values": float32 [tiles, 3, tile_size, tile_size]}`` in the same order.

    Attributes:
        num_levels: 2 with a view of the whole picture, 1 without (see ``views``).
    """

    placeholder: str | None = None

    def __init__(
        self,
        tokenizer: Any,
        visual_encoder: str | Path | None = None,
        *,
        tile_size: int | None = None,
        patch_size: int | None = None,
        pixel_shuffle_factor: int = 4,
        max_image_size: int = 2048,
        resize_to_max: bool = False,
        global_view: bool = True,
        image_mean: Channels = "encoder",
        image_std: Channels = "encoder",
        image_token: str = "<|image|>",
        global_token: str = "<|global_image|>",
        image_transform: ImageTransform | str | None = None,
    ) -> None:
        """Work out the sizes; ``tokenizer`` learns the tokens that it lacks.

        Args:
            tokenizer: of the language model. New tokens come in the original's order: the image
                token, the global one, then ``<row_1_col_1>`` to ``<row_8_col_8>``.
            visual_encoder: folder or hub name whose input size, patch size, mean and std fill what
                is not given here; without it 512, 16 and SigLIP's 0.5.
            tile_size: side of a tile, px.
            patch_size: side of the encoder's patches, px.
            pixel_shuffle_factor: side of the squares of patches that the projector joins.
            max_image_size: longest side after resizing, px; a multiple of ``tile_size``.
            resize_to_max: enlarge every picture's long side to ``max_image_size`` (what published
                nanoVLM models were trained with) instead of to the next multiple of ``tile_size``.
            global_view: whether a view of the whole picture comes first.
            image_mean: per channel, of pixels in [0, 1]; None (with ``image_std`` None) leaves
                pixels in [0, 1], which published nanoVLM models expect.
            image_std: likewise.
            image_token: text of the token that features replace.
            global_token: text of the token before the view of the whole picture.
            image_transform: a user's change of a picture, see ``Transform``.

        Raises:
            ConfigError: sizes that do not divide, more than 8 tiles a side, half a normalisation.
        """
        view, encoder_patch = encoder_view(visual_encoder) if visual_encoder else (None, 16)
        self.tile_size = tile_size or (view.height if view else 512)
        self.patch_size = patch_size or encoder_patch
        self.pixel_shuffle_factor = pixel_shuffle_factor
        self.max_image_size, self.resize_to_max = max_image_size, resize_to_max
        self.global_view, self.num_levels = global_view, 1 + global_view
        half = (0.5, 0.5, 0.5)
        self.image_mean = _channels(image_mean, view.mean if view else half)
        self.image_std = _channels(image_std, view.std if view else half)
        # an older checkpoint's tokenizer has fewer positions, and no rows for more
        known = tokenizer.get_vocab()
        positions = (k for k in range(MAX_GRID, 0, -1) if _position(k, k) in known)
        self.max_grid = next(positions, MAX_GRID)
        self._check()
        self.tokens_per_tile = tokens_per_view(
            self.tile_size, self.tile_size, self.patch_size, pixel_shuffle_factor
        )
        self.image_token, self.global_token = image_token, global_token
        self._learn_tokens(tokenizer)
        self._transform = Transform(image_transform)
        self._plans: dict[tuple[int, int], tuple[int, ...]] = {}

    def _check(self) -> None:
        tiles, rest = divmod(self.max_image_size, self.tile_size)
        most = self.max_grid
        if rest or not 1 <= tiles <= most:
            raise ConfigError(
                f"max_image_size {self.max_image_size} must be 1 to {most} times tile_size"
                f" {self.tile_size} (only {most}x{most} positions have a token), for example"
                f" {min(max(tiles, 1), most) * self.tile_size}"
            )
        if (self.image_mean is None) != (self.image_std is None):
            raise ConfigError(
                f"image_mean ({self.image_mean}) and image_std ({self.image_std}) go together:"
                " give both, or None for both (pixels in [0, 1])"
            )

    def _learn_tokens(self, tokenizer: Any) -> None:
        side = range(1, self.max_grid + 1)
        positions = [_position(i, j) for i in side for j in side]
        first = [self.image_token, *([self.global_token] if self.global_view else [])]
        ids = add_special_tokens(tokenizer, [*first, *positions])
        self.image_token_id = ids[0]
        self._global_id = ids[1] if self.global_view else None
        self._position_ids = np.array(ids[len(first) :]).reshape(self.max_grid, -1).tolist()

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return the rows and columns of tiles of a picture of this size in px."""
        # the order of these float operations is the original's: where they round up (a square of
        # 1092 px has four rows, three columns), its published models have seen that grid
        tile, long, short = self.tile_size, max(width, height), min(width, height)
        target = min(self.max_image_size, math.ceil(long / tile) * tile)
        target = self.max_image_size if self.resize_to_max else target
        scale = target / long
        across = min(max(math.ceil(short * scale / tile), 1), self.max_grid)
        along = target // tile
        return (across, along) if width >= height else (along, across)

    def plan(self, width: int, height: int, index: int = 0, count: int = 1) -> ImagePlan:
        """Return the tokens of picture ``index`` of ``count``; ``tiles`` counts the global view."""
        grid = self.grid(width, height)
        ids = self._plans.get(grid)
        if ids is None:
            ids = self._plans[grid] = self._ids(*grid)
        prefix = f"<image: {index}>" if count > 1 else ""
        return ImagePlan(prefix, ids, len(ids) // (self.tokens_per_tile + 1))

    def _ids(self, rows: int, columns: int) -> tuple[int, ...]:
        markers = [self._position_ids[i][j] for i in range(rows) for j in range(columns)]
        if self._global_id is not None:
            markers = [self._global_id, *(markers if len(markers) > 1 else [])]
        tile = [self.image_token_id] * self.tokens_per_tile
        return tuple(token for marker in markers for token in (marker, *tile))

    def views(self, width: int, height: int) -> tuple[View, ...]:
        """Return where the image tokens of a picture of this size (px) lie in it.

        Level 0 is the whole picture and level 1 the tiles, or the whole picture again where that is
        all; without a view of the whole picture, level 0 is the tiles.
        """
        cell, first = self.patch_size * self.pixel_shuffle_factor, self.tokens_per_tile
        pixels, tokens = (self.tile_size,) * 2, (self.tile_size // cell,) * 2
        box, tiles = whole_box(width, height), self.grid(width, height)
        if not self.global_view:
            return token_grids(box, pixels, tokens, cell=cell, tiles=tiles)
        whole = token_grids(box, pixels, tokens, cell=cell)
        if tiles == (1, 1):
            return on_both_levels(whole)
        cut = token_grids(box, pixels, tokens, cell=cell, tiles=tiles, start=first, level=1)
        return (*whole, *cut)

    def pixels(self, image: Image, seed: int = 0) -> Pixels:
        """Return ``pixel_values`` float32 ``[tiles, 3, tile_size, tile_size]`` of an RGB picture.

        Raises:
            ConfigError: the user's transform changed the picture's size.
        """
        image = self._transform(image, seed)
        rows, columns = self.grid(*image.size)
        tile, count = self.tile_size, rows * columns
        resized = image.resize((columns * tile, rows * tile), BICUBIC)
        whole = unit_floats(planes(resized))
        if count == 1:
            return {"pixel_values": normalise(whole[None], self.image_mean, self.image_std)}
        pixels = np.empty((count + self.global_view, 3, tile, tile), np.float32)
        if self.global_view:
            pixels[0] = shrink(whole, tile)
        cut = whole.reshape(3, rows, tile, columns, tile).transpose(1, 3, 0, 2, 4)
        pixels[-count:].reshape(rows, columns, 3, tile, tile)[:] = cut
        return {"pixel_values": normalise(pixels, self.image_mean, self.image_std)}

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that make this processor again, as JSON values.

        The encoder's values are spelled out; the user's transform is left out.
        """
        return {
            "tile_size": self.tile_size,
            "patch_size": self.patch_size,
            "pixel_shuffle_factor": self.pixel_shuffle_factor,
            "max_image_size": self.max_image_size,
            "resize_to_max": self.resize_to_max,
            "global_view": self.global_view,
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "image_token": self.image_token,
            "global_token": self.global_token,
        }

    def identity(self) -> str:
        """Fingerprint of everything that decides tokens and pixels."""
        ids = [self.image_token_id, self._global_id, self._position_ids]
        return fingerprint([self.settings(), ids, self._transform.name])


def _position(row: int, column: int) -> str:
    return f"<row_{row}_col_{column}>"


def _channels(given: Channels, default: Sequence[float] | None) -> list[float] | None:
    values = default if isinstance(given, str) else given
    return None if values is None else [float(v) for v in values]
