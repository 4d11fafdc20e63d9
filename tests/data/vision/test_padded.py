"""The padded view, against section 4 of the specification and transformers' DeepSeek-VL."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import DeepseekVLHybridImageProcessorPil, DeepseekVLImageProcessorPil

from inlay.core.errors import ConfigError
from inlay.data.vision.load import load_image_processor, save_image_processor
from inlay.data.vision.padded import PaddedImageProcessor

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CLIP = {"image_mean": MEAN, "image_std": STD}
SIZES = [(640, 427), (33, 500), (336, 336), (7, 5), (401, 777), (900, 11)]


def padded(image: Image.Image, side: int, colour: list[int]) -> np.ndarray:
    """Bytes ``[side, side, 3]``: resized by the longest side, in the middle of a square."""
    width, height = image.size
    longest = max(width, height)
    new_width = max(int(width / longest * side), 14)
    new_height = max(int(height / longest * side), 14)
    small = np.asarray(image.resize((new_width, new_height), Image.Resampling.BICUBIC))
    square = np.empty((side, side, 3), np.uint8)
    square[:] = colour
    top, left = (side - new_height) // 2, (side - new_width) // 2
    square[top : top + new_height, left : left + new_width] = small
    return square


def normal(values: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    return ((values - np.array(mean)) / np.array(std)).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("side", [336, 384, 392, 448])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_section_4(
    side: int, size: tuple[int, int], picture: Any, tokenizer: Any
) -> None:
    patch = 16 if side == 384 else 14
    processor = PaddedImageProcessor(tokenizer, image_size=side, patch_size=patch, **CLIP)
    image = picture(*size)
    pixels = processor.pixels(image)
    wanted = padded(image, side, [int(255 * x) for x in MEAN])
    assert pixels.keys() == {"pixel_values", "num_rows", "num_tokens"}
    assert pixels["num_tokens"] == pixels["num_rows"] * len(processor.plan(*image.size).ids)
    assert pixels["pixel_values"].dtype == np.float32
    np.testing.assert_allclose(pixels["pixel_values"], normal(wanted / 255, MEAN, STD), atol=2e-6)
    plan = processor.plan(*size)
    assert plan.ids == (processor.image_token_id,) * (side // patch) ** 2
    assert (plan.prefix, plan.suffix, plan.tiles) == ("", "", 1)


def rounded_alike(width: int, height: int, side: int) -> bool:
    """Whether both sides round to what ``int`` cuts them to."""
    scale = side / max(width, height)
    longest = max(width, height)
    return all(round(n * scale) == int(n / longest * side) for n in (width, height))


def test_pixels_are_transformers_deepseeks_but_for_its_rounding(
    picture: Any, tokenizer: Any
) -> None:
    """They differ where a side is rounded up: transformers rounds, DeepSeek's own code cuts."""
    size = {"height": 96, "width": 96}
    theirs = DeepseekVLImageProcessorPil(size=size, image_mean=MEAN, image_std=STD)
    ours = PaddedImageProcessor(tokenizer, image_size=96, patch_size=16, **CLIP)
    alike = differ = 0
    for width, height in [(640, 427), (500, 375), (96, 61), (300, 500), (48, 7), (101, 100)]:
        image = picture(width, height)
        wanted = theirs(image, return_tensors="np")["pixel_values"]
        found = ours.pixels(image)["pixel_values"]
        if rounded_alike(width, height, 96):
            alike += 1
            np.testing.assert_allclose(found, wanted, atol=2e-6)
        else:
            differ += 1
            assert np.abs(found - wanted).max() > 0.1
    assert alike >= 3 and differ >= 1


def triangle_weights(length: int, side: int) -> np.ndarray:
    """Rows of an antialiased bilinear filter from ``length`` to ``side`` pixels, float64."""
    scale = length / side
    centres = (np.arange(side)[:, None] + 0.5) * scale
    rows = np.maximum(0, 1 - abs((np.arange(length) + 0.5 - centres) / max(scale, 1)))
    return rows / rows.sum(1, keepdims=True)


def test_the_hybrids_small_view_is_of_its_large_one(picture: Any, tokenizer: Any) -> None:
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ours = PaddedImageProcessor(
        tokenizer,
        image_size=48,
        patch_size=16,
        high_resolution=128,
        high_res_mean=MEAN,
        high_res_std=STD,
        **half,
    )
    theirs = DeepseekVLHybridImageProcessorPil(
        size={"height": 48, "width": 48},
        high_res_size={"height": 128, "width": 128},
        high_res_image_mean=MEAN,
        high_res_image_std=STD,
        **half,
    )
    down = triangle_weights(128, 48)
    for size in [(640, 480), (100, 75), (64, 128)]:
        image = picture(*size)
        found = ours.pixels(image)
        large = padded(image, 128, [int(255 * x) for x in MEAN]) / 255
        small = np.einsum("ih,hwc,jw->ijc", down, large, down)
        np.testing.assert_allclose(
            found["high_res_pixel_values"], normal(large, MEAN, STD), atol=2e-6
        )
        np.testing.assert_allclose(
            found["pixel_values"], normal(small, [0.5] * 3, [0.5] * 3), atol=5e-6
        )
        # transformers agrees on the large view; the small one it makes of bytes, bicubic
        library = theirs(image, return_tensors="np")
        np.testing.assert_allclose(
            found["high_res_pixel_values"], library["high_res_pixel_values"], atol=2e-6
        )
        assert 0 < np.abs(found["pixel_values"] - library["pixel_values"]).max() < 0.5
    assert len(ours.plan(9, 9).ids) == 9


def test_views_are_the_square_in_px_of_the_picture(tokenizer: Any) -> None:
    ours = PaddedImageProcessor(tokenizer, image_size=384, patch_size=16, **CLIP)
    (view,) = ours.views(640, 427)  # resized to 384 x 256, 64 px above
    assert (view.start, view.height, view.width, view.stride, view.level) == (0, 24, 24, 24, 0)
    across, down = 640 / 384, 427 / 256
    assert view.box == pytest.approx((0, -64 * down, 384 * across, 320 * down))
    (view,) = ours.views(333, 500)  # 255 x 384: 129 px of padding, 64 of it before
    assert view.box == pytest.approx((-64 * 333 / 255, 0, 320 * 333 / 255, 500))
    assert ours.num_levels == 1


def test_settings_and_the_folder_make_it_again(
    picture: Any, tokenizer: Any, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    ours = PaddedImageProcessor(
        tokenizer,
        image_size=64,
        patch_size=8,
        pixel_shuffle_factor=2,
        background=(1, 2, 3),
        image_token="<image_placeholder>",
        high_resolution=96,
        **CLIP,
    )
    settings = json.loads(json.dumps(ours.settings()))
    again = PaddedImageProcessor.from_settings(
        AutoTokenizer.from_pretrained(tiny_tokenizer), settings
    )
    save_image_processor(ours, tmp_path)
    loaded = load_image_processor(tmp_path, tokenizer)
    assert type(loaded) is PaddedImageProcessor
    image = picture(50, 30)
    for other in (again, loaded, pickle.loads(pickle.dumps(ours))):
        assert other.identity() == ours.identity()
        assert other.plan(50, 30) == ours.plan(50, 30) and len(ours.plan(50, 30).ids) == 16
        for name, value in ours.pixels(image).items():
            np.testing.assert_array_equal(other.pixels(image)[name], value)
    corner = ours.pixels(image)["high_res_pixel_values"][0, :, 0, 0]
    wanted = (np.array([1, 2, 3]) / 255 - MEAN) / STD
    np.testing.assert_allclose(corner, wanted, atol=2e-6)
    assert PaddedImageProcessor(tokenizer, image_size=64, patch_size=8, **CLIP).identity() != (
        ours.identity()
    )


def test_settings_of_another_kind_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "image_processor.json"
    file.write_text(json.dumps({"kind": "padded", "image_size": 64}))
    with pytest.raises(ConfigError, match="settings of kind 'padded' expected"):
        load_image_processor(tmp_path, tokenizer)
    with pytest.raises(ConfigError, match="pixel_shuffle_factor 5 does not divide 24x24"):
        PaddedImageProcessor(
            tokenizer, image_size=384, patch_size=16, pixel_shuffle_factor=5, **CLIP
        )
