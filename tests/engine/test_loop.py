"""The loop: order of hooks, counters, accumulation, guards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Losses, ToyData, ToyModel, build

from inlay.core.errors import InlayError
from inlay.engine import checkpoint as ckpt
from inlay.engine.hooks import (
    CheckpointHook,
    IterTimerHook,
    LoggerHook,
    StatisticsHook,
    ThroughputHook,
)
from inlay.engine.hooks.base import POINTS
from inlay.engine.settings import TrainLoop


class Recorder:
    """Writes down every call: the point, and the iteration the runner shows."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        for point in POINTS:
            setattr(self, point, self._note(point))

    def _note(self, point: str) -> Any:
        def note(runner: Any, **kwargs: Any) -> None:
            self.calls.append(f"{point}@{runner.iter}")

        return note


def test_hooks_are_called_in_the_written_down_order(tmp_path: Path) -> None:
    recorder = Recorder()
    runner = build(
        tmp_path, [recorder], data=ToyData(3), val=ToyData(4), loop=TrainLoop(max_epochs=2)
    )
    runner.train()
    runner.save_checkpoint("iter_4")
    runner.test()

    def epoch(first: int) -> list[str]:
        second = first + 1
        return [
            f"before_train_epoch@{max(first - 1, 0)}",
            f"before_train_iter@{first}",
            f"after_train_iter@{first}",
            f"before_train_iter@{second}",
            f"after_train_iter@{second}",
            f"after_train_epoch@{second}",
            f"before_val@{second}",
            f"before_val_epoch@{second}",
            f"before_val_iter@{second}",
            f"after_val_iter@{second}",
            f"after_val_epoch@{second}",
            f"after_val@{second}",
        ]

    assert recorder.calls == [
        "before_run@0",
        "before_train@0",
        *epoch(0),
        *epoch(2),
        "after_train@4",
        "after_run@4",
        "before_save_checkpoint@4",
        "after_save_checkpoint@4",
        "before_run@4",
        "before_test@4",
        "before_test_epoch@4",
        "before_test_iter@4",
        "after_test_iter@4",
        "after_test_epoch@4",
        "after_test@4",
        "after_run@4",
    ]


def gradient(data: ToyData, ids: list[int], weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Reference: mean loss over all units of ``ids`` in one pass, without the engine."""
    model = ToyModel(0.0)
    model.load_state_dict(weights)
    from inlay.data.loader import item_seed

    batch = data.collate([data.item(i, item_seed(3, 0, i)) for i in ids])
    out = model(**batch.inputs)
    (out.loss_sum / out.loss_units).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("batch_size,accumulate", [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_accumulation_gives_the_gradient_of_the_whole_window(
    tmp_path: Path, batch_size: int, accumulate: int
) -> None:
    data = ToyData(21)
    runner = build(
        tmp_path, [losses := Losses()], data=data, dropout=0.0,
        batch_size=batch_size, accumulate=accumulate, loop=TrainLoop(max_epochs=1),
    )  # fmt: skip
    seen: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    step = runner.strategy.step

    def spy(optimizer: Any, parameters: list[Any], max_norm: float | None) -> Any:
        seen.append(torch.cat([p.grad.flatten().clone() for p in parameters]))
        start = sum(len(g) for g in taken)
        ids = [i for _, _, batch in losses.rows for i in batch][start:]
        ids += current["batch"]
        taken.append(ids)
        wanted.append(gradient(data, ids, runner.model.state_dict()))
        return step(optimizer, parameters, max_norm)

    taken: list[list[int]] = []
    current: dict[str, Any] = {}
    forward = runner.strategy.forward

    def watch(model: Any, batch: Any) -> Any:
        current["batch"] = batch.inputs["ids"].tolist()
        return forward(model, batch)

    runner.strategy.step, runner.strategy.forward = spy, watch  # type: ignore[method-assign]
    runner.train()
    assert [len(g) for g in taken] == [8, 8, 5]  # the short last window is not dropped
    for ours, reference in zip(seen, wanted, strict=True):
        assert float((ours - reference).norm() / reference.norm()) < 1e-6


def test_counters_and_windows_that_do_not_divide_the_plan(tmp_path: Path) -> None:
    runner = build(
        tmp_path, [losses := Losses()], accumulate=4, loop=TrainLoop(max_iters=15), batch_size=2
    )
    runner.train()
    runner.sync_counts()
    # 23 items: 12 iterations in epoch 0 (windows 4, 4, 4), then 3 of epoch 1.
    assert (runner.state.iter, runner.state.update, runner.state.epoch) == (15, 4, 1)
    assert runner.state.samples == 23 + 6 and len(losses.rows) == 15
    assert runner.state.position == 6


def test_every_item_once_an_epoch_in_distinct_orders(tmp_path: Path) -> None:
    runner = build(tmp_path, [losses := Losses()])
    runner.train()
    ids = [i for _, _, batch in losses.rows for i in batch]
    epochs = [ids[k * 23 : (k + 1) * 23] for k in range(3)]
    assert all(sorted(e) == list(range(23)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3


@pytest.mark.parametrize("where", [0, 7, 22])
def test_a_nan_sample_is_skipped_and_said(
    tmp_path: Path, where: int, caplog: pytest.LogCaptureFixture
) -> None:
    runner = build(tmp_path, [], data=ToyData(23, poison=where))
    with caplog.at_level("WARNING"):
        runner.train()
    assert runner.state.skipped_updates == 3  # once an epoch
    assert sum("skipped" in r.message for r in caplog.records) == 3
    assert all(torch.isfinite(p).all() for p in runner.parameters)
    runner.save_checkpoint("iter_36")


def test_nan_in_every_update_stops_the_run(tmp_path: Path) -> None:
    runner = build(tmp_path, [], data=ToyData(2, poison=0), max_skipped_updates=3)
    with pytest.raises(InlayError, match="last 3 updates"):
        runner.train()
    assert all(torch.isfinite(p).all() for p in runner.parameters)


def test_non_finite_weights_are_never_saved(tmp_path: Path) -> None:
    runner = build(tmp_path, [])
    runner.train()
    runner.parameters[0].data[0, 0] = math.inf
    with pytest.raises(InlayError, match=r"first\.weight"):
        runner.save_checkpoint("iter_36")
    assert not list(tmp_path.glob("*"))


def test_validation_by_iteration_and_at_the_end(tmp_path: Path) -> None:
    class Validations:
        def __init__(self) -> None:
            self.at: list[int] = []

        def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
            self.at.append(runner.state.iter)
            assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))

    seen = Validations()
    loop = TrainLoop(max_iters=14, val_interval=4)
    build(tmp_path, [seen], val=ToyData(5), loop=loop).train()
    assert seen.at == [4, 8, 12, 14]


class NothingToJudge(ToyData):
    """Held-out items without a single trained unit."""

    def collate(self, items: list[Any]) -> Any:
        return self.stand_in(items[0]) if len(items) == 1 else super().stand_in(items[0])

    def stand_in(self, item: Any) -> Any:
        batch = ToyData.collate(self, [item])
        return type(batch)({**batch.inputs, "live": False}, 0, 0, 0)


def test_data_without_a_unit_have_no_loss_and_are_never_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault 11: an average over nothing was 0, and 0 was the best."""
    loop = TrainLoop(max_iters=8, val_interval=4)
    hooks = [LoggerHook(), CheckpointHook(4, by_epoch=False)]
    runner = build(tmp_path, hooks, val=NothingToJudge(3), loop=loop)
    with caplog.at_level("WARNING"):
        runner.train()
    assert runner.state.best == {} and not list(tmp_path.glob("best*"))
    assert runner.state.validated_at == 8
    assert any("no trained token" in r.message for r in caplog.records)
    with pytest.raises(InlayError, match="nothing to judge"):
        runner.test()


def test_the_last_updates_are_saved(tmp_path: Path) -> None:
    """Fault 3: 15 iterations, a save every 4, the last window a short one."""
    hooks = [CheckpointHook(4, by_epoch=False)]
    runner = build(tmp_path, hooks, accumulate=2, loop=TrainLoop(max_iters=15))
    runner.train()
    names = [p.name for p in ckpt.list_checkpoints(tmp_path)]
    assert names == ["iter_4", "iter_8", "iter_12", "iter_15"]
    saved = ckpt.load_weights(tmp_path)
    assert all(torch.equal(saved[n], p) for n, p in runner.named_parameters.items())


def test_nothing_is_read_from_the_device_between_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 15: one read an update (the gradient norm), none a micro-batch."""
    hooks = [IterTimerHook(), LoggerHook(100), ThroughputHook(100), StatisticsHook(100)]
    runner = build(tmp_path, hooks, accumulate=4, dropout=0.0, loop=TrainLoop(max_iters=24))
    reads: list[tuple[str, int]] = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy"):
        real = getattr(torch.Tensor, name)

        def read(self: torch.Tensor, *args: Any, real: Any = real, name: str = name) -> Any:
            reads.append((name, runner.state.iter))
            return real(self, *args)

        monkeypatch.setattr(torch.Tensor, name, read)
    runner.train()
    by_iter = [i for _, i in reads if i < 24]
    assert runner.state.update == 6
    assert by_iter == [i for i in range(24) if i % 4 == 3], reads
