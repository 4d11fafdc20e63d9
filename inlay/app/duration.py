"""How long a run will take, from a few updates that were really made."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from inlay.engine.tensor_file import write_tensors

PROBE_BYTES = 32 << 20
"""Written to find out how fast the disk takes a checkpoint."""


def estimate_time(
    runner: Any, counts: Mapping[str, Any], update_s: float, folder: Path
) -> dict[str, float]:
    """Estimate the seconds of a whole run.

    Args:
        runner: built, with at least one update behind it.
        counts: of the run, from ``plan.count``.
        update_s: seconds of one update.
        folder: on the disk whose speed counts.

    Returns:
        ``training, validation, checkpoints, total`` in seconds. Hooks that do much, such as answers
        to questions, come on top.
    """
    parts = {
        "training": update_s * counts["updates"],
        "validation": _validation_seconds(runner) * counts["validations"],
        "checkpoints": _save_seconds(runner, folder) * counts["checkpoints"]["written"],
    }
    return {**parts, "total": sum(parts.values())}


def _validation_seconds(runner: Any) -> float:
    """Seconds of one validation, from its second batch: the first one pays for the start."""
    loader = runner.val_dataloader
    batches = 0 if loader is None else loader.iters_per_epoch
    if batches is None:  # a stream: as long as it is told to be
        step = loader.batch_size * runner.world_size
        batches = -(-(loader.dataset.max_items or 0) // step)
    if not batches:
        return 0.0
    seconds = 0.0
    runner.model.eval()
    with torch.no_grad():
        began = time.perf_counter()
        for batch in islice(loader.batches(), 2):
            runner.strategy.forward(runner.model, batch).loss_sum.item()
            began, seconds = time.perf_counter(), time.perf_counter() - began
    runner.model.train()
    return seconds * batches


def _save_seconds(runner: Any, folder: Path) -> float:
    """Seconds of one checkpoint: its bytes at the speed of a small file, checksum included."""
    tensors = [p.data for p in runner.parameters]
    for state in runner.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    began = time.perf_counter()
    probe = torch.zeros(PROBE_BYTES, dtype=torch.uint8)
    write_tensors(folder / "probe.safetensors", {"probe": probe}).result()
    speed = PROBE_BYTES / (time.perf_counter() - began)
    return sum(t.numel() * t.element_size() for t in tensors) / speed


def describe_time(parts: Mapping[str, float]) -> str:
    """An estimate as text, such as ``about 2:10:00 (training 2:00:00, validation 0:10:00)``."""
    shown = {name: datetime.timedelta(seconds=round(s)) for name, s in parts.items()}
    total = shown.pop("total")
    detail = ", ".join(f"{name} {span}" for name, span in shown.items() if parts[name] >= 1)
    return f"about {total}" + (f" ({detail})" if detail else "")
