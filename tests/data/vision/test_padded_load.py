"""Sizes and colours of the padded view, read from a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms

from inlay.core.errors import ConfigError
from inlay.data import load_padded_processor

HALF = [0.5, 0.5, 0.5]
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
SIGLIP = {"image_size": 384, "model_name": "siglip_large_patch16_384"}


def folder(path: Path, config: dict[str, Any], prepared: dict[str, Any]) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps(prepared))
    return str(path)


def test_a_deepseek_vl_of_its_authors(tmp_path: Path) -> None:
    config = {"vision_config": {"cls": "CLIPVisionTower", "params": SIGLIP}}
    prepared = {"image_size": 384, "min_size": 14, "image_mean": HALF, "image_std": HALF}
    tokenizer = tiny_vlms.byte_tokenizer()
    processor = load_padded_processor(
        folder(tmp_path, config, prepared), tokenizer, image_token="<image_placeholder>"
    )
    assert (processor.image_size, processor.patch_size, processor.min_size) == (384, 16, 14)
    assert (processor.image_mean, processor.high_resolution) == (HALF, None)
    assert processor.image_token == "<image_placeholder>"
    assert len(processor.plan(30, 20).ids) == 576


@pytest.mark.parametrize("large", [{"image_size": 1024, "pixel_mean": CLIP_MEAN}, {}])
def test_a_hybrid_one(tmp_path: Path, large: dict[str, Any]) -> None:
    params = {"low_res_cfg": SIGLIP, "high_res_cfg": large}
    config = {"vision_config": {"cls": "HybridVisionTower", "params": params}}
    prepared = {"image_size": 1024, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    processor = load_padded_processor(
        folder(tmp_path, config, prepared), tiny_vlms.byte_tokenizer()
    )
    assert (processor.image_size, processor.high_resolution) == (384, 1024)
    assert (processor.image_mean, processor.high_res_mean) == (HALF, CLIP_MEAN)
    assert (processor.image_std, processor.high_res_std) == (HALF, CLIP_STD)
    assert processor.background == [int(255 * x) for x in CLIP_MEAN]


def test_a_deepseek_vl_of_transformers(tmp_path: Path) -> None:
    config = {
        "model_type": "deepseek_vl_hybrid",
        "vision_config": {"image_size": 384, "patch_size": 16},
        "high_res_vision_config": {"image_size": 1024},
    }
    processor = load_padded_processor(folder(tmp_path, config, {}), tiny_vlms.byte_tokenizer())
    assert (processor.image_size, processor.high_resolution) == (384, 1024)


def test_a_vision_encoder_stretched_to_larger_pictures(tmp_path: Path) -> None:
    tiny_vlms.clip(tmp_path / "hpt" / "visual_encoder", size=56)
    processor = load_padded_processor(
        str(tmp_path / "hpt"), tiny_vlms.byte_tokenizer(), subfolder="visual_encoder", image_size=84
    )
    assert (processor.image_size, processor.patch_size, processor.min_size) == (84, 14, 1)
    assert processor.image_mean == pytest.approx(CLIP_MEAN)


def test_a_folder_that_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say its image_size"):
        load_padded_processor(folder(tmp_path, {}, {}), tiny_vlms.byte_tokenizer())


def test_a_hybrid_one_that_does_not_say_how_large_its_second_view_is(tmp_path: Path) -> None:
    params = {"low_res_cfg": SIGLIP, "high_res_cfg": {}}
    config = {"vision_config": {"cls": "HybridVisionTower", "params": params}}
    with pytest.raises(ConfigError, match="does not say its high_resolution"):
        load_padded_processor(folder(tmp_path, config, {}), tiny_vlms.byte_tokenizer())
