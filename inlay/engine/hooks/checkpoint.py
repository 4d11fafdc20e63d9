"""When to save, what to keep, which one is best."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

from inlay.engine.checkpoint import copy, damage, list_checkpoints
from inlay.engine.hooks.base import Hook


class CheckpointHook(Hook):
    """Saves ``iter_N`` (or ``epoch_N``) and, with validation, the best as ``best_<metric>_iter_N``.

    An old checkpoint is deleted only after a newer one has been read back and found whole; the
    newest, the best, and those that are being evaluated are never deleted.

    Args:
        interval: iterations, or epochs with ``by_epoch``, between two saves; -1 saves at the end.
        by_epoch: unit of ``interval``.
        max_keep_ckpts: how many to keep besides the best; -1 keeps all.
        save_last: save when training ends, whatever the interval.
        save_best: metric whose best checkpoint is kept: of validation (``"loss"``, or
            ``"val/loss"``), or of evaluation jobs, by the name under which it is logged
            (``"eval/vqa/accuracy"``); ``"auto"`` is the loss of validation; None: none.
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
        self._warned = False
        self._newest: Path | None = None

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

    def after_run(self, runner: Any) -> None:
        """What was held for its evaluation may go now."""
        if self._newest is not None:
            self._prune(runner, self._newest)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        if self.save_best is None or self.save_best.startswith("eval/") or not runner.state.iter:
            return
        key = "loss" if self.save_best == "auto" else self.save_best.removeprefix("val/")
        if key not in metrics:
            runner.logger.warning(
                "save_best='%s': validation gives only %s", key, ", ".join(metrics)
            )
            return
        value, best = metrics[key], runner.state.best.get(key)
        if not self._is_better(value, best):
            return
        name = f"best_{key}_iter_{runner.state.iter}"
        runner.state.best[key] = {"value": value, "iter": runner.state.iter, "name": name}
        path = runner.save_checkpoint(name)
        if path is None:
            return
        runner.logger.info("best %s so far: %.4f, saved as %s", key, value, name)
        if best and best["name"] != name and damage(path) is None:
            shutil.rmtree(runner.work_dir / best["name"], ignore_errors=True)

    def after_evaluation(
        self, runner: Any, metrics: dict[str, float], step: int, checkpoint: Path
    ) -> None:
        """The weights have moved on since: the best is a copy of the checkpoint judged."""
        key = self.save_best or ""
        if not key.startswith("eval/"):
            return
        if key not in metrics:
            if not self._warned:
                names = ", ".join(metrics)
                runner.logger.warning("save_best='%s': evaluation gives only %s", key, names)
            self._warned = True
            return
        if not self._is_better(metrics[key], runner.state.best.get(key)):
            return
        plain = re.sub(r"[^\w.-]+", "_", key)
        stem = f"best_{plain}_iter_"
        path = runner.work_dir / f"{stem}{step}"
        try:
            if checkpoint.is_dir():
                copy(checkpoint, path)
        except OSError as error:
            runner.logger.warning("the best checkpoint could not be kept: %s", error)
        if not path.is_dir():  # it was deleted before the run was resumed from an earlier one
            return
        runner.state.best[key] = {"value": metrics[key], "iter": step, "name": path.name}
        runner.logger.info("best %s so far: %.4f, kept as %s", key, metrics[key], path.name)
        # Its evaluation has read it back: the one before may go.
        for other in runner.work_dir.glob(f"{stem}*"):
            if other != path and other.name not in runner.held:
                shutil.rmtree(other, ignore_errors=True)

    def _is_better(self, value: float, best: dict[str, Any] | None) -> bool:
        if not math.isfinite(value):
            return False
        if not best:
            return True
        return value > best["value"] if self.rule == "greater" else value < best["value"]

    def _save(self, runner: Any, name: str) -> None:
        path = runner.save_checkpoint(name)
        if path is None:
            return
        runner.logger.info("Saving checkpoint at %d iterations: %s", runner.iter + 1, name)
        self._newest = path
        self._prune(runner, path)

    def _prune(self, runner: Any, newest: Path) -> None:
        if self.max_keep_ckpts < 1:
            return
        spared = {newest.name, *runner.held}
        others = [p for p in list_checkpoints(runner.work_dir) if p.name not in spared]
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
