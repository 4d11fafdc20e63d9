"""How long iterations take, and how many tokens they move."""

from __future__ import annotations

import time
from typing import Any

from inlay.engine.hooks.base import Hook


class IterTimerHook(Hook):
    """Writes ``train/data_time`` and ``train/time`` (seconds per iteration) to the message hub."""

    def before_train(self, runner: Any) -> None:
        self._last = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._data_time = time.perf_counter() - self._last

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        now = time.perf_counter()
        runner.message_hub.update_scalar("train/data_time", self._data_time)
        runner.message_hub.update_scalar("train/time", now - self._last)
        self._last = now

    def after_val(self, runner: Any) -> None:
        # Validation is not training time.
        self._last = time.perf_counter()

    def after_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self._last = time.perf_counter()


class ThroughputHook(Hook):
    """Writes ``train/tflops``: model TFLOP/s of this device, padding and recompute not counted.

    Uses 6 FLOP per parameter and token (arXiv 2001.08361, section 2.1), 4 where the weights are
    frozen and only adapters train; attention scores are left out.
    """

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval

    def before_train(self, runner: Any) -> None:
        shape = runner.strategy.shape
        total = sum(shape(p).numel() for p in runner.model.parameters())
        trained = sum(shape(p).numel() for p in runner.parameters)
        self._flops_per_token = 4 * total + 2 * trained
        self._tokens, self._began = 0, time.perf_counter()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._tokens += data_batch.num_tokens
        if self.every_n_train_iters(runner, self.interval):
            seconds = time.perf_counter() - self._began
            tflops = self._tokens * self._flops_per_token / seconds / 1e12
            runner.message_hub.update_scalar("train/tflops", tflops)
            self._tokens, self._began = 0, time.perf_counter()
