"""Weights & Biases, a package of its own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlay.engine.trackers.apart import Apart
from inlay.engine.trackers.base import Pictures, Row, RunInfo, curves

PROJECT = "inlay"
OFFLINE = ("offline", "dryrun", "disabled")
INIT_SECONDS = 30
"""How long wandb looks for its server before the run is recorded offline."""


class WandbVisBackend(Apart):
    """A run of Weights & Biases; offline with ``mode="offline"`` or ``WANDB_MODE=offline``.

    Where the server cannot be reached or there is no key, the run is recorded offline, in the log
    folder: ``wandb sync`` uploads it. A resumed run goes on in the same run.

    Args:
        init_kwargs: of ``wandb.init``: ``project``, ``entity``, ``tags``, ``mode``, ...
        define_metric_cfg: summary by scalar, such as ``{"train/loss": "min"}``.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(
        self,
        init_kwargs: dict[str, Any] | None = None,
        define_metric_cfg: dict[str, str] | None = None,
    ) -> None:
        settings = {"init_kwargs": init_kwargs or {}, "define_metric_cfg": define_metric_cfg or {}}
        super().__init__("wandb", f"{__name__}:WandbRun", settings)
        mode = settings["init_kwargs"].get("mode") or os.environ.get("WANDB_MODE")
        self.is_offline = mode in OFFLINE


class WandbRun:
    """The tracker itself; see ``WandbVisBackend``."""

    def __init__(self, init_kwargs: dict[str, Any], define_metric_cfg: dict[str, str]) -> None:
        self.init_kwargs, self.define_metric_cfg = init_kwargs, define_metric_cfg
        self._on_axis: set[str] = set()
        self._held: deque[dict[str, Any]] = deque()
        self._step: int | None = None
        self._has_room = False

    def open(self, folder: Path, info: RunInfo) -> str | None:
        self._names = info.names
        given = {
            "dir": str(folder),
            "project": PROJECT,
            "id": info.id,
            "name": info.name,
            "resume": "allow",
            "config": info.values,
            **self.init_kwargs,
        }
        quiet = {"console": "off", "init_timeout": INIT_SECONDS}
        given["settings"] = {**quiet, **given.get("settings", {})}
        note = self._init(given)
        for name, summary in self.define_metric_cfg.items():
            self._run.define_metric(name, summary=summary)
        return note

    def _init(self, given: dict[str, Any]) -> str | None:
        import wandb

        try:
            self._run = wandb.init(**given)
        except wandb.errors.Error as error:
            wandb.teardown()  # its service still waits, and would not give the id twice
            self._run = wandb.init(**{**given, "mode": "offline"})
            return (
                f"recording offline ({str(error).strip().rstrip('.')}). Later: "
                f"wandb sync {Path(self._run.dir).parent}"
            )
        return None

    def write(self, record: dict[str, Any]) -> None:
        numbers, step = curves(record, self._names), record["step"]
        if "axis" not in record:
            self._log(numbers, step)
            return
        axis = f"{record['axis']}_step"
        for name in numbers.keys() - self._on_axis:
            self._run.define_metric(name, step_metric=axis)
        self._on_axis |= numbers.keys()
        self._held.append({**numbers, axis: step})
        self._let_go()

    def _log(self, values: dict[str, Any], step: int) -> None:
        if step != self._step:
            self._step, self._has_room = step, True
        self._run.log(values, step=step)
        self._let_go()

    def _let_go(self) -> None:
        """Put an evaluation into the present row: wandb's own step never goes back, so that the
        axis is a number beside the others, and a row has room for one."""
        if self._held and self._has_room:
            self._run.log(self._held.popleft(), step=self._step)
            self._has_room = False

    def write_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        import wandb

        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(key) for key in columns] for row in rows]
        self._log({name: wandb.Table(columns=columns, data=data)}, step)

    def write_images(self, name: str, images: Pictures, step: int) -> None:
        import wandb

        shown = [wandb.Image(str(file), caption=caption) for caption, file in images]
        self._log({name: shown}, step)

    def close(self) -> None:
        import wandb

        for values in self._held:
            self._run.log(values)
        self._run.finish()
        wandb.teardown()  # the file is whole when the service has ended
