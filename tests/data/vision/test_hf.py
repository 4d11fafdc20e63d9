"""Every family's tokens and pixels, against its own processor class run whole."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoProcessor, CLIPProcessor
from vision_families import FAMILIES, VIDEO, WITH_VIDEO, write_family

from inlay.core.errors import ConfigError, DataError, ModelError
from inlay.data.vision import hf_plan
from inlay.data.vision.hf import HFImageProcessor
from inlay.data.vision.hf_processor import load_processor

SIZES = [(64, 64), (200, 120), (37, 411), (500, 90), (3, 30), (333, 222)]
TILED = {"idefics3", "smolvlm", "llava_next", "llava_onevision"}


@pytest.fixture
def folder(request: Any, tiny_tokenizer: Path, tmp_path: Path) -> Path:
    return write_family(request.param, tiny_tokenizer, tmp_path / request.param)


def family(*names: str) -> Any:
    return pytest.mark.parametrize("folder", names or FAMILIES, indirect=True)


def joined(processor: HFImageProcessor, text: str, sizes: list[Any]) -> list[int]:
    """Tokenise a text with placeholders as a conversation: pieces, prefixes and ids."""
    assert processor.placeholder
    before, *rest = text.split(processor.placeholder)
    ids: list[int] = []
    for index, (after, size) in enumerate(zip(rest, sizes, strict=True)):
        plan = processor.plan(*size, index, len(sizes))
        ids += processor.tokenizer(before + plan.prefix, add_special_tokens=False).input_ids
        ids += plan.ids
        before = plan.suffix + after
    return ids + processor.tokenizer(before, add_special_tokens=False).input_ids


@family()
def test_tokens_and_pixels_are_the_processors_own(folder: Path, picture: Any) -> None:
    processor = HFImageProcessor(folder)
    for size in SIZES:
        image = picture(*size)
        text = f"a {processor.placeholder} b"
        whole = processor.processor(
            text=[text], images=[image], return_tensors="np", add_special_tokens=False
        )
        assert joined(processor, text, [size]) == whole["input_ids"][0].tolist()
        pixels, plan = processor.pixels(image), processor.plan(*size)
        own = whole["pixel_values"]
        tiled = folder.name in TILED
        np.testing.assert_array_equal(pixels["pixel_values"], own[0] if tiled else own)
        flat = pixels["pixel_values"]
        assert plan.tiles == (1 if "image_grid_thw" in pixels else len(flat))
        assert plan.ids.count(processor.image_token_id) > 0
        assert processor.tokenizer.convert_ids_to_tokens(processor.image_token_id) == (
            processor.image_token
        )


@family(*sorted(FAMILIES.keys() - WITH_VIDEO))
def test_the_processor_is_what_auto_processor_gives(folder: Path, picture: Any) -> None:
    theirs, ours = AutoProcessor.from_pretrained(folder), HFImageProcessor(folder)
    assert type(theirs) is type(ours.processor)
    images = [picture(200, 120), picture(37, 411, seed=1)]
    text = f"a {ours.placeholder} b {ours.placeholder}\nc"
    whole = theirs(text=[text], images=images, return_tensors="np", add_special_tokens=False)
    sizes = [image.size for image in images]
    assert joined(ours, text, sizes) == whole["input_ids"][0].tolist()
    for image in images:
        alone = theirs(
            text=[str(ours.placeholder)],
            images=[image],
            return_tensors="np",
            add_special_tokens=False,
        )
        pixels = ours.pixels(image)["pixel_values"]
        np.testing.assert_array_equal(
            pixels.reshape(alone["pixel_values"].shape), alone["pixel_values"]
        )


@family(*sorted(WITH_VIDEO))
def test_a_missing_video_part_is_kept_for_saving(folder: Path, tmp_path: Path) -> None:
    processor = load_processor(folder)
    assert processor.video_processor == VIDEO
    processor.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
    assert saved["video_processor"] == VIDEO
    assert saved["processor_class"] == FAMILIES[folder.name][0]
    again = HFImageProcessor(tmp_path / "saved")
    assert again.plan(200, 120) == HFImageProcessor(folder).plan(200, 120)


def test_smolvlm_reads_pictures_as_idefics3(
    tiny_tokenizer: Path, tmp_path: Path, picture: Any
) -> None:
    smol, idefics = (
        HFImageProcessor(write_family(name, tiny_tokenizer, tmp_path / name))
        for name in ("smolvlm", "idefics3")
    )
    for size in SIZES:
        assert smol.plan(*size) == idefics.plan(*size)


@family("qwen2_5_vl", "qwen3_vl")
def test_qwen_counts_merged_patches(folder: Path, picture: Any) -> None:
    processor = HFImageProcessor(folder)
    side = processor.processor.image_processor.patch_size
    for size in SIZES:
        pixels = processor.pixels(picture(*size))
        _, rows, columns = pixels["image_grid_thw"][0]
        assert pixels["image_grid_thw"].shape == (1, 3)
        assert pixels["pixel_values"].shape == (rows * columns, 3 * 2 * side * side)
        assert processor.plan(*size).ids == (processor.image_token_id,) * (rows * columns // 4)


@family("qwen2_5_vl")
def test_qwens_own_pixel_bounds(folder: Path, picture: Any) -> None:
    processor = HFImageProcessor(folder, min_pixels=28 * 28 * 9, max_pixels=28 * 28 * 16)
    for size in SIZES:
        count = len(processor.plan(*size).ids)
        assert 9 <= count <= 16
        assert len(processor.pixels(picture(*size))["pixel_values"]) == 4 * count
    low = HFImageProcessor(folder, max_pixels=28 * 28 * 16)
    assert len(low.plan(28, 28).ids) == 4  # the folder's own least area, 56 * 56, still holds
    assert low.identity() != processor.identity()


@family("internvl")
def test_pixel_bounds_before_a_processor_without_its_own(folder: Path, picture: Any) -> None:
    free, bound = HFImageProcessor(folder), HFImageProcessor(folder, max_pixels=40 * 40)
    image = picture(300, 270)
    assert bound.plan(300, 270) == free.plan(42, 37) != free.plan(300, 270)
    small = image.resize((42, 37), 3)
    np.testing.assert_array_equal(
        bound.pixels(image)["pixel_values"], free.pixels(small)["pixel_values"]
    )
    large = HFImageProcessor(folder, min_pixels=400 * 400)
    assert large.plan(10, 10) == free.plan(400, 400)


@family(*sorted(TILED))
def test_tiles_join_along_the_first_axis(folder: Path, picture: Any) -> None:
    processor = HFImageProcessor(folder)
    sizes = (64, 64), (333, 100)
    one, other = (processor.pixels(picture(*size)) for size in sizes)
    assert one["num_rows"] != other["num_rows"]
    assert one.keys() == other.keys() >= {"pixel_values", "num_rows", "num_tokens"}
    both = {name: np.concatenate([one[name], other[name]]) for name in one}
    assert both["num_rows"].dtype == both["num_tokens"].dtype == np.int64
    assert both["num_rows"].sum() == len(both["pixel_values"])
    tokens = [processor.plan(*size).ids.count(processor.image_token_id) for size in sizes]
    assert both["num_tokens"].tolist() == tokens
    if "image_sizes" in both:
        assert both["image_sizes"].tolist() == [[64, 64], [100, 333]]
    if "pixel_attention_mask" in both:
        assert both["pixel_attention_mask"].shape == (len(both["pixel_values"]), 56, 56)


@family("gemma3")
def test_gemmas_text_around_a_picture_is_prefix_and_suffix(folder: Path) -> None:
    processor = HFImageProcessor(folder)
    assert processor.placeholder == "<start_of_image>"
    assert processor.image_token == "<image_soft_token>"
    plan = processor.plan(50, 50)
    assert plan.prefix == plan.suffix == "\n\n"
    text = processor.tokenizer.decode(list(plan.ids))
    assert text == "<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>"


@family("smolvlm", "qwen3_vl")
def test_a_worker_gets_the_same_processor(folder: Path, picture: Any) -> None:
    processor, image = HFImageProcessor(folder), picture(150, 70)
    copy = pickle.loads(pickle.dumps(processor))
    assert copy.plan(150, 70) == processor.plan(150, 70)
    assert copy.identity() == processor.identity()
    for name, value in processor.pixels(image).items():
        np.testing.assert_array_equal(copy.pixels(image)[name], value)


@family("llava")
def test_a_given_processor_stays_as_it_is(folder: Path, tiny_tokenizer: Path) -> None:
    theirs = load_processor(folder)
    before = theirs.to_json_string()
    tokenizer = theirs.tokenizer
    processor = HFImageProcessor(theirs, max_pixels=30 * 30)
    assert processor.tokenizer is tokenizer
    assert len(processor.plan(200, 100).ids) == 16
    assert theirs.to_json_string() == before


@family("qwen2_5_vl")
def test_a_picture_that_the_processor_refuses_is_a_bad_row(folder: Path) -> None:
    processor = HFImageProcessor(folder)
    with pytest.raises(DataError, match="3x900 px: absolute aspect ratio"):
        processor.plan(3, 900)


@family("idefics3", "internvl", "qwen3_vl")
def test_plans_do_not_depend_on_the_way_to_them(folder: Path, monkeypatch: Any) -> None:
    cheap = HFImageProcessor(folder)
    monkeypatch.setattr(hf_plan, "_shapes_only", lambda processor: processor)
    monkeypatch.setattr(hf_plan, "_counter", lambda *_: None)
    dear = HFImageProcessor(folder)
    assert [cheap.plan(*size) for size in SIZES] == [dear.plan(*size) for size in SIZES]


@family("llava")
def test_pictures_that_cannot_be_joined_are_refused(folder: Path) -> None:
    processor = load_processor(folder)
    processor.image_processor.do_center_crop = False
    with pytest.raises(ModelError, match="cannot be joined over pictures of different sizes"):
        HFImageProcessor(processor)


@family("llava")
def test_models_that_read_no_image_tokens_are_refused(folder: Path) -> None:
    parts = load_processor(folder)
    pair = CLIPProcessor(parts.image_processor, parts.tokenizer)
    with pytest.raises(ModelError, match="CLIPProcessor does not put image tokens"):
        HFImageProcessor(pair)


@family("llava")
def test_bounds_must_be_areas(folder: Path) -> None:
    for low, high in ((0, None), (None, -1), (50, 40)):
        with pytest.raises(ConfigError, match="min_pixels"):
            HFImageProcessor(folder, min_pixels=low, max_pixels=high)


def test_a_folder_without_a_processor_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="image-text-to-text"):
        HFImageProcessor(tiny_model)
    with pytest.raises(ModelError, match="image-text-to-text"):
        HFImageProcessor(tmp_path / "nothing")
