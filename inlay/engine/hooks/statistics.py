"""Where the time goes and what the batches hold, over all ranks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from inlay.engine.hooks.base import Hook

TIMES = {"data_load_time": "data", "fw_bw_time": "compute", "post_process_time": "update"}
"""Names in the record, and the fields of ``StepTimes`` behind them."""


@dataclass
class Tally:
    """Sums and extremes of the micro-batches of one rank. Two add up to that of both."""

    batches: int = 0
    tokens: int = 0
    units: int = 0
    samples: int = 0
    images: int = 0
    positions: int = 0
    padding: int = 0
    data: float = 0.0
    compute: float = 0.0
    update: float = 0.0
    max_data: float = 0.0
    max_compute: float = 0.0
    max_update: float = 0.0
    min_images: float = float("inf")
    max_images: float = 0.0

    def see(self, times: Any, batch: Any) -> None:
        """Add one micro-batch."""
        self.batches += 1
        self.tokens += batch.num_tokens
        self.units += batch.loss_units
        self.samples += batch.num_samples
        self.images += batch.num_images
        positions = _positions(batch.inputs)
        self.positions += positions
        self.padding += max(positions - batch.num_tokens, 0)
        self.data += times.data
        self.compute += times.compute
        self.update += times.update
        self.max_data = max(self.max_data, times.data)
        self.max_compute = max(self.max_compute, times.compute)
        self.max_update = max(self.max_update, times.update)
        if batch.num_samples:
            share = batch.num_images / batch.num_samples
            self.min_images = min(self.min_images, share)
            self.max_images = max(self.max_images, share)


class StatisticsHook(Hook):
    """Logs ``training_stats/*`` over all ranks: nanoVLM's statistics.

    Means are sums over all micro-batches of all ranks divided by their number, never means of
    means. The numbers travel between CPUs and take no memory on a GPU.

    ``avg_tokens_per_second`` counts the time of data, forward, backward and update, not that of
    validation and checkpoints. ``*_data_load_time``, ``*_fw_bw_time`` and ``*_post_process_time``
    (clipping and update) are seconds of a micro-batch on the host; a GPU works on behind it, and
    what remains is waited for in the update. ``*_images_per_sample`` compares micro-batches.
    ``trained_token_share`` is the share of tokens with a loss, ``padding_share`` that of positions
    the model computes for nobody: blank pictures and stand-ins, for rows have no padding.

    Args:
        interval: iterations between two records; what is left at the end makes one, too.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 100) -> None:
        self.interval = interval
        self._tally = Tally()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._tally.see(runner.times, data_batch)
        last = self.is_last_train_iter(runner)
        if last or self.every_n_train_iters(runner, self.interval):
            self._log(runner)

    def _log(self, runner: Any) -> None:
        ranks = [Tally(**values) for values in runner.strategy.gather(asdict(self._tally))]
        self._tally = Tally()
        if runner.rank != 0:
            return
        stats = statistics(ranks)
        text = "  ".join(f"{key}: {value:.4g}" for key, value in stats.items())
        runner.logger.info("training_stats  %s", text)
        place = {"iter": runner.state.iter, "step": runner.state.iter, "epoch": runner.epoch + 1}
        runner.track(place | {f"training_stats/{key}": value for key, value in stats.items()})


def statistics(ranks: list[Tally]) -> dict[str, float]:
    """Return the statistics of all ranks together; see ``StatisticsHook``."""
    batches = sum(r.batches for r in ranks)
    samples, tokens = sum(r.samples for r in ranks), sum(r.tokens for r in ranks)
    # The ranks go in step: the slowest one's time is the run's.
    seconds = max(r.data + r.compute + r.update for r in ranks)
    stats = {"avg_tokens_per_second": tokens / seconds if seconds else 0.0}
    for name, key in TIMES.items():
        stats[f"avg_{name}"] = sum(getattr(r, key) for r in ranks) / batches
        stats[f"max_{name}"] = max(getattr(r, f"max_{key}") for r in ranks)
    if samples:
        stats["avg_images_per_sample"] = sum(r.images for r in ranks) / samples
        stats["min_images_per_sample"] = min(r.min_images for r in ranks)
        stats["max_images_per_sample"] = max(r.max_images for r in ranks)
    stats["trained_token_share"] = sum(r.units for r in ranks) / max(tokens, 1)
    if positions := sum(r.positions for r in ranks):
        stats["padding_share"] = sum(r.padding for r in ranks) / positions
    return stats


def _positions(inputs: dict[str, Any]) -> int:
    """Positions of a batch's row of tokens; 0 where it has none."""
    row = inputs.get("row") or inputs
    return row["input_ids"].numel() if "input_ids" in row else 0
