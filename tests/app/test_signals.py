"""Signals on one device: save, leave with the right code, lose nothing (reliability rows 6, 7)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import (
    Child,
    inlay,
    scalars,
    start,
    stop_at,
    stop_in_validation,
    train,
    trained,
    write_config,
)

from inlay.engine import checkpoint as ckpt


def make(folder: Path, model: Path, **settings: Any) -> tuple[Path, list[tuple[Any, ...]]]:
    """Return a config that draws random numbers, and the records of its uninterrupted run."""
    config = write_config(folder, model, dropout=0.1, accumulative_counts=3, **settings)
    train(config, folder / "whole")
    return config, trained(folder / "whole")


def by_iter(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The records by iteration; one that was logged twice must be the same both times."""
    first: dict[int, tuple[Any, ...]] = {}
    for row in rows:
        assert first.setdefault(row[0], row) == row
    return [first[i] for i in sorted(first)]


def wait_within(child: Child, seconds: float) -> int:
    began = time.monotonic()
    code = child.wait()
    assert time.monotonic() - began < seconds, child.text
    return code


@pytest.mark.parametrize("interval", [1, 10])
def test_sigterm_at_any_micro_batch_saves_and_the_resumed_run_logs_the_same_bits(
    tmp_path: Path, tiny_model: Path, interval: int
) -> None:
    config, whole = make(tmp_path, tiny_model, interval=interval)
    # The first, middle and last micro-batch of a window, the end of an epoch, the last but one.
    for batch in (1, 2, 5, 6, 9, 14, 17):
        work = tmp_path / f"at_{batch}"
        words = ["train", config, "--work-dir", work]
        code, text = inlay(words, tmp_path, stop_at(batch))
        assert code == 143, text
        assert f"stopped by SIGTERM at iteration {batch}" in text
        saved = ckpt.read(work / f"iter_{batch}").state["run"]
        assert saved["update"] == batch // 3, "an update was lost"
        assert saved["iter"] == batch - batch % 3, "no weight moves inside a window"
        text = train(config, work, "--resume")
        assert f"Auto resumed from the latest checkpoint {work / f'iter_{batch}'}" in text
        assert by_iter(trained(work)) == whole
        assert trained(work)[-1] == whole[-1]


def test_twenty_sigterms_at_random_times_cost_nothing(tmp_path: Path, tiny_model: Path) -> None:
    settings = {"max_epochs": 40, "batch_size": 1, "dataloader_num_workers": 0}
    config, whole = make(tmp_path, tiny_model, **settings)
    draw = random.Random(0)
    work = tmp_path / "killed"
    reached = -1
    for _ in range(20):
        child = start(["train", config, "--work-dir", work, "--resume"], tmp_path)
        child.wait_for("Iter(train)")
        time.sleep(draw.uniform(0, 0.1))
        os.kill(child.pid, signal.SIGTERM)
        assert wait_within(child, 5) == 143, child.text
        newest, damaged = ckpt.newest_valid(work)
        assert newest is not None and not damaged
        update = ckpt.read(newest).state["run"]["update"]
        assert update == max(row[1] for row in trained(work)) >= reached
        reached = update
    train(config, work, "--resume")
    assert by_iter(trained(work)) == whole


def test_workers_and_a_signal_to_the_whole_process_group(tmp_path: Path, tiny_model: Path) -> None:
    """As a batch system or a terminal sends it: the loader's workers get the signal, too."""
    config, whole = make(tmp_path, tiny_model, dataloader_num_workers=2, max_epochs=12)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        work = tmp_path / number.name
        child = start(["train", config, "--work-dir", work], tmp_path, before=os.setpgrp)
        child.wait_for("Iter(train) [ 10/")
        os.killpg(child.pid, number)
        assert wait_within(child, 5) == code, child.text
        assert "Traceback" not in child.text
        train(config, work, "--resume")
        assert by_iter(trained(work)) == whole


def test_ctrl_c_saves_and_exits_130(tmp_path: Path, tiny_model: Path) -> None:
    config, whole = make(tmp_path, tiny_model)
    work = tmp_path / "stopped"
    words = ["train", config, "--work-dir", work]
    code, text = inlay(words, tmp_path, stop_at(8, signal.SIGINT))
    assert code == 130 and "stopped by SIGINT at iteration 8" in text
    train(config, work, "--resume")
    assert by_iter(trained(work)) == whole


def twice() -> None:
    stop_at(2, signal.SIGINT)()
    stop_at(2, signal.SIGINT)()


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model)
    words = ["train", config, "--work-dir", tmp_path / "w"]
    code, text = inlay(words, tmp_path, twice)
    assert code == 130 and "error: interrupted" in text
    assert not ckpt.list_checkpoints(tmp_path / "w")


def while_loading(number: int) -> Callable[[], None]:
    """For ``before``: the signal comes while the weights are being loaded."""

    def patch() -> None:
        from inlay.app.assemble import Parts

        def model(self: Any) -> Any:
            os.kill(os.getpid(), number)
            time.sleep(60)

        Parts.model = model  # type: ignore[method-assign]

    return patch


@pytest.mark.parametrize("number,expected", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_training_leaves_at_once_and_frees_the_folder(
    tmp_path: Path, tiny_model: Path, number: int, expected: int
) -> None:
    config = write_config(tmp_path, tiny_model)
    words = ["train", config, "--work-dir", tmp_path / "w"]
    code, text = inlay(words, tmp_path, while_loading(number))
    assert code == expected, text
    assert "Traceback" not in text
    train(config, tmp_path / "w")


def test_half_a_validation_is_neither_logged_nor_best(tmp_path: Path, tiny_model: Path) -> None:
    config, whole = make(tmp_path, tiny_model, val_fraction=0.3, max_length=48)
    judged = [r["val/loss"] for r in scalars(tmp_path / "whole") if "val/loss" in r]
    assert len(judged) == 2
    work = tmp_path / "stopped"
    code, text = inlay(["train", config, "--work-dir", work], tmp_path, stop_in_validation)
    assert code == 143, text
    assert not [r for r in scalars(work) if "val/loss" in r]
    assert not list(work.glob("best_*"))
    train(config, work, "--resume")
    assert by_iter(trained(work)) == whole
    assert [r["val/loss"] for r in scalars(work) if "val/loss" in r][-1] == judged[-1]
