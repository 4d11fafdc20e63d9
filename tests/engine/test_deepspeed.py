"""DeepSpeed's config files, what is refused, and ZeRO's pieces against a plain optimizer."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from inlay.core.errors import CheckpointError, ConfigError, InlayError
from inlay.core.types import Batch, StepOutput
from inlay.engine.optim import optimizer_state
from inlay.engine.optimizer_files import SavedState
from inlay.engine.parallel.deepspeed_config import NAMES, RunSettings, locate, read_config
from inlay.engine.parallel.deepspeed_setup import set_up
from inlay.engine.parallel.single import SingleDevice

pytest.importorskip("deepspeed")

CPU = torch.device("cpu")
RUN = RunSettings(batch_size=2, accumulate=8, world_size=4, max_norm=1.0, dtype="bfloat16")


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Import once, in the parent, what every forked rank would import for seconds."""
    set_up(CPU)
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401

    import inlay.engine.parallel.deepspeed  # noqa: F401


# -- configs -------------------------------------------------------------------------------------


def test_the_shipped_configs_take_the_settings_of_the_run() -> None:
    assert set(NAMES) == {
        f"deepspeed_{n}" for n in ("zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")
    }
    for name in NAMES:
        config = read_config(name, RUN)
        assert "auto" not in json.dumps(config)
        assert config["zero_optimization"]["stage"] == int(name[len("deepspeed_zero")])
        assert ("offload_optimizer" in config["zero_optimization"]) == name.endswith("_offload")
        assert config["train_micro_batch_size_per_gpu"] == 2
        assert config["gradient_accumulation_steps"] == 8
        assert config["train_batch_size"] == 64
        assert config["gradient_clipping"] == 1.0
        assert (config["bf16"]["enabled"], config["fp16"]["enabled"]) == (True, False)


def test_float16_and_its_scale() -> None:
    dynamic = RunSettings(1, 1, 1, None, "float16")
    config = read_config("deepspeed_zero2", dynamic)
    assert config["fp16"]["enabled"] and config["fp16"]["loss_scale"] == 0
    assert config["gradient_clipping"] == 0.0 and not config["bf16"]["enabled"]
    fixed = RunSettings(1, 1, 1, None, "float16", 512.0)
    assert read_config("deepspeed_zero2", fixed)["fp16"]["loss_scale"] == 512.0


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    """In the manner of Hugging Face: "auto" in places that are DeepSpeed's own business."""
    path = tmp_path / "mine.json"
    zero = {"stage": 3, "reduce_bucket_size": "auto", "stage3_max_live_parameters": 1000}
    same = {"train_batch_size": 64, "gradient_clipping": 1, "bf16": {"enabled": True}}
    path.write_text(json.dumps({"zero_optimization": zero, "train_batch_size": "auto", **same}))
    config = read_config(str(path), RUN)
    assert config["zero_optimization"] == {"stage": 3, "stage3_max_live_parameters": 1000}
    assert config["train_batch_size"] == 64 and config["gradient_accumulation_steps"] == 8


def test_all_contradictions_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    values = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 8,
        "gradient_clipping": 0.5,
        "fp16": {"enabled": True, "loss_scale": 128},
        "optimizer": {"type": "AdamW"},
        "zero_optimization": {"stage": 0, "offload_param": {"device": "nvme"}},
    }
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        read_config(str(path), RUN)
    text = str(caught.value)
    for line in (
        "train_micro_batch_size_per_gpu is 4, train_dataloader.batch_size says 2",
        "gradient_clipping is 0.5, optim_wrapper.clip_grad.max_norm says 1.0",
        "fp16.enabled is True, optim_wrapper.dtype says False",
        "optimizer: take it out, optim_wrapper.optimizer of the config is what is used",
        "zero_optimization.stage is 0, expected 1, 2 or 3",
        "zero_optimization.offload_param.device is 'nvme'",
    ):
        assert line in text
    assert "gradient_accumulation_steps" not in text, "it agrees"
    assert "loss_scale" not in text, "of no matter in bfloat16"


@pytest.mark.parametrize(
    "name,text,says",
    [
        ("deepspeed_zero4", None, "Did you mean 'deepspeed_zero"),
        ("deepspeed_zro3_offload", None, "Did you mean 'deepspeed_zero3_offload'?"),
        ("list.json", "[1]", "expected a JSON object"),
        ("broken.json", "{", "cannot be read as JSON"),
    ],
)
def test_what_is_no_config(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
        name = str(tmp_path / name)
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        read_config(name, RUN)


def test_without_deepspeed_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(InlayError, match="Install it: DS_BUILD_OPS=0 pip install") as caught:
        set_up(CPU)
    assert "\n" not in str(caught.value)


# -- what cannot be cut up -----------------------------------------------------------------------


class Toy(nn.Module):
    """Odd shapes, two groups with rates of their own, a frozen layer in between."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.first, self.second = nn.Linear(3, 7), nn.Linear(7, 5)
        self.frozen, self.third = nn.Linear(5, 5), nn.Linear(5, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> StepOutput:
        hidden = torch.tanh(self.second(torch.tanh(self.first(x * self.scale))))
        out = self.third(self.frozen(hidden))
        return StepOutput((out[:, 0].float() - x.sum(1).sin()).square().sum(), len(x))


def toy(make: Any = torch.optim.AdamW, **settings: Any) -> tuple[Toy, Any, dict[str, Any]]:
    """Model, optimizer, trained parameters by name."""
    torch.manual_seed(0)
    model = Toy()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    values = list(named.values())
    groups = [{"params": values[:3], "lr": 1e-2}, {"params": values[3:], "lr": 2e-2}]
    return model, make(groups, **settings), named


def check(model: nn.Module, optimizer: Any, stage: int, dtype: torch.dtype | None = None) -> None:
    from inlay.engine.parallel.deepspeed import _check

    _check(model, optimizer, stage, dtype)


def test_quantised_weights_and_zero_3() -> None:
    model, optimizer, _ = toy()
    model.frozen.weight = nn.Parameter(torch.zeros(13, 1, dtype=torch.uint8), requires_grad=False)
    check(model, optimizer, 2)
    with pytest.raises(ConfigError, match=r"quantised.*deepspeed_zero2"):
        check(model, optimizer, 3)


def test_weights_of_several_types_without_a_precision() -> None:
    model, _, _ = toy()
    model.first.bfloat16()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1)
    check(model, optimizer, 2, torch.bfloat16)
    with pytest.raises(ConfigError, match=r"are bfloat16, float32.*dtype='bfloat16'"):
        check(model, optimizer, 2)


def test_eight_bit_optimizers() -> None:
    model, optimizer, _ = toy()
    foreign = type("AdamW8bit", (type(optimizer),), {"__module__": "bitsandbytes.optim.adamw"})
    optimizer.__class__ = foreign
    with pytest.raises(ConfigError, match=r"AdamW8bit.*torch.optim.AdamW"):
        check(model, optimizer, 1)


# -- ranks ---------------------------------------------------------------------------------------


def on_ranks(ranks: int, work: Callable[[], Any], folder: Path) -> list[Any]:
    """Call ``work`` in that many forked ranks of a gloo group; return what each returns."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(rank: int) -> None:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}
        os.environ.update({k: str(v) for k, v in place.items()})
        store = dist.TCPStore("127.0.0.1", port, ranks, is_master=rank == 0)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        torch.save(work(), folder / f"result_{rank}")

    torch.multiprocessing.start_processes(run, nprocs=ranks, start_method="fork")
    return [torch.load(folder / f"result_{rank}") for rank in range(ranks)]


def zero(name: str, dtype: str = "float32", optimizer: Any = None) -> tuple[Any, ...]:
    """Strategy, prepared, and what :func:`toy` returns."""
    from inlay.engine.parallel.deepspeed import ZeRO

    run = RunSettings(2, 3, dist.get_world_size(), 0.5, dtype)
    config = json.loads(locate(name).read_text())
    # ZeRO-3 leaves small weights whole, and here are no others.
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    strategy = ZeRO(read_config(config, run), CPU, dtype)
    made = toy(optimizer) if optimizer else toy()
    strategy.prepare(*made[:2])
    return strategy, *made


def batch(step: int, micro: int, rank: int = 0, ranks: int = 1) -> Batch:
    """This rank's share of four rows."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * step + micro))
    x = x[rank * 4 // ranks : (rank + 1) * 4 // ranks]
    return Batch({"x": x}, len(x), len(x), len(x))


def update(strategy: Any, model: Any, optimizer: Any, named: Any, step: int) -> tuple[float, bool]:
    """One update of three micro-batches, every third update of two."""
    count = 2 if step % 3 == 2 else 3
    for micro in range(count):
        share = batch(step, micro, strategy.rank, strategy.world_size)
        with strategy.accumulating(model, micro == count - 1):
            out = strategy.forward(model, share)
            strategy.backward(out.loss_sum / (4 * count))
    return strategy.step(optimizer, list(named.values()), 0.5)


def reference(steps: int) -> tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradient norms, weights and optimizer state of one device."""
    strategy = SingleDevice(CPU)
    model, optimizer, named = toy()
    norms = [update(strategy, model, optimizer, named, step)[0] for step in range(steps)]
    tensors, _ = optimizer_state(optimizer, named)
    return norms, {n: p.data for n, p in named.items()}, tensors


@pytest.mark.parametrize("name", ["deepspeed_zero1", "deepspeed_zero2_offload", "deepspeed_zero3"])
def test_pieces_are_those_of_a_plain_optimizer_and_go_back(tmp_path: Path, name: str) -> None:
    """Four updates; state and weights go through files into a fresh engine; a fifth update."""

    def work() -> Any:
        first = zero(name)
        norms = [update(*first, step)[0] for step in range(4)]
        strategy, _, optimizer, named = first
        weights = strategy.gather(strategy.weights(named))[0]
        tensors, meta = strategy.optimizer_state(optimizer, named)
        files = strategy.gather({k: v.clone() for k, v in tensors.items()})
        meta = strategy.gather(meta)[0]
        second = zero(name)
        second[0].load_weights(second[3], weights)
        second[0].load_optimizer_state(second[2], second[3], SavedState(files, meta))
        again, _ = second[0].optimizer_state(second[2], second[3])
        assert all(torch.equal(again[k], tensors[k]) for k in tensors)
        norms.append(update(*second, 4)[0])
        return norms, weights, files, meta, second[0].weights(second[3])

    (norms, weights, files, meta, last), (_, _, _, _, nothing) = on_ranks(2, work, tmp_path)
    expected, kept, state = reference(4)
    assert norms[:4] == pytest.approx(expected, rel=1e-5)
    assert max((weights[n] - w).abs().max() for n, w in kept.items()) < 1e-6
    saved = SavedState(files, meta)
    assert sorted(saved.names()) == sorted(state)
    for full, value in state.items():
        assert torch.allclose(saved.whole(full), value, rtol=1e-4, atol=1e-9), full
    expected, kept, _ = reference(5)
    assert norms[4] == pytest.approx(expected[4], rel=1e-5)
    assert max((last[n] - w).abs().max() for n, w in kept.items()) < 1e-6
    assert nothing == {}, "only rank 0 keeps whole weights"


def test_state_that_is_not_of_these_weights(tmp_path: Path) -> None:
    def work() -> list[str]:
        strategy, _, optimizer, named = zero("deepspeed_zero2")
        said = []
        for name, shape in (("gone", (3,)), ("scale", (4,))):
            wrong = SavedState([{f"{name}|m": torch.ones(shape)}], {"scalars": {}, "on_host": []})
            with pytest.raises(CheckpointError) as caught:
                strategy.load_optimizer_state(optimizer, named, wrong)
            said.append(str(caught.value))
        return said

    ((gone, shape),) = on_ranks(1, work, tmp_path)
    assert "'gone'" in gone and "(4,)" in shape and "(3,)" in shape


@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3"])
def test_a_gradient_that_is_not_finite_moves_nothing(tmp_path: Path, name: str) -> None:
    def work() -> Any:
        made = zero(name)
        strategy, model, optimizer, named = made
        update(*made, 0)
        before = strategy.weights(named)
        kept = {k: v.clone() for k, v in strategy.optimizer_state(optimizer, named)[0].items()}
        bad = batch(1, 0, strategy.rank, 2)
        if strategy.rank == 1:
            bad.inputs["x"][0, 0] = math.nan
        with strategy.accumulating(model, True):
            strategy.backward(strategy.forward(model, bad).loss_sum)
        norm, applied = strategy.step(optimizer, list(named.values()), 0.5)
        after, state = strategy.weights(named), strategy.optimizer_state(optimizer, named)[0]
        same = all(torch.equal(before[n], after[n]) for n in before)
        same = same and all(torch.equal(kept[k], state[k]) for k in kept)
        return norm, applied, same, strategy.guards_overflow, update(*made, 1)[1]

    for norm, applied, same, guards, goes_on in on_ranks(2, work, tmp_path):
        assert not math.isfinite(norm) and not applied and same
        assert not guards and goes_on


def test_the_scale_of_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overflow halves it; it is saved as one device saves it, and goes on from there."""

    def work() -> Any:
        from deepspeed.accelerator import get_accelerator

        # Few CPUs are quick at it, which is why it says no; that they can is enough here.
        get_accelerator().is_fp16_supported = lambda: True
        made = zero("deepspeed_zero2", "float16")
        strategy, model, optimizer, named = made
        states = [strategy.state()]
        big = Batch({"x": torch.full((4, 3), 3e4)}, 4, 4, 4)
        guards = strategy.guards_overflow
        with strategy.accumulating(model, True):
            strategy.backward(strategy.forward(model, big).loss_sum * 1e4)
        applied = strategy.step(optimizer, list(named.values()), 0.5)[1]
        states.append(strategy.state())
        fine = [update(*made, step)[1] for step in range(3)]
        states.append(strategy.state())
        other = zero("deepspeed_zero2", "float16")[0]
        other.load_state(states[-1])
        states.append(other.state())
        return states, guards, applied, fine

    ((states, guards, applied, fine),) = on_ranks(1, work, tmp_path)
    assert guards and not applied and all(fine)
    assert [s["scale"] for s in states] == [65536.0, 32768.0, 32768.0, 32768.0]
    assert states[3] == states[2] and states[2]["_growth_tracker"] == 3
    scaler = SingleDevice(CPU, "float16")
    scaler.load_state(states[2])
    assert scaler.state() == states[2]


def test_an_optimizer_that_deepspeed_replaces(tmp_path: Path) -> None:
    def work() -> str:
        with pytest.raises(ConfigError) as caught:
            zero("deepspeed_zero2", optimizer=torch.optim.Adagrad)
        return str(caught.value)

    (said,) = on_ranks(1, work, tmp_path)
    assert "Adagrad" in said and "torch.optim.AdamW" in said
