"""Vision encoders of every kind give one vector for each patch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from safetensors.torch import load_file, save_file
from sights import VISION, clip, siglip

from inlay.core.errors import ModelError
from inlay.models import load_visual_encoder
from inlay.models.vision import features, freeze_unused

NO_MLP = {k: v for k, v in VISION.items() if k != "intermediate_size"}
ENCODERS: dict[str, tuple[Any, int]] = {
    "clip": (T.CLIPVisionConfig(**VISION), 1),
    "siglip": (T.SiglipVisionConfig(**VISION), 0),
    "dinov2": (T.Dinov2Config(**NO_MLP), 1),
    "dinov2_registers": (T.Dinov2WithRegistersConfig(**NO_MLP, num_register_tokens=3), 4),
    "dinov3": (T.DINOv3ViTConfig(**VISION, num_register_tokens=2), 3),
    "vit": (T.ViTConfig(**VISION), 1),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("layer", [-2, None])
def test_features_are_the_patches_of_the_selected_layer(name: str, layer: int | None) -> None:
    config, extra = ENCODERS[name]
    torch.manual_seed(0)
    encoder = T.AutoModel.from_config(config).eval()
    pixels = torch.randn(2, 3, 16, 16)
    out = encoder(pixel_values=pixels, output_hidden_states=True)
    states = out.last_hidden_state if layer is None else out.hidden_states[layer]
    assert states.shape == (2, 16 + extra, 32)
    assert torch.equal(features(encoder, pixels, layer), states[:, extra:])


def test_naflex_takes_a_picture_as_its_patches() -> None:
    torch.manual_seed(0)
    config = T.Siglip2VisionConfig(
        **{k: v for k, v in VISION.items() if k != "image_size"}, num_patches=16
    )
    encoder = T.Siglip2VisionModel(config).eval()
    pixels = np.random.default_rng(0).normal(size=(1, 3, 8, 12)).astype(np.float32)
    patches = np.zeros((1, 6, 48), np.float32)
    for row in range(2):
        for column in range(3):
            square = pixels[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            patches[0, 3 * row + column] = square.transpose(1, 2, 0).reshape(-1)
    wanted = encoder(
        pixel_values=torch.from_numpy(patches),
        pixel_attention_mask=torch.ones(1, 6).long(),
        spatial_shapes=torch.tensor([[2, 3]]),
    ).last_hidden_state
    torch.testing.assert_close(features(encoder, torch.from_numpy(pixels), None), wanted)


@pytest.mark.parametrize("pair", ["clip", "siglip"])
def test_the_vision_half_of_a_pair_loads(pair: str, tmp_path: Path) -> None:
    text = {k: v for k, v in VISION.items() if k not in ("image_size", "patch_size")}
    config, model = {
        "clip": (T.CLIPConfig, T.CLIPModel),
        "siglip": (T.SiglipConfig, T.SiglipModel),
    }[pair]
    torch.manual_seed(0)
    both = model(config(text_config={**text, "vocab_size": 64}, vision_config=VISION)).eval()
    both.save_pretrained(tmp_path)
    encoder = load_visual_encoder(str(tmp_path), dtype=torch.float32).eval()
    pixels = torch.randn(1, 3, 16, 16)
    wanted = both.vision_model(pixel_values=pixels).last_hidden_state
    assert torch.equal(encoder(pixel_values=pixels).last_hidden_state, wanted)


def test_names_of_older_releases_load_and_missing_weights_do_not(tmp_path: Path) -> None:
    encoder = clip()
    encoder.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {n.removeprefix("vision_model."): t for n, t in load_file(file).items()}
    save_file({f"vision_model.{n}": t for n, t in tensors.items()}, file, {"format": "pt"})
    again = load_visual_encoder(str(tmp_path))
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in encoder.state_dict().items())
    short = {f"vision_model.{n}": t for n, t in tensors.items() if "layers.1" not in n}
    save_file(short, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"16 weights are missing, first 'encoder\.layers\.1"):
        load_visual_encoder(str(tmp_path))
    with pytest.raises(ModelError, match="cannot load a vision encoder"):
        load_visual_encoder(str(tmp_path / "absent"))


def test_weights_behind_the_selected_layer_are_never_trained() -> None:
    state = torch.get_rng_state()
    encoder = T.SiglipVisionModel(T.SiglipVisionConfig(**VISION))
    before = torch.get_rng_state()
    freeze_unused(encoder, -2)
    assert torch.equal(torch.get_rng_state(), before) and not torch.equal(before, state)
    frozen = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    behind = ("encoder.layers.1.", "post_layernorm.", "head.")
    assert frozen == {n for n, _ in encoder.named_parameters() if n.startswith(behind)}
    whole = siglip()
    freeze_unused(whole, None)
    assert all(p.requires_grad for p in whole.parameters())


def test_siglips_pooling_is_neither_computed_nor_lost(tmp_path: Path) -> None:
    encoder = T.SiglipVisionModel(T.SiglipVisionConfig(**VISION)).eval()
    pixels = torch.randn(1, 3, VISION["image_size"], VISION["image_size"])
    with torch.no_grad():
        before = features(encoder, pixels, None)
        pooled = encoder(pixels).pooler_output
        freeze_unused(encoder, None)
        assert torch.equal(features(encoder, pixels, None), before)
        assert encoder(pixels).pooler_output is None
        encoder.save_pretrained(tmp_path)
        again = load_visual_encoder(str(tmp_path)).eval()
        assert torch.equal(again(pixels).pooler_output, pooled)
