"""Numbers from masks: pure functions on numpy arrays, without models or files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inlay.core.types import Box

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""IoUs at which the precision of referring segmentation is stated."""


def overlap(
    predicted_MHW: NDArray[np.bool_], truth_MHW: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the intersection and the union of each pair of masks, int64 ``[M]`` in px.

    Args:
        predicted_MHW, truth_MHW: bool, of one shape.

    Raises:
        ValueError: the shapes or the kinds differ.
    """
    if predicted_MHW.shape != truth_MHW.shape or predicted_MHW.ndim != 3:
        raise ValueError(
            f"expected two arrays of masks [M, H, W] of one shape, found {predicted_MHW.shape} and "
            f"{truth_MHW.shape}"
        )
    if predicted_MHW.dtype != bool or truth_MHW.dtype != bool:
        raise ValueError(f"expected bool, found {predicted_MHW.dtype} and {truth_MHW.dtype}")
    intersections = np.count_nonzero(predicted_MHW & truth_MHW, axis=(1, 2))
    unions = np.count_nonzero(predicted_MHW | truth_MHW, axis=(1, 2))
    return intersections.astype(np.int64), unions.astype(np.int64)


def ious(intersections: ArrayLike, unions: ArrayLike) -> NDArray[np.float64]:
    """Return intersection over union of each pair, in [0, 1]; 0 where both masks are empty."""
    inside = np.asarray(intersections, np.float64)
    return inside / np.maximum(np.asarray(unions, np.float64), 1)


def mean_iou(intersections: ArrayLike, unions: ArrayLike) -> float:
    """Return mIoU, every mask counting alike; NaN without masks."""
    return _mean(ious(intersections, unions))


def cumulative_iou(intersections: ArrayLike, unions: ArrayLike) -> float:
    """Return cIoU: all intersections over all unions, so large things count more; NaN without any
    pixel."""
    total = int(np.sum(unions, dtype=np.int64))
    return int(np.sum(intersections, dtype=np.int64)) / total if total else float("nan")


def precision_at(values: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> dict[float, float]:
    """Return the share of IoUs that reach each threshold (``>=``); NaN without any."""
    found = np.asarray(values, np.float64)
    return {threshold: _mean(found >= threshold) for threshold in thresholds}


def average_recall(values: ArrayLike) -> float:
    """Return the area under the curve of recall over IoU thresholds from 0 to 1; NaN without any.

    Recall at ``t`` is the share of IoUs that reach ``t``. The curve is a staircase, so its area is
    exact here, and it equals the mean IoU. Source: Gonzalez et al., Panoptic Narrative Grounding
    (ICCV 2021), section 5, who sum it at fixed thresholds.
    """
    rising = np.sort(np.asarray(values, np.float64))
    if not len(rising):
        return float("nan")
    steps = np.diff(rising, prepend=0.0)
    recall = np.arange(len(rising), 0, -1) / len(rising)
    return float(steps @ recall)


def generalised(
    intersections: ArrayLike, unions: ArrayLike, areas: ArrayLike, no_target: ArrayLike
) -> dict[str, float]:
    """Return the metrics of expressions that may name nothing in the picture.

    ``gIoU``: mean IoU, where a rightly empty answer counts 1 and a wrong answer to an expression
    without target 0. ``cIoU``: see ``cumulative_iou``; what is predicted for an expression without
    target adds to the union. ``N-acc``: share of expressions without target whose mask is empty;
    ``T-acc``: share of the others whose mask is not. NaN where there are none.
    Source: Liu et al., GRES (CVPR 2023), section 3.3.

    Args:
        areas: predicted pixels ``[M]``; an empty mask says that there is no target.
        no_target: bool ``[M]``.
    """
    is_empty = np.asarray(areas) == 0
    nothing = np.asarray(no_target, bool)
    values = np.where(nothing, is_empty.astype(np.float64), ious(intersections, unions))
    return {
        "gIoU": _mean(values),
        "cIoU": cumulative_iou(intersections, unions),
        "N-acc": _mean(is_empty[nothing]),
        "T-acc": _mean(~is_empty[~nothing]),
    }


def mask_box(mask_HW: NDArray[np.bool_]) -> Box | None:
    """Return the smallest box around a mask: right and bottom are one past its last pixels."""
    ys, xs = np.nonzero(mask_HW)
    if not len(ys):
        return None
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def box_iou(a: Box, b: Box) -> float:
    """Return intersection over union of two boxes, in [0, 1]; 0 where neither has an area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0.0) * max(height, 0.0)
    area = _area(a) + _area(b) - inside
    return inside / area if area > 0 else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _mean(values: NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else float("nan")
