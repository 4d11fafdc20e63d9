"""Published DeepSeek-VL folders in transformers' classes, against the authors' mathematics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published_deepseek as published
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from inlay.core.errors import ModelError
from inlay.models.deepseek_names import is_published, load_published, transformers_names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    published.publish(path / "small", hybrid=False)
    published.publish(path / "hybrid", hybrid=True, shards=3)
    return path


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    parts = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    return {name: tensor for part in parts for name, tensor in part.items()}


def pixels(raw: torch.Tensor, hybrid: bool) -> dict[str, torch.Tensor]:
    small = F.interpolate(raw, size=(32, 32), mode="bilinear", antialias=True)
    low = published.normalised(small if hybrid else raw, *published.HALF)
    high = {"high_res_pixel_values": published.normalised(raw, *published.CLIP)}
    return {"pixel_values": low} | (high if hybrid else {})


@pytest.mark.parametrize("name,side", [("small", 32), ("hybrid", 64)])
def test_logits_are_those_of_the_authors_code(folder: Path, name: str, side: int) -> None:
    hybrid = name == "hybrid"
    model = load_published(str(folder / name)).eval()
    token = AutoTokenizer.from_pretrained(folder / name).convert_tokens_to_ids(
        published.IMAGE_TOKEN
    )
    assert is_published(folder / name)
    assert model.config.image_token_id == token and model.dtype == torch.float32
    assert type(model).__name__.startswith("DeepseekVLHybrid" if hybrid else "DeepseekVLFor")
    ids = torch.tensor([[5, 6, *[token] * 16, 7, 8, 9]])
    raw, other = torch.rand(2, 1, 3, side, side)
    stored = weights_of(folder / name)
    expected = published.logits_of(stored, ids, token, raw)
    with torch.no_grad():
        found = model(input_ids=ids, **pixels(raw, hybrid)).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    moved = published.logits_of(stored, ids, token, other) - expected
    assert moved.abs().max() > 1e-3, "the picture matters"


def test_the_sizes_of_the_vision_encoders_are_read_off_the_weights(folder: Path) -> None:
    config = load_published(str(folder / "hybrid")).config
    low, high = config.vision_config, config.high_res_vision_config
    assert (low.image_size, low.patch_size, low.num_hidden_layers) == (32, 8, 2)
    assert (high.image_size, high.patch_size, high.num_hidden_layers) == (64, 8, 4)
    assert (high.window_size, high.global_attn_indexes) == (3, [1, 3])
    assert (high.num_attention_heads, high.mlp_dim, high.output_channels) == (2, 64, 4)


def test_what_the_authors_never_compute_with_is_left_out(folder: Path) -> None:
    stored = weights_of(folder / "hybrid")
    unused = {n for n in stored if ".attn_pool." in n or "_layer_norm." in n}
    assert len(unused) == 7
    split = sum(".attn.qkv." in n and "_low" in n for n in stored)
    assert len(transformers_names(stored)) == len(stored) - len(unused) + 2 * split


def broken(folder: Path, tmp_path: Path, change: Any) -> str:
    for file in (folder / "small").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path)


def test_a_missing_weight_is_named(folder: Path, tmp_path: Path) -> None:
    path = broken(folder, tmp_path, lambda t: t.pop("aligner.layers.2.bias"))
    with pytest.raises(ModelError, match=r"missing or unknown.*aligner\.linear2\.bias"):
        load_published(path)


def test_a_weight_of_another_model_is_named(folder: Path, tmp_path: Path) -> None:
    path = broken(folder, tmp_path, lambda t: t.update({"gen_head.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match=r"no DeepSeek-VL.*gen_head\.weight"):
        load_published(path)


def test_another_shape_than_the_config_says(folder: Path, tmp_path: Path) -> None:
    path = broken(folder, tmp_path, lambda t: None)
    config = json.loads((tmp_path / "config.json").read_text())
    config["language_config"]["intermediate_size"] = 40
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not fit its own config"):
        load_published(path)


def test_a_tokenizer_without_the_image_token(folder: Path, tmp_path: Path) -> None:
    path = broken(folder, tmp_path, lambda t: None)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace(published.IMAGE_TOKEN, "<other>"))
    with pytest.raises(ModelError, match="has no token '<image_placeholder>'"):
        load_published(path)


def test_weights_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    path = broken(folder, tmp_path, lambda t: None)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot read model\.safetensors"):
        load_published(path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="is damaged"):
        load_published(path)
