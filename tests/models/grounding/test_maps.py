"""Maps and cuts, against loops and against F-LMM's arithmetic as the specification has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inlay.core.errors import ModelError
from inlay.core.types import Box, View
from inlay.models.grounding.maps import assemble, cut_to_picture

WHOLE = (0.0, 0.0, 640.0, 427.0)


def columns(masks: int, channels: int, tokens: int) -> torch.Tensor:
    torch.manual_seed(tokens)
    return torch.rand(masks, channels, tokens)


def bilinear(grid: np.ndarray, x: float, y: float) -> float:
    """Value of a grid ``[h, w]`` at a place in cells (the first centre is 0.5), border repeated."""
    rows, columns = grid.shape
    x, y = min(max(x - 0.5, 0), columns - 1), min(max(y - 0.5, 0), rows - 1)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
    upper = grid[y0, x0] * (1 - (x - x0)) + grid[y0, x1] * (x - x0)
    lower = grid[y1, x0] * (1 - (x - x0)) + grid[y1, x1] * (x - x0)
    return float(upper * (1 - (y - y0)) + lower * (y - y0))


def test_one_view_is_read_row_by_row() -> None:
    box = (-5.0, 0.0, 40.0, 60.0)
    seen = columns(3, 5, 25)
    maps, canvas = assemble(seen.to(torch.bfloat16), [View(1, 4, 6, box, stride=6)])
    assert canvas == box and maps.dtype == torch.float32
    assert torch.equal(maps, seen[..., 1:25].to(torch.bfloat16).float().reshape(3, 5, 4, 6))


def test_llava_next_is_coarse_then_fine_without_its_newlines() -> None:
    rows, wide = 32, 48  # of a picture of 640 x 427 px
    seen = columns(2, 6, 576 + rows * (wide + 1))
    views = [
        View(0, 24, 24, WHOLE, stride=24),
        View(576, rows, wide, WHOLE, stride=wide + 1, level=1),
    ]
    maps, canvas = assemble(seen, views)
    coarse = seen[..., :576].reshape(2, 6, 24, 24)
    fine = seen[..., 576:].reshape(2, 6, rows, wide + 1)[..., :-1]
    enlarged = F.interpolate(coarse, size=(rows, wide), mode="bilinear")
    torch.testing.assert_close(maps, torch.cat([enlarged, fine], 1), atol=2e-6, rtol=0)
    assert torch.equal(maps[:, 6:], fine) and canvas == WHOLE


def test_mgm_hd_is_global_enlarged_then_four_crops_as_one() -> None:
    square = (0.0, -106.5, 640.0, 533.5)
    halves = [(0.0, -106.5), (320.0, -106.5), (0.0, 213.5), (320.0, 213.5)]
    seen = columns(1, 4, 5 * 576)
    views = [View(0, 24, 24, square, stride=24)]
    for number, (x, y) in enumerate(halves, start=1):
        views.append(View(576 * number, 24, 24, (x, y, x + 320, y + 320), stride=24, level=1))
    maps, canvas = assemble(seen, views[::-1])  # their order does not matter
    high = torch.zeros(1, 4, 48, 48)
    for row in range(48):
        for column in range(48):
            crop = row // 24 * 2 + column // 24
            token = 576 + crop * 576 + row % 24 * 24 + column % 24
            high[:, :, row, column] = seen[:, :, token]
    low = F.interpolate(seen[..., :576].reshape(1, 4, 24, 24), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(maps, torch.cat([low, high], 1), atol=2e-6, rtol=0)
    assert maps.shape == (1, 8, 48, 48) and canvas == square


def test_levels_of_different_boxes_meet_by_their_places() -> None:
    coarse, fine = (0.0, 0.0, 80.0, 60.0), (16.0, -3.0, 90.0, 57.0)
    seen = columns(1, 2, 12 + 35)
    views = [View(0, 3, 4, coarse, stride=4), View(12, 5, 7, fine, stride=7, level=1)]
    maps, canvas = assemble(seen, views)
    assert canvas == fine
    for channel in range(2):
        grid = seen[0, channel, :12].reshape(3, 4).numpy()
        for row in range(5):
            for column in range(7):
                x = 16 + (column + 0.5) * 74 / 7
                y = -3 + (row + 0.5) * 60 / 5
                wanted = bilinear(grid, x / 80 * 4, y / 60 * 3)
                assert maps[0, channel, row, column] == pytest.approx(wanted, abs=2e-6)


def test_tiles_of_unequal_grids_still_make_a_map() -> None:
    views = [
        View(0, 1, 2, (0, 0, 2, 1), stride=2),
        View(2, 1, 1, (2, 0, 3, 1), stride=1),
        View(3, 2, 2, (0, 1, 2, 3), stride=2),
        View(7, 2, 1, (2, 1, 3, 3), stride=1),
    ]
    maps, _ = assemble(torch.arange(9.0).reshape(1, 1, 9), views)
    assert maps[0, 0].tolist() == [[0, 1, 2], [3, 4, 7], [5, 6, 8]]


def test_tiles_that_do_not_fit_and_missing_tokens_are_refused() -> None:
    ragged = [View(0, 2, 2, (0, 0, 2, 2), 2), View(4, 1, 2, (2, 0, 4, 2), 2)]
    with pytest.raises(ModelError, match="level 0 make no rectangle"):
        assemble(columns(1, 1, 6), ragged)
    uneven = [View(0, 1, 2, (0, 0, 2, 1), 2), View(2, 1, 3, (0, 1, 2, 2), 3)]
    with pytest.raises(ModelError, match="make no rectangle"):
        assemble(columns(1, 1, 5), uneven)
    with pytest.raises(ModelError, match="reach over 9 image tokens, found 8"):
        assemble(columns(1, 1, 8), [View(0, 3, 3, WHOLE, stride=3)])


@pytest.mark.parametrize("side", [336, 384, 392, 448, 1024])
@pytest.mark.parametrize("cells", [24, 64])
def test_padding_is_cut_as_in_section_4(side: int, cells: int) -> None:
    rng = np.random.default_rng(side)
    sizes = [(640, 427), (427, 640), (500, 500), (1000, 9), (5, 700), (333, 251)]
    sizes += [tuple(int(n) for n in rng.integers(20, 1300, 2)) for _ in range(60)]
    logits = torch.arange(float(cells * cells)).reshape(1, cells, cells)
    for width, height in sizes:
        resized = [max(int(n / max(width, height) * side), 14) for n in (width, height)]
        before = [(side - n) // 2 for n in resized]
        keep, box = [], []
        for n, pad, px in zip(resized, before, (width, height), strict=True):
            first = int(pad * cells / side)
            count = max(int(n * cells / side + 0.5), 1)  # F-LMM would be left with none
            keep.append(slice(first, first + count))
            box.append((-pad * px / n, (side - pad) * px / n))
        canvas: Box = (box[0][0], box[1][0], box[0][1], box[1][1])
        wanted = logits[:, keep[1], keep[0]]
        assert torch.equal(cut_to_picture(logits, canvas, (width, height)), wanted)


@pytest.mark.parametrize("error", [1 - 1e-12, 1 + 1e-12])
def test_the_error_of_floats_in_a_box_moves_no_border(error: float) -> None:
    logits = torch.zeros(2, 64, 64)
    # 96 of 384 px before: exactly 16 cells; 22.5 px more would be half a cell
    canvas = (0.0, -120.0 * error, 480.0, 360.0 * error)
    assert cut_to_picture(logits, canvas, (480, 240)).shape == (2, 32, 64)
    half = (0.0, 0.0, 128.0, 128.0 * error)  # 63 px: 31.5 cells, rounded up
    assert cut_to_picture(logits, half, (128, 63)).shape == (2, 32, 64)


def test_a_thin_picture_keeps_a_row() -> None:
    cut = cut_to_picture(torch.rand(1, 64, 64), (0.0, -490.0, 1000.0, 510.0), (1000, 5))
    assert cut.shape == (1, 1, 64)


def test_beyond_a_centre_cut_out_the_border_goes_on() -> None:
    logits = torch.arange(16.0).reshape(1, 4, 4)
    cut = cut_to_picture(logits, (80.0, 0.0, 560.0, 480.0), (640, 480))
    left = math.floor(80 / 120 + 0.5)
    width = int(640 * 4 / 480 + 0.5)
    assert cut.shape == (1, 4, width) and left == 1
    assert torch.equal(cut[..., 1:], logits) and torch.equal(cut[..., 0], logits[..., 0])


def test_the_whole_picture_stays_as_it_is() -> None:
    logits = torch.rand(2, 48, 64, requires_grad=True)
    cut = cut_to_picture(logits, WHOLE, (640, 427))
    assert torch.equal(cut, logits)
    cut.sum().backward()
    assert logits.grad is not None and logits.grad.eq(1).all()
