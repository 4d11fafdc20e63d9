"""HPT seen by the grounding: larger pictures, attention rows as eager attention has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sights
import torch

from inlay.core.types import View
from inlay.models.grounding.adapters.hpt import HPTAdapter
from inlay.models.grounding.capture import Grounded
from inlay.models.grounding.maps import assemble
from inlay.models.projector import build_projector, save_projector

LAYERS, HEADS, TOKENS, SIDE = 2, 4, 36, 24


@pytest.fixture(scope="module", params=[sights.clip, sights.siglip], ids=["air", "1.5-air"])
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HPTAdapter:
    folder: Path = tmp_path_factory.mktemp("hpt")
    sights.llama().save_pretrained(folder / "llm")
    sights.livelier(request.param()).save_pretrained(folder / "visual_encoder")
    torch.manual_seed(3)
    save_projector(build_projector("mlp", 32, 32), folder / "projector")
    return HPTAdapter.from_pretrained(str(folder), image_size=SIDE, device="cpu")


@torch.no_grad()
def test_rows_are_those_of_eager_attention(adapter: HPTAdapter) -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[7, *[sights.IMAGE] * TOKENS, 5, 6, 8]])
    places = torch.arange(1, 1 + TOKENS)
    images = {"pixel_values": torch.randn(1, 3, SIDE, SIDE)}
    row = {
        "input_ids": ids,
        "position_ids": torch.arange(ids.shape[1])[None],
        "doc_starts": torch.tensor([0, ids.shape[1]], dtype=torch.int32),
        "longest_document": ids.shape[1],
        "images": images,
        "image_positions": places,
    }
    rows = torch.tensor([1 + TOKENS, 2 + TOKENS, 3 + TOKENS])
    grounded = Grounded(
        torch.zeros_like(rows), rows, torch.tensor([0, 0, 1]), places.expand(2, -1), "max"
    )
    seen = adapter.look(row, grounded)
    embeds = adapter.model.embed(ids, images, places)
    adapter.decoder.set_attn_implementation("eager")
    out = adapter.decoder(inputs_embeds=embeds, output_attentions=True)
    adapter.decoder.set_attn_implementation("inlay")
    eager = torch.cat(out.attentions)[..., places]  # [L, H, N, K]
    expected = torch.stack([eager[:, :, rows[:2]].amax(2), eager[:, :, rows[2]]]).flatten(1, 2)
    torch.testing.assert_close(seen.maps, expected, atol=1e-5, rtol=0)
    view = View(0, 6, 6, (0.0, -80.0, 640.0, 560.0), stride=6)
    maps, canvas = assemble(seen.maps, (view,))
    assert maps.shape == (2, LAYERS * HEADS, 6, 6) and canvas == view.box
    torch.testing.assert_close(maps[1, 5, 2, 3], eager[1, 1, rows[2], 2 * 6 + 3])


def test_stretched_positions_count_for_its_identity(adapter: HPTAdapter) -> None:
    assert (adapter.num_layers, adapter.num_heads, adapter.hidden_size) == (LAYERS, HEADS, 32)
    before = adapter.identity()
    positions = next(
        p for n, p in adapter.named_parameters() if n.endswith("position_embedding.weight")
    )
    assert len(positions) in (TOKENS, TOKENS + 1)
    with torch.no_grad():
        positions.add_(1.0)
    assert adapter.identity() != before
    with torch.no_grad():
        positions.sub_(1.0)
