"""Where records of a run go: JSON lines, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Protocol

from inlay.core.errors import ConfigError


class Tracker(Protocol):
    """Takes records: scalars by name, with ``step`` the iteration they belong to."""

    def open(self, folder: Path) -> None:
        """Start writing into ``vis_data`` of this start's log folder."""
        ...

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class LocalVisBackend:
    """``scalars.json``: one JSON object a line, flushed at once."""

    def open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "scalars.json").open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        # JSON has no NaN: a strict reader must be able to read every line.
        clean = {k: _json_number(v) for k, v in record.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorboardVisBackend:
    """TensorBoard event files beside ``scalars.json``, opened at the first record."""

    def open(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, record: dict[str, Any]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for key, value in record.items():
            if key not in ("step", "iter") and isinstance(value, int | float):
                name = key if "/" in key else f"train/{key}"
                self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbVisBackend:
    """Weights & Biases, a package of its own.

    Args:
        init_kwargs: of ``wandb.init``: ``project``, ``name``, ``mode="offline"``, ...
        define_metric_cfg: summary by scalar, such as ``{"train/loss": "min"}``.
    """

    def __init__(
        self,
        init_kwargs: dict[str, Any] | None = None,
        define_metric_cfg: dict[str, str] | None = None,
    ) -> None:
        self.init_kwargs = init_kwargs or {}
        self.define_metric_cfg = define_metric_cfg or {}

    def open(self, folder: Path) -> None:
        """Start a run. Raises ConfigError where the package is not installed."""
        try:
            import wandb  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ConfigError("WandbVisBackend needs the package: pip install wandb") from error
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(**{"dir": str(folder), **self.init_kwargs})
        for name, summary in self.define_metric_cfg.items():
            self._run.define_metric(name, summary=summary)

    def write(self, record: dict[str, Any]) -> None:
        numbers = {
            key if "/" in key else f"train/{key}": value
            for key, value in record.items()
            if key not in ("step", "iter") and isinstance(value, int | float)
        }
        self._run.log(numbers, step=record["step"])

    def close(self) -> None:
        self._run.finish()


class Visualizer:
    """The trackers of a run.

    Args:
        vis_backends: trackers; by default JSON lines and TensorBoard.
    """

    def __init__(self, vis_backends: list[Any] | None = None) -> None:
        self.backends = vis_backends or [LocalVisBackend(), TensorboardVisBackend()]


def _json_number(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
