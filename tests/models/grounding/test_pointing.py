"""Training-free pointing: localisation heads are found among others, and their masks fit."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from inlay.models.grounding.pointing import CONTRAST, otsu, pick_heads, point, spatial_entropy

GRID, HEADS = 24, 32
LOOKERS = (9, 17, 30)
BOXES = [(3, 4, 11, 12), (10, 13, 20, 22), (14, 2, 19, 9)]  # top, left, bottom, right


def object_mask(box: tuple[int, int, int, int]) -> torch.Tensor:
    top, left, bottom, right = box
    mask = torch.zeros(GRID, GRID)
    mask[top:bottom, left:right] = 1
    return mask


def fake_maps(boxes: list[tuple[int, int, int, int]], seed: int = 0) -> torch.Tensor:
    """Attention ``[M, 32, 24, 24]``: three heads look at the object, others at noise over the whole
    picture, at a corner, at a fixed place, at many spots, or away from the picture."""
    torch.manual_seed(seed)
    maps = torch.zeros(len(boxes), HEADS, GRID, GRID)
    for m, box in enumerate(boxes):
        for c in range(HEADS):
            noise = torch.rand(GRID, GRID) / GRID**2
            if c in LOOKERS:
                inside = object_mask(box) * (0.5 + torch.rand(GRID, GRID))
                maps[m, c] = 0.6 * inside / inside.sum() + 0.05 * noise
            elif c % 5 == 0:  # an attention sink
                maps[m, c] = 0.01 * noise
                maps[m, c, -1, 0] += 0.7
            elif c % 5 == 1:  # always the middle
                maps[m, c, 8:16, 8:16] = 0.7 / 64
                maps[m, c] += 0.01 * noise
            elif c % 5 == 2:  # scattered spots
                spots = torch.rand(GRID, GRID) > 0.9
                maps[m, c] = 0.6 * spots / spots.sum()
            elif c % 5 == 3:  # everything
                maps[m, c] = 0.6 * noise
            else:  # the picture does not matter, though a little of it does
                maps[m, c] = 0.02 * object_mask(BOXES[1]) / object_mask(BOXES[1]).sum()
    return maps


def iou(logits: torch.Tensor, box: tuple[int, int, int, int]) -> float:
    true = F.interpolate(object_mask(box)[None, None], size=logits.shape, mode="bilinear")[0, 0]
    found, true = logits > 0, true > 0.5
    return ((found & true).sum() / (found | true).sum()).item()


def test_finds_the_heads_that_look_at_the_object() -> None:
    maps = fake_maps(BOXES)
    heads = pick_heads([maps])
    assert sorted(heads) == list(LOOKERS)
    assert heads == pick_heads([maps])
    logits = point(maps, heads)
    assert logits.shape == (3, 64, 64) and logits.abs().max() <= CONTRAST
    assert min(iou(x, box) for x, box in zip(logits, BOXES, strict=True)) > 0.8
    blind = point(maps, [c for c in range(HEADS) if c not in LOOKERS])
    assert max(iou(x, box) for x, box in zip(blind, BOXES, strict=True)) < 0.5


def test_several_pictures_of_other_shapes_vote_together() -> None:
    samples = [fake_maps([box], seed=s)[..., :20, 2:] for s, box in enumerate(BOXES)]
    moving = [fake_maps(BOXES[:2], seed=5), *samples]
    assert sorted(pick_heads(moving)) == list(LOOKERS)
    assert sorted(pick_heads(moving, num_heads=2)) == sorted(pick_heads(moving)[:2])
    assert not set(pick_heads(moving, skip=10)) & set(range(10))


def test_one_phrase_is_not_fooled_by_sinks() -> None:
    maps = fake_maps(BOXES[:1])
    maps[:, 1::5] = maps[:, 3::5].mean()  # nothing that one phrase alone could not tell apart
    assert sorted(pick_heads([maps])) == list(LOOKERS)


def test_phrases_for_one_object_still_find_heads() -> None:
    maps = fake_maps([BOXES[0]] * 2)
    maps[:, 1::5] = 0
    maps[1] = maps[0]
    assert sorted(pick_heads([maps])) == list(LOOKERS)


def test_one_token_of_a_coarse_grid_may_be_an_object() -> None:
    torch.manual_seed(0)
    maps = torch.rand(3, 8, 4, 4) / 40
    for m, (row, column) in enumerate(((0, 3), (2, 1), (3, 0))):
        maps[m, 5, row, column] = 0.9  # it looks at the object
    maps[:, 2, 3, 3] = 0.9  # always there
    assert pick_heads([maps], num_heads=1) == (5,)
    found = point(maps, (5,), side=4) > 0
    assert [mask.nonzero().tolist() for mask in found] == [[[0, 3]], [[2, 1]], [[3, 0]]]


def test_levels_of_a_head_are_joined() -> None:
    fine = fake_maps(BOXES)
    coarse = F.interpolate(F.avg_pool2d(fine, 2), scale_factor=2.0, mode="bilinear")
    maps = torch.cat([coarse, fine], dim=1)
    heads = pick_heads([maps], levels=2)
    assert sorted(heads) == list(LOOKERS)
    logits = point(maps, heads, levels=2, side=24)
    assert logits.shape == (3, 24, 24)
    assert min(iou(x, box) for x, box in zip(logits, BOXES, strict=True)) > 0.75


@pytest.mark.parametrize("value", [0.0, 1 / GRID**2])
def test_no_signal_gives_empty_masks(value: float) -> None:
    maps = torch.full((2, HEADS, GRID, GRID), value)
    assert pick_heads([maps]) == ()
    assert torch.equal(point(maps, ()), torch.full((2, 64, 64), -CONTRAST))
    assert torch.equal(point(maps, (0, 3)), torch.full((2, 64, 64), -CONTRAST))


def test_spatial_entropy_is_that_of_region_sizes() -> None:
    maps = torch.zeros(1, 4, 8, 8)
    maps[0, 0, 1:3, 1:3] = 1  # one region of 4, and one of 12 that touches it nowhere
    maps[0, 0, 5:8, 4:8] = 1
    maps[0, 1, 2, 2] = maps[0, 1, 3, 3] = 1  # a corner is enough to touch
    maps[0, 2] = torch.eye(8) + torch.eye(8).flip(1)  # a cross: one region, a long way round
    found = spatial_entropy(maps)[0]
    quarter = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert found.tolist() == pytest.approx([quarter, 0.0, 0.0, math.inf])


def test_otsu_parts_values_into_the_two_tightest_groups() -> None:
    torch.manual_seed(0)
    values = torch.cat([torch.randn(3, 80) * 0.1, 2 + torch.randn(3, 20) * 0.1], dim=1)
    values[2] = 5.0
    best = []
    for row in values[:2].tolist():
        ordered = sorted(row)
        cuts = [(a + b) / 2 for a, b in pairwise(ordered)]

        def spread(cut: float, row: list[float] = row) -> float:
            groups = [[v for v in row if v <= cut], [v for v in row if v > cut]]
            return sum(sum((v - sum(g) / len(g)) ** 2 for v in g) for g in groups)

        best.append(min(cuts, key=spread))
    assert otsu(values).tolist() == pytest.approx([*best, 5.0], abs=1e-5)
