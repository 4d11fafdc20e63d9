"""Where the image tokens of transformers' families lie in a picture: one visible table.

Level 0 is the view of the whole picture, level 1 its tiles. A family that can make tiles always
has both: of a picture without tiles, the whole view stands in for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inlay.core.errors import ConfigError, ModelError
from inlay.core.types import Box, ImagePlan, View
from inlay.data.vision.geometry import (
    Size,
    grid_of,
    on_both_levels,
    square_around,
    token_grids,
    whole_box,
)
from inlay.data.vision.resize import View as FixedView

Span = tuple[int, int]  # first and last + 1


@dataclass(frozen=True)
class Shown:
    """A picture as a processor of transformers shows it.

    Attributes:
        processor: of the model.
        width, height: of the picture, px.
        plan: its tokens.
        tokens: how many of them are image tokens.
        markers: its other tokens as text.
    """

    processor: Any
    width: int
    height: int
    plan: ImagePlan
    tokens: int
    markers: str

    @property
    def images(self) -> Any:
        """The image processor."""
        return self.processor.image_processor

    @property
    def size(self) -> Size:
        return self.height, self.width

    @property
    def box(self) -> Box:
        return whole_box(self.width, self.height)


@dataclass(frozen=True)
class Family:
    """How a family shows pictures.

    Attributes:
        views: finds the views of a picture.
        levels: 2 if it can make tiles.
    """

    views: Callable[[Shown], tuple[View, ...]]
    levels: int = 1


def family_of(processor: Any) -> Family:
    """Return the family of a model's processor; an unknown one must show one fixed view."""
    names = (kind.__name__ for kind in type(processor).__mro__)
    return next((FAMILIES[name] for name in names if name in FAMILIES), Family(_one_view))


def find_views(shown: Shown) -> tuple[View, ...]:
    """Return where the image tokens of a picture lie.

    Raises:
        ModelError: the family is not in the table and shows more than one fixed view, or its views
            do not account for the image tokens.
    """
    return family_of(shown.processor).views(shown)


def _one_view(shown: Shown) -> tuple[View, ...]:
    """PaliGemma, Gemma 3 and whoever shows one view of fixed size, all of it tokens."""
    fixed = _fixed(shown)
    if getattr(shown.images, "do_pad", None):
        raise _unknown(shown, "it pads pictures")
    tokens = grid_of(shown.tokens, fixed.height, fixed.width)
    if tokens[0] * fixed.width != tokens[1] * fixed.height:
        raise _unknown(shown, f"{shown.tokens} image tokens do not tile {fixed.height} px a side")
    return token_grids(fixed.box(shown.width, shown.height), (fixed.height, fixed.width), tokens)


def _gemma3(shown: Shown) -> tuple[View, ...]:
    if getattr(shown.images, "do_pan_and_scan", None):
        raise ModelError(
            "Gemma 3's pan and scan adds views to pictures of some shapes only: set"
            " do_pan_and_scan to false in the model's preprocessor_config.json"
        )
    return _one_view(shown)


def _llava(shown: Shown) -> tuple[View, ...]:
    """LLaVA: one view; a class token, where it is kept, stands before its patches."""
    fixed, patch = _fixed(shown), shown.processor.patch_size
    tokens = (fixed.height // patch, fixed.width // patch)
    box = fixed.box(shown.width, shown.height, padded=bool(getattr(shown.images, "do_pad", False)))
    start = shown.tokens - tokens[0] * tokens[1]
    if start < 0:
        _hold(shown, tokens[0] * tokens[1])
    return token_grids(box, (fixed.height, fixed.width), tokens, cell=patch, start=start)


def _deepseek(shown: Shown) -> tuple[View, ...]:
    """DeepSeek-VL: padded; the hybrid's small view is made of its large one."""
    images = shown.images
    side = (getattr(images, "high_res_size", None) or images.size)["height"]
    scale = side / max(shown.size)
    rows, columns = (max(round(px * scale), images.min_size) for px in shown.size)
    box = square_around(shown.width, shown.height, (rows, columns))
    pixels = images.size["height"]
    return token_grids(box, (pixels, pixels), _square(shown, shown.tokens))


def _merged_patches(shown: Shown) -> tuple[View, ...]:
    """Qwen-VL: resized to whole blocks of patches; every block is a token."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    images = shown.images
    block = images.patch_size * images.merge_size
    bounds = {"min_pixels": images.size["shortest_edge"], "max_pixels": images.size["longest_edge"]}
    pixels = smart_resize(*shown.size, block, **bounds)
    tokens = (pixels[0] // block, pixels[1] // block)
    _hold(shown, tokens[0] * tokens[1])
    return token_grids(shown.box, pixels, tokens)


def _internvl(shown: Shown) -> tuple[View, ...]:
    """InternVL: resized to whole tiles; tiles come first. Its pixel shuffle keeps rows as rows."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    images = shown.images
    pixels = (images.size["height"], images.size["width"])
    if shown.plan.tiles == 1:
        return _tiles_then_whole(shown, pixels, (0, 0))
    columns, rows = get_optimal_tiled_canvas(
        shown.size, pixels, images.min_patches, images.max_patches
    )
    return _tiles_then_whole(shown, pixels, (rows, columns))


def _idefics(shown: Shown) -> tuple[View, ...]:
    """Idefics3, SmolVLM: resized to whole tiles; a token before each names its row and column."""
    marks = re.findall(r"<row_(\d+)_col_(\d+)>", shown.markers)
    rows, columns = map(int, marks[-1]) if marks else (0, 0)
    side = shown.images.max_image_size["longest_edge"]
    return _tiles_then_whole(shown, (side, side), (rows, columns))


def _tiles_then_whole(shown: Shown, pixels: Size, tiles: Size) -> tuple[View, ...]:
    count = tiles[0] * tiles[1]
    tokens = _square(shown, shown.tokens // (count + 1))
    each = tokens[0] * tokens[1]
    _hold(shown, (count + 1) * each)
    whole = token_grids(shown.box, pixels, tokens, start=count * each)
    if not count:
        return on_both_levels(whole)
    return (*whole, *token_grids(shown.box, pixels, tokens, tiles=tiles, level=1))


def _llava_next(shown: Shown) -> tuple[View, ...]:
    """LLaVA-NeXT: the whole squeezed into a square, then the rows of all tiles with newlines.

    Padding is dropped by whole tokens, so those at the border may be half padding. The fine grid is
    taken to cover the picture all the same, as the model's ``unpad_image`` means it and as
    published mask heads saw it: a token at the border lies up to half its side from its pixels.
    """
    tile = _tile(shown)
    side = tile // shown.processor.patch_size
    (top, bottom), (left, right), _ = _unpadded(shown, tile, side)
    return _coarse_and_fine(shown, tile, side, (bottom - top, right - left), shown.box)


def _llava_onevision(shown: Shown) -> tuple[View, ...]:
    """LLaVA-OneVision: as LLaVA-NeXT; too many fine tokens are resized to fewer."""
    tile = _tile(shown)
    side = math.isqrt(shown.processor.num_image_tokens)
    (top, bottom), (left, right), box = _unpadded(shown, tile, side)
    rows, columns = bottom - top, right - left
    most = int(shown.processor.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(rows * columns / (most * side**2))
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return _coarse_and_fine(shown, tile, side, (rows, columns), box)


def _coarse_and_fine(shown: Shown, tile: int, side: int, fine: Size, box: Box) -> tuple[View, ...]:
    coarse = token_grids(shown.box, (tile, tile), (side, side))
    rows, columns = fine
    _hold(shown, side**2 + rows * (columns + 1))
    if not rows * columns:  # a picture so long that less than a token of it is left
        return on_both_levels(coarse)
    return (*coarse, View(side**2, rows, columns, box, stride=columns + 1, level=1))


def _unpadded(shown: Shown, tile: int, side: int) -> tuple[Span, Span, Box]:
    """The rows and the columns of tokens that ``unpad_image`` keeps, and what they show.

    Args:
        tile: side of a tile, px.
        side: rows of tokens on a tile.
    """
    from transformers.image_processing_utils import select_best_resolution

    canvas = select_best_resolution(shown.size, shown.images.image_grid_pinpoints)
    grid = [px // tile * side for px in canvas]
    scale = min(to / px for to, px in zip(canvas, shown.size, strict=True))
    # the order of these float operations is that of transformers' image processor and model
    resized = [min(math.ceil(px * scale), to) for to, px in zip(canvas, shown.size, strict=True)]
    spans = [(0, grid[0]), (0, grid[1])]
    padded = 0 if shown.width / shown.height > grid[1] / grid[0] else 1
    full = 1 - padded
    kept = int(round(shown.size[padded] * (grid[full] / shown.size[full]), 7))
    before = (grid[padded] - kept) // 2
    spans[padded] = (before, grid[padded] - before)
    box = []
    for span, px, to, length in zip(spans, shown.size, canvas, resized, strict=True):
        ends = (_pixel(span[0], tile, side), _pixel(span[1] - 1, tile, side) + tile // side)
        box.append([(end - (to - length) // 2) * px / length for end in ends])
    (top, bottom), (left, right) = box
    return spans[0], spans[1], (left, top, right, bottom)


def _pixel(token: int, tile: int, side: int) -> int:
    """The first pixel that a row or column of tokens sees, over tiles of ``side`` tokens each."""
    return token // side * tile + token % side * (tile // side)


def _tile(shown: Shown) -> int:
    size = dict(shown.images.crop_size or shown.images.size)
    return size.get("height") or size["shortest_edge"]


def _fixed(shown: Shown) -> FixedView:
    try:
        fixed = FixedView.of(shown.images)
    except ConfigError as error:
        raise _unknown(shown, str(error)) from None
    if shown.plan.tiles != 1:
        raise _unknown(shown, f"it shows a picture in {shown.plan.tiles} views")
    return fixed


def _hold(shown: Shown, tokens: int) -> None:
    if tokens != shown.tokens:
        raise _unknown(shown, f"its views hold {tokens} image tokens, its text {shown.tokens}")


def _square(shown: Shown, tokens: int) -> Size:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise _unknown(shown, f"{tokens} image tokens are no square")
    return side, side


def _unknown(shown: Shown, found: str) -> ModelError:
    return ModelError(
        f"{type(shown.processor).__name__}: where its image tokens lie in a picture is not known"
        f" ({found}). Known: {', '.join(FAMILIES)}, and every model of one view of fixed size. Add"
        " a function for it to the table in inlay/data/vision/hf_views.py, or use one of these"
    )


QWEN = Family(_merged_patches)
IDEFICS = Family(_idefics, levels=2)
FAMILIES = {
    "Qwen2VLProcessor": QWEN,
    "Qwen2_5_VLProcessor": QWEN,
    "Qwen3VLProcessor": QWEN,
    "InternVLProcessor": Family(_internvl, levels=2),
    "Idefics3Processor": IDEFICS,
    "SmolVLMProcessor": IDEFICS,
    "LlavaNextProcessor": Family(_llava_next, levels=2),
    "LlavaOnevisionProcessor": Family(_llava_onevision, levels=2),
    "LlavaProcessor": Family(_llava),
    "DeepseekVLProcessor": Family(_deepseek),
    "DeepseekVLHybridProcessor": Family(_deepseek),
    "Gemma3Processor": Family(_gemma3),
    "PaliGemmaProcessor": Family(_one_view),
}
"""By the class of the model's processor."""
