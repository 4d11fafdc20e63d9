"""Metrics of masks against numpy written out by hand and against pycocotools."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pycocotools import mask as coco

from inlay.evaluation.mask_metrics import (
    average_recall,
    box_iou,
    cumulative_iou,
    generalised,
    ious,
    mask_box,
    mean_iou,
    overlap,
    precision_at,
)


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Overlapping blobs, one pair that is equal, one disjoint, one of empty masks."""
    random = np.random.default_rng(0)
    predicted, truth = random.random((2, 12, 31, 47)) < random.random((2, 12, 1, 1))
    truth[0] = predicted[0]
    predicted[1], truth[1] = False, False
    predicted[1, :, :20], truth[1, :, 20:] = True, True
    predicted[2] = truth[2] = False
    return predicted, truth


def encode(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_ious_are_those_of_pycocotools(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    intersections, unions = overlap(*pairs)
    found = ious(intersections, unions)
    for k, (p, t) in enumerate(zip(*pairs, strict=True)):
        both = coco.merge([encode(p), encode(t)], intersect=True)
        either = coco.merge([encode(p), encode(t)])
        assert intersections[k] == coco.area(both) and unions[k] == coco.area(either)
        expected = coco.iou([encode(p)], [encode(t)], [0])[0, 0] if k != 2 else 0.0
        assert found[k] == pytest.approx(expected, abs=1e-12)
    assert found[0] == 1 and found[1] == 0


def test_means_over_masks_and_over_pixels(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    intersections, unions = overlap(*pairs)
    each = [
        (p & t).sum() / (p | t).sum() if (p | t).any() else 0.0 for p, t in zip(*pairs, strict=True)
    ]
    assert mean_iou(intersections, unions) == pytest.approx(sum(each) / len(each))
    predicted, truth = pairs
    in_all = (predicted & truth).sum() / (predicted | truth).sum()
    assert cumulative_iou(intersections, unions) == pytest.approx(in_all)
    assert in_all != pytest.approx(sum(each) / len(each), abs=1e-3), "they are two numbers"
    shares = precision_at(each)
    assert list(shares) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert shares[0.5] == sum(x >= 0.5 for x in each) / len(each)
    assert precision_at([0.5, 0.49])[0.5] == 0.5, "a threshold that is met counts"


def test_average_recall_is_the_mean_iou() -> None:
    values = np.random.default_rng(1).beta(2, 1, 500)
    values[:5], values[5:10] = 0.0, 1.0
    assert average_recall(values) == pytest.approx(values.mean(), abs=1e-12)
    step = 1e-4
    summed = sum(step * (values >= t).mean() for t in np.arange(0, 1, step))
    assert average_recall(values) == pytest.approx(summed, abs=2 * step)
    assert average_recall([0.25]) == 0.25
    assert math.isnan(average_recall([])) and math.isnan(mean_iou([], []))


def test_expressions_without_a_target() -> None:
    # right, wrong, rightly nothing, wrongly 30 px for nothing, wrongly nothing
    found = generalised(
        intersections=[80, 0, 0, 0, 0],
        unions=[100, 60, 0, 30, 40],
        areas=[90, 20, 0, 30, 0],
        no_target=[False, False, True, True, False],
    )
    assert found["gIoU"] == pytest.approx((0.8 + 0 + 1 + 0 + 0) / 5)
    assert found["cIoU"] == pytest.approx(80 / 230)
    assert found["N-acc"] == 0.5 and found["T-acc"] == pytest.approx(2 / 3)
    with_targets = generalised([80], [100], [90], [False])
    assert with_targets["gIoU"] == 0.8 and math.isnan(with_targets["N-acc"])


def test_boxes(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    for mask in pairs[0][:2]:
        x, y, w, h = coco.toBbox(encode(mask))
        assert mask_box(mask) == (x, y, x + w, y + h)
    assert mask_box(np.zeros((3, 4), bool)) is None
    a, b = (2.0, 3.0, 12.0, 9.0), (5.0, 1.0, 14.0, 7.0)
    as_coco = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in (a, b)]
    assert box_iou(a, b) == pytest.approx(coco.iou(as_coco[:1], as_coco[1:], [0])[0, 0])
    assert box_iou(a, (12.0, 3.0, 20.0, 9.0)) == 0, "an edge in common is no area"
    assert box_iou(a, a) == 1 and box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_masks_that_cannot_be_compared() -> None:
    mask = np.ones((2, 4, 5), bool)
    with pytest.raises(ValueError, match=r"of one shape, found \(2, 4, 5\) and \(1, 4, 5\)"):
        overlap(mask, mask[:1])
    with pytest.raises(ValueError, match="expected bool, found uint8"):
        overlap(mask.astype(np.uint8), mask)
