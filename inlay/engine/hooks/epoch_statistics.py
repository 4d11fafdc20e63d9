"""Loss and throughput of whole epochs, over all ranks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from inlay.engine.hooks.base import Hook


@dataclass
class Totals:
    """Sums over micro-batches of one rank. ``seconds`` are those of data, forward, backward and
    update, as in ``StatisticsHook``."""

    loss: Any = 0.0
    units: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.loss + other.loss,
            self.units + other.units,
            self.tokens + other.tokens,
            self.seconds + other.seconds,
        )

    def as_numbers(self) -> dict[str, float]:
        """Return the sums; the loss is read from its device only here."""
        return asdict(Totals(float(self.loss), self.units, self.tokens, self.seconds))


class EpochStatisticsHook(Hook):
    """Logs ``epoch/loss`` and ``epoch/tokens_per_second`` when an epoch ends.

    The loss is the sum over all trained units of the epoch, divided by their number. What an
    interrupted epoch has had so far is kept in checkpoints.
    """

    priority = "BELOW_NORMAL"

    def __init__(self) -> None:
        self._done, self._window = Totals(), Totals()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("epoch_statistics")
        if saved and runner.rank == 0:
            self._done = Totals(**saved)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        # A save inside an accumulation window stores its start: the window will be replayed.
        checkpoint["epoch_statistics"] = self._of_all_ranks(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        times = runner.times
        seconds = times.data + times.compute + times.update
        loss = outputs.loss_sum.detach().double()
        self._window += Totals(loss, outputs.loss_units, data_batch.num_tokens, seconds)
        if runner.window_start is None:
            self._done, self._window = self._done + self._window, Totals()

    def after_train_epoch(self, runner: Any) -> None:
        sums = self._of_all_ranks(runner)
        self._done = Totals()
        if runner.rank != 0 or not sums["units"]:
            return
        stats = {
            "epoch/loss": sums["loss"] / sums["units"],
            "epoch/tokens_per_second": sums["tokens"] * runner.world_size / sums["seconds"],
        }
        text = "  ".join(f"{key}: {value:.4g}" for key, value in stats.items())
        runner.logger.info("Epoch(train) [%d]  %s", runner.epoch + 1, text)
        place = {"iter": runner.state.iter, "step": runner.state.iter, "epoch": runner.epoch + 1}
        runner.track(place | stats)

    def _of_all_ranks(self, runner: Any) -> dict[str, float]:
        """The sums over all ranks; the ranks' seconds are added, too."""
        own = self._done.as_numbers()
        sums = runner.strategy.sum(torch.tensor(list(own.values()), dtype=torch.float64))
        return dict(zip(own, sums.tolist(), strict=True))
