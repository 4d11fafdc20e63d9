"""Resume: the same bits at every save point, and what may change between two starts."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Losses, ToyData, build

from inlay.core.errors import CheckpointError
from inlay.engine import checkpoint as ckpt
from inlay.engine import resume
from inlay.engine.hooks import CheckpointHook
from inlay.engine.settings import TrainLoop


def run(work_dir: Path, hooks: list[Any], saved: Path | None = None, **kwargs: Any) -> Any:
    runner = build(work_dir, hooks, **kwargs)
    if saved is not None:
        runner.restore(ckpt.read(saved), saved)
    runner.train()
    return runner


@pytest.mark.parametrize("workers,accumulate", list(itertools.product((0, 2), (1, 3))))
def test_every_save_point_resumes_to_the_same_bits(
    tmp_path: Path, workers: int, accumulate: int
) -> None:
    settings: dict[str, Any] = {"workers": workers, "accumulate": accumulate}
    losses = Losses()
    whole = run(tmp_path / "a", [losses, CheckpointHook(1, by_epoch=False)], **settings)
    points = ckpt.list_checkpoints(tmp_path / "a")
    assert len(points) == 36
    # Workers only change who reads: a sample of the points is enough there.
    for path in points[:: 1 if workers == 0 else 9]:
        again = Losses()
        resumed = run(tmp_path / "b", [again], path, **settings)
        start = again.rows[0][0] if again.rows else 36
        assert again.rows == losses.rows[start:], path.name
        for ours, reference in zip(resumed.parameters, whole.parameters, strict=True):
            assert torch.equal(ours, reference), path.name
        assert resumed.state.samples + resumed.pending[0] == 69


def test_epoch_checkpoints_resume_in_the_next_epoch(tmp_path: Path) -> None:
    losses = Losses()
    run(tmp_path / "a", [losses, CheckpointHook(1, by_epoch=True)])
    names = [p.name for p in ckpt.list_checkpoints(tmp_path / "a")]
    assert names == ["epoch_1", "epoch_2", "epoch_3"]
    again = Losses()
    run(tmp_path / "b", [again], tmp_path / "a" / "epoch_2")
    assert again.rows == losses.rows[24:]


@pytest.mark.parametrize("batch_size,accumulate", [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_another_batch_size_at_an_equal_product_continues_at_the_right_item(
    tmp_path: Path, batch_size: int, accumulate: int
) -> None:
    first = Losses()
    hook = CheckpointHook(3, by_epoch=False, save_last=False)
    run(
        tmp_path / "a", [first, hook], dropout=0.0, batch_size=2, accumulate=3,
        loop=TrainLoop(max_iters=15),
    )  # fmt: skip
    second = Losses()
    run(
        tmp_path / "b", [second], tmp_path / "a" / "iter_15",
        dropout=0.0, batch_size=batch_size, accumulate=accumulate,
    )  # fmt: skip
    ids = [i for _, _, b in first.rows + second.rows for i in b]
    assert all(sorted(ids[k * 23 : (k + 1) * 23]) == list(range(23)) for k in range(3))
    assert len(ids) == 69


def test_a_longer_run_and_a_new_learning_rate_are_free_and_take_effect(tmp_path: Path) -> None:
    run(tmp_path / "a", [CheckpointHook(12, by_epoch=False)], loop=TrainLoop(max_epochs=1))
    saved = ckpt.read(tmp_path / "a" / "iter_12")
    runner = build(tmp_path / "b", [], lr=5e-3, loop=TrainLoop(max_epochs=2))
    changes = resume.compare(saved.state, runner.plan(), runner.identity, [])
    assert {c.key for c in changes} == {"lr", "max_iters", "max_epochs"}
    assert not any(c.refused for c in changes)
    runner.restore(saved, "a")
    runner.train()
    assert runner.state.iter == 24
    assert 0 < runner.optimizer.param_groups[0]["lr"] < 5e-3


def test_changed_data_is_refused_by_name_and_allowed_by_name(tmp_path: Path) -> None:
    run(tmp_path / "a", [CheckpointHook(6, by_epoch=False)], loop=TrainLoop(max_iters=6))
    saved = ckpt.read(tmp_path / "a" / "iter_6")
    runner = build(tmp_path / "b", [], data=ToyData(24))
    changes = resume.compare(saved.state, runner.plan(), runner.identity, [])
    assert "toy-23" in resume.table(changes, "here")
    with pytest.raises(CheckpointError, match=r"data .*toy-23 -> toy-24.*--allow-change data"):
        resume.refuse(changes, "iter_6")
    resume.refuse(resume.compare(saved.state, runner.plan(), runner.identity, ["data"]), "iter_6")
    with pytest.raises(CheckpointError, match="Did you mean 'data'"):
        resume.compare(saved.state, runner.plan(), runner.identity, ["dada"])


def test_retention_goes_by_step_never_by_time(tmp_path: Path) -> None:
    import os

    class Skew:
        def after_save_checkpoint(self, runner: Any, checkpoint: Any) -> None:
            for i, path in enumerate(ckpt.list_checkpoints(runner.work_dir)):
                os.utime(path, (1e9 - i * 3600, 1e9 - i * 3600))

    hook = CheckpointHook(2, by_epoch=False, max_keep_ckpts=2)
    run(tmp_path, [Skew(), hook], val=ToyData(4), loop=TrainLoop(max_iters=30, val_interval=5))
    names = [p.name for p in ckpt.list_checkpoints(tmp_path)]
    assert names == ["iter_28", "iter_30"]
    assert (tmp_path / "last_checkpoint").read_text() == "iter_30"
    best = list(tmp_path.glob("best_loss_iter_*"))
    assert len(best) == 1 and ckpt.damage(best[0]) is None
    shutil.move(tmp_path, tmp_path.parent / "moved")
    assert ckpt.locate(tmp_path.parent / "moved").name == "iter_30"


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 9])
def test_as_many_are_kept_as_are_asked_for(tmp_path: Path, keep: int) -> None:
    hook = CheckpointHook(2, by_epoch=False, max_keep_ckpts=keep)
    run(tmp_path, [hook], loop=TrainLoop(max_iters=12))
    names = [p.name for p in ckpt.list_checkpoints(tmp_path)]
    assert names == [f"iter_{i}" for i in range(2, 14, 2)][-keep:]


def test_extra_values_of_hooks_travel_as_json_and_tensors(tmp_path: Path) -> None:
    class Extra:
        got: Any = None

        def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = {"count": 3}
            checkpoint["ema"] = torch.arange(4.0)

        def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
            self.got = checkpoint

    run(tmp_path, [Extra(), CheckpointHook(6, by_epoch=False)], loop=TrainLoop(max_iters=6))
    extra = Extra()
    build(tmp_path, [extra]).restore(ckpt.read(tmp_path / "iter_6"), "iter_6")
    assert extra.got["mine"] == {"count": 3}
    assert torch.equal(extra.got["ema"], torch.arange(4.0))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, [CheckpointHook(6, by_epoch=False)], loop=TrainLoop(max_iters=6))
    saved = ckpt.read(tmp_path / "iter_6")
    runner = build(tmp_path, [])
    saved.tensors["model"]["third.weight"] = saved.tensors["model"].pop("first.weight")
    with pytest.raises(CheckpointError, match=r"first\.weight.*third\.weight"):
        runner.restore(saved, "iter_6")
