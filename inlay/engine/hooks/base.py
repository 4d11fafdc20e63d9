"""The points at which a hook can look on, write, or ask for a stop."""

from __future__ import annotations

from typing import Any

POINTS = (
    "before_run",
    "after_load_checkpoint",
    "before_train",
    "before_train_epoch",
    "before_train_iter",
    "after_train_iter",
    "after_train_epoch",
    "before_val",
    "before_val_epoch",
    "before_val_iter",
    "after_val_iter",
    "after_val_epoch",
    "after_val",
    "before_save_checkpoint",
    "after_save_checkpoint",
    "after_train",
    "before_test",
    "before_test_epoch",
    "before_test_iter",
    "after_test_iter",
    "after_test_epoch",
    "after_test",
    "after_evaluation",
    "after_run",
)
"""All hook points: those of MMEngine, with its signatures, and two of ours."""


class Hook:
    """Base of all hooks. Define the points you need; a point that is not defined costs nothing.

    Signatures: ``before_run, after_run, before_train, after_train, before_val, after_val,
    before_test, after_test`` and all ``*_epoch`` points take ``(runner)``, except
    ``after_val_epoch(runner, metrics)`` and ``after_test_epoch(runner, metrics)``;
    ``before_*_iter(runner, batch_idx, data_batch)``;
    ``after_*_iter(runner, batch_idx, data_batch, outputs)``;
    ``after_evaluation(runner, metrics, step, checkpoint)``, on rank 0 only, when an evaluation job
    has judged the checkpoint of iteration ``step``;
    ``before_save_checkpoint, after_save_checkpoint, after_load_checkpoint(runner, checkpoint)``
    with ``checkpoint`` a dict: ``message_hub``, ``meta`` and any key of your own, JSON values or
    tensors.
    """

    priority: str | int = "NORMAL"

    @staticmethod
    def every_n_train_iters(runner: Any, n: int | None, start: int = 0) -> bool:
        """True at every n-th iteration, counted from 1 (``runner.iter`` counts from 0)."""
        done = runner.iter + 1 - start
        return n is not None and n > 0 and done > 0 and done % n == 0

    @staticmethod
    def every_n_epochs(runner: Any, n: int | None, start: int = 0) -> bool:
        """True at every n-th epoch, counted from 1 (``runner.epoch`` counts from 0)."""
        done = runner.epoch + 1 - start
        return n is not None and n > 0 and done > 0 and done % n == 0

    @staticmethod
    def every_n_inner_iters(batch_idx: int, n: int | None) -> bool:
        """True at every n-th batch of a pass, counted from 1."""
        return n is not None and n > 0 and (batch_idx + 1) % n == 0

    @staticmethod
    def is_last_train_iter(runner: Any) -> bool:
        """True at the run's last iteration."""
        return runner.iter + 1 == runner.max_iters

    @staticmethod
    def is_last_train_epoch(runner: Any) -> bool:
        """True in the run's last epoch."""
        return runner.epoch + 1 == runner.max_epochs


PRIORITIES = {
    "HIGHEST": 0,
    "VERY_HIGH": 10,
    "HIGH": 30,
    "ABOVE_NORMAL": 40,
    "NORMAL": 50,
    "BELOW_NORMAL": 60,
    "LOW": 70,
    "VERY_LOW": 90,
    "LOWEST": 100,
}
"""MMEngine's names; a smaller number is called earlier, equal ones in list order."""


def _priority(hook: Any) -> int:
    value = getattr(hook, "priority", "NORMAL")
    return value if isinstance(value, int) else PRIORITIES[value]


class HookList:
    """Hooks by priority, dispatched only to those that define a point."""

    def __init__(self, hooks: list[Any]) -> None:
        self.hooks = hooks = sorted(hooks, key=_priority)
        self._calls = {
            point: [getattr(hook, point) for hook in hooks if callable(getattr(hook, point, None))]
            for point in POINTS
        }

    def call(self, point: str, *args: Any, **kwargs: Any) -> None:
        """Call ``point`` on every hook that defines it, in list order."""
        for call in self._calls[point]:
            call(*args, **kwargs)
