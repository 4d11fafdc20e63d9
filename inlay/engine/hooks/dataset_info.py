"""Show what the model is trained on before it trains."""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.engine.hooks.base import Hook


class DatasetInfoHook(Hook):
    """Logs the size of the data sets and sample 0 as the model reads it.

    What became of a stream's rows is logged at validations, at the end of a pass and of the run.

    Args:
        tokenizer: decodes the sample.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def before_train(self, runner: Any) -> None:
        self._show(runner, "train", runner.train_dataloader)

    def before_val(self, runner: Any) -> None:
        if runner.state.iter == 0:
            self._show(runner, "val", runner.val_dataloader)

    def before_test(self, runner: Any) -> None:
        self._show(runner, "test", runner.test_dataloader)

    def after_train_epoch(self, runner: Any) -> None:
        self._show_stream(runner, "train", runner.train_dataloader)

    def after_val(self, runner: Any) -> None:
        self._show_stream(runner, "train", runner.train_dataloader)
        self._show_stream(runner, "val", runner.val_dataloader)

    def after_test(self, runner: Any) -> None:
        self._show_stream(runner, "test", runner.test_dataloader)

    def after_run(self, runner: Any) -> None:
        self._show_stream(runner, "train", runner.train_dataloader)

    def _show_stream(self, runner: Any, mode: str, loader: Any) -> None:
        if runner.rank == 0 and _is_stream(loader) and loader.dataset.report.rows:
            runner.logger.info("%s stream so far: %s", mode, loader.dataset.report)

    def _show(self, runner: Any, mode: str, loader: Any) -> None:
        if runner.rank != 0 or loader is None or _is_stream(loader):
            return
        dataset = loader.dataset
        if hasattr(dataset, "report"):
            runner.logger.info("%s dataset: %s", mode, dataset.report)
        if hasattr(dataset, "sample"):
            ids = shortened(dataset.sample(0).ids, getattr(dataset, "image_processor", None))
            runner.logger.info("%s sample 0:\n%s", mode, self.tokenizer.decode(ids))


def _is_stream(loader: Any) -> bool:
    """Whether the loader's rows are read while the run goes on."""
    return (
        loader is not None and loader.iters_per_epoch is None and hasattr(loader.dataset, "report")
    )


def shortened(ids: np.ndarray, image_processor: Any) -> np.ndarray:
    """Return a sample's ids with one image token for each run of them."""
    if image_processor is None:
        return ids
    is_image = ids == image_processor.image_token_id
    return ids[~np.append(False, is_image[1:] & is_image[:-1])]
