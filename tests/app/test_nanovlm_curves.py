"""The nanoVLM recipe's curves have the names of the original."""

from __future__ import annotations

from pathlib import Path

import runs
from nanovlm_runs import Backbones, mixed_rows, write

NAMES = {
    "batch_loss": "loss",
    "grad_norm": "grad_norm",
    "val_loss": "val/loss",
    "epoch_loss": "epoch/loss",
    "epoch_tokens_per_second": "epoch/tokens_per_second",
    "training_stats/avg_tokens_per_second": "training_stats/avg_tokens_per_second",
    "training_stats/max_fw_bw_time": "training_stats/max_fw_bw_time",
    "training_stats/min_images_per_sample": "training_stats/min_images_per_sample",
    "training_stats/trained_token_share": "training_stats/trained_token_share",
    "training_stats/padding_share": "training_stats/padding_share",
    "lr/projector": "lr/projector",
}
"""The original's name, or ours with its group, and what it is in ``scalars.json``."""


def test_curves_have_the_names_of_the_original(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = write(tmp_path / "rows.jsonl", mixed_rows(tmp_path, 24))
    settings = {"val_size": 4, "eval_interval": 2, "stats_log_interval": 2}
    settings |= {"default_hooks__logger__interval": 2, "max_training_steps": 20}
    words = Backbones(tmp_path / "backbones").train(data, tmp_path / "w", **settings)
    code, text = runs.inlay(words, tmp_path)
    assert code == 0, text
    (folder,) = tmp_path.glob("w/*/vis_data")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert "train/loss" not in events.Tags()["scalars"]
    records = runs.scalars(tmp_path / "w")
    for name, key in NAMES.items():
        curve = [(e.step, e.value) for e in events.Scalars(name)]
        lines = [(r["step"], r[key]) for r in records if key in r]
        assert len(curve) == len(lines) > 0, name
        for (step, value), (at, number) in zip(curve, lines, strict=True):
            assert step == at and abs(value - number) <= 1e-6 * abs(number), name
    updates = [r["update"] for r in records if "loss" in r]
    assert updates == list(range(1, 21)), "a line for every update"
    assert 0 < max(r.get("training_stats/padding_share", 0) for r in records) < 1
