"""Data parallel on two gloo ranks: the run of one device, on more of them (reliability row 9)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import (
    EXACT,
    ROWS,
    inlay,
    recorded,
    row,
    scalars,
    start_ranks,
    stop_at,
    stop_in_validation,
    train,
    train_ranks,
    trained,
    write_config,
    write_rows,
)

from inlay.engine import checkpoint as ckpt

LOSS = EXACT.index("loss")
FLAT = {"pack_to_max_length": False, "lr": 1e-3}
NO_SCHEDULE = "param_scheduler=[]"


def documents(record: Path, ranks: int) -> dict[int, Counter[int]]:
    """Documents of every update, over all ranks."""
    found: dict[int, Counter[int]] = {}
    for rank in range(ranks):
        for line in recorded(record, rank):
            found.setdefault(line["update"], Counter()).update(line["documents"])
    return found


def options(record: Path, batch: int, accumulate: int, *more: str) -> list[str]:
    sizes = [f"batch_size={batch}", f"accumulative_counts={accumulate}"]
    return ["--cfg-options", f"record={record}", *sizes, *more]


@pytest.mark.parametrize("rows", [29, 30])
@pytest.mark.parametrize("batch,accumulate", [(1, 2), (2, 1)])
def test_two_ranks_make_the_updates_of_one(
    tmp_path: Path, tiny_model: Path, rows: int, batch: int, accumulate: int
) -> None:
    """29 rows leave a rank without items in the last window: it must not hang, nor count."""
    data = write_rows(tmp_path / "rows.json", [row(i) for i in range(rows)])
    config = write_config(tmp_path, tiny_model, data, **FLAT)
    one = [*options(tmp_path / "docs1", 2, 2, NO_SCHEDULE)]
    two = [*options(tmp_path / "docs2", batch, accumulate, NO_SCHEDULE)]
    train(config, tmp_path / "one", *one)
    train_ranks(config, tmp_path / "two", *two)
    expected, got = documents(tmp_path / "docs1", 1), documents(tmp_path / "docs2", 2)
    assert got == expected
    assert sum((got[u] for u in got), Counter()).total() == 2 * rows
    weights = [ckpt.load_weights(tmp_path / run) for run in ("one", "two")]
    assert all((weights[0][k] - weights[1][k]).abs().max() <= 1e-5 for k in weights[0])
    a, b = (last_of_updates(tmp_path / run) for run in ("one", "two"))
    assert [r[:3] for r in a] == [r[:3] for r in b], "update, samples, tokens"
    assert max(abs(x[3] - y[3]) / x[3] for x, y in zip(a, b, strict=True)) <= 1e-5, "grad_norm"


def last_of_updates(work: Path) -> list[tuple[Any, ...]]:
    """Update, samples, tokens and gradient norm after each update."""
    last = {r["update"]: r for r in scalars(work) if "loss" in r and r["update"]}
    # An update's first record is its own; later ones carry it into the next window.
    for r in reversed([r for r in scalars(work) if "loss" in r and r["update"]]):
        last[r["update"]] = r
    return [(u, r["samples"], r["tokens"], r["grad_norm"]) for u, r in sorted(last.items())]


def test_losses_are_equal_at_every_line(tmp_path: Path, tiny_model: Path) -> None:
    """Packed, with the schedule, two micro-batches a window: the same lines from 1 and 2 ranks."""
    config = write_config(tmp_path, tiny_model, lr=1e-3, val_fraction=0.2)
    train(config, tmp_path / "one", *options(tmp_path / "docs1", 2, 2))
    train_ranks(config, tmp_path / "two", *options(tmp_path / "docs2", 1, 2))
    one, two = trained(tmp_path / "one"), trained(tmp_path / "two")
    exact = [i for i, key in enumerate(EXACT) if key not in ("loss", "grad_norm")]
    assert [[r[i] for i in exact] for r in one] == [[r[i] for i in exact] for r in two]
    assert max(abs(a[LOSS] - b[LOSS]) for a, b in zip(one, two, strict=True)) <= 1e-6
    judged = [
        [(r["val/loss"], r["val/units"]) for r in scalars(tmp_path / run) if "val/loss" in r]
        for run in ("one", "two")
    ]
    assert len(judged[0]) == len(judged[1]) == 2
    for a, b in zip(*judged, strict=True):
        assert abs(a[0] - b[0]) <= 1e-6 and a[1] == b[1]
    assert len(list((tmp_path / "two").glob("best_loss_iter_*"))) == 1


def test_from_one_rank_to_two_and_back_no_row_is_repeated_or_missed(
    tmp_path: Path, tiny_model: Path
) -> None:
    config = write_config(tmp_path, tiny_model, **FLAT)
    record, work = tmp_path / "docs", tmp_path / "w"
    train(config, tmp_path / "whole", *options(tmp_path / "docs_whole", 2, 2))

    one = ["train", config, "--work-dir", work, "--resume", *options(record, 2, 2)]
    two = ["train", config, "--work-dir", work, "--resume", *options(record, 1, 2)]
    assert inlay(one, tmp_path, stop_at(6))[0] == 143
    first, second = start_ranks(two, tmp_path, 2, [stop_at(9), None])
    assert (first.wait(), second.wait()) == (143, 143), first.text + second.text
    assert re.search(r"world_size +1 +2 +continues", first.text), first.text
    # Only rank 0 got the signal, inside a window: both ranks finish it and stop together.
    assert ckpt.newest_valid(work)[0] == work / "iter_15"
    code, text = inlay(one, tmp_path)
    assert code == 0, text
    assert documents_in_all(record) == documents_in_all(tmp_path / "docs_whole")
    assert [r[:LOSS] for r in trained(work)] == [r[:LOSS] for r in trained(tmp_path / "whole")]
    pairs = zip(trained(work), trained(tmp_path / "whole"), strict=True)
    assert max(abs(a[LOSS] - b[LOSS]) for a, b in pairs) <= 1e-6


def documents_in_all(record: Path) -> Counter[int]:
    lines = [
        line for rank in (0, 1) if Path(f"{record}.{rank}").exists()
        for line in recorded(record, rank)
    ]  # fmt: skip
    return sum((Counter(line["documents"]) for line in lines), Counter())


@pytest.mark.parametrize("interval", [1, 4])
def test_two_ranks_with_dropout_resume_to_the_same_bits(
    tmp_path: Path, tiny_model: Path, interval: int
) -> None:
    config = write_config(tmp_path, tiny_model, dropout=0.1, batch_size=1, interval=interval)
    train_ranks(config, tmp_path / "whole")
    work = tmp_path / "w"
    words = ["train", config, "--work-dir", work]
    first, second = start_ranks(words, tmp_path, 2, [None, stop_at(5)])
    assert (first.wait(), second.wait()) == (143, 143), first.text + second.text
    train_ranks(config, work, "--resume")
    assert trained(work) == trained(tmp_path / "whole")


def test_a_signal_to_one_rank_between_two_epochs_stops_both(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Ranks that saw the signal at different moments must still leave the loop together."""
    config = write_config(tmp_path, tiny_model, val_fraction=0.3, max_length=48)
    words = ["train", config, "--work-dir", tmp_path / "w"]
    first, second = start_ranks(words, tmp_path, 2, [None, stop_in_validation])
    assert (first.wait(), second.wait()) == (143, 143), first.text + second.text
    assert len([r for r in scalars(tmp_path / "w") if "val/loss" in r]) == 1
    train_ranks(config, tmp_path / "w", "--resume")
    assert sorted(Counter(r[-1] for r in trained(tmp_path / "w")).values())[-1] == 1


# -- through the launcher ------------------------------------------------------------------------


def test_the_launcher_trains_stops_at_sigterm_and_goes_on(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(
        tmp_path, tiny_model, lr=1e-3, batch_size=1, max_epochs=60, interval=9, save_steps=100
    )
    work = tmp_path / "w"
    command = [sys.executable, "-m", "inlay", "train", str(config), "--work-dir", str(work)]
    log = tmp_path / "launched.txt"
    with log.open("w") as output:
        child = subprocess.Popen(
            [*command, "--gpus", "2"], stdout=output, stderr=output, env={**os.environ}
        )
        wait_for(log, "Iter(train)")
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 143, log.read_text()
    assert "stopped by SIGTERM" in log.read_text()
    newest, damaged = ckpt.newest_valid(work)
    assert newest is not None and not damaged
    done = ckpt.read(newest).state["run"]
    assert done["samples"] >= ROWS * done["epoch"] > 0 or done["epoch"] == 0
    # The same command goes on, here on one process; counts are those of all ranks together.
    train(config, work, "--resume", "--cfg-options", "batch_size=2", "max_epochs=61")
    last = trained(work)[-1]
    assert last[-1] == ROWS * 61
    assert last[-2] == tokens_of_an_epoch(tmp_path, tiny_model) * 61


def tokens_of_an_epoch(folder: Path, model: Path) -> int:
    from transformers import AutoTokenizer

    from inlay.data.sft import ChatDataset

    tokenizer = AutoTokenizer.from_pretrained(model)
    return int(ChatDataset([{"path": str(folder / "rows.json")}], tokenizer).lengths.sum())


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 200
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
