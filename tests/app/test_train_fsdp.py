"""FSDP2 through the command line: the run of one device, in pieces; checkpoints for any ranks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from runs import (
    EXACT,
    inlay,
    look_here,
    scalars,
    start_ranks,
    stop_at,
    train,
    train_ranks,
    trained,
    write_config,
)

from inlay.engine import checkpoint as ckpt

LOSS = EXACT.index("loss")
FSDP = ("--strategy", "fsdp")
ONE = ("--cfg-options", "batch_size=2")
TWO = ("--cfg-options", "batch_size=1")


def largest_difference(one: Path, two: Path) -> float:
    """Of the losses of two runs, whose counts must be the same at every line."""
    a, b = trained(one), trained(two)
    exact = [i for i, key in enumerate(EXACT) if key not in ("loss", "grad_norm")]
    assert [[r[i] for i in exact] for r in a] == [[r[i] for i in exact] for r in b]
    return max(abs(x[LOSS] - y[LOSS]) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dropout", [None, 0.0], ids=["full", "lora"])
def test_losses_are_those_of_one_process(
    tmp_path: Path, tiny_model: Path, dropout: float | None
) -> None:
    """Packed, with the schedule and validation, two micro-batches a window, layers recomputed."""
    config = write_config(
        tmp_path, tiny_model, dropout=dropout, lr=1e-3, val_fraction=0.2,
        evaluation_inputs=["row 1?"],
    )  # fmt: skip
    text = config.read_text().replace("_checkpointing=False", "_checkpointing=True")
    config.write_text(text)
    alone = train(config, tmp_path / "one", *ONE)
    said = train_ranks(config, tmp_path / "two", *TWO, *FSDP)
    assert largest_difference(tmp_path / "one", tmp_path / "two") <= 1e-5
    one, two = (
        [r["val/loss"] for r in scalars(tmp_path / run) if "val/loss" in r]
        for run in ("one", "two")
    )
    assert len(one) == 2 and max(abs(a - b) for a, b in zip(one, two, strict=True)) <= 1e-5
    assert said.count("Sample output") == alone.count("Sample output") > 1
    last = ckpt.newest_valid(tmp_path / "two")[0]
    assert last is not None
    files = {p.name for p in last.glob("*.safetensors")}
    assert files >= {"model.safetensors", "optimizer_0.safetensors", "optimizer_1.safetensors"}
    sizes = [(last / f"optimizer_{r}.safetensors").stat().st_size for r in (0, 1)]
    assert max(sizes) < 1.5 * min(sizes)
    weights = [ckpt.load_weights(tmp_path / run) for run in ("one", "two")]
    assert all((weights[0][k] - weights[1][k]).abs().max() <= 1e-5 for k in weights[0])


def test_one_rank_two_in_pieces_and_one_again(tmp_path: Path, tiny_model: Path) -> None:
    """The positions and losses are those of the run that was never stopped; then DDP goes on."""
    config = write_config(tmp_path, tiny_model, lr=1e-3, max_epochs=3)
    train(config, tmp_path / "whole", *ONE)
    work = tmp_path / "w"
    one = ["train", config, "--work-dir", work, "--resume", *ONE]
    two = ["train", config, "--work-dir", work, "--resume", *TWO]
    assert inlay(one, tmp_path, stop_at(4))[0] == 143
    first, second = start_ranks([*two, *FSDP], tmp_path, 2, [stop_at(5), None])
    assert (first.wait(), second.wait()) == (143, 143), first.text + second.text
    assert re.search(r"world_size +1 +2 +continues", first.text), first.text
    saved = ckpt.newest_valid(work)[0]
    assert saved is not None and (saved / "optimizer_1.safetensors").is_file()
    assert inlay(one, tmp_path, stop_at(4))[0] == 143
    first, second = start_ranks([*two, *FSDP], tmp_path, 2, [stop_at(2), None])
    assert (first.wait(), second.wait()) == (143, 143), first.text + second.text
    train_ranks(config, work, "--resume", *TWO)
    assert largest_difference(tmp_path / "whole", work) <= 1e-5


@pytest.mark.long
def test_two_ranks_with_dropout_resume_to_the_same_bits(tmp_path: Path, tiny_model: Path) -> None:
    """Also inside an accumulation window; the strategy stands in the config."""
    config = write_config(tmp_path, tiny_model, dropout=0.1, batch_size=1)
    with config.open("a") as file:
        file.write('strategy = "fsdp"\n')
    train_ranks(config, tmp_path / "whole")
    work = tmp_path / "w"
    first, second = start_ranks(
        ["train", config, "--work-dir", work], tmp_path, 2, [None, stop_at(6)]
    )
    assert (first.wait(), second.wait()) == (143, 143), first.text + second.text
    train_ranks(config, work, "--resume")
    assert trained(work) == trained(tmp_path / "whole")


def test_export_needs_no_ranks_and_a_missing_piece_is_damage(
    tmp_path: Path, tiny_model: Path
) -> None:
    from safetensors.torch import load_file

    config = write_config(tmp_path, tiny_model, batch_size=1, max_epochs=1)
    with config.open("a") as file:
        file.write("from inlay.engine import FullySharded\n")
        file.write("strategy = dict(type=FullySharded, reshard_after_forward=False)\n")
    assert inlay(["check", config], tmp_path)[0] == 0
    train_ranks(config, tmp_path / "w")
    folder = ckpt.newest_valid(tmp_path / "w")[0]
    assert folder is not None
    out = tmp_path / "hf"
    words = ["convert", "pth_to_hf", config, folder, out, "--fp32"]
    code, text = inlay(words, tmp_path, look_here)
    assert code == 0, text
    trained_weights = ckpt.load_weights(folder)
    exported: dict[str, Any] = {}
    for file in out.glob("*.safetensors"):
        exported.update(load_file(file))
    assert exported and {f"llm.{n}" for n in exported} == set(trained_weights)
    assert all((exported[n] == trained_weights[f"llm.{n}"]).all() for n in exported)
    entries = json.loads((folder / "manifest.json").read_text())["files"]
    assert {"optimizer_0.safetensors", "optimizer_1.safetensors"} <= set(entries)
    (folder / "optimizer_1.safetensors").unlink()
    assert ckpt.damage(folder) == "optimizer_1.safetensors is missing"


def test_a_wrong_strategy_is_said_before_anything_is_built(
    tmp_path: Path, tiny_model: Path
) -> None:
    config = write_config(tmp_path, tiny_model)
    text = config.read_text()
    config.write_text(f'{text}\nstrategy = "fdsp"\n')
    code, said = inlay(["check", config], tmp_path)
    assert code == 1 and "expected 'ddp' | 'fsdp'" in said and "got 'fdsp'" in said, said
    config.write_text(f"{text}\nstrategy = dict(type='FullySharded', reshard_after_foward=True)\n")
    code, said = inlay(["check", config], tmp_path)
    assert code == 1 and "Did you mean" in said, said
