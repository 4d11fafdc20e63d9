"""Tiles, their tokens and the view of the whole picture, against loops written out here."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import SiglipImageProcessorPil, SiglipVisionConfig

from inlay.core.errors import ConfigError
from inlay.data.vision.tiled import TiledImageProcessor

SMALL = {"tile_size": 32, "patch_size": 8, "pixel_shuffle_factor": 2, "max_image_size": 128}
PLAIN = {**SMALL, "image_mean": None, "image_std": None}


def triangle_weights(length: int, side: int) -> np.ndarray:
    """Rows of an antialiased bilinear filter from ``length`` to ``side`` pixels, float64."""
    scale = length / side
    reach = max(scale, 1.0)
    rows = np.zeros((side, length))
    for out in range(side):
        centre = (out + 0.5) * scale
        for source in range(length):
            rows[out, source] = max(0.0, 1 - abs((source + 0.5 - centre) / reach))
        rows[out] /= rows[out].sum()
    return rows


def reference(image: Image.Image, rows: int, columns: int, side: int) -> np.ndarray:
    """The views of a picture in [0, 1], tile by tile and channel by channel."""
    resized = np.asarray(image.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    views = []
    if rows * columns > 1:
        down, across = (triangle_weights(n * side, side) for n in (rows, columns))
        views.append([down @ (resized[:, :, c] / 255) @ across.T for c in range(3)])
    for i in range(rows):
        for j in range(columns):
            tile = resized[i * side : (i + 1) * side, j * side : (j + 1) * side]
            views.append([tile[:, :, c] / 255 for c in range(3)])
    return np.array(views)


@pytest.mark.parametrize(
    ("size", "grid", "at_most"),
    [
        # rows and columns as nanoVLM's own code gives them, without and with resize_to_max
        ((100, 100), (1, 1), (4, 4)),
        ((640, 480), (2, 2), (3, 4)),
        ((512, 512), (1, 1), (4, 4)),
        ((513, 512), (2, 2), (4, 4)),
        ((300, 1000), (2, 1), (4, 2)),
        ((6000, 10), (1, 4), (1, 4)),
        ((1092, 1092), (4, 3), (4, 4)),
        ((3000, 2000), (3, 4), (3, 4)),
        ((1, 1), (1, 1), (4, 4)),
    ],
)
def test_grids_of_nanovlm(size: Any, grid: Any, at_most: Any, tokenizer: Any) -> None:
    assert TiledImageProcessor(tokenizer).grid(*size) == grid
    assert TiledImageProcessor(tokenizer, resize_to_max=True).grid(*size) == at_most


@pytest.mark.parametrize("resize_to_max", [False, True])
def test_any_size_fits_its_grid(resize_to_max: bool, tokenizer: Any) -> None:
    processor = TiledImageProcessor(tokenizer, **PLAIN, resize_to_max=resize_to_max)
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 700, (500, 2)).tolist():
        rows, columns = processor.grid(width, height)
        along, across = (columns, rows) if width >= height else (rows, columns)
        long, short = max(width, height), min(width, height)
        assert along == (4 if resize_to_max else min(4, math.ceil(long / 32)))
        # enough tiles for the short side; at most one too many, where floats round up
        exact = short * along / long
        assert exact - 1e-9 <= across <= max(exact, 1) + 1
        plan = processor.plan(width, height)
        assert plan.tiles == rows * columns + (rows * columns > 1)
        assert len(plan.ids) == plan.tiles * 5
        assert plan.ids.count(processor.image_token_id) == plan.tiles * 4


@pytest.mark.parametrize("size", [(90, 61), (20, 33), (200, 40), (31, 31), (64, 64), (5, 300)])
def test_pixels_are_row_major_behind_the_whole(size: Any, picture: Any, tokenizer: Any) -> None:
    processor, image = TiledImageProcessor(tokenizer, **PLAIN), picture(*size)
    found = processor.pixels(image)["pixel_values"]
    assert found.dtype == np.float32 and found.flags["C_CONTIGUOUS"]
    expected = reference(image, *processor.grid(*size), 32)
    assert len(found) == processor.plan(*size).tiles
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_pixels_are_normalised_as_the_encoder_expects(picture: Any, tokenizer: Any) -> None:
    image = picture(90, 61)
    plain = TiledImageProcessor(tokenizer, **PLAIN).pixels(image)["pixel_values"]
    siglip = TiledImageProcessor(tokenizer, **SMALL).pixels(image)["pixel_values"]
    np.testing.assert_allclose(siglip, plain * 2 - 1, atol=1e-6)
    own = {**SMALL, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 0.125]}
    mean, std = (np.array(own[k])[:, None, None] for k in ("image_mean", "image_std"))
    found = TiledImageProcessor(tokenizer, **own).pixels(image)["pixel_values"]
    np.testing.assert_allclose(found, (plain - mean) / std, rtol=1e-5, atol=1e-5)


def test_tokens_spell_the_grid(tokenizer: Any) -> None:
    processor = TiledImageProcessor(tokenizer, **SMALL)
    image = "<|image|>" * 4
    two_by_one = "".join(
        f"{marker}{image}" for marker in ("<|global_image|>", "<row_1_col_1>", "<row_2_col_1>")
    )
    assert tokenizer.decode(list(processor.plan(20, 60).ids)) == two_by_one
    assert tokenizer.decode(list(processor.plan(20, 20).ids)) == f"<|global_image|>{image}"
    assert processor.plan(20, 20).prefix == ""
    assert [processor.plan(20, 20, k, 3).prefix for k in range(3)] == [
        "<image: 0>",
        "<image: 1>",
        "<image: 2>",
    ]


def test_tokens_are_added_in_the_originals_order(tokenizer: Any) -> None:
    before = len(tokenizer)
    processor = TiledImageProcessor(tokenizer)
    positions = [f"<row_{i}_col_{j}>" for i in range(1, 9) for j in range(1, 9)]
    added = tokenizer.convert_ids_to_tokens(range(before, len(tokenizer)))
    assert added == ["<|image|>", "<|global_image|>", *positions]
    assert processor.image_token_id == before
    TiledImageProcessor(tokenizer)
    assert len(tokenizer) == before + 66


def test_without_a_global_view(picture: Any, tokenizer: Any) -> None:
    before = len(tokenizer)
    processor = TiledImageProcessor(tokenizer, **PLAIN, global_view=False)
    assert len(tokenizer) == before + 65
    with_view = TiledImageProcessor(tokenizer, **PLAIN)
    image = picture(90, 61)
    views = with_view.pixels(image)["pixel_values"]
    np.testing.assert_array_equal(processor.pixels(image)["pixel_values"], views[1:])
    assert processor.plan(90, 61).ids == with_view.plan(90, 61).ids[5:]
    # a single tile needs its position, since no token of the whole picture marks it
    assert tokenizer.decode(list(processor.plan(9, 9).ids)) == "<row_1_col_1>" + "<|image|>" * 4


def test_an_older_tokenizer_keeps_its_positions(tokenizer: Any) -> None:
    tokens = ["<|image|>", *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2))]
    tokenizer.add_tokens(tokens, special_tokens=True)
    size = len(tokenizer)
    settings = {**PLAIN, "max_image_size": 64, "global_view": False}
    TiledImageProcessor(tokenizer, **settings)
    assert len(tokenizer) == size
    with pytest.raises(ConfigError, match="1 to 2 times tile_size 32"):
        TiledImageProcessor(tokenizer, **{**settings, "max_image_size": 128})


def test_the_encoder_fills_what_is_not_given(encoder: Any, tokenizer: Any) -> None:
    folder = encoder(
        SiglipVisionConfig(image_size=64, patch_size=8),
        SiglipImageProcessorPil(
            size={"height": 64, "width": 64}, image_mean=[0.1] * 3, image_std=[0.2] * 3
        ),
    )
    settings = TiledImageProcessor(tokenizer, folder, max_image_size=256).settings()
    assert (settings["tile_size"], settings["patch_size"]) == (64, 8)
    assert (settings["image_mean"], settings["image_std"]) == ([0.1] * 3, [0.2] * 3)
    own = TiledImageProcessor(
        tokenizer, folder, tile_size=32, max_image_size=256, image_mean=None, image_std=None
    ).settings()
    assert (own["tile_size"], own["image_mean"]) == (32, None)


def test_sizes_that_do_not_divide_are_refused(tokenizer: Any) -> None:
    for wrong in (100, 16, 32 * 9):
        with pytest.raises(ConfigError, match="must be 1 to 8 times tile_size 32"):
            TiledImageProcessor(tokenizer, **{**SMALL, "max_image_size": wrong})
    with pytest.raises(ConfigError, match=r"does not divide 4x4 patches.*\[1, 2, 4\]"):
        TiledImageProcessor(tokenizer, **{**SMALL, "pixel_shuffle_factor": 3})
    with pytest.raises(ConfigError, match="go together"):
        TiledImageProcessor(tokenizer, **SMALL, image_mean=None)


def grow(image: Image.Image) -> Image.Image:
    return image.resize((image.width + 1, image.height))


def test_a_transform_keeps_the_size(picture: Any, tokenizer: Any) -> None:
    processor = TiledImageProcessor(tokenizer, **SMALL, image_transform=grow)
    with pytest.raises(ConfigError, match="a transform must keep it"):
        processor.pixels(picture(32, 32))


def test_a_worker_gets_the_same_processor(picture: Any, tokenizer: Any) -> None:
    processor, image = TiledImageProcessor(tokenizer, **SMALL), picture(70, 70)
    copy = pickle.loads(pickle.dumps(processor))
    assert copy.plan(70, 70) == processor.plan(70, 70)
    assert copy.identity() == processor.identity()
    np.testing.assert_array_equal(
        copy.pixels(image)["pixel_values"], processor.pixels(image)["pixel_values"]
    )
    assert TiledImageProcessor(tokenizer, **PLAIN).identity() != processor.identity()
