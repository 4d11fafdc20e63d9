"""Show where the model points while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inlay.engine import rng
from inlay.engine.hooks.base import Hook


class GroundingOverlayHook(Hook):
    """Logs pictures of held-out samples with their masks, true ones beside those that are drawn.

    Drawing has its own random state: it never changes the training.

    Args:
        draw: ``(runner, samples)`` to captions and pictures; handed in, since drawing lives on
            another floor.
        samples: the first so many of the validation data, or else of the training data.
        every_n_iters: None draws after every validation instead.
    """

    priority = "LOW"

    def __init__(
        self,
        draw: Callable[[Any, int], list[tuple[str, Any]]],
        samples: int = 4,
        every_n_iters: int | None = None,
    ) -> None:
        self.draw, self.samples, self.every_n_iters = draw, samples, every_n_iters

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.every_n_train_iters(runner, self.every_n_iters):
            self._show(runner)

    def after_val(self, runner: Any) -> None:
        if self.every_n_iters is None:
            self._show(runner)

    def _show(self, runner: Any) -> None:
        with runner.strategy.whole(runner.model):
            if runner.rank == 0 and runner.trackers:
                self._show_here(runner)

    def _show_here(self, runner: Any) -> None:
        try:
            with rng.preserved():
                runner.track_images("grounding", self.draw(runner, self.samples))
        except Exception as error:  # a picture is not worth a run
            runner.logger.warning("GroundingOverlayHook: nothing is drawn: %s", error)
