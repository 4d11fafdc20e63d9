"""Projectors: the pixel shuffle against loops, files that XTuner writes and reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inlay.core.errors import ModelError
from inlay.models.projector import build_projector, load_projector, pixel_shuffle, save_projector


@pytest.mark.parametrize(("side", "factor"), [(8, 4), (6, 3), (6, 2), (4, 1)])
def test_pixel_shuffle_concatenates_row_column_channel(side: int, factor: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, side * side, 5)).astype(np.float32)
    small = side // factor
    wanted = np.zeros((2, small * small, factor * factor * 5), np.float32)
    for b in range(2):
        for row in range(side):
            for column in range(side):
                block = (row // factor) * small + column // factor
                at = ((row % factor) * factor + column % factor) * 5
                wanted[b, block, at : at + 5] = x[b, row * side + column]
    assert np.array_equal(pixel_shuffle(torch.from_numpy(x), factor).numpy(), wanted)


@pytest.mark.parametrize(("patches", "factor"), [(15, 2), (25, 2)])
def test_a_grid_that_cannot_be_shuffled(patches: int, factor: int) -> None:
    with pytest.raises(ModelError, match=f"got {patches} patches"):
        pixel_shuffle(torch.zeros(1, patches, 3), factor)


def test_kinds() -> None:
    mlp = build_projector("mlp", 12, 8, depth=3)
    assert [type(m).__name__ for m in mlp.model] == [
        "Linear",
        "GELUActivation",
        "Linear",
        "GELUActivation",
        "Linear",
    ]
    assert [type(m).__name__ for m in build_projector("linear", 12, 8, depth=3).model] == ["Linear"]
    torch.manual_seed(0)
    shuffle = build_projector("pixel_shuffle", 64, 96, pixel_shuffle_factor=4)
    assert list(shuffle.state_dict()) == ["model.0.weight"]
    assert shuffle.model[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert shuffle(torch.zeros(2, 64, 64)).shape == (2, 4, 96)
    with pytest.raises(ModelError, match="Did you mean 'linear'"):
        build_projector("liner", 12, 8)


def test_new_weights_follow_the_seed() -> None:
    torch.manual_seed(5)
    first = build_projector("mlp", 12, 8).state_dict()
    torch.manual_seed(5)
    second = build_projector("mlp", 12, 8).state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("kind", ["mlp", "linear", "pixel_shuffle"])
def test_a_saved_projector_comes_back(kind: str, tmp_path: Path) -> None:
    factor = 2 if kind == "pixel_shuffle" else 1
    projector = build_projector(kind, 12, 8, pixel_shuffle_factor=factor, visual_select_layer=None)
    save_projector(projector.bfloat16(), tmp_path / "projector")
    again = load_projector(tmp_path / "projector")
    assert again.config == projector.config
    x = torch.randn(1, 16, 12)
    assert torch.equal(again(x), projector(x)) and again(x).dtype == torch.bfloat16


def test_an_export_of_xtuner_loads_and_ours_has_its_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
    tensors = {f"model.{name}": t for name, t in layers.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {
        "architectures": ["ProjectorModel"],
        "auto_map": {"AutoConfig": "configuration_projector.ProjectorConfig"},
        "bias": True,
        "depth": 2,
        "hidden_act": "gelu",
        "llm_hidden_size": 8,
        "model_type": "projector",
        "torch_dtype": "float32",
        "visual_hidden_size": 12,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    projector = load_projector(tmp_path)
    x = torch.randn(3, 16, 12)
    torch.testing.assert_close(projector(x), layers(x))
    assert projector.config.visual_select_layer == -2
    save_projector(projector, tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    same = set(config) - {"auto_map", "torch_dtype"}
    assert {k: written[k] for k in same} == {k: config[k] for k in same}
    assert load_file(tmp_path / "ours" / "model.safetensors").keys() == tensors.keys()


def test_a_folder_that_is_no_projector(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load a projector.*config\.json"):
        load_projector(tmp_path)
    save_projector(build_projector("mlp", 12, 8), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"llm_hidden_size": 9}))
    with pytest.raises(ModelError, match="size mismatch"):
        load_projector(tmp_path)
