"""When to save, what to keep, which one is best."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from inlay.engine.checkpoint import damage, list_checkpoints
from inlay.engine.hooks.base import Hook


class CheckpointHook(Hook):
    """Saves ``iter_N`` (or ``epoch_N``) and, with validation, the best as ``best_<metric>_iter_N``.

    An old checkpoint is deleted only after a newer one has been read back and found whole; the
    newest and the best are never deleted.

    Args:
        interval: iterations, or epochs with ``by_epoch``, between two saves; -1 saves at the end.
        by_epoch: unit of ``interval``.
        max_keep_ckpts: how many to keep besides the best; -1 keeps all.
        save_last: save when training ends, whatever the interval.
        save_best: validation metric whose best value is kept; ``"auto"`` is the loss; None: none.
        rule: ``"less"`` or ``"greater"`` is better.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | None = "auto",
        rule: str = "less",
    ) -> None:
        self.interval, self.by_epoch = interval, by_epoch
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.save_best, self.rule = save_best, rule

    def saves_now(self, runner: Any) -> bool:
        """True when this iteration ends with a save (asked by the chat hook, too)."""
        if self.by_epoch:
            return False
        due = self.interval > 0 and self.every_n_train_iters(runner, self.interval)
        return due or (self.save_last and self.is_last_train_iter(runner))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.saves_now(runner):
            self._save(runner, f"iter_{runner.iter + 1}")

    def after_train_epoch(self, runner: Any) -> None:
        if not self.by_epoch:
            return
        last = self.save_last and self.is_last_train_epoch(runner)
        if last or (self.interval > 0 and self.every_n_epochs(runner, self.interval)):
            self._save(runner, f"epoch_{runner.epoch + 1}")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        if self.save_best is None or not runner.state.iter:
            return
        key = "loss" if self.save_best == "auto" else self.save_best
        if key not in metrics:
            runner.logger.warning(
                "save_best='%s': validation gives only %s", key, ", ".join(metrics)
            )
            return
        value, best = metrics[key], runner.state.best.get(key)
        better = value < best["value"] if best and self.rule == "less" else True
        if best and self.rule == "greater":
            better = value > best["value"]
        if not math.isfinite(value) or not better:
            return
        name = f"best_{key}_iter_{runner.state.iter}"
        runner.state.best[key] = {"value": value, "iter": runner.state.iter, "name": name}
        path = runner.save_checkpoint(name)
        if path is None:
            return
        runner.logger.info("best %s so far: %.4f, saved as %s", key, value, name)
        if best and best["name"] != name and damage(path) is None:
            shutil.rmtree(runner.work_dir / best["name"], ignore_errors=True)

    def _save(self, runner: Any, name: str) -> None:
        path = runner.save_checkpoint(name)
        if path is None:
            return
        runner.logger.info("Saving checkpoint at %d iterations: %s", runner.iter + 1, name)
        self._prune(runner, path)

    def _prune(self, runner: Any, newest: Path) -> None:
        if self.max_keep_ckpts < 1:
            return
        others = [p for p in list_checkpoints(runner.work_dir) if p != newest]
        # Ordered by position in the run: a wrong clock must not decide what is deleted.
        keep = self.max_keep_ckpts - 1
        surplus = others[: max(len(others) - keep, 0)]
        if not surplus:
            return
        if problem := damage(newest):
            runner.logger.error("%s is damaged (%s): nothing deleted", newest.name, problem)
            return
        for path in surplus:
            shutil.rmtree(path)
