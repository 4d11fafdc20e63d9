"""Masks of annotations against references of their own, and the broken ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pycocotools import mask as coco

from inlay.core.errors import DataError
from inlay.data.grounding.masks import box_around, box_of, compress, union

SIZE = (7, 5)  # width, height


def runs(mask):
    """A mask in uncompressed run lengths, column by column, from zeros on."""
    flat = mask.T.ravel().tolist()
    found = [len(list(group)) for _, group in itertools.groupby(flat)]
    return {"size": list(mask.shape), "counts": [0, *found] if flat[0] else found}


def decode(segmentation, size=SIZE):
    return union([compress(segmentation, size)], size)


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths(seed):
    width, height = 31, 17
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    found = decode(runs(mask), (width, height))
    assert found.dtype == np.uint8
    assert np.array_equal(found, mask)
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    for counts in (packed["counts"], packed["counts"].decode()):
        again = decode({"size": [height, width], "counts": counts}, (width, height))
        assert np.array_equal(again, mask)


def test_long_runs_and_full_masks():
    size = (900, 700)
    mask = np.zeros((700, 900), bool)
    mask[300, 500:] = True
    for expected in (mask, ~mask, mask | True):
        packed = coco.encode(np.asfortranarray(expected.astype(np.uint8)))
        assert np.array_equal(decode(packed, size), expected)


def test_polygons_are_clipped_and_joined():
    rectangle = [[1, 1, 4, 1, 4, 3, 1, 3]]
    expected = np.zeros((5, 7), np.uint8)
    expected[1:3, 1:4] = 1
    assert np.array_equal(decode(rectangle), expected)
    expected[2:, 5:] = 1
    beyond = [5, 2, 90, 2, 90, 80, 5, 80]
    assert np.array_equal(decode([*rectangle, beyond]), expected)
    # two points enclose nothing; four numbers alone pycocotools would take for a box
    assert np.array_equal(decode([*rectangle, beyond, [0, 0, 3, 3], []]), expected)


def test_union():
    first, second = np.zeros((5, 7), bool), np.zeros((5, 7), bool)
    first[0, :3], second[:2, 2] = True, True
    counts = [compress(runs(mask), SIZE) for mask in (first, second)]
    assert np.array_equal(union(counts, SIZE), first | second)
    assert np.array_equal(union([], SIZE), np.zeros((5, 7)))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[-9, 1, -4, 1, -4, 4]], r"outside of the 7 x 5 px picture: .* x -9 to -4"),
        ([[1, 5, 4, 5, 4, 9]], "outside of the 7 x 5"),
        ([[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]], "the mask is empty"),
        ([[1, 1, 4, 4]], "no polygon has three points"),
        ([[1, 1, 4, 4, 4]], "a polygon is a list"),
        ([[1, 1, 4, 4, float("nan"), 2]], "a polygon is a list"),
        ([["1", 1, 4, 4, 2, 2]], "a polygon is a list"),
        ([3, 4, 5], "a polygon is a list"),
        ("x", "found str"),
        ({"size": [5, 7], "counts": [35]}, "the mask is empty"),
        ({"size": [7, 5], "counts": [3, 32]}, r"\[height, width\] = \[7, 5\]"),
        ({"size": [5, 7], "counts": [1, 3]}, "cover 4 px"),
        ({"size": [5, 7], "counts": [1, 300]}, "cover 301 px"),
        ({"size": [5, 7], "counts": [36, -1]}, "lengths of runs"),
        ({"size": [5, 7], "counts": [1.5, 33.5]}, "lengths of runs"),
        ({"size": [5, 7], "counts": "no run lengths"}, "lengths of runs|cover"),
        ({"size": [5, 7], "counts": "é"}, "lengths of runs|cover"),
        ({"size": [5, 7], "counts": "o" * 50}, "lengths of runs"),
        ({"counts": [35]}, "size"),
        ({"size": [5, 7]}, "lengths of runs"),
    ],
)
def test_broken(segmentation, message):
    with pytest.raises(DataError, match=message):
        compress(segmentation, SIZE)


def test_boxes():
    assert box_of([1, 2, 3, 4.5]) == (1, 2, 4, 6.5)
    assert box_around([(1, 2, 3, 4), (0, 3, 2, 9)]) == (0, 2, 3, 9)
    assert box_around([]) is None
    for bbox in ([1, 2, 3], "1234", [1, 2, 3, None]):
        with pytest.raises(DataError, match="a bbox is"):
            box_of(bbox)
