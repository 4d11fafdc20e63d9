"""MGM's pictures: the original's steps, and where the tokens lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig

from inlay.core.errors import ConfigError
from inlay.data.vision.mgm import MGMImageProcessor

SIZES = [(640, 480), (33, 500), (401, 777), (336, 336)]
PLAIN = {"image_size_aux": 768}
HD = {"image_size_aux": 1536, "image_grid": 2, "image_global": True}


@pytest.fixture
def clip(encoder: Any) -> str:
    crop = {"height": 336, "width": 336}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=crop)
    return str(encoder(CLIPVisionConfig(image_size=336, patch_size=14), processor))


@pytest.fixture
def mgm(tmp_path: Path, tokenizer: Any, clip: str) -> Any:
    def build(config: dict[str, Any]) -> MGMImageProcessor:
        folder = tmp_path / "mgm"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        return MGMImageProcessor(tokenizer, str(folder), vision_tower=clip)

    return build


@pytest.mark.parametrize(("config", "side"), [(PLAIN, 768), (HD, 1536)])
def test_pixels_are_padded_then_resized(
    mgm: Any, picture: Any, config: dict[str, Any], side: int
) -> None:
    """F-LMM pads with CLIP's mean colour, then runs CLIP's processor at the larger size."""
    processor = mgm(config)
    crop = {"height": side, "width": side}
    theirs = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=crop)
    for width, height in SIZES[:2]:
        image = picture(width, height)
        longest = max(width, height)
        square = Image.new("RGB", (longest, longest), (122, 116, 104))
        square.paste(image, ((longest - width) // 2, (longest - height) // 2))
        expected = theirs(square, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(processor.pixels(image)["pixel_values"], expected)


@pytest.mark.parametrize(("config", "tokens", "tiles"), [(PLAIN, 576, 1), (HD, 2880, 5)])
def test_tokens(mgm: Any, config: dict[str, Any], tokens: int, tiles: int) -> None:
    processor = mgm(config)
    plan = processor.plan(640, 480)
    assert plan.ids == (processor.image_token_id,) * tokens
    assert plan.tiles == tiles and processor.num_levels == (2 if tiles > 1 else 1)


@pytest.mark.parametrize("size", SIZES)
def test_each_token_of_the_crops_shows_its_own_square(mgm: Any, size: tuple[int, int]) -> None:
    """Every pixel lies in one token of the whole and in one of the crops, and these agree."""
    width, height = size
    views = mgm(HD).views(width, height)
    assert [v.level for v in views] == [0, 1, 1, 1, 1]
    assert [v.start for v in views] == [0, 576, 1152, 1728, 2304]
    longest = max(size)
    left, top = (longest - width) // 2, (longest - height) // 2
    rng = np.random.default_rng(0)
    for x, y in rng.uniform((0, 0), size, (50, 2)):
        column, row = (x + left) / longest, (y + top) / longest  # of the padded square, 0 to 1
        crop = int(row * 2) * 2 + int(column * 2)
        hits = [i for i, v in enumerate(views) if _inside(v.box, x, y)]
        assert hits == [0, 1 + crop]
        for number, rows, columns in ((0, row, column), (1 + crop, row * 2 % 1, column * 2 % 1)):
            token = _token(views[number], x, y)
            assert token == views[number].start + int(rows * 24) * 24 + int(columns * 24)


def _inside(box: tuple[float, ...], x: float, y: float) -> bool:
    return box[0] <= x < box[2] and box[1] <= y < box[3]


def _token(view: Any, x: float, y: float) -> int:
    left, top, right, bottom = view.box
    column = int((x - left) / (right - left) * view.width)
    row = int((y - top) / (bottom - top) * view.height)
    return view.start + row * view.stride + column


def test_crops_without_the_whole_are_the_only_level(mgm: Any) -> None:
    processor = mgm(HD | {"image_global": False})
    assert processor.num_levels == 1 and len(processor.plan(5, 5).ids) == 4 * 576
    assert [v.level for v in processor.views(640, 480)] == [0] * 4


def test_identity_tells_models_apart(mgm: Any) -> None:
    assert len({mgm(config).identity() for config in (PLAIN, HD, PLAIN)}) == 2


def test_another_model_is_refused(mgm: Any) -> None:
    with pytest.raises(ConfigError, match="image_size_aux"):
        mgm({"model_type": "llava"})
