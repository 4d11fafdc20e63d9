"""The contract of every image processor: attention to a token lights up that token's pixels.

Where a token's pixels really are is found without asking ``views``: pictures whose grey tells the
place go through the processor's own resizing, cutting and padding; a real (tiny) vision model of
the family, its attention silenced so that patches stay apart, then says by its gradient which of
the processor's pixels a token is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from token_places import CASES, Case
from torch import Tensor

from inlay.core.types import View
from inlay.models.grounding.maps import assemble, cut_to_picture

SIZES = [(200, 120), (90, 220), (133, 121), (50, 41)]
"""Width and height of the pictures of one sample: three shapes, and one without tiles."""


@dataclass
class Seen:
    """A picture as its processor gives it, and the place in the picture of each of its values.

    Attributes:
        pixels: its arrays.
        x, y: px of the picture, as ``pixel_values``; beyond its border they go on.
        inside: as ``pixel_values``, False where there is padding.
    """

    pixels: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    inside: np.ndarray


def seen(processor: Any, width: int, height: int) -> Seen:
    def values(grey: np.ndarray) -> np.ndarray:
        grey = np.broadcast_to(grey.round().astype(np.uint8)[..., None], (height, width, 3))
        return processor.pixels(Image.fromarray(grey.copy()))["pixel_values"].astype(np.float64)

    blank = np.zeros((height, width))
    black, white = values(blank), values(blank + 255)
    across = (np.arange(width) + 0.5) / width
    down = (np.arange(height)[:, None] + 0.5) / height
    contrast = white - black  # none in padding, less at its border
    channels = (0, 2, 3) if contrast.ndim == 4 else None
    inside = contrast > (0.98 * contrast.max(channels, keepdims=True) if channels else 0)
    span = np.where(inside, contrast, 1)
    x = (values(blank + 255 * across) - black) / span * width
    y = (values(blank + 255 * down) - black) / span * height
    for tile in range(len(inside)) if not inside.all() else ():
        if inside[tile].any():
            x[tile] = gone_on(x[tile], inside[tile], axis=2)
            y[tile] = gone_on(y[tile], inside[tile], axis=1)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Seen(processor.pixels(Image.fromarray(noise)), x, y, inside)


def gone_on(px: np.ndarray, inside: np.ndarray, axis: int) -> np.ndarray:
    """Places ``[3, h, w]`` that are known inside, along a straight line beyond."""
    index = np.indices(px.shape)[axis]
    step, first = np.polyfit(index[inside], px[inside], 1)
    return first + step * index


@dataclass
class Place:
    """Where the pixels of a token lie: centre and half of its sides, px of the picture."""

    x: float
    y: float
    half_width: float
    half_height: float


def place_of(gradient: np.ndarray, shown: Seen) -> Place | None:
    """The place of a token, None if it is mostly padding."""
    made_of = gradient != 0
    patches = gradient.ndim == 2  # of Qwen-VL, rows of which four make a token
    assert made_of.sum() <= (4 * len(gradient[0]) if patches else 0.3 * gradient[0].size)
    if (made_of & shown.inside).sum() < 0.25 * made_of.sum():
        return None
    x, y = shown.x[made_of], shown.y[made_of]
    return Place(x.mean(), y.mean(), float(np.ptp(x)) / 2, float(np.ptp(y)) / 2)


def lit(grid: Tensor, box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Centre of the light on a map ``[h, w]`` over a box."""
    rows, columns = grid.shape
    weights = grid / grid.sum()
    x = float((weights.sum(0) * (torch.arange(columns) + 0.5)).sum()) / columns
    y = float((weights.sum(1) * (torch.arange(rows) + 0.5)).sum()) / rows
    return box[0] + x * (box[2] - box[0]), box[1] + y * (box[3] - box[1])


def levels_of(token: int, views: tuple[View, ...]) -> list[int]:
    return [
        v.level
        for v in views
        if 0 <= token - v.start < v.height * v.stride and (token - v.start) % v.stride < v.width
    ]


@pytest.mark.parametrize("name", CASES)
def test_attention_to_a_token_lights_up_its_pixels(
    name: str, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    case = CASES[name](tiny_tokenizer, tmp_path)
    processor = case.processor
    plans = [processor.plan(*size, i, len(SIZES)) for i, size in enumerate(SIZES)]
    pictures = [seen(processor, *size) for size in SIZES]
    images = {
        key: torch.from_numpy(np.concatenate([p.pixels[key] for p in pictures]))
        for key in pictures[0].pixels
    }
    pixels = images["pixel_values"].requires_grad_()
    features = case.encode(plans, images)
    counts = [plan.ids.count(processor.image_token_id) for plan in plans]
    assert len(features) == sum(counts)
    marks = (features * torch.randn(features.shape[1])).sum(1)

    first_token = first_row = 0
    for size, count, shown in zip(SIZES, counts, pictures, strict=True):
        rows = slice(first_row, first_row + len(shown.x))
        views = processor.views(*size)
        assert {v.level for v in views} == set(range(processor.num_levels))
        found = 0
        for token in chosen(count, views):
            (gradient,) = torch.autograd.grad(marks[first_token + token], pixels, retain_graph=True)
            outside = gradient.clone()
            outside[rows] = 0
            assert not outside.any()  # tokens of a picture show that picture
            levels = levels_of(token, views)
            if not levels:  # a newline
                assert not gradient.any()
                continue
            place = place_of(gradient[rows].numpy(), shown)
            if place is not None:
                found += 1
                hold_to(place, token, first_token, sum(counts), levels, views, size, case)
        assert found >= 3
        first_token, first_row = first_token + count, rows.stop


def chosen(count: int, views: tuple[View, ...]) -> list[int]:
    """Corners of the views, what stands between them, and some tokens anywhere."""
    some = np.random.default_rng(count).choice(count, min(count, 6), replace=False).tolist()
    ends = [v.start for v in views] + [v.start + (v.height - 1) * v.stride for v in views]
    newlines = [v.start + v.width for v in views if v.stride > v.width]
    return sorted({*some, *ends[:3], *ends[-3:], *newlines, count - 1})


def hold_to(
    place: Place,
    token: int,
    first_token: int,
    tokens: int,
    levels: list[int],
    views: tuple[View, ...],
    size: tuple[int, int],
    case: Case,
) -> None:
    """Look at one token of one picture of a sample; the light must be where its pixels are."""
    columns = torch.zeros(1, 1, tokens)
    columns[0, 0, first_token + token] = 1
    maps, canvas = assemble(columns[:, :, first_token:], views)
    assert maps.shape[:2] == (1, case.processor.num_levels)
    for level in range(case.processor.num_levels):
        grid = maps[0, level]
        if level not in levels:
            assert not grid.any()
            continue
        x, y = lit(grid, canvas)
        sides = 2 * place.half_width, 2 * place.half_height
        limit = case.tolerance
        if level < case.processor.num_levels - 1:  # seen on the grid of another level
            cell = (canvas[2] - canvas[0]) / grid.shape[1], (canvas[3] - canvas[1]) / grid.shape[0]
            sides, limit = (max(sides[0], cell[0]), max(sides[1], cell[1])), 0.5
        off = abs(x - place.x) / sides[0], abs(y - place.y) / sides[1]
        assert max(off) <= limit, (token, level, (x, y), place)
        # as the mask head sees it: enlarged; then cut to the picture, and looked up there
        scale = max(1.0, 64 / max(grid.shape))
        large = F.interpolate(grid[None, None], scale_factor=scale, mode="bilinear")[0]
        (cut,) = cut_to_picture(large, canvas, size)
        row, column = (
            min(max(int(px / of * cells), 0), cells - 1)
            for px, of, cells in zip((place.y, place.x), size[::-1], cut.shape, strict=True)
        )
        assert cut[row, column] >= 0.5 * cut.max()
