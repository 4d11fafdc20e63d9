"""The resume scenarios of the training handbook that F-LMM's users follow, scaled down.

There: 8 epochs, batch 128, accumulation 1, 2 GPUs; here: 2 epochs, batch 4, 2 ranks on gloo.
Settings are changed in the file, as the handbook says.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import (
    inlay,
    recorded,
    row,
    scalars,
    start_ranks,
    stop_at,
    train,
    train_ranks,
    write_config,
    write_rows,
)

from inlay.engine import checkpoint as ckpt

ROWS = 36  # the last update of an epoch is a short one
BEFORE = {"batch_size": 4, "accumulative_counts": 1}
HALVED = {"batch_size": 2, "accumulative_counts": 2}


def config(folder: Path, model: Path, *lines: str, **settings: Any) -> Path:
    """The handbook's config with some settings; ``lines`` are added to its end."""
    data = write_rows(folder / "rows.json", [row(i) for i in range(ROWS)])
    settings = {"pack_to_max_length": False, "lr": 1e-3, **settings}
    path = write_config(
        folder, model, data, name=f"run{len(list(folder.glob('*.py')))}", **settings
    )
    with path.open("a") as file:
        file.write("\n".join(lines) + "\n")
    return path


def updates(record: Path) -> dict[int, Counter[int]]:
    """The documents of every update, over both ranks."""
    found: dict[int, Counter[int]] = {}
    for rank in (0, 1):
        for line in recorded(record, rank):
            found.setdefault(line["update"], Counter()).update(line["documents"])
    return found


def rates(work: Path) -> dict[int, float]:
    """Learning rate of every update, as logged when it was made."""
    logged = [r for r in scalars(work) if "loss" in r]
    return {r["samples"]: r["lr"] for r in logged}


def stopped(folder: Path, model: Path, work: Path, **settings: Any) -> Path:
    """Train on two ranks as at first, until a signal after update 3. Returns the checkpoint."""
    words = ["train", config(folder, model, **BEFORE, **settings), "--work-dir", work]
    children = start_ranks(words, folder, 2, [stop_at(3), None])
    assert [c.wait() for c in children] == [143, 143], children[0].text
    newest = ckpt.newest_valid(work)[0]
    assert newest is not None
    return newest


def test_half_the_batch_and_twice_the_accumulation_go_on_as_if_nothing_had_changed(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Out of memory: batch 128 -> 64, accumulative_counts 1 -> 2, the same effective batch."""
    whole = config(tmp_path, tiny_model, **BEFORE, record=str(tmp_path / "docs_whole"))
    train_ranks(whole, tmp_path / "whole")
    work = tmp_path / "w"
    assert stopped(tmp_path, tiny_model, work, record=str(tmp_path / "docs")) == work / "iter_3"
    changed = config(
        tmp_path, tiny_model, "load_from = None", "resume = True",
        **HALVED, record=str(tmp_path / "docs"),
    )  # fmt: skip
    said = train_ranks(changed, work)
    for key, before, now in (
        ("batch_size", 4, 2),
        ("accumulative_counts", 1, 2),
        ("iters_per_epoch", 5, 9),
        ("max_iters", 10, 18),
    ):
        assert re.search(rf"^{key} +{before} +{now} +continues$", said, re.MULTILINE), said
    assert f"Auto resumed from the latest checkpoint {work / 'iter_3'}." in said
    assert f"Continues at update 3, epoch 1, item 24 of {ROWS}" in said
    assert updates(tmp_path / "docs") == updates(tmp_path / "docs_whole")
    one, two = rates(tmp_path / "whole"), rates(work)
    # The schedule goes by the last iteration of a window, which is half a window further on now.
    late = sorted(one.keys() & two.keys() - set(range(25)))
    assert late == [32, 36, 44, 52, 60, 68, 72]
    assert [two[s] for s in late] == pytest.approx([one[s] for s in late], abs=1.3e-4)
    weights = [ckpt.load_weights(folder) for folder in (tmp_path / "whole", work)]
    assert all((weights[0][k] - weights[1][k]).abs().max() <= 1e-3 for k in weights[0])


@pytest.mark.long
def test_without_a_schedule_the_weights_are_the_same(tmp_path: Path, tiny_model: Path) -> None:
    flat = "param_scheduler = []"
    train_ranks(config(tmp_path, tiny_model, flat, **BEFORE), tmp_path / "whole")
    work = tmp_path / "w"
    words = ["train", config(tmp_path, tiny_model, flat, **BEFORE), "--work-dir", work]
    children = start_ranks(words, tmp_path, 2, [stop_at(3), None])
    assert [c.wait() for c in children] == [143, 143], children[0].text
    train_ranks(config(tmp_path, tiny_model, flat, "resume = True", **HALVED), work)
    weights = [ckpt.load_weights(folder) for folder in (tmp_path / "whole", work)]
    assert all((weights[0][k] - weights[1][k]).abs().max() <= 1e-5 for k in weights[0])


def test_another_effective_batch_is_refused_with_the_table(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Batch 128 -> 64 alone: iter_1500 would be another place in the run."""
    work = tmp_path / "w"
    folder = stopped(tmp_path, tiny_model, work)
    halved = {"batch_size": 2, "accumulative_counts": 1}
    path = config(tmp_path, tiny_model, "resume = True", **halved)
    words = ["train", path, "--work-dir", work]
    children = start_ranks(words, tmp_path, 2)
    assert [c.wait() for c in children] == [1, 1], children[0].text
    said = children[0].text
    for line in (
        r"batch_size +4 +2 +continues",
        r"iters_per_epoch +5 +9 +continues",
        r"effective_batch +8 +4 +refused",
        rf"continues at update 3, epoch 1, item 24 of {ROWS}",
    ):
        assert re.search(rf"^{line}$", said, re.MULTILINE), said
    assert f"not resumed from {folder}: this is another run" in said
    assert "effective_batch (samples of one update (batch_size x devices x " in said
    assert "--allow-change effective_batch" in said
    # The handbook's third way, on purpose: on at the same sample, 4 samples an update from there.
    done = train_ranks(path, work, "--allow-change", "effective_batch")
    assert "Auto resumed" in done
    assert [r["samples"] for r in scalars(work) if "loss" in r][3:5] == [28, 32]


def test_resume_with_load_from_takes_that_checkpoint_whole(
    tmp_path: Path, tiny_model: Path
) -> None:
    first = tmp_path / "first"
    words = {**BEFORE, "batch_size": 8, "save_steps": 2}
    train(config(tmp_path, tiny_model, **words), first)
    asked = first / "iter_4.pth"  # with the ending that the handbook's checkpoints have
    lines = (f"load_from = {str(asked)!r}", "resume = True")
    said = train(config(tmp_path, tiny_model, *lines, **words), tmp_path / "second")
    assert f"Resumed from checkpoint {first / 'iter_4'}. Continues at update 4" in said
    again = [r for r in scalars(tmp_path / "second") if "loss" in r]
    rest = [r for r in scalars(first) if "loss" in r and r["iter"] > 4]
    exact = ("iter", "update", "loss", "lr", "grad_norm", "samples")
    assert [[r[k] for k in exact] for r in again] == [[r[k] for k in exact] for r in rest]


def test_load_from_without_resume_takes_the_weights_and_starts_anew(
    tmp_path: Path, tiny_model: Path
) -> None:
    first = tmp_path / "first"
    words = {**BEFORE, "batch_size": 8}
    train(config(tmp_path, tiny_model, **words), first)
    newest = ckpt.newest_valid(first)[0]
    lines = (f"load_from = {str(newest)!r}", "resume = False")
    said = train(config(tmp_path, tiny_model, *lines, **words), tmp_path / "second")
    assert f"Loaded weights from {newest}" in said and "esumed" not in said
    began, ended = (
        [r for r in scalars(tmp_path / run) if "loss" in r] for run in ("second", "first")
    )
    assert began[0]["iter"] == 1 and began[0]["samples"] == 8
    assert began[0]["loss"] < ended[0]["loss"] and began[0]["lr"] == ended[0]["lr"]


def test_more_epochs_and_another_rate_take_effect_and_are_said(
    tmp_path: Path, tiny_model: Path
) -> None:
    work, words = tmp_path / "w", {**BEFORE, "batch_size": 8}
    path = config(tmp_path, tiny_model, "param_scheduler = []", **words)
    assert inlay(["train", path, "--work-dir", work], tmp_path, stop_at(3))[0] == 143
    words.update(lr=5e-4, max_epochs=3)
    lines = ("param_scheduler = []", "load_from = None", "resume = True")
    said = train(config(tmp_path, tiny_model, *lines, **words), work)
    assert re.search(r"^max_epochs +2 +3 +continues$", said, re.MULTILINE), said
    assert re.search(r"^lr +\[0.001\] +\[0.0005\] +continues$", said, re.MULTILINE), said
    logged = [(r["iter"], r["lr"]) for r in scalars(work) if "loss" in r]
    assert logged == [(i, 1e-3 if i <= 3 else 5e-4) for i in range(1, 16)]


@pytest.mark.parametrize("setting", ["resume = True", "resume = 'auto'"])
def test_resume_in_an_empty_folder_starts_a_run(
    tmp_path: Path, tiny_model: Path, setting: str
) -> None:
    words = {**BEFORE, "batch_size": 36, "max_epochs": 1}
    said = train(config(tmp_path, tiny_model, setting, **words), tmp_path / "w")
    assert "esumed" not in said and scalars(tmp_path / "w")
