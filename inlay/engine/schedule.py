"""Learning-rate schedules as closed forms: no hidden state, so resume, re-plan and plot are exact.

Every schedule maps the value that the schedules before it give to a new one. Between ``begin`` and
``end`` it moves, after ``end`` it holds. The formulas are MMEngine's (0.10, ``ParamScheduler``),
written without their recursion and without truncating ``begin`` and ``end`` to whole iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from inlay.core.errors import ConfigError

PROBES = 1000
"""Iterations at which a run's schedules are tried before it starts."""


@dataclass(slots=True)
class Clock:
    """A moment of a run, in the units that schedules count in.

    Attributes:
        iteration: index of the micro-batch, from 0.
        iters_per_epoch: micro-batches of one epoch.
        total_iters: micro-batches of the run.
        accumulate: micro-batches of one update.
    """

    iteration: int
    iters_per_epoch: int
    total_iters: int
    accumulate: int = 1

    @property
    def update(self) -> int:
        """Index of the update that this iteration belongs to, from 0."""
        epochs, rest = divmod(self.iteration, self.iters_per_epoch)
        return epochs * -(-self.iters_per_epoch // self.accumulate) + rest // self.accumulate

    @property
    def total_updates(self) -> int:
        """Updates of the run; every epoch ends with a window of its own, perhaps a short one."""
        epochs, rest = divmod(self.total_iters, self.iters_per_epoch)
        return epochs * -(-self.iters_per_epoch // self.accumulate) - (-rest // self.accumulate)


class AnySchedule(Protocol):
    """Whatever makes a new rate of the rate before it."""

    def value(self, value: float, clock: Clock) -> float:
        """Return the learning rate after this schedule.

        Args:
            value: what the schedules before this one give (the optimizer's own rate for the first).
        """
        ...


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

    def value(self, value: float, clock: Clock) -> float:
        """Return the learning rate after this schedule; see ``AnySchedule``."""
        unit = clock.iters_per_epoch if self.by_epoch else 1
        per_iter = self.convert_to_iter_based or not self.by_epoch
        step = float(clock.iteration if per_iter else clock.iteration // clock.iters_per_epoch)
        scale = unit if per_iter else 1
        begin = self.begin * scale
        last = clock.total_iters if per_iter else clock.total_iters / clock.iters_per_epoch
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


@dataclass(frozen=True)
class StepLR(Schedule):
    """Times ``gamma`` at every ``step_size``, counted from ``begin`` in the unit of ``end``."""

    step_size: float = 1
    gamma: float = 0.1

    def curve(self, value: float, step: float, length: float, scale: float) -> float:
        return value * self.gamma ** (min(step, length - 1) // (self.step_size * scale))


@dataclass(frozen=True)
class ExponentialLR(Schedule):
    """Times ``gamma`` in every unit of ``end`` since ``begin``."""

    gamma: float = 0.1

    def curve(self, value: float, step: float, length: float, scale: float) -> float:
        return value * self.gamma ** (min(step, length - 1) / scale)


@dataclass(frozen=True)
class WarmupCosineLR:
    """Linear warm-up, then half a cosine, counted in updates: nanoVLM's rule.

    Update u of T has ``(u + 1) / w`` of the rate while ``u < w = warmup_ratio * T``, then falls to
    ``eta_min_ratio`` of it by T. Where w is no whole number the original's last warm-up update
    overshoots; here the rate itself is the limit.

    Attributes:
        warmup_ratio: share of the updates, 0 to below 1.
        eta_min_ratio: final rate as a share of the rate.
    """

    warmup_ratio: float = 0.03
    eta_min_ratio: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"warmup_ratio must be 0 to below 1, got {self.warmup_ratio}")

    def value(self, value: float, clock: Clock) -> float:
        """Return the learning rate after this schedule; see ``AnySchedule``."""
        update, total = clock.update, clock.total_updates
        warm = total * self.warmup_ratio
        if update < warm:
            return value * min(1.0, (update + 1) / warm)
        part = min(1.0, (update - warm) / (total - warm))
        floor = value * self.eta_min_ratio
        return floor + (value - floor) * (1 + math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class FunctionLR:
    """The rate times a factor from a function of one's own.

    Attributes:
        function: ``(progress, update, total_updates)`` to a factor that is finite and not negative.
            ``update`` counts from 0, ``progress`` runs from 0 at the first to 1 at the last one.
            It must depend on nothing else: a resumed run asks it again.
    """

    function: Callable[[float, int, int], float]

    def value(self, value: float, clock: Clock) -> float:
        """Return the learning rate after this schedule; see ``AnySchedule``.

        Raises:
            ConfigError: the factor is negative or not finite.
        """
        update, total = clock.update, clock.total_updates
        factor = float(self.function(min(1.0, update / max(total - 1, 1)), update, total))
        if not (math.isfinite(factor) and factor >= 0):
            name = getattr(self.function, "__name__", "function")
            raise ConfigError(
                f"param_scheduler: {name} returned {factor} at update {update} of {total}; "
                "a factor must be finite and not negative"
            )
        return value * factor


def learning_rate(
    base: float,
    schedules: Sequence[AnySchedule],
    iteration: int,
    iters_per_epoch: int,
    total_iters: int,
    accumulate: int = 1,
) -> float:
    """Return the rate at ``iteration`` for an optimizer whose own rate is ``base``.

    Args:
        accumulate: micro-batches of one update.
    """
    clock = Clock(iteration, iters_per_epoch, total_iters, accumulate)
    value = base
    for schedule in schedules:
        value = schedule.value(value, clock)
    return value


def try_out(
    schedules: Sequence[AnySchedule], iters_per_epoch: int, total_iters: int, accumulate: int
) -> None:
    """Ask the schedules for rates all over the run, so that a mistake stops it before it starts.

    Raises:
        ConfigError: a rate is negative or not finite.
    """
    last = total_iters - 1
    for iteration in sorted({*range(0, last, max(1, last // PROBES)), last}):
        rate = learning_rate(1.0, schedules, iteration, iters_per_epoch, total_iters, accumulate)
        if not (math.isfinite(rate) and rate >= 0):
            raise ConfigError(
                f"param_scheduler: the learning rate at iteration {iteration} of {total_iters} "
                f"would be {rate} times the optimizer's own"
            )
