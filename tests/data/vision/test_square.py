"""One view a picture: tokens and pixels as transformers' own processors of the encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Dinov2Config,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from inlay.core.errors import ConfigError
from inlay.data.vision.square import SquareImageProcessor

SIZES = [(640, 480), (33, 500), (336, 336), (7, 5), (401, 777)]

CLIP = (
    CLIPVisionConfig(image_size=336, patch_size=14),
    CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, resample=3
    ),
)
SIGLIP = (
    SiglipVisionConfig(image_size=64, patch_size=16),
    SiglipImageProcessorPil(size={"height": 64, "width": 64}),
)
# as DINOv2 has it: the crop is smaller than the resized picture and than the config's image_size
DINO = (
    Dinov2Config(image_size=518, patch_size=14),
    BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}),
)


@pytest.mark.parametrize(("parts", "tokens"), [(CLIP, 576), (SIGLIP, 16), (DINO, 256)])
def test_tokens_and_pixels_are_the_encoders_own(
    parts: Any, tokens: int, encoder: Any, picture: Any, tokenizer: Any
) -> None:
    processor = SquareImageProcessor(tokenizer, encoder(*parts))
    for width, height in SIZES:
        image = picture(width, height)
        plan = processor.plan(width, height)
        assert plan.ids == (processor.image_token_id,) * tokens
        assert (plan.prefix, plan.tiles) == ("", 1)
        ours = processor.pixels(image)["pixel_values"]
        theirs = parts[1](image, return_tensors="np")["pixel_values"]
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        np.testing.assert_array_equal(ours, theirs)


def test_a_crop_larger_than_the_resized_picture(encoder: Any, picture: Any, tokenizer: Any) -> None:
    parts = CLIPImageProcessorPil(
        size={"shortest_edge": 31}, crop_size={"height": 56, "width": 56}, do_normalize=False
    )
    config = CLIPVisionConfig(image_size=56, patch_size=14)
    processor = SquareImageProcessor(tokenizer, encoder(config, parts))
    for width, height in SIZES:
        image = picture(width, height)
        theirs = parts(image, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(processor.pixels(image)["pixel_values"], theirs)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pad_to_square_is_llavas(
    width: int, height: int, encoder: Any, picture: Any, tokenizer: Any
) -> None:
    processor = SquareImageProcessor(tokenizer, encoder(*CLIP), pad_to_square=True)
    image = picture(width, height)
    side = max(width, height)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(x * 255) for x in CLIP[1].image_mean]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = np.asarray(image)
    theirs = CLIP[1](Image.fromarray(square), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(processor.pixels(image)["pixel_values"], theirs)


def test_the_vision_half_of_a_pair_counts(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import CLIPConfig

    config = CLIPConfig(vision_config={"image_size": 336, "patch_size": 14})
    config.save_pretrained(tmp_path)
    CLIP[1].save_pretrained(tmp_path)
    assert len(SquareImageProcessor(tokenizer, tmp_path).plan(9, 9).ids) == 576


def test_pixel_shuffle_divides_the_tokens(encoder: Any, tokenizer: Any) -> None:
    folder = encoder(*CLIP)
    processor = SquareImageProcessor(tokenizer, folder, pixel_shuffle_factor=2)
    assert len(processor.plan(10, 10).ids) == 144
    with pytest.raises(ConfigError, match=r"does not divide 24x24 patches.*\[1, 2, 3, 4, 6, 8"):
        SquareImageProcessor(tokenizer, folder, pixel_shuffle_factor=5)


def test_the_image_token_is_added_once(encoder: Any, tokenizer: Any) -> None:
    folder, before = encoder(*SIGLIP), len(tokenizer)
    processor = SquareImageProcessor(tokenizer, folder)
    again = SquareImageProcessor(tokenizer, folder)
    assert processor.image_token_id == again.image_token_id == before
    assert len(tokenizer) == before + 1
    assert tokenizer.decode([before], skip_special_tokens=True) == ""
    other = SquareImageProcessor(tokenizer, folder, image_token="<|im_start|>")
    assert other.image_token_id == tokenizer.convert_tokens_to_ids("<|im_start|>") < before


def test_identity_tells_apart_what_changes_pixels(encoder: Any, tokenizer: Any) -> None:
    folder = encoder(*CLIP)
    plain = SquareImageProcessor(tokenizer, folder)
    assert SquareImageProcessor(tokenizer, folder).identity() == plain.identity()
    padded = SquareImageProcessor(tokenizer, folder, pad_to_square=True)
    flipped = SquareImageProcessor(tokenizer, folder, image_transform=flip)
    assert len({plain.identity(), padded.identity(), flipped.identity()}) == 3


def flip(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def shade(image: Image.Image, seed: int) -> Image.Image:
    return image.point(lambda value: value * (seed % 7) // 7)


def shrink(image: Image.Image) -> Image.Image:
    return image.resize((5, 5))


def test_a_users_transform_comes_first(encoder: Any, picture: Any, tokenizer: Any) -> None:
    folder, image = encoder(*CLIP), picture(500, 336)
    plain = SquareImageProcessor(tokenizer, folder)
    flipped = SquareImageProcessor(tokenizer, folder, image_transform=flip)
    np.testing.assert_array_equal(
        flipped.pixels(image)["pixel_values"], plain.pixels(flip(image))["pixel_values"]
    )
    shaded = SquareImageProcessor(tokenizer, folder, image_transform=shade)
    one, same, other = (shaded.pixels(image, seed)["pixel_values"] for seed in (3, 3, 5))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    named = SquareImageProcessor(tokenizer, folder, image_transform="PIL.ImageOps.mirror")
    np.testing.assert_array_equal(
        named.pixels(image)["pixel_values"], flipped.pixels(image)["pixel_values"]
    )


def test_a_transform_keeps_the_size(encoder: Any, picture: Any, tokenizer: Any) -> None:
    processor = SquareImageProcessor(tokenizer, encoder(*SIGLIP), image_transform=shrink)
    with pytest.raises(ConfigError, match=r"shrink made a picture of 9x8 px 5x5 px"):
        processor.pixels(picture(9, 8))
    with pytest.raises(ConfigError, match="cannot be imported"):
        SquareImageProcessor(tokenizer, encoder(*SIGLIP), image_transform="PIL.ImageOps.miror")


def test_encoders_without_a_fixed_view_are_refused(
    encoder: Any, tokenizer: Any, tmp_path: Path
) -> None:
    naflex = encoder(SiglipVisionConfig(), Siglip2ImageProcessorPil())
    with pytest.raises(ConfigError, match="does not make views of one fixed size"):
        SquareImageProcessor(tokenizer, naflex)
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        SquareImageProcessor(tokenizer, tmp_path / "nothing")
