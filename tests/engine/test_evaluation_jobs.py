"""Results of evaluation jobs in a run: logged once, the best kept, nothing deleted too early."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy import ToyData, build

from inlay.engine import checkpoint as ckpt
from inlay.engine.hooks import CheckpointHook, EvaluationJobsHook, Hook
from inlay.engine.settings import TrainLoop

ACCURACY = "eval/vqa/accuracy"


class Jobs:
    """Jobs whose results come when the test says so: after ``delay`` more iterations."""

    def __init__(self, scores: dict[int, float | None], delay: int = 0) -> None:
        self.scores, self.delay = scores, delay
        self.outcomes: deque[Any] = deque()
        self.waiting: list[list[Any]] = []
        self.asked: list[int] = []
        self.stopped: bool | None = None

    def start(self) -> list[Any]:
        return []

    def submit(self, step: int, checkpoint: str) -> None:
        self.asked.append(step)
        self.waiting.append([self.delay, step, checkpoint])

    def unfinished(self) -> int:
        self.tick()
        return len(self.waiting)

    def tick(self) -> None:
        for job in [*self.waiting]:
            job[0] -= 1
            if job[0] < 0:
                self.waiting.remove(job)
                value = self.scores.get(job[1], 0.0)
                metrics = None if value is None else {ACCURACY: value}
                outcome = SimpleNamespace(
                    step=job[1], checkpoint=job[2], weights="w", metrics=metrics, problem="it broke"
                )
                self.outcomes.append(outcome)

    def close(self, stop: bool = False) -> None:
        self.stopped = stop


class Watch(Hook):
    """Lets time pass for the jobs, and looks at the checkpoints on disk, after each iteration."""

    priority = 96

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.seen: list[set[str]] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.jobs.tick()
        self.seen.append({path.name for path in ckpt.list_checkpoints(runner.work_dir)})


class Records:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any]) -> None:
        self.rows.append(record)


def run(
    tmp_path: Path, jobs: Jobs, *, keep: int = 1, interval: int = 2, wait: float = 5.0, **best: Any
) -> Any:
    """Twelve iterations, saved every second; records and the watch hang on the runner."""
    watch, records = Watch(jobs), Records()
    hook = EvaluationJobsHook(interval, lambda runner, **settings: (jobs, {}), wait=wait)
    saver = CheckpointHook(interval=2, by_epoch=False, max_keep_ckpts=keep, **best)
    runner: Any = build(
        tmp_path, [saver, hook, watch], data=ToyData(24), loop=TrainLoop(max_iters=12)
    )
    runner.trackers = [records]
    runner.hook, runner.watch, runner.records = hook, watch, records.rows
    return runner


def test_a_checkpoint_stays_until_its_evaluation_is_over(tmp_path: Path) -> None:
    jobs = Jobs({}, delay=5)
    runner = run(tmp_path, jobs)
    runner.train()
    assert jobs.asked == [2, 4, 6, 8, 10, 12]
    # One is to be kept. The result of iter_2 comes after iteration 7 and is taken after 8, so the
    # save after 10 is the first one that deletes it.
    there = [done for done, names in enumerate(runner.watch.seen, 1) if "iter_2" in names]
    assert there == [2, 3, 4, 5, 6, 7, 8, 9]
    assert runner.held == set()
    assert jobs.stopped is False


def test_results_are_logged_once_after_the_last_update_too(tmp_path: Path) -> None:
    jobs = Jobs({2: 0.5, 4: None, 6: 0.25}, delay=4)
    runner = run(tmp_path, jobs, interval=4)
    runner.hook.logged = {"8": "w"}  # by an earlier start
    runner.train()
    assert jobs.asked == [4, 8, 12]
    assert runner.records == [
        {"step": 12, ACCURACY: 0.0, "eval_weights": "w", "axis": "evaluation"}
    ]
    saved = ckpt.read(tmp_path / "iter_12").state["hooks"]
    assert saved["evaluation_logged"] == {"8": "w"}  # written before the last result came


def test_where_nothing_is_saved_the_hook_saves(tmp_path: Path) -> None:
    jobs = Jobs({})
    runner = run(tmp_path, jobs, interval=3, keep=-1)
    runner.train()
    names = {path.name for path in ckpt.list_checkpoints(tmp_path)}
    assert {"iter_3", "iter_6", "iter_9", "iter_12"} <= names
    weights = ckpt.load_weights(tmp_path / "iter_3")
    assert weights and ckpt.read(tmp_path / "iter_3").state["saved_at_iter"] == 3


def test_the_best_by_an_evaluation_is_kept(tmp_path: Path) -> None:
    jobs = Jobs({2: 0.2, 4: 0.7, 6: 0.3, 8: None, 10: 0.7, 12: 0.1}, delay=3)
    runner = run(tmp_path, jobs, save_best=ACCURACY, rule="greater")
    expected: dict[str, Any] = {}

    class Keep(Hook):
        def after_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
            if runner.state.iter == 4:
                expected.update({n: p.clone() for n, p in runner.named_parameters.items()})

    runner.hooks_list = type(runner.hooks_list)([*runner.hooks, Keep()])
    runner.train()
    (best,) = tmp_path.glob("best_*")
    assert best.name == "best_eval_vqa_accuracy_iter_4"
    assert ckpt.damage(best) is None
    kept = ckpt.load_weights(best)
    assert expected.keys() == kept.keys()
    assert all(torch.equal(expected[name], kept[name]) for name in kept)
    assert runner.state.best == {ACCURACY: {"value": 0.7, "iter": 4, "name": best.name}}
    assert [path.name for path in ckpt.list_checkpoints(tmp_path)] == ["iter_12"]


def test_a_name_that_no_evaluation_gives_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(tmp_path, Jobs({}), save_best="eval/vqa/precision").train()
    said = [r.message for r in caplog.records if "precision" in r.message]
    assert said == [f"save_best='eval/vqa/precision': evaluation gives only {ACCURACY}"]
    assert not list(tmp_path.glob("best_*"))


def test_the_end_waits_no_longer_than_it_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs({}, delay=10**6)
    runner = run(tmp_path, jobs, wait=0.5)
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        runner.train()
    assert time.monotonic() - began < 5
    assert "6 not over yet: start the run again" in caplog.text
    assert len(ckpt.list_checkpoints(tmp_path)) == 6  # none of them was judged


def test_a_run_with_jobs_trains_the_same_bits(tmp_path: Path) -> None:
    run(tmp_path / "with", Jobs({}, delay=2)).train()
    saver = CheckpointHook(interval=2, by_epoch=False)
    plain = build(tmp_path / "without", [saver], data=ToyData(24), loop=TrainLoop(max_iters=12))
    plain.train()
    a, b = (ckpt.load_weights(tmp_path / name / "iter_12") for name in ("with", "without"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5])
def test_as_many_checkpoints_stay_as_are_asked_for(tmp_path: Path, keep: int) -> None:
    run(tmp_path, Jobs({}), keep=keep, interval=-1).train()
    names = [path.name for path in ckpt.list_checkpoints(tmp_path)]
    assert names == [f"iter_{done}" for done in (2, 4, 6, 8, 10, 12)][-keep:]


def test_a_copy_shares_its_files_or_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "iter_1"
    ckpt.write(source, ckpt.Checkpoint({"model": {"a": torch.ones(2)}}, {"x": 1}))
    ckpt.copy(source, tmp_path / "linked")
    assert os.path.samefile(source / "state.json", tmp_path / "linked/state.json")

    def refuse(*names: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    ckpt.copy(source, tmp_path / "copied")
    ckpt.copy(source, tmp_path / "copied")  # in place of what is there
    assert not os.path.samefile(source / "state.json", tmp_path / "copied/state.json")
    assert ckpt.damage(tmp_path / "copied") is None and ckpt.damage(tmp_path / "linked") is None
    assert json.loads((tmp_path / "copied/state.json").read_text())["x"] == 1
