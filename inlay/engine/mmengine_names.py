"""What hooks that were written for MMEngine reach for in its runner, beside the names we share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MMEngineNames:
    """``optim_wrapper``, ``train_loop`` and ``visualizer`` of a runner, to read and to log with."""

    @property
    def optim_wrapper(self) -> OptimizerView:
        return OptimizerView(self)

    @property
    def train_loop(self) -> TrainLoopView:
        return TrainLoopView(self)

    @property
    def visualizer(self) -> ScalarLog:
        return ScalarLog(self)


class OptimizerView:
    """The optimizer and its rates."""

    def __init__(self, runner: Any) -> None:
        self.optimizer = runner.optimizer
        self.param_groups = runner.optimizer.param_groups

    def get_lr(self) -> dict[str, list[float]]:
        """Return the learning rate of every parameter group."""
        return {"lr": [group["lr"] for group in self.param_groups]}


class TrainLoopView:
    """Where the loop is and how far it goes, counted as in the runner."""

    def __init__(self, runner: Any) -> None:
        self.dataloader = runner.train_dataloader
        self.iter, self.epoch = runner.iter, runner.epoch
        self.max_iters, self.max_epochs = runner.max_iters, runner.max_epochs


class ScalarLog:
    """Hands scalars to the run's trackers."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def add_scalar(self, name: str, value: Any, step: int | None = None) -> None:
        """Log one number at an iteration; None is the present one."""
        self.add_scalars({name: value}, step)

    def add_scalars(self, scalar_dict: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers by name at an iteration; None is the present one."""
        if self._runner.rank == 0:
            at = self._runner.iter + 1 if step is None else step
            numbers = {name: float(value) for name, value in scalar_dict.items()}
            self._runner.track({**numbers, "iter": at, "step": at})
