"""Attention to image tokens as pictures, and logits as masks of the picture without its padding.

Source: F-LMM (arXiv 2406.05821), section 3.2, made general over tiles and levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.core.errors import ModelError
from inlay.core.types import Box, View

TOLERANCE = 1e-6
"""Sizes come back from boxes with the error of a few float operations."""


def assemble(columns_MCK: Tensor, views: Sequence[View]) -> tuple[Tensor, Box]:
    """Lay attention to a picture's image tokens out as maps.

    The tiles of a level make one map. Every level is resampled (bilinear, half-pixel centres) to
    the shape and the box of the last one, the finest, and gives channels of its own.

    Args:
        columns_MCK: attention of ``M`` masks, in ``C`` channels, to the ``K`` image tokens of the
            picture in order.
        views: of the picture (``ImageProcessor.views``).

    Returns:
        maps: float32 ``[M, levels * C, h, w]``, the channels of level 0 first.
        canvas: what the maps cover, in px of the picture.

    Raises:
        ModelError: fewer tokens than the views reach to, or tiles that make no rectangle.
    """
    grids = [_places(views, level) for level in sorted({view.level for view in views})]
    needed = 1 + max(int(places.max()) for places, _ in grids)
    if needed > columns_MCK.shape[-1]:
        raise ModelError(
            f"the picture's views reach over {needed} image tokens, found"
            f" {columns_MCK.shape[-1]}: is the image processor the model's own?"
        )
    finest, canvas = grids[-1]
    columns = columns_MCK.float()
    maps = [
        _resampled(columns[:, :, places.to(columns.device)], box, finest.shape, canvas)
        for places, box in grids
    ]
    return torch.cat(maps, dim=1), canvas


def _places(views: Sequence[View], level: int) -> tuple[Tensor, Box]:
    """The image tokens of a level, int64 ``[h, w]``, its tiles in place; and what they cover."""
    tiles = sorted((v for v in views if v.level == level), key=lambda v: v.box[0])
    tops = sorted({_px(v.box[1]) for v in tiles})
    rows = [[v for v in tiles if _px(v.box[1]) == top] for top in tops]
    shapes = {tuple(v.width for v in row) for row in rows}
    if len(shapes) > 1 or any(len({v.height for v in row}) > 1 for row in rows):
        raise ModelError(f"the tiles of level {level} make no rectangle: {tiles}")
    places = torch.cat([torch.cat([_grid(v) for v in row], dim=1) for row in rows])
    left, top, right, bottom = zip(*(v.box for v in tiles), strict=True)
    return places, (min(left), min(top), max(right), max(bottom))


def _px(edge: float) -> float:
    return round(edge, 3)


def _grid(view: View) -> Tensor:
    rows = torch.arange(view.height)[:, None] * view.stride
    return view.start + rows + torch.arange(view.width)


def _resampled(maps_MChw: Tensor, box: Box, shape: torch.Size, canvas: Box) -> Tensor:
    """Maps of a box at the cells of a canvas; beyond the box its border goes on."""
    if maps_MChw.shape[-2:] == shape and box == canvas:
        return maps_MChw
    x, y = (
        (torch.arange(cells, dtype=torch.float64) + 0.5)
        * ((canvas[axis + 2] - canvas[axis]) / cells)
        + (canvas[axis] - box[axis])
        for axis, cells in ((0, shape[1]), (1, shape[0]))
    )
    x, y = 2 * x / (box[2] - box[0]) - 1, 2 * y / (box[3] - box[1]) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(maps_MChw)
    grid = grid.expand(len(maps_MChw), -1, -1, -1)
    return F.grid_sample(maps_MChw, grid, padding_mode="border", align_corners=False)


def cut_to_picture(logits_MHW: Tensor, canvas: Box, size: tuple[int, int]) -> Tensor:
    """Return the part of masks that shows the picture, without its padding.

    On each axis, ``before = int(padding before * cells / px of the canvas)`` cells go, and
    ``int(px of the picture * cells / px of the canvas + 0.5)`` stay, at least one
    (F-LMM's rounding). Where the canvas lies within the picture (an encoder that cuts the centre
    out), the border goes on.

    Args:
        logits_MHW: masks on the canvas.
        canvas: in px of the picture.
        size: width and height of the picture, px.

    Returns:
        ``[M, h, w]``, the whole picture.
    """
    height, width = logits_MHW.shape[-2:]
    left, right = _span(canvas[0], canvas[2], size[0], width)
    top, bottom = _span(canvas[1], canvas[3], size[1], height)
    more = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
    if any(more):
        logits_MHW = F.pad(logits_MHW, more, mode="replicate")
        left, right, top, bottom = (max(left, 0), right + more[0], max(top, 0), bottom + more[2])
    return logits_MHW[:, top:bottom, left:right]


def _span(start: float, stop: float, px: int, cells: int) -> tuple[int, int]:
    """First and last + 1 cell of a picture of ``px`` on a canvas of ``cells`` from start to stop;
    negative, or beyond the cells, where the canvas shows less."""
    scale = cells / (stop - start)
    before = -start * scale
    first = int(before + TOLERANCE) if before > 0 else -int(-before + 0.5 + TOLERANCE)
    return first, first + max(int(px * scale + 0.5 + TOLERANCE), 1)
