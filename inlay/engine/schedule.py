"""Learning-rate schedules as closed forms: no hidden state, so resume, re-plan and plot are exact.

Every schedule maps the value that the schedules before it give to a new one. Between ``begin`` and
``end`` it moves, after ``end`` it holds. The formulas are MMEngine's (0.10, ``ParamScheduler``),
written without their recursion and without truncating ``begin`` and ``end`` to whole iterations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules.

    Attributes:
        begin, end: in epochs (``by_epoch``) or iterations, fractions allowed; ``end=None`` is the
            end of the run.
        by_epoch: the unit of ``begin`` and ``end``.
        convert_to_iter_based: with ``by_epoch``, move at every iteration and not once an epoch.
    """

    begin: float = 0
    end: float | None = None
    by_epoch: bool = True
    convert_to_iter_based: bool = False

    def value(self, value: float, iteration: int, iters_per_epoch: int, total_iters: int) -> float:
        """Return the learning rate after this schedule.

        Args:
            value: what the schedules before this one give (the optimizer's own rate for the first).
            iteration: index of the micro-batch, from 0.
            iters_per_epoch: micro-batches of one epoch.
            total_iters: micro-batches of the run.
        """
        unit = iters_per_epoch if self.by_epoch else 1
        per_iter = self.convert_to_iter_based or not self.by_epoch
        step = float(iteration if per_iter else iteration // iters_per_epoch)
        scale = unit if per_iter else 1
        begin = self.begin * scale
        last = total_iters if per_iter else total_iters / iters_per_epoch
        end = last if self.end is None else self.end * scale
        if step < begin or end <= begin:
            return value
        return self.curve(value, min(step, end) - begin, end - begin, scale)

    def curve(self, value: float, step: float, length: float, scale: float) -> float:
        """Return the rate ``step`` steps after ``begin``, of ``length`` steps."""
        raise TypeError(f"{type(self).__name__} has no curve; use one of its subclasses")


@dataclass(frozen=True)
class LinearLR(Schedule):
    """From ``start_factor`` to ``end_factor`` times the rate: a warm-up, or a linear decay.

    Reaches ``end_factor`` at the last iteration before ``end``; a warm-up that is shorter than one
    iteration is no warm-up.
    """

    start_factor: float = 1.0 / 3
    end_factor: float = 1.0

    def curve(self, value: float, step: float, length: float, scale: float) -> float:
        part = min(1.0, step / (length - 1)) if length > 1 else 1.0
        return value * (self.start_factor + (self.end_factor - self.start_factor) * part)


@dataclass(frozen=True)
class CosineAnnealingLR(Schedule):
    """Half a cosine from the rate to ``eta_min`` (SGDR, arXiv 1608.03983, eq. 5, no restarts).

    Attributes:
        T_max: length of the half cosine in the unit of ``end``; None is ``end - begin``.
        eta_min: final rate. eta_min_ratio: the same as a share of the rate; give one of the two.
    """

    T_max: float | None = None
    eta_min: float | None = None
    eta_min_ratio: float | None = None

    def curve(self, value: float, step: float, length: float, scale: float) -> float:
        floor = self.eta_min or 0.0
        if self.eta_min_ratio is not None:
            floor = value * self.eta_min_ratio
        period = self.T_max * scale if self.T_max else length
        return floor + (value - floor) * (1 + math.cos(math.pi * step / period)) / 2


@dataclass(frozen=True)
class PolyLR(Schedule):
    """``eta_min + (rate - eta_min) * (1 - t) ** power``."""

    eta_min: float = 0.0
    power: float = 1.0

    def curve(self, value: float, step: float, length: float, scale: float) -> float:
        part = min(1.0, step / (length - 1)) if length > 1 else 1.0
        return self.eta_min + (value - self.eta_min) * (1 - part) ** self.power


@dataclass(frozen=True)
class ConstantLR(Schedule):
    """``factor`` times the rate until ``end``, then the rate itself."""

    factor: float = 1.0 / 3

    def curve(self, value: float, step: float, length: float, scale: float) -> float:
        return value * self.factor if step < length - 1 else value


@dataclass(frozen=True)
class MultiStepLR(Schedule):
    """Times ``gamma`` at every milestone, counted from ``begin`` in the unit of ``end``."""

    milestones: Sequence[float] = ()
    gamma: float = 0.1

    def curve(self, value: float, step: float, length: float, scale: float) -> float:
        return value * self.gamma ** sum(step >= m * scale for m in self.milestones)


def learning_rate(
    base: float,
    schedules: Sequence[Schedule],
    iteration: int,
    iters_per_epoch: int,
    total_iters: int,
) -> float:
    """Return the rate at ``iteration`` for an optimizer whose own rate is ``base``."""
    value = base
    for schedule in schedules:
        value = schedule.value(value, iteration, iters_per_epoch, total_iters)
    return value
