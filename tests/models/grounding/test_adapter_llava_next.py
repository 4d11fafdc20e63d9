"""LLaVA-Next under its adapter: a coarse and a fine level, as F-LMM cuts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sights import TEXT, VISION, livelier
from tiny_vlms import CHATML, byte_tokenizer
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
from vision_families import GRIDS, write_family

from inlay.data import HFImageProcessor
from inlay.models import LLaVANextAdapter
from inlay.models.grounding.capture import Grounded
from inlay.models.grounding.maps import assemble

SIDE, PATCH, GRID = 56, 14, 4
PICTURES = [(300, 200), (96, 240), (160, 160), (300, 215)]
"""The last one's fine rows are part padding."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = tmp_path_factory.mktemp("words")
    byte_tokenizer(CHATML).save_pretrained(words)
    path = write_family("llava_next", words, tmp_path_factory.mktemp("llava_next"))
    token = HFImageProcessor(path).image_token_id
    config = LlavaNextConfig(
        text_config={**TEXT, "model_type": "llama", "vocab_size": token + 1},
        vision_config={
            **VISION,
            "model_type": "clip_vision_model",
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        image_token_id=token,
        image_grid_pinpoints=GRIDS["image_grid_pinpoints"],
    )
    livelier(LlavaNextForConditionalGeneration(config)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(folder: Path) -> LLaVANextAdapter:
    return LLaVANextAdapter.from_pretrained(str(folder), device="cpu")


@pytest.fixture(scope="module")
def processor(folder: Path) -> HFImageProcessor:
    return HFImageProcessor(folder)


def packed(adapter: LLaVANextAdapter, tiles: int, size: tuple[int, int]) -> tuple[int, Any]:
    """What the model's own packing makes of a picture: its tokens, and the shape of its fine map
    without newlines."""
    base = adapter.model.base.model
    nothing = [torch.zeros(tiles, GRID * GRID, 1)]
    newline = torch.ones(1)
    (tokens,), _ = base.pack_image_features(nothing, torch.tensor([size[::-1]]), "default", newline)
    fine, rows = len(tokens) - GRID * GRID, int(tokens.sum())
    return len(tokens), (rows, fine // rows - 1)


@torch.no_grad()
@pytest.mark.parametrize("size", PICTURES)
def test_maps_are_those_of_f_lmm(
    adapter: LLaVANextAdapter, processor: HFImageProcessor, folder: Path, size: tuple[int, int]
) -> None:
    """Coarse and fine cut out of eager attention by hand, newlines left out, coarse resized."""
    token = processor.image_token_id
    made = processor.pixels(Image.radial_gradient("L").resize(size).convert("RGB"))
    count = int(made["num_tokens"][0])
    tokens, fine = packed(adapter, len(made["pixel_values"]), size)
    assert tokens == count
    ids = torch.tensor([[7, *[token] * count, 11, 12, 13]])
    images = {name: torch.from_numpy(value) for name, value in made.items()}
    row = {
        "input_ids": ids,
        "position_ids": torch.arange(ids.shape[1])[None],
        "doc_starts": torch.tensor([0, ids.shape[1]], dtype=torch.int32),
        "longest_document": ids.shape[1],
        "images": images,
        "image_positions": torch.arange(1, count + 1),
    }
    rows = torch.tensor([count + 1, count + 2, count + 3])
    columns = row["image_positions"].expand(2, -1)
    masks = torch.tensor([0, 1, 1])
    seen = adapter.look(row, Grounded(torch.zeros_like(rows), rows, masks, columns))
    maps, canvas = assemble(seen.maps, processor.views(*size))

    eager = LlavaNextForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    pixels = {k: v for k, v in images.items() if k in ("pixel_values", "image_sizes")}
    out = eager(input_ids=ids, **pixels, output_attentions=True)
    looks = torch.cat(out.attentions).flatten(0, 1)[:, count + 1 :, 1 : count + 1]
    merged = torch.stack([looks[:, 0], looks[:, 1:].mean(1)])  # [M, L * H, K]
    coarse = merged[..., : GRID * GRID].unflatten(-1, (GRID, GRID))
    with_newlines = merged[..., GRID * GRID :].unflatten(-1, (fine[0], fine[1] + 1))
    expected = torch.cat(
        [F.interpolate(coarse, size=fine, mode="bilinear"), with_newlines[..., :-1]], dim=1
    )
    assert maps.shape[1] == processor.num_levels * adapter.num_layers * adapter.num_heads
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=0)
    assert canvas == (0, 0, *size), "nothing is cut off"
