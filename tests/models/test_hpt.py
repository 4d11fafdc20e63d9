"""HPT: folders of parts, position embeddings stretched to larger pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import sights
import torch
import torch.nn.functional as F
import transformers as T

from inlay.core.errors import ModelError
from inlay.models.hpt import load_hpt, resize_positions
from inlay.models.projector import build_projector, save_projector
from inlay.models.vision import features


def _write(folder: Path, encoder: T.PreTrainedModel) -> Path:
    """The published layout: ``llm/``, ``visual_encoder/``, ``projector/``."""
    sights.llama().save_pretrained(folder / "llm")
    encoder.save_pretrained(folder / "visual_encoder")
    torch.manual_seed(3)
    save_projector(build_projector("mlp", 32, 32), folder / "projector")
    return folder


def _reference(weight: torch.Tensor, new: int, extra: int) -> torch.Tensor:
    """The formula of the original: bicubic over the grid, class token apart."""
    grid, width = weight[extra:], weight.shape[1]
    side = int(len(grid) ** 0.5)
    picture = grid.reshape(-1, side, side, width).permute(0, 3, 1, 2)
    picture = F.interpolate(picture, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([weight[:extra], picture.permute(0, 2, 3, 1).flatten(1, 2).squeeze(0)])


@torch.no_grad()
@pytest.mark.parametrize(("kind", "extra"), [(sights.clip, 1), (sights.siglip, 0)])
@pytest.mark.parametrize("size", [24, 28])
def test_positions_are_stretched(kind, extra: int, size: int) -> None:  # type: ignore[no-untyped-def]
    encoder = sights.livelier(kind())
    weights = encoder.state_dict()
    name = next(n for n in weights if n.endswith("position_embedding.weight"))
    expected = _reference(weights[name].clone(), size // 4, extra)
    pixels = torch.randn(2, 3, size, size)
    seen = encoder(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    resize_positions(encoder, size)
    assert encoder.config.image_size == size
    torch.testing.assert_close(encoder.state_dict()[name], expected)
    # transformers' own stretching, done at each call, is the second witness
    last = seen.hidden_states[-2][:, extra:]
    torch.testing.assert_close(features(encoder, pixels, -2), last, atol=1e-5, rtol=1e-4)


def test_siglip_whose_side_is_no_multiple_of_its_patches() -> None:
    """As so400m: 384 px by 14 are 27 patches and a rest."""
    torch.manual_seed(2)
    vision = sights.VISION | {"image_size": 18}
    encoder = T.SiglipVisionModel(T.SiglipVisionConfig(**vision, vision_use_head=False))
    resize_positions(encoder, 24)
    assert features(encoder, torch.randn(1, 3, 24, 24), -2).shape == (1, 36, 32)


def test_frozen_positions_stay_frozen_in_their_dtype() -> None:
    encoder = sights.clip().to(torch.bfloat16).requires_grad_(False)
    resize_positions(encoder, 24)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", [sights.clip, sights.siglip])
def test_published_folder(tmp_path: Path, kind) -> None:  # type: ignore[no-untyped-def]
    folder = _write(tmp_path, kind())
    model = load_hpt(str(folder), image_size=24, device="cpu")
    assert model.visual_select_layer == -2
    assert model.encode(torch.randn(1, 3, 24, 24)).shape == (1, 36, 32)
    assert model.llm.model.layers[0].self_attn.q_proj.weight.equal(
        sights.llama().model.layers[0].self_attn.q_proj.weight
    )
    assert load_hpt(str(folder), device="cpu").visual_encoder.config.image_size == sights.SIDE


def test_generates_from_larger_pictures(tmp_path: Path) -> None:
    model = load_hpt(str(_write(tmp_path, sights.clip())), image_size=24, device="cpu")
    ids = torch.tensor([[5, *[99] * 36, 7]])
    out = model.generate(
        ids,
        images={"pixel_values": torch.randn(1, 3, 24, 24)},
        image_positions=torch.arange(1, 37),
        max_new_tokens=2,
    )
    assert out.shape == (1, 40)


@pytest.mark.parametrize("part", ["llm", "visual_encoder", "projector"])
def test_names_the_part_that_is_missing(tmp_path: Path, part: str) -> None:
    folder = _write(tmp_path, sights.clip())
    (folder / part).rename(folder / "elsewhere")
    with pytest.raises(ModelError, match=f"found no {part}/"):
        load_hpt(str(folder), image_size=24, device="cpu")


def test_neither_folder_nor_hub_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a hub name"):
        load_hpt(str(tmp_path / "nothing"), image_size=24, device="cpu")


def test_an_encoder_without_learned_positions_is_refused() -> None:
    config = T.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
    )
    with pytest.raises(ModelError, match="Dinov2Model has no learned position"):
        resize_positions(T.Dinov2Model(config), 24)
