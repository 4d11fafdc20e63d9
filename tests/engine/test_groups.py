"""Learning rates by part: who is trained at which rate, who is frozen, and the same bits later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy import Losses, ToyModel, build

from inlay.core.errors import ConfigError
from inlay.engine import checkpoint as ckpt
from inlay.engine import resume
from inlay.engine.groups import PartRates, freeze_parts, parameter_groups
from inlay.engine.hooks import CheckpointHook, LoggerHook
from inlay.engine.identity import model_identity
from inlay.engine.optim import build_optimizer, trainable
from inlay.engine.settings import OptimWrapper, TrainLoop


def seeing_model() -> nn.Module:
    """Names as those of a model with eyes."""
    llm = nn.ModuleDict({"embed": nn.Embedding(5, 3), "norm": nn.LayerNorm(3)})
    return nn.ModuleDict(
        {"visual_encoder": nn.Linear(3, 3), "projector": nn.Linear(3, 3), "llm": llm}
    )


def groups(rates: PartRates, **settings: Any) -> dict[str, dict[str, Any]]:
    model = seeing_model()
    freeze_parts(model, rates)
    optimizer = build_optimizer(model, torch.optim.AdamW, settings, rates)
    return {g["name"]: g for g in optimizer.param_groups}


def test_each_part_has_its_own_rate_and_the_rest_the_optimizers() -> None:
    found = groups(PartRates({"projector": 5e-3, "llm.norm": 1e-4}), lr=1e-5, weight_decay=0.1)
    assert {n: g["lr"] for n, g in found.items()} == {
        "projector": 5e-3,
        "llm.norm": 1e-4,
        "rest": 1e-5,
    }
    assert [len(g["params"]) for g in found.values()] == [2, 2, 3]
    assert {g["weight_decay"] for g in found.values()} == {0.1}


def test_the_longest_path_counts_and_a_path_ends_at_a_dot() -> None:
    found = groups(
        PartRates({"llm": 1e-4, "llm.norm": 2e-4, "projector": 1e-3, "visual_encoder": 0})
    )
    assert {n: (g["lr"], len(g["params"])) for n, g in found.items()} == {
        "llm": (1e-4, 1),
        "llm.norm": (2e-4, 2),
        "projector": (1e-3, 2),
    }
    with pytest.raises(ConfigError, match=r"no part 'llm\.nor'.*Did you mean 'llm\.norm'"):
        freeze_parts(seeing_model(), PartRates({"llm.nor": 1e-4}))


@pytest.mark.parametrize("rate", [0, 0.0, -1])
def test_a_rate_of_zero_or_less_freezes_the_part_and_nothing_else(rate: float) -> None:
    model = seeing_model()
    freeze_parts(model, PartRates({"visual_encoder": rate, "projector": 1e-3}))
    assert {n.split(".")[0] for n in trainable(model)} == {"projector", "llm"}
    untouched = seeing_model()
    freeze_parts(untouched, PartRates())
    assert model_identity(model)["architecture"] != model_identity(untouched)["architecture"]


def test_mistakes_are_told_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"no part 'projecter'.*Did you mean 'projector'"):
        freeze_parts(seeing_model(), PartRates({"projecter": 1e-3}))
    with pytest.raises(
        ConfigError, match=r"'llm' has the rate 0\.001, but nothing in it is trained"
    ):
        model = seeing_model()
        model.get_submodule("llm").requires_grad_(False)
        freeze_parts(model, PartRates({"llm": 1e-3}))
    with pytest.raises(ConfigError, match=r"'nrm' is in no parameter's name\. Did you mean 'norm'"):
        freeze_parts(seeing_model(), PartRates(custom_keys={"nrm": {"lr_mult": 0.1}}))
    with pytest.raises(ConfigError, match=r"got 'lr_mul'\. Did you mean 'lr_mult'"):
        OptimWrapper({}, paramwise_cfg={"custom_keys": {"norm": {"lr_mul": 0.1}}})


def test_mmengines_factors_apply_to_rate_and_decay() -> None:
    keys = {"norm": {"decay_mult": 0.0}, "embed": {"lr_mult": 0.1, "decay_mult": 0.5}}
    rates = OptimWrapper({}, lr_groups={"llm": 1e-2}, paramwise_cfg={"custom_keys": keys}).rates
    found = groups(rates, weight_decay=0.2)
    assert {n: (pytest.approx(g["lr"]), g["weight_decay"]) for n, g in found.items()} == {
        "llm/norm": (1e-2, 0.0),
        "llm/embed": (1e-3, 0.1),
        "rest": (1e-3, 0.2),  # AdamW's own rate
    }
    model = seeing_model()
    freeze_parts(model, PartRates(custom_keys={"embed": {"lr_mult": 0}}))
    assert "llm.embed.weight" not in trainable(model)


def test_a_group_needs_a_rate_from_somewhere() -> None:
    def make(params: Any) -> None:
        """An optimizer without a rate."""

    with pytest.raises(ConfigError, match="make needs a value for 'lr'"):
        parameter_groups(trainable(seeing_model()), PartRates({"llm": 1e-3}), make, {})


RATES = PartRates({"second": 3e-2, "first.bias": 0.0})


def run(folder: Path, hooks: list[Any], rates: PartRates = RATES, saved: Path | None = None) -> Any:
    runner = build(folder, hooks, accumulate=2, rates=rates)
    if saved is not None:
        runner.restore(ckpt.read(saved), saved)
    runner.train()
    return runner


def test_groups_resume_to_the_same_bits_and_new_rates_are_free(tmp_path: Path) -> None:
    losses = Losses()
    whole = run(tmp_path / "a", [losses, CheckpointHook(5, by_epoch=False)])
    assert whole.group_names == ["second", "rest"]
    again = Losses()
    resumed = run(tmp_path / "b", [again], saved=tmp_path / "a" / "iter_15")
    assert again.rows == losses.rows[again.rows[0][0] :] and len(again.rows) >= 21
    for name, parameter in resumed.model.state_dict().items():
        assert torch.equal(parameter, whole.model.state_dict()[name]), name
    fresh = build(tmp_path / "fresh", []).model.first.bias
    assert torch.equal(whole.model.first.bias, fresh), "a frozen part does not move"

    other = build(
        tmp_path / "c", [], accumulate=2, rates=PartRates({**RATES.lr_groups, "second": 1})
    )
    saved = ckpt.read(tmp_path / "a" / "iter_15")
    changes = resume.compare(saved.state, other.plan(), other.identity, [])
    assert [(c.key, c.refused) for c in changes] == [("lr", False)]
    other.restore(saved, "a")
    assert other.rates(5)[0] == pytest.approx(resumed.rates(5)[0] / 3e-2)


def test_schedules_move_every_group_from_its_own_rate_and_all_rates_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Records:
        rows: list[dict[str, Any]] = []

        def write(self, record: dict[str, Any]) -> None:
            self.rows.append(record)

    runner = build(tmp_path, [LoggerHook(interval=6)], rates=RATES, loop=TrainLoop(max_iters=12))
    runner.trackers = [Records()]
    with caplog.at_level("INFO"):
        runner.train()
    for row in Records.rows:
        assert row["lr"] == row["lr/second"] == pytest.approx(row["lr/rest"] * 3)
    assert 0 < Records.rows[0]["lr"] < 3e-2
    assert not any("lr/" in r.message for r in caplog.records), "the line shows the first rate"
    assert isinstance(runner.model, ToyModel)


@pytest.mark.parametrize("name", ["bitsandbytes.optim.AdamW8bit", "torch.optim.Adafactor"])
def test_other_optimizers_take_groups(name: str) -> None:
    module, _, cls = name.rpartition(".")
    make = getattr(pytest.importorskip(module), cls)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 96), nn.Linear(96, 1))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, make, {"lr": 1e-2}, PartRates({"0": 1e-9}))
    model(torch.ones(2, 96)).square().sum().backward()
    optimizer.step()
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in model.named_parameters()}
    assert moved["1.weight"] > 100 * moved["0.weight"]
