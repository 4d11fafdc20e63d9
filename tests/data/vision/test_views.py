"""Where tokens lie, in numbers worked out by hand; the pixels themselves are held to it in
``tests/models/grounding/test_geometry_contract.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers as T
from vision_families import FAMILIES, write_family

from inlay.core.errors import ModelError
from inlay.core.types import View
from inlay.data.vision import hf_views
from inlay.data.vision.hf import HFImageProcessor
from inlay.data.vision.hf_processor import load_processor
from inlay.data.vision.load import from_nanovlm_config
from inlay.data.vision.square import SquareImageProcessor
from inlay.data.vision.tiled import TiledImageProcessor

SIZES = [(64, 64), (200, 120), (37, 411), (500, 90), (30, 41), (333, 222), (1500, 11)]
TWO_LEVELS = {"internvl", "smolvlm", "idefics3", "llava_next", "llava_onevision"}

CLIP = (
    T.CLIPVisionConfig(image_size=336, patch_size=14),
    T.CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, resample=3
    ),
)
SO400M = (
    T.SiglipVisionConfig(image_size=384, patch_size=14),
    T.SiglipImageProcessorPil(size={"height": 384, "width": 384}),
)


def family(name: str, tokenizer: Path, folder: Path) -> HFImageProcessor:
    return HFImageProcessor(write_family(name, tokenizer, folder / name))


def tokens_of(view: View) -> list[int]:
    rows, columns = range(view.height), range(view.width)
    return [view.start + row * view.stride + column for row in rows for column in columns]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_image_token_has_its_place(name: str, tiny_tokenizer: Path, tmp_path: Path) -> None:
    processor = family(name, tiny_tokenizer, tmp_path)
    assert processor.num_levels == (2 if name in TWO_LEVELS else 1)
    for size in SIZES:
        if "qwen" in name and max(size) / min(size) > 100:
            continue  # its processor refuses more than 200
        views = processor.views(*size)
        assert {v.level for v in views} == set(range(processor.num_levels))
        held = sorted({token for view in views for token in tokens_of(view)})
        newlines = {v.start + r * v.stride + v.width for v in views for r in range(v.height)}
        newlines = {n for v in views if v.stride > v.width for n in newlines}
        count = processor.plan(*size).ids.count(processor.image_token_id)
        assert set(held) | newlines == set(range(count))
        for level in range(processor.num_levels):  # no token twice on a level
            places = [t for view in views if view.level == level for t in tokens_of(view)]
            assert len(places) == len(set(places))


def test_a_centre_cut_out_lies_within_the_picture(encoder: Any, tokenizer: Any) -> None:
    processor = SquareImageProcessor(tokenizer, encoder(*CLIP))
    assert processor.views(640, 480) == (View(0, 24, 24, (80, 0, 560, 480), stride=24),)
    (view,) = processor.views(100, 301)  # resized to 336 x 1011, cut from row 337
    assert view.box == pytest.approx((0, 337 * 301 / 1011, 100, 673 * 301 / 1011))
    assert processor.num_levels == 1


def test_a_padded_picture_lies_within_the_view(encoder: Any, tokenizer: Any) -> None:
    processor = SquareImageProcessor(tokenizer, encoder(*CLIP), pad_to_square=True)
    assert processor.views(640, 480) == (View(0, 24, 24, (0, -80, 640, 560), stride=24),)
    assert processor.views(75, 100)[0].box == (-12, 0, 88, 100)


def test_pixels_that_fill_no_patch_are_seen_by_no_token(encoder: Any, tokenizer: Any) -> None:
    processor = SquareImageProcessor(tokenizer, encoder(*SO400M), pixel_shuffle_factor=3)
    (view,) = processor.views(768, 384)  # 27 patches of 14 px: 378 of 384
    assert (view.height, view.width) == (9, 9)
    assert view.box == pytest.approx((0, 0, 756, 378))


def test_nanovlms_tiles_and_the_whole(tokenizer: Any) -> None:
    settings = {"tile_size": 512, "patch_size": 16, "max_image_size": 2048}
    processor = TiledImageProcessor(tokenizer, **settings)
    views = processor.views(1000, 300)  # one row of two tiles
    assert [(v.start, v.level, v.box) for v in views] == [
        (0, 0, (0, 0, 1000, 300)),
        (64, 1, (0, 0, 500, 300)),
        (128, 1, (500, 0, 1000, 300)),
    ]
    assert {(v.height, v.width, v.stride) for v in views} == {(8, 8, 8)}
    small = processor.views(300, 200)  # the view of the whole is all there is
    assert [(v.start, v.level, v.box) for v in small] == [
        (0, 0, (0, 0, 300, 200)),
        (0, 1, (0, 0, 300, 200)),
    ]
    assert processor.num_levels == 2


def test_tiles_alone_are_level_0(tokenizer: Any) -> None:
    settings = {"tile_size": 32, "patch_size": 8, "max_image_size": 128, "pixel_shuffle_factor": 2}
    processor = TiledImageProcessor(tokenizer, global_view=False, **settings)
    views = processor.views(60, 60)
    assert [v.start for v in views] == [0, 4, 8, 12] and {v.level for v in views} == {0}
    assert views[1].box == (30, 0, 60, 30) and views[2].box == (0, 30, 30, 60)
    assert processor.num_levels == 1


def test_nanovlm_from_before_tiling_shows_one_square(tokenizer: Any) -> None:
    config = {"vit_img_size": 224, "mp_image_token_length": 49, "vit_model_type": "siglip"}
    processor = from_nanovlm_config(config, tokenizer)
    assert processor.views(90, 50) == (View(0, 7, 7, (0, 0, 90, 50), stride=7),)


def test_internvls_whole_picture_comes_last(tiny_tokenizer: Path, tmp_path: Path) -> None:
    processor = family("internvl", tiny_tokenizer, tmp_path)
    whole, left, right = processor.views(60, 30)
    assert (whole.start, whole.level, whole.box) == (8, 0, (0, 0, 60, 30))
    assert (left.start, left.level, left.box) == (0, 1, (0, 0, 30, 30))
    assert (right.start, right.level, right.box) == (4, 1, (30, 0, 60, 30))


def test_views_are_in_px_of_the_picture_before_it_was_bounded(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    folder = write_family("llava", tiny_tokenizer, tmp_path)
    bounded = HFImageProcessor(folder, max_pixels=80 * 60)
    (view,) = bounded.views(640, 480)  # 80 x 60, resized to 74 x 56, from column 9
    assert view.box == pytest.approx((9 * 640 / 74, 0, 65 * 640 / 74, 480))


def test_llava_next_drops_padding_by_tokens(tiny_tokenizer: Path, tmp_path: Path) -> None:
    processor = family("llava_next", tiny_tokenizer, tmp_path)
    coarse, fine = processor.views(200, 100)  # 56 x 112 px: 4 x 8 tokens, nothing padded
    assert coarse == View(0, 4, 4, (0, 0, 200, 100), stride=4)
    assert fine == View(16, 4, 8, (0, 0, 200, 100), stride=9, level=1)
    _, fine = processor.views(200, 60)  # 56 x 112 px: 2 of 4 rows
    assert (fine.height, fine.width, fine.stride) == (2, 8, 9)


def test_a_picture_without_fine_tokens_keeps_both_levels(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    processor = family("llava_next", tiny_tokenizer, tmp_path)
    for size, newlines in (((2000, 9), 0), ((9, 800), 12)):  # no rows; or rows of no columns
        coarse, again = processor.views(*size)
        assert (coarse.level, again.level) == (0, 1)
        assert (again.start, again.height, again.box) == (0, 4, coarse.box)
        assert len(processor.plan(*size).ids) == 16 + newlines


@pytest.mark.parametrize("name", ["smolvlm", "deepseek_vl"])
def test_a_family_that_is_not_in_the_table_is_named(
    name: str, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    processor = family(name, tiny_tokenizer, tmp_path)
    kind = FAMILIES[name][0]
    monkeypatch.delitem(hf_views.FAMILIES, kind)
    with pytest.raises(ModelError, match=rf"{kind}: where its image tokens lie.*hf_views\.py"):
        processor.views(200, 100)


def test_one_square_view_needs_no_table(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    processor = family("gemma3", tiny_tokenizer, tmp_path)
    known = processor.views(200, 100)
    monkeypatch.delitem(hf_views.FAMILIES, "Gemma3Processor")
    assert processor.views(200, 100) == known == (View(0, 2, 2, (0, 0, 200, 100), stride=2),)


def test_pan_and_scan_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    theirs = load_processor(write_family("gemma3", tiny_tokenizer, tmp_path))
    theirs.image_processor.do_pan_and_scan = True
    theirs.image_processor.pan_and_scan_min_crop_size = 16
    theirs.image_processor.pan_and_scan_max_num_crops = 4
    theirs.image_processor.pan_and_scan_min_ratio_to_activate = 1.2
    processor = HFImageProcessor(theirs)
    with pytest.raises(ModelError, match="set do_pan_and_scan to false"):
        processor.views(100, 100)


def test_tokens_that_views_do_not_account_for_are_refused(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    theirs = load_processor(write_family("qwen2_5_vl", tiny_tokenizer, tmp_path))
    processor = HFImageProcessor(theirs)
    processor.plan(300, 200)
    processor.processor.image_processor.patch_size = 28
    with pytest.raises(ModelError, match=r"its views hold \d+ image tokens, its text \d+"):
        processor.views(300, 200)
