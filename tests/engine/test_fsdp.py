"""FSDP2 on gloo ranks beside one process that sees the same global batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn

from inlay.core.errors import CheckpointError, ConfigError
from inlay.core.types import StepOutput
from inlay.engine.optim import build_optimizer, load_optimizer_state, optimizer_state, trainable
from inlay.engine.optimizer_files import SavedState
from inlay.engine.parallel.single import SingleDevice

CPU = torch.device("cpu")


class Block(nn.Module):
    """A layer as wide as it is deep is rare: 5 rows do not divide by 2 ranks, 1 row by none."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.gate = nn.Linear(6, 5), nn.Linear(6, 1)
        self.back = nn.Linear(5, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.back(torch.tanh(self.wide(x)) * torch.sigmoid(self.gate(x)))


class Net(nn.Module):
    """Tied embedding and head around two layers; predicts the next of 7 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> StepOutput:
        x = self.embed(ids[:, :-1])
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x).flatten(0, 1).float()
        loss = nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")
        return StepOutput(loss, ids.shape[0] * (ids.shape[1] - 1))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def rows(update: int, micro: int) -> torch.Tensor:
    """The global micro-batch: int64 ``[4, 9]``."""
    return torch.randint(0, 7, (4, 9), generator=torch.Generator().manual_seed(9 * update + micro))


def make(model: nn.Module, strategy: Any, kind: Any = torch.optim.AdamW) -> Any:
    strategy.place(model)
    optimizer = build_optimizer(model, kind, {"lr": 1e-2})
    strategy.prepare(model, optimizer)
    return optimizer


def fsdp(**settings: Any) -> Any:
    from inlay.engine.parallel.fsdp import FullySharded

    return FullySharded(CPU, **settings)


def train(
    model: nn.Module, strategy: Any, optimizer: Any, updates: range, max_norm: float = 0.5
) -> list[float]:
    """Make updates of two micro-batches each, split over the ranks; return gradient norms."""
    norms = []
    mine = slice(strategy.rank, None, strategy.world_size)
    for update in updates:
        for micro in range(2):
            ids = rows(update, micro)[mine]
            with strategy.accumulating(model, micro == 1):
                loss = strategy.forward(model, FakeBatch(ids)).loss_sum
                strategy.backward(loss / (2 * 4 * 8))
        parameters = list(trainable(model).values())
        norms.append(strategy.step(optimizer, parameters, max_norm)[0])
    return norms


class FakeBatch:
    def __init__(self, ids: torch.Tensor) -> None:
        self.inputs = {"ids": ids}


def alone(updates: range, model: Net | None = None) -> tuple[Net, Any, list[float]]:
    model = model or net()
    strategy = SingleDevice(CPU)
    optimizer = make(model, strategy)
    return model, optimizer, train(model, strategy, optimizer, updates)


@pytest.mark.parametrize("ranks", [2, 3])
def test_updates_and_state_are_those_of_one_process(tmp_path: Path, ranks: int) -> None:
    """Tied, clipped, accumulated; 3 ranks: some hold no row of a parameter."""

    def work(rank: int) -> Any:
        model, strategy = net(), fsdp(reshard_after_forward=rank < 5)
        optimizer = make(model, strategy)
        norms = train(model, strategy, optimizer, range(4))
        tensors, meta = strategy.optimizer_state(optimizer, trainable(model))
        held = sum(p.to_local().numel() for p in model.parameters())
        return norms, strategy.weights(trainable(model)), tensors, meta, held

    found = on_ranks(tmp_path, ranks, work)
    model, optimizer, norms = alone(range(4))
    assert found[0][0] == pytest.approx(norms, rel=1e-5)
    weights = dict(model.named_parameters())
    assert found[0][1].keys() == weights.keys() and not found[1][1]
    for name, value in found[0][1].items():
        assert torch.allclose(value, weights[name], atol=1e-5), name
    total = sum(p.numel() for p in model.parameters())
    assert sum(f[4] for f in found) == total and max(f[4] for f in found) < 0.62 * total

    saved = SavedState([f[2] for f in found], found[0][3])
    expected, _ = optimizer_state(optimizer, trainable(model))
    assert set(saved.names()) == set(expected)
    for full, value in expected.items():
        assert torch.allclose(saved.whole(full), value, atol=1e-6), full
    with pytest.raises(CheckpointError, match="lacks the elements"):
        SavedState([found[0][2]], found[0][3]).whole("embed.weight|exp_avg")


def test_state_of_one_process_goes_on_on_two_and_back(tmp_path: Path) -> None:
    whole, _, _ = alone(range(6))
    first, optimizer, _ = alone(range(2))
    start = {n: p.detach().clone() for n, p in first.named_parameters()}
    state = SavedState([optimizer_state(optimizer, trainable(first))[0]], META)

    def work(rank: int) -> Any:
        torch.manual_seed(1)
        model, strategy = Net(), fsdp()
        optimizer = make(model, strategy)
        strategy.load_weights(trainable(model), start)
        strategy.load_optimizer_state(optimizer, trainable(model), state)
        train(model, strategy, optimizer, range(2, 4))
        return (
            strategy.weights(trainable(model)),
            *strategy.optimizer_state(optimizer, trainable(model)),
        )

    found = on_ranks(tmp_path, 2, work)
    last, single = net(), SingleDevice(CPU)
    optimizer = make(last, single)
    single.load_weights(trainable(last), found[0][0])
    saved = SavedState([f[1] for f in found], found[0][2])
    load_optimizer_state(optimizer, trainable(last), saved)
    train(last, single, optimizer, range(4, 6))
    for name, value in whole.named_parameters():
        assert torch.allclose(dict(last.named_parameters())[name], value, atol=1e-5), name


META: dict[str, Any] = {"scalars": {}, "on_host": []}


def test_what_is_not_finite_on_one_rank_is_skipped_by_all(tmp_path: Path) -> None:
    """Without a loss scale and with one, which is halved on both."""

    def work(rank: int) -> Any:
        out = []
        for scaled in (False, True):
            model, strategy = net(), fsdp()
            if scaled:
                strategy.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            optimizer = make(model, strategy)
            before = strategy.weights(trainable(model))
            loss = strategy.forward(model, FakeBatch(rows(0, 0)[rank::2])).loss_sum
            strategy.backward(loss * (float("inf") if rank else 1.0))
            _, applied = strategy.step(optimizer, list(trainable(model).values()), 1.0)
            after = strategy.weights(trainable(model))
            same = all(torch.equal(before[n], after[n]) for n in before)
            scale = strategy.scaler.get_scale() if scaled else 2.0
            norms = train(model, strategy, optimizer, range(1))
            out.append((applied, same, scale, norms))
        return out

    for done in on_ranks(tmp_path, 2, work):
        plain, scaled = done
        assert plain[:3] == (False, True, 2.0) and scaled[:3] == (False, True, 2.0)
        assert scaled[3] == pytest.approx(plain[3], rel=1e-5), "unscaled before it is clipped"


def adapted() -> Net:
    """As LoRA leaves a model: a frozen base in bfloat16, a quantised weight, trained float32."""
    model = net().bfloat16()
    model.requires_grad_(False)
    model.layers[0].codes = nn.Parameter(  # type: ignore[assignment]
        torch.arange(4, dtype=torch.uint8), requires_grad=False
    )
    model.register_parameter("scale", nn.Parameter(torch.tensor(2.0), requires_grad=False))
    for layer in model.layers:
        layer.back = nn.Linear(5, 6, bias=False)
        torch.nn.init.constant_(layer.back.weight, 0.1)
    return model


def test_frozen_quantised_and_trained_weights_of_several_types(tmp_path: Path) -> None:
    """In bfloat16, near one process under autocast; only what is trained has moved."""

    def work(rank: int) -> Any:
        model, strategy = adapted(), fsdp(precision="bfloat16")
        optimizer = make(model, strategy)
        norms = train(model, strategy, optimizer, range(3))
        codes = model.layers[0].codes
        return norms, strategy.weights(trainable(model)), codes.data, len(optimizer.state)

    found = on_ranks(tmp_path, 2, work)
    model, strategy = adapted(), SingleDevice(CPU, "bfloat16")
    optimizer = make(model, strategy)
    norms = train(model, strategy, optimizer, range(3))
    assert found[0][0] == pytest.approx(norms, rel=2e-2)
    assert found[0][1].keys() == {f"layers.{i}.back.weight" for i in (0, 1)}
    for name, value in found[0][1].items():
        assert value.dtype == torch.float32
        assert torch.allclose(value, dict(model.named_parameters())[name], atol=3e-3), name
    assert found[1][2].tolist() == [0, 1, 2, 3] and found[1][3] == 2


class WithProjector(nn.Module):
    """A model in bfloat16 with a projector in full precision, both trained."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(6, 6)
        self.llm = net().bfloat16()

    def forward(self, ids: torch.Tensor) -> StepOutput:
        out = self.llm(ids)
        row = self.projector(torch.ones(6)).square().sum()
        return StepOutput(out.loss_sum + row, out.loss_units)


def test_a_part_of_another_type_gathers_apart_and_mixed_blocks_are_refused(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        strategy = fsdp(precision="bfloat16")
        model = WithProjector()
        optimizer = make(model, strategy)
        train(model, strategy, optimizer, range(1))
        moved = strategy.weights(trainable(model))
        said = []
        for spoil in (
            lambda m: m.layers[0].gate.float(),
            lambda m: m.register_parameter("scale", nn.Parameter(torch.tensor(1.0))),
        ):
            bad = net().bfloat16()
            spoil(bad)
            with pytest.raises(ConfigError) as error:
                strategy.place(bad)
            said.append(str(error.value))
        with pytest.raises(ConfigError, match="cannot cut up the state of Adafactor"):
            make(net(), strategy, torch.optim.Adafactor)
        return {n: str(w.dtype) for n, w in moved.items()}, said

    (types, said), _ = on_ranks(tmp_path, 2, work)
    assert types["projector.weight"] == "torch.float32"
    assert types["llm.embed.weight"] == "torch.bfloat16"
    assert "weights of Block" in said[0] and "bfloat16, float32" in said[0]
    assert "'scale', a single number" in said[1]


def test_one_rank_alone_may_use_the_whole_model_and_training_goes_on(tmp_path: Path) -> None:
    """Before training, inside an accumulation window, and after it."""

    def work(rank: int) -> Any:
        model, strategy = net(), fsdp()
        optimizer = make(model, strategy)
        seen = []

        def look() -> None:
            with strategy.whole(model), torch.no_grad():
                if rank == 1:  # a part of it, and the whole, several times, without the other rank
                    x = model.layers[1](model.embed(torch.arange(7)))
                    losses = [model(rows(0, 0)).loss_sum.item() for _ in range(3)]
                    seen.append((x.sum().item(), losses[2]))

        look()
        forward = strategy.forward
        strategy.forward = lambda *given: (look(), forward(*given))[1]
        norms = train(model, strategy, optimizer, range(2))
        look()
        return seen[:1] + seen[-1:], norms

    first, second = on_ranks(tmp_path, 2, work)
    wanted = []
    for model in (net(), alone(range(2))[0]):
        with torch.no_grad():
            x = model.layers[1](model.embed(torch.arange(7)))
            wanted.append((x.sum().item(), model(rows(0, 0)).loss_sum.item()))
    assert not first[0]
    for got, due in zip(second[0], wanted, strict=True):
        assert got == pytest.approx(due, rel=1e-4)
    assert first[1] == pytest.approx(alone(range(2))[2], rel=1e-5)
