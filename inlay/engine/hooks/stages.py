"""What hooks that were written for MMEngine build on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from inlay.core import dist
from inlay.engine.hooks.base import Hook


class StageHook(Hook):
    """A hook with every point defined, so that a subclass may call ``super()`` at each of them.

    A subclass may also override ``_before_epoch, _after_epoch (runner, mode)``, ``_before_iter
    (runner, batch_idx, data_batch, mode)`` and ``_after_iter (runner, batch_idx, data_batch,
    outputs, mode)``, which stand for the same point of ``"train"``, ``"val"`` and ``"test"``.
    """

    def before_run(self, runner: Any) -> None: ...

    def after_run(self, runner: Any) -> None: ...

    def before_train(self, runner: Any) -> None: ...

    def after_train(self, runner: Any) -> None: ...

    def before_val(self, runner: Any) -> None: ...

    def after_val(self, runner: Any) -> None: ...

    def before_test(self, runner: Any) -> None: ...

    def after_test(self, runner: Any) -> None: ...

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None: ...

    def after_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None: ...

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None: ...

    def before_train_epoch(self, runner: Any) -> None:
        self._before_epoch(runner, mode="train")

    def before_val_epoch(self, runner: Any) -> None:
        self._before_epoch(runner, mode="val")

    def before_test_epoch(self, runner: Any) -> None:
        self._before_epoch(runner, mode="test")

    def after_train_epoch(self, runner: Any) -> None:
        self._after_epoch(runner, mode="train")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._after_epoch(runner, mode="val")

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._after_epoch(runner, mode="test")

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._before_iter(runner, batch_idx, data_batch, mode="train")

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._before_iter(runner, batch_idx, data_batch, mode="val")

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._before_iter(runner, batch_idx, data_batch, mode="test")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._after_iter(runner, batch_idx, data_batch, outputs, mode="train")

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._after_iter(runner, batch_idx, data_batch, outputs, mode="val")

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._after_iter(runner, batch_idx, data_batch, outputs, mode="test")

    def _before_epoch(self, runner: Any, mode: str = "train") -> None: ...

    def _after_epoch(self, runner: Any, mode: str = "train") -> None: ...

    def _before_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, mode: str = "train"
    ) -> None: ...

    def _after_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
        mode: str = "train",
    ) -> None: ...


def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
    """Write to a log: ``logger``, the run's own by its name or for None; ``"silent"``: nowhere."""
    if logger == "silent":
        return
    to = logger if isinstance(logger, logging.Logger) else logging.getLogger("inlay")
    to.log(level, "%s", msg)


def is_main() -> bool:
    """Whether this process has rank 0."""
    return dist.rank() == 0


def main_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that does nothing on other ranks than 0, and returns None there."""

    @functools.wraps(function)
    def on_main(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if is_main() else None

    return on_main
