"""MGM seen by the grounding: its attention rows, and where its tokens lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mgm_folder
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from inlay.data.vision.mgm import MGMImageProcessor
from inlay.models.grounding.adapters.mgm import MGMAdapter
from inlay.models.grounding.capture import Grounded
from inlay.models.grounding.maps import assemble

LAYERS, HEADS = 2, 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(mgm_folder.clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def open_mgm(tmp_path_factory: pytest.TempPathFactory, clip: str) -> Any:
    def build(**kinds: bool) -> tuple[MGMAdapter, Path]:
        path = tmp_path_factory.mktemp("mgm")
        folder = mgm_folder.write(path, eyes=mgm_folder.eyes_tensors(), **kinds)
        return MGMAdapter.from_pretrained(str(folder), vision_tower=clip, device="cpu"), folder

    return build


def _row(tokens: int, side: int, texts: list[list[int]]) -> dict[str, Any]:
    """A document for each text: one token, its picture, the text."""
    documents = [[7, *[99] * tokens, *text] for text in texts]
    ids = torch.tensor([i for d in documents for i in d])
    starts = np.cumsum([0, *map(len, documents)])
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": ids[None],
        "position_ids": torch.cat([torch.arange(len(d)) for d in documents])[None],
        "doc_starts": torch.tensor(starts, dtype=torch.int32),
        "longest_document": max(map(len, documents)),
        "images": {"pixel_values": torch.randn(len(texts), 3, side, side, generator=generator)},
        "image_positions": (ids == 99).nonzero()[:, 0],
    }


@torch.no_grad()
def _eager(adapter: MGMAdapter, row: dict[str, Any], number: int) -> tuple[Any, Any]:
    """Attentions ``[L, H, N, N]`` and hidden states ``[L, N, D]`` of one document on its own."""
    start, stop = row["doc_starts"][number : number + 2].tolist()
    pictures = {"pixel_values": row["images"]["pixel_values"][number : number + 1]}
    ids = row["input_ids"][:, start:stop]
    places = (ids[0] == 99).nonzero()[:, 0]
    embeds = adapter.model.embed(ids, pictures, places)
    before = adapter.decoder.config._attn_implementation
    adapter.decoder.set_attn_implementation("eager")
    out = adapter.decoder(inputs_embeds=embeds, output_attentions=True, output_hidden_states=True)
    adapter.decoder.set_attn_implementation(before)
    return torch.cat(out.attentions), torch.cat(out.hidden_states[-LAYERS:])


@pytest.mark.parametrize("kinds", [{}, {"gemma": True}, {"hd": True}], ids=["7b", "2b", "7b-hd"])
def test_rows_are_those_of_eager_attention(open_mgm: Any, kinds: dict[str, bool]) -> None:
    adapter, _ = open_mgm(**kinds)
    tokens, side = (80, 128) if kinds.get("hd") else (16, 64)
    assert (adapter.num_map_layers, adapter.num_heads, adapter.hidden_size) == (LAYERS, HEADS, 32)
    row = _row(tokens, side, [[5, 6, 8, 9], [11, 12, 13]])
    first, second = 1 + tokens, 4 + 1 + 2 * tokens + 1  # where the texts begin
    rows = torch.tensor([first, first + 1, first + 3, second + 1, second + 2])
    masks = torch.tensor([0, 0, 1, 2, -1])
    columns = torch.stack([row["image_positions"].view(2, -1)[i] for i in (0, 0, 1)])
    seen = adapter.look(row, Grounded(torch.zeros_like(rows), rows, masks, columns))
    assert seen.maps.shape == (3, LAYERS * HEADS, tokens) and seen.hidden.shape == (LAYERS, 5, 32)
    of_first, hidden_first = _eager(adapter, row, 0)
    of_second, hidden_second = _eager(adapter, row, 1)
    pictures = slice(1, 1 + tokens)
    expected = [
        of_first[:, :, [first, first + 1], pictures].mean(2),
        of_first[:, :, first + 3, pictures],
        of_second[:, :, 2 + tokens, pictures],
    ]
    torch.testing.assert_close(
        seen.maps, torch.stack([e.flatten(0, 1) for e in expected]), atol=1e-5, rtol=0
    )
    hidden = torch.cat(
        [hidden_first[:, [first, first + 1, first + 3]], hidden_second[:, 2 + tokens : 4 + tokens]],
        dim=1,
    )
    torch.testing.assert_close(seen.hidden, hidden, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (512, 512)])
def test_hd_maps_lie_where_the_tokens_look(
    open_mgm: Any, clip: str, tiny_tokenizer: Path, size: tuple[int, int]
) -> None:
    """All attention on one token of a crop: the map peaks at that token's pixels."""
    _, folder = open_mgm(hd=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    views = MGMImageProcessor(tokenizer, str(folder), vision_tower=clip).views(*size)
    longest = max(size)
    left, top = (longest - size[0]) // 2, (longest - size[1]) // 2
    for x, y in np.random.default_rng(1).uniform((0, 0), size, (10, 2)):
        # the token by hand: 8 x 8 of them, four crops of 4 x 4, after 16 of the whole
        column, row = int((x + left) / longest * 8), int((y + top) / longest * 8)
        crop = row // 4 * 2 + column // 4
        token = 16 + crop * 16 + row % 4 * 4 + column % 4
        attention = torch.zeros(1, LAYERS * HEADS, 80)
        attention[..., token] = 1.0
        maps, canvas = assemble(attention, views)
        assert maps.shape == (1, 2 * LAYERS * HEADS, 8, 8)
        coarse, fine = maps[0, : LAYERS * HEADS], maps[0, LAYERS * HEADS :]
        assert not coarse.any() and fine[0].sum() == 1.0
        peak = np.unravel_index(int(fine[0].argmax()), (8, 8))
        patch = (canvas[2] - canvas[0]) / 8
        found = canvas[0] + (peak[1] + 0.5) * patch, canvas[1] + (peak[0] + 0.5) * patch
        assert abs(found[0] - x) <= patch / 2 + 1e-6 and abs(found[1] - y) <= patch / 2 + 1e-6


def test_hd_assembles_as_the_original(open_mgm: Any, clip: str, tiny_tokenizer: Path) -> None:
    """Crops un-tiled to 8 x 8, the whole twice as large, bilinear."""
    _, folder = open_mgm(hd=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    views = MGMImageProcessor(tokenizer, str(folder), vision_tower=clip).views(640, 480)
    attention = torch.rand(3, 5, 80)
    maps, _ = assemble(attention, views)
    whole = F.interpolate(attention[..., :16].view(3, 5, 4, 4), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(maps[:, :5], whole)
    crops = torch.zeros(3, 5, 8, 8)
    for number in range(4):
        row, column = divmod(number, 2)
        part = attention[..., 16 + 16 * number : 32 + 16 * number].view(3, 5, 4, 4)
        crops[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = part
    torch.testing.assert_close(maps[:, 5:], crops)


def test_frozen_and_told_apart_by_its_weights(open_mgm: Any) -> None:
    adapter, _ = open_mgm()
    adapter.train()
    assert not adapter.training and not adapter.model.visual_encoder.training
    assert not any(p.requires_grad for p in adapter.parameters())
    other, _ = open_mgm()
    assert adapter.identity() == other.identity()
    with torch.no_grad():
        other.model.visual_encoder.vlm_uni_val_projector[1].bias.add_(1.0)
    assert adapter.identity() != other.identity()
