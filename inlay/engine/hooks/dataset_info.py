"""Show what the model is trained on before it trains."""

from __future__ import annotations

from typing import Any

from inlay.engine.hooks.base import Hook


class DatasetInfoHook(Hook):
    """Logs the size of the data sets and sample 0 as the model reads it.

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

    def _show(self, runner: Any, mode: str, loader: Any) -> None:
        if runner.rank != 0 or loader is None:
            return
        dataset = loader.dataset
        if hasattr(dataset, "report"):
            runner.logger.info("%s dataset: %s", mode, dataset.report)
        if hasattr(dataset, "sample"):
            text = self.tokenizer.decode(dataset.sample(0).ids)
            runner.logger.info("%s sample 0:\n%s", mode, text)
