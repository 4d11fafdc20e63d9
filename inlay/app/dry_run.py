"""`inlay train CONFIG --dry-run`: build everything, make one real update, write nothing."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from inlay.app import train as training
from inlay.app import workdir
from inlay.engine import loop
from inlay.engine.hooks.base import HookList
from inlay.engine.hooks.logger import peak_memory


class LossSum:
    """Adds up the loss of the micro-batches that it sees."""

    total = 0.0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.total += outputs.loss_sum.item()


def dry_run(config: str, cfg_options: Sequence[str], seed: int | None = None) -> dict[str, float]:
    """Make one update of ``config``'s run and measure it.

    Returns:
        ``build_s`` and ``update_s`` (seconds), ``peak_mb`` (MB), ``loss`` (mean of the window),
        ``grad_norm``, ``tokens``, ``trained_tokens``, ``trainable`` (parameters).
    """
    began = time.perf_counter()
    cfg = training.checked_config(config, cfg_options)
    device = training.start_process(cfg)
    logger = workdir.open_log(None, 0, "WARNING")
    with tempfile.TemporaryDirectory() as nowhere:
        runner = training.build_runner(cfg, seed or 0, device, Path(nowhere), None, logger)
        runner.wrapped = runner.strategy.prepare(runner.model)
        runner.model.train()
        windows = runner.train_dataloader.windows(0, 0, runner.optim.accumulative_counts)
        window = next(islice(windows, 1))
        built = time.perf_counter()
        watch = LossSum()
        runner.hooks_list = HookList([watch])
        loop.train_window(runner, window)
    return {
        "build_s": built - began,
        "update_s": time.perf_counter() - built,
        "peak_mb": peak_memory(device),
        "loss": watch.total / max(window.loss_units, 1),
        "grad_norm": runner.state.grad_norm or math.nan,
        "tokens": runner.pending[1],
        "trained_tokens": window.loss_units,
        "trainable": sum(p.numel() for p in runner.parameters),
    }
