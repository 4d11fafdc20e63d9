"""A streamed data set through the whole house: no length, exact resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inlay.app.train import TrainOptions, train
from inlay.core.errors import ConfigError

CONFIG = """
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer

from inlay.data import StreamDataset
from inlay.engine import ConstantLR, OptimWrapper, TrainLoop
from inlay.engine.hooks import CheckpointHook, IterTimerHook, LoggerHook
from inlay.models import SupervisedFinetune

path = {model!r}
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=path)
model = dict(
    type=SupervisedFinetune,
    use_activation_checkpointing=False,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=path),
)
train_dataloader = dict(
    batch_size=1,
    dataset=dict(
        type=StreamDataset, sources=[dict(path={data!r})], tokenizer=tokenizer,
        max_length=96, block_size=16,
    ),
)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3), accumulative_counts=2
)
param_scheduler = dict(type=ConstantLR, factor=1.0, by_epoch=False)
train_cfg = dict(type=TrainLoop, {length})
default_hooks = dict(
    timer=dict(type=IterTimerHook), logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=5),
)
randomness = dict(seed=1)
"""


def write(folder: Path, model: Path, length: str) -> str:
    turns = [(f"{i}?", "a" * (i % 40 + 1)) for i in range(50)]
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in turns
    ]
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    config = folder / "stream.py"
    config.write_text(CONFIG.format(model=str(model), data=str(data), length=length))
    return str(config)


def losses(work_dir: Path) -> dict[int, Any]:
    lines = [
        json.loads(line)
        for f in sorted(work_dir.glob("*/vis_data/scalars.json"))
        for line in f.read_text().splitlines()
    ]
    return {r["iter"]: (r["loss"], r["samples"], r["epoch"]) for r in lines}


def test_a_stream_resumes_to_the_same_bits_in_any_block(tmp_path: Path, tiny_model: Path) -> None:
    config = write(tmp_path, tiny_model, "max_iters=60")
    assert train(config, TrainOptions(work_dir=str(tmp_path / "whole"))) == 0
    whole = losses(tmp_path / "whole")
    assert len(whole) == 60 and whole[60][2] > 1  # the stream starts again when it has run out
    for at in (5, 20, 45):
        work = tmp_path / f"from_{at}"
        source = str(tmp_path / "whole" / f"iter_{at}")
        assert train(config, TrainOptions(work_dir=str(work), resume=source)) == 0
        again = losses(work)
        assert again == {i: whole[i] for i in again}
        assert max(again) == 60 and min(again) <= at + 1


def test_a_stream_needs_a_length_in_iterations(tmp_path: Path, tiny_model: Path) -> None:
    config = write(tmp_path, tiny_model, "max_epochs=1")
    with pytest.raises(ConfigError, match="max_iters=N"):
        train(config, TrainOptions(work_dir=str(tmp_path / "run")))
