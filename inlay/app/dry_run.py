"""`inlay train CONFIG --dry-run`: build everything, make a few real updates, write nothing."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from inlay.app import plan, workdir
from inlay.app import train as training
from inlay.app.duration import estimate_time
from inlay.core import dist
from inlay.engine import loop
from inlay.engine.hooks.base import HookList
from inlay.engine.hooks.logger import peak_memory

UPDATES = 4
"""Updates of a dry run: one to warm up, the others are measured."""
PATIENCE = 60.0
"""Seconds after which no further update is begun."""


class LossSum:
    """Adds up the loss of the micro-batches that it sees."""

    total = 0.0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.total += outputs.loss_sum.item()


def dry_run(
    config: str,
    cfg_options: Sequence[str],
    seed: int | None = None,
    *,
    updates: int = UPDATES,
    devices: int | None = None,
    strategy: Any = None,
) -> dict[str, Any]:
    """Make the first updates of ``config``'s run and measure them.

    Args:
        updates: at most, as the data and ``PATIENCE`` allow.
        devices: of the run whose time is estimated; None: as many as this one has.
        strategy: how several devices share the run, in place of the config's.

    Returns:
        ``build_s``, ``first_update_s`` and ``update_s`` (seconds; the median without the first one
        where there are several), ``peak_mb`` (MB), and of the first update: ``loss`` (mean of the
        window), ``grad_norm``, ``tokens``, ``trained_tokens`` or ``masks``; ``trainable``
        (parameters),
        ``items`` (samples or packs of an epoch; None for a stream), ``time`` (seconds of the whole
        run by part, see ``estimate_time``).
    """
    began = time.perf_counter()
    cfg = training.checked_config(config, cfg_options)
    device = training.start_process(cfg)
    try:
        return _measure(cfg, device, seed or 0, strategy, updates, devices, began)
    finally:
        training.end_process()


def _measure(
    cfg: Any,
    device: Any,
    seed: int,
    strategy: Any,
    updates: int,
    devices: int | None,
    began: float,
) -> dict[str, Any]:
    """See :func:`dry_run`; ``began`` is ``time.perf_counter`` at its start."""
    logger = workdir.open_log(None, 0, "WARNING")
    with tempfile.TemporaryDirectory() as nowhere:
        runner = training.build_runner(cfg, seed, device, Path(nowhere), None, logger, strategy)
        runner.model.train()
        built = time.perf_counter()
        first, seconds = _update(runner, updates)
        update_s = statistics.median(seconds[1:] or seconds)
        peak = peak_memory(device)
        loader = runner.train_dataloader
        counts = plan.count(
            cfg,
            loader,
            runner.loop,
            runner.optim.accumulative_counts,
            devices or dist.world_size(),
        )
        return {
            "build_s": built - began,
            "first_update_s": seconds[0],
            "update_s": update_s,
            "peak_mb": peak,
            **first,
            "trainable": sum(runner.strategy.shape(p).numel() for p in runner.parameters),
            "items": None if loader.iters_per_epoch is None else len(loader.dataset),
            "time": estimate_time(runner, counts, update_s, Path(nowhere)),
        }


def _update(runner: Any, most: int) -> tuple[dict[str, float], list[float]]:
    """Make updates: what the first one was, and the seconds of each, reading included."""
    watch = LossSum()
    runner.hooks_list = HookList([watch])
    first: dict[str, float] = {}
    loader = runner.train_dataloader
    unit = "masks" if plan.counts_masks(loader.dataset) else "trained_tokens"
    seconds: list[float] = []
    began = start = time.perf_counter()
    windows = loader.windows(0, 0, runner.optim.accumulative_counts)
    for window in islice(windows, most):
        loop.train_window(runner, window)
        seconds.append(time.perf_counter() - began)
        first = first or {
            "loss": watch.total / max(window.loss_units, 1),
            "grad_norm": runner.state.grad_norm or math.nan,
            "tokens": runner.pending[1],
            unit: window.loss_units,
        }
        began = time.perf_counter()
        if began - start > PATIENCE and len(seconds) > 1:
            break
    return first, seconds
