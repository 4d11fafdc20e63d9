"""Image processors that leave with a model and come back the same; nanoVLM's own config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionConfig
from vision_families import write_family

from inlay.core.errors import ConfigError, ModelError
from inlay.data.vision.hf import HFImageProcessor
from inlay.data.vision.load import (
    from_nanovlm_config,
    load_image_processor,
    save_image_processor,
)
from inlay.data.vision.square import SquareImageProcessor
from inlay.data.vision.tiled import TiledImageProcessor

POSITIONS = {f"r{i}c{j}": f"<row_{i}_col_{j}>" for i in range(1, 9) for j in range(1, 9)}
TOKENS = {"image_token": "<|image|>", "global_image_token": "<|global_image|>", **POSITIONS}
NANOVLM = {
    "vit_model_type": "google/siglip2-base-patch16-512",
    "vit_img_size": 512,
    "vit_patch_size": 16,
    "mp_pixel_shuffle_factor": 4,
    "mp_image_token_length": 64,
    "max_img_size": 1024,
    "resize_to_max_side_len": True,
    "vlm_extra_tokens": TOKENS,
}


def same(one: Any, other: Any, image: Image.Image) -> None:
    assert type(one) is type(other)
    assert one.plan(*image.size, 1, 2) == other.plan(*image.size, 1, 2)
    assert one.identity() == other.identity()
    first, second = one.pixels(image), other.pixels(image)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_square_comes_back_without_its_encoder(
    encoder: Any, picture: Any, tokenizer: Any, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    folder = encoder(
        CLIPVisionConfig(image_size=56, patch_size=14),
        CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
    )
    processor = SquareImageProcessor(tokenizer, folder, pad_to_square=True, pixel_shuffle_factor=2)
    save_image_processor(processor, tmp_path / "model")
    shutil.rmtree(folder)
    text = (tmp_path / "model" / "image_processor.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["kind"] == "square"
    fresh = AutoTokenizer.from_pretrained(tiny_tokenizer)
    same(load_image_processor(tmp_path / "model", fresh), processor, picture(90, 40))


def test_tiled_comes_back(
    picture: Any, tokenizer: Any, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    settings = {"tile_size": 32, "patch_size": 8, "max_image_size": 96, "image_mean": [0.4] * 3}
    processor = TiledImageProcessor(tokenizer, **settings, resize_to_max=True)
    save_image_processor(processor, tmp_path)
    fresh = AutoTokenizer.from_pretrained(tiny_tokenizer)
    same(load_image_processor(tmp_path, fresh), processor, picture(90, 40))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm", "llava"])
def test_hf_comes_back_with_its_bounds(
    name: str, picture: Any, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    source = write_family(name, tiny_tokenizer, tmp_path / "source")
    plain = load_image_processor(source, AutoTokenizer.from_pretrained(source))
    same(plain, HFImageProcessor(source), picture(90, 70))
    bound = HFImageProcessor(source, max_pixels=64 * 64)
    save_image_processor(bound, tmp_path / "model")
    written = sorted(file.name for file in (tmp_path / "model").iterdir())
    assert written == ["image_processor.json", "processor_config.json"]
    bound.tokenizer.save_pretrained(tmp_path / "model")
    shutil.rmtree(source)
    found = load_image_processor(
        tmp_path / "model", AutoTokenizer.from_pretrained(tmp_path / "model")
    )
    same(found, bound, picture(200, 140))


def test_qwens_bounds_reach_other_software(tiny_tokenizer: Path, tmp_path: Path) -> None:
    source = write_family("qwen2_5_vl", tiny_tokenizer, tmp_path / "source")
    save_image_processor(HFImageProcessor(source, max_pixels=9000), tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "processor_config.json").read_text())
    assert saved["image_processor"]["size"] == {"shortest_edge": 56 * 56, "longest_edge": 9000}


def test_a_published_nanovlm_folder(picture: Any, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NANOVLM))
    before = len(tokenizer)
    processor = load_image_processor(tmp_path, tokenizer)
    assert isinstance(processor, TiledImageProcessor)
    added = tokenizer.convert_ids_to_tokens(range(before, len(tokenizer)))
    assert added == list(TOKENS.values())
    plan = processor.plan(100, 60)
    assert (plan.tiles, len(plan.ids)) == (2 * 2 + 1, 5 * 65)
    pixels = processor.pixels(picture(100, 60))["pixel_values"]
    assert pixels.shape == (5, 3, 512, 512)
    assert 0 <= pixels.min() < 0.1 and 0.9 < pixels.max() <= 1  # not normalised


def test_a_nanovlm_checkpoint_with_fewer_tokens(tokenizer: Any) -> None:
    fewer = {
        k: v for k, v in TOKENS.items() if k in ("image_token", "r1c1", "r1c2", "r2c1", "r2c2")
    }
    before = len(tokenizer)
    processor = from_nanovlm_config({**NANOVLM, "vlm_extra_tokens": fewer}, tokenizer)
    assert len(tokenizer) == before + 5
    assert processor.plan(512, 512).tiles == 4  # no token for a view of the whole


def test_a_nanovlm_checkpoint_from_before_tiling(picture: Any, tokenizer: Any) -> None:
    config = {
        "vit_model_type": "google/siglip-base-patch16-224",
        "vit_img_size": 224,
        "vit_patch_size": 16,
        "mp_image_token_length": 49,
        "vlm_extra_tokens": {"image_token": "<|image|>"},
    }
    processor, image = from_nanovlm_config(config, tokenizer), picture(300, 100)
    assert processor.plan(300, 100).ids == (tokenizer.convert_tokens_to_ids("<|image|>"),) * 49
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(
        processor.pixels(image)["pixel_values"][0], expected.transpose(2, 0, 1), atol=1e-6
    )


def test_a_nanovlm_config_that_contradicts_itself(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"mp_image_token_length 49 .*64 tokens a tile"):
        from_nanovlm_config({**NANOVLM, "mp_image_token_length": 49}, tokenizer)
    lacking = {k: v for k, v in NANOVLM.items() if k != "max_img_size"}
    with pytest.raises(ConfigError, match="lacks 'max_img_size'"):
        from_nanovlm_config(lacking, tokenizer)


def test_damaged_settings_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "image_processor.json"
    file.write_text(json.dumps({"kind": "tild"}))
    with pytest.raises(ConfigError, match="Did you mean 'tiled'"):
        load_image_processor(tmp_path, tokenizer)
    file.write_text(json.dumps({"kind": "tiled", "tile": 3}))
    with pytest.raises(ConfigError, match=r"image_processor\.json.*'tile'"):
        load_image_processor(tmp_path, tokenizer)
    file.write_text(json.dumps({"kind": "square"}))
    with pytest.raises(ConfigError, match=r"image_processor\.json"):
        load_image_processor(tmp_path, tokenizer)


def test_a_folder_without_any_is_refused(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="image-text-to-text"):
        load_image_processor(tiny_model, tokenizer)
    with pytest.raises(ModelError, match="neither a folder nor a hub name"):
        load_image_processor(tmp_path / "nothing", tokenizer)
