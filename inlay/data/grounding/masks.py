"""Annotated masks: COCO's polygons and run lengths, checked, kept compressed, decoded on demand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from inlay.core.errors import DataError
from inlay.core.types import Box

Counts = bytes
"""A mask in COCO's compressed run lengths, without its size."""

Size = tuple[int, int]
"""Width and height in px."""


def compress(segmentation: Any, size: Size) -> Counts:
    """Return an annotation's mask in compressed run lengths.

    Polygons are clipped to the picture, and those of less than three points have no area; their
    pixels are those of pycocotools.

    Args:
        segmentation: polygons ``[[x0, y0, x1, y1, ...], ...]`` in px, or run lengths
            ``{"size": [height, width], "counts": list or text}``.
        size: of the picture.

    Raises:
        DataError: neither of these, run lengths of another size, polygons outside of the picture,
            or a mask without a pixel.
    """
    from pycocotools import mask as coco

    width, height = size
    if isinstance(segmentation, Mapping):
        rle = _from_runs(segmentation, size)
    elif isinstance(segmentation, list | tuple):
        rle = _from_polygons(segmentation, size)
    else:
        raise DataError(
            f"a segmentation is polygons or run lengths, found {type(segmentation).__name__}"
        )
    if not coco.area(rle):
        raise DataError(f"the mask is empty: it has no pixel of the {width} x {height} px picture")
    return rle["counts"]


def union(masks: Iterable[Counts], size: Size) -> np.ndarray:
    """Return the union of compressed masks as uint8 ``[H, W]``, 0 or 1; of none, zeros."""
    from pycocotools import mask as coco

    width, height = size
    rles = [{"size": [height, width], "counts": counts} for counts in masks]
    if not rles:
        return np.zeros((height, width), np.uint8)
    return np.ascontiguousarray(coco.decode(coco.merge(rles)))


def box_of(bbox: Any) -> Box:
    """Return COCO's ``[left, top, width, height]`` as a box.

    Raises:
        DataError: these are not four numbers.
    """
    if not (isinstance(bbox, list | tuple) and len(bbox) == 4 and _are_numbers(bbox)):
        raise DataError(f"a bbox is [left, top, width, height] in px, found {bbox!r}")
    left, top, width, height = map(float, bbox)
    return left, top, left + width, top + height


def box_around(boxes: Sequence[Box]) -> Box | None:
    """Return the smallest box around boxes; None around none."""
    if not boxes:
        return None
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _from_polygons(segmentation: Sequence[Any], size: Size) -> dict[str, Any]:
    from pycocotools import mask as coco

    polygons = _polygons(segmentation)
    if not polygons:
        raise DataError("the mask is empty: no polygon has three points")
    width, height = size
    rle = coco.merge(coco.frPyObjects(polygons, height, width))
    if not coco.area(rle):
        _refuse_outside(polygons, size)
    return rle


def _polygons(segmentation: Sequence[Any]) -> list[list[float]]:
    found = []
    for polygon in segmentation:
        if not isinstance(polygon, list | tuple) or len(polygon) % 2 or not _are_numbers(polygon):
            raise DataError(f"a polygon is a list [x0, y0, x1, y1, ...], found {_short(polygon)}")
        if len(polygon) >= 6:  # four numbers would be taken for a box
            found.append([float(value) for value in polygon])
    return found


def _refuse_outside(polygons: Sequence[Sequence[float]], size: Size) -> None:
    """Raise if no polygon reaches into the picture."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    width, height = size
    if max(xs) <= 0 or min(xs) >= width or max(ys) <= 0 or min(ys) >= height:
        raise DataError(
            f"the mask lies outside of the {width} x {height} px picture: its polygons span "
            f"x {min(xs):g} to {max(xs):g}, y {min(ys):g} to {max(ys):g}"
        )


def _from_runs(rle: Mapping[str, Any], size: Size) -> dict[str, Any]:
    from pycocotools import mask as coco

    width, height = size
    found, counts = rle.get("size"), rle.get("counts")
    if not isinstance(found, list | tuple) or list(found) != [height, width]:
        raise DataError(
            f"run lengths are of the size [height, width] = {found!r}, the picture has "
            f"[{height}, {width}]"
        )
    if isinstance(counts, str | bytes):
        counts = _runs(counts if isinstance(counts, bytes) else counts.encode("utf-8", "replace"))
    if not isinstance(counts, list | tuple) or not all(type(n) is int and n >= 0 for n in counts):
        raise DataError(f"counts are lengths of runs in px, found {_short(counts)}")
    # pycocotools would return whatever lies in memory behind the last run.
    if sum(counts) != width * height:
        raise DataError(
            f"run lengths cover {sum(counts)} px, the picture has {width} x {height} = "
            f"{width * height}"
        )
    return coco.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)


def _runs(text: bytes) -> list[int]:
    """Return the lengths of runs of a compressed text.

    Each number is written in groups of 5 bits, the least first, as ASCII from 48 on, 32 added where
    another group follows; from the fourth on they are differences to the one two before (COCO's
    ``maskApi.c``).
    """
    runs: list[int] = []
    value = shift = 0
    for byte in text:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            return [-1]
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs if not shift else [-1]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
