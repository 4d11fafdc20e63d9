"""Leave the trained model behind in the layout of Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inlay.engine.hooks.base import Hook


class HFCheckpointHook(Hook):
    """Exports the model when training is over, as ``inlay convert pth_to_hf`` would.

    A run that was stopped early exports nothing.

    Args:
        export: ``(runner, folder)`` writes the live model; handed in, since exports live on another
            floor.
        out_dir: where to; None: ``hf_model`` in the work dir.
    """

    priority = "LOWEST"  # after the last checkpoint, which holds the weights before they are cast

    def __init__(
        self, export: Callable[[Any, Path], None], out_dir: str | Path | None = None
    ) -> None:
        self.export, self.out_dir = export, out_dir

    def after_train(self, runner: Any) -> None:
        folder = Path(self.out_dir or Path(runner.work_dir) / "hf_model")
        with runner.strategy.whole(runner.model):
            if runner.rank == 0:
                self.export(runner, folder)
        runner.logger.info("exported the model to %s", folder)
