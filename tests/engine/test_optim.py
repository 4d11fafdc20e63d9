"""Optimizer state by parameter name: any optimizer comes back with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from inlay.core.errors import CheckpointError, ConfigError
from inlay.engine.optim import build_optimizer, load_optimizer_state, optimizer_state, trainable
from inlay.engine.optimizer_files import SavedState

# 8-bit states start at 4096 values; smaller tensors stay in 32 bits.
WIDTH = 96


def eight_bit() -> Any:
    return pytest.importorskip("bitsandbytes").optim.AdamW8bit


CASES = {
    "adamw": lambda: (torch.optim.AdamW, {"lr": 1e-3}),
    "sgd_momentum": lambda: (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
    "adafactor": lambda: (torch.optim.Adafactor, {"lr": 1e-2}),
    "adamw8bit": lambda: (eight_bit(), {"lr": 1e-3}),
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


def steps(net: nn.Module, optimizer: Any, count: int, start: int) -> None:
    for i in range(start, start + count):
        x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(i))
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", CASES)
def test_state_survives_a_trip_through_a_file(name: str, tmp_path: Path) -> None:
    make, settings = CASES[name]()
    whole = model()
    optimizer = build_optimizer(whole, make, settings)
    steps(whole, optimizer, 3, 0)
    tensors, meta = optimizer_state(optimizer, trainable(whole))
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "state.safetensors")
    weights = {k: v.clone() for k, v in whole.state_dict().items()}
    steps(whole, optimizer, 3, 3)

    again = model()
    again.load_state_dict(weights)
    other = build_optimizer(again, make, settings)
    import json

    meta = json.loads(json.dumps(meta))
    saved = SavedState([load_file(tmp_path / "state.safetensors")], meta)
    load_optimizer_state(other, trainable(again), saved)
    steps(again, other, 3, 3)
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_eight_bit_states_really_are_eight_bit() -> None:
    net = model()
    optimizer = build_optimizer(net, eight_bit(), {"lr": 1e-3})
    steps(net, optimizer, 1, 0)
    tensors, _ = optimizer_state(optimizer, trainable(net))
    assert tensors["0.weight|state1"].dtype == torch.uint8


def test_adamw_is_fused_and_a_frozen_model_is_refused() -> None:
    optimizer = build_optimizer(model(), torch.optim.AdamW, {"lr": 1e-3})
    assert optimizer.param_groups[0]["fused"]
    with pytest.raises(ConfigError, match="no parameter is trainable"):
        build_optimizer(model().requires_grad_(False), torch.optim.AdamW, {"lr": 1e-3})


def test_state_of_an_unknown_parameter_is_refused() -> None:
    net = model()
    optimizer = build_optimizer(net, torch.optim.AdamW, {"lr": 1e-3})
    with pytest.raises(CheckpointError, match="'gone'"):
        meta: dict[str, Any] = {"scalars": {}, "on_host": []}
        load_optimizer_state(optimizer, {}, SavedState([{"gone|step": torch.zeros(())}], meta))
