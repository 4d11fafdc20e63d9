"""Upload the trained model when the run is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from inlay.core.hub import upload
from inlay.core.secrets import redact
from inlay.engine.checkpoint import load_weights
from inlay.engine.hooks.base import Hook

FOLDER = "hub"


class PushToHubHook(Hook):
    """Exports the model to ``work_dir/hub`` after training and uploads that folder.

    Nothing that goes wrong here ends the run with an error: it is warned about, and the export
    stays on disk. A run that was stopped early uploads nothing. The model in memory is left as it
    was exported: nothing is trained or saved after this hook.

    Args:
        repo_id: ``name`` or ``owner/name`` on the Hugging Face hub; created where it is missing.
        export: ``(runner, folder)`` writes the live model as a Hugging Face folder; handed in,
            since exports live on another floor.
        private: whether the repository must be private; one that is public is then refused.
        which: ``"best"`` by validation (the last where nothing was judged), or ``"last"``.
    """

    priority = "LOWEST"

    def __init__(
        self,
        repo_id: str,
        export: Callable[[Any, Path], None],
        private: bool = True,
        which: Literal["best", "last"] = "best",
    ) -> None:
        self.repo_id, self.export = repo_id, export
        self.private, self.which = private, which

    def before_train(self, runner: Any) -> None:
        from huggingface_hub import get_token

        if runner.rank == 0 and get_token() is None:
            runner.logger.warning(
                "PushToHubHook: not logged in to the Hugging Face hub. Run `hf auth login` (or set "
                "HF_TOKEN) before the training ends, or nothing can be uploaded"
            )

    def after_train(self, runner: Any) -> None:
        folder = Path(runner.work_dir) / FOLDER
        try:
            self._take_best(runner)
            with runner.strategy.whole(runner.model):
                if runner.rank == 0:
                    self.export(runner, folder)
            url = upload(folder, self.repo_id, self.private) if runner.rank == 0 else None
        except Exception as error:  # whatever the network or the hub does, the run is done
            if runner.rank == 0:
                runner.logger.warning(
                    "PushToHubHook: not uploaded to %s (%s: %s). The run is complete; upload by "
                    "hand: inlay push %s %s",
                    self.repo_id,
                    type(error).__name__,
                    redact(str(error)),
                    folder,
                    self.repo_id,
                )
        else:
            if url:
                runner.logger.info("uploaded to %s", url)

    def _take_best(self, runner: Any) -> None:
        """Load the best weights where they are asked for and there are any."""
        best = next(iter(runner.state.best.values()), None)
        if self.which == "best" and best is not None:
            path = Path(runner.work_dir) / best["name"]
            runner.load_weights(load_weights(path), path)
