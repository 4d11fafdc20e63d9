"""Schedules against an independent reference: MMEngine's recursions, stepped one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import build

from inlay.core.errors import ConfigError
from inlay.engine.schedule import (
    Clock,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    FunctionLR,
    LinearLR,
    MultiStepLR,
    PolyLR,
    StepLR,
    WarmupCosineLR,
    learning_rate,
    try_out,
)
from inlay.engine.settings import TrainLoop

BASE = 2e-4


def recursive_linear(values: list[float], start: float, end: float, begin: int, stop: int) -> None:
    """Step ``values`` as the original does: each rate from the one before it."""
    total = stop - begin - 1
    rate = values[begin] * start
    for i in range(begin, len(values)):
        step = i - begin
        if step == 0:
            values[i] = rate
        elif i < stop:
            rate *= 1 + (end - start) / (total * start + (step - 1) * (end - start))
            values[i] = rate


def recursive_cosine(values: list[float], eta_min: float, begin: int, stop: int) -> None:
    length = stop - begin
    rate = values[begin]
    for i in range(begin + 1, stop):
        t = i - begin
        rate = (1 + math.cos(math.pi * t / length)) / (1 + math.cos(math.pi * (t - 1) / length)) * (
            rate - eta_min
        ) + eta_min
        values[i] = rate


@pytest.mark.parametrize("per_epoch,epochs,warm", [(100, 3, 9), (1000, 1, 30), (50, 8, 12)])
def test_warmup_and_cosine_equal_the_recursion(per_epoch: int, epochs: int, warm: int) -> None:
    total = per_epoch * epochs
    expected = [BASE] * total
    recursive_linear(expected, 1e-5, 1.0, 0, warm)
    recursive_cosine(expected, 0.0, warm, total)
    turn = warm / per_epoch
    schedules = [
        LinearLR(start_factor=1e-5, begin=0, end=turn, convert_to_iter_based=True),
        CosineAnnealingLR(eta_min=0.0, begin=turn, end=epochs, convert_to_iter_based=True),
    ]
    ours = [learning_rate(BASE, schedules, i, per_epoch, total) for i in range(total)]
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("warm", [0.0, 0.3, 1.0, 1.4, 2.0, 10.37])
def test_any_warmup_reaches_the_rate_and_never_exceeds_it(warm: float) -> None:
    schedules = [
        LinearLR(start_factor=1e-5, by_epoch=False, end=warm),
        CosineAnnealingLR(by_epoch=False, begin=warm, end=100),
    ]
    rates = [learning_rate(BASE, schedules, i, 100, 100) for i in range(100)]
    assert max(rates) <= BASE
    # The original's warm-up of one iteration left the whole run at lr * 1e-5.
    assert rates[math.ceil(warm) + 1] > 0.99 * BASE
    assert rates[-1] < 0.01 * BASE


def test_poly_constant_and_multistep() -> None:
    poly = [PolyLR(by_epoch=False, begin=0, end=11, power=2.0, eta_min=1e-6)]
    for i in range(11):
        expected = 1e-6 + (BASE - 1e-6) * (1 - i / 10) ** 2
        assert learning_rate(BASE, poly, i, 100, 100) == pytest.approx(expected)
    constant = [ConstantLR(by_epoch=False, factor=0.1, end=6)]
    rates = [learning_rate(BASE, constant, i, 100, 100) for i in range(8)]
    assert rates == pytest.approx([BASE * 0.1] * 5 + [BASE] * 3)
    steps = [MultiStepLR(by_epoch=True, milestones=[1, 3], convert_to_iter_based=True)]
    rates = [learning_rate(BASE, steps, i, 10, 50) for i in (9, 10, 29, 30, 49)]
    assert rates == pytest.approx([BASE, BASE * 0.1, BASE * 0.1, BASE * 0.01, BASE * 0.01])


@pytest.mark.parametrize("end", [None, 4])
def test_steps_and_exponential_equal_the_recursion(end: int | None) -> None:
    """The original multiplies at every step from ``begin``, and stays where it is at ``end``."""
    span = {"begin": 1, "end": end, "convert_to_iter_based": True}
    stop = 60 if end is None else end * 10
    stepped, falling = BASE, BASE
    for i in range(60):
        if 10 < i < stop:
            stepped *= 0.5 if (i - 10) % 20 == 0 else 1.0
            falling *= 0.9 ** (1 / 10)
        rates = [
            learning_rate(BASE, [schedule], i, 10, 60)
            for schedule in (
                StepLR(step_size=2, gamma=0.5, **span),
                ExponentialLR(gamma=0.9, **span),
            )
        ]
        assert rates == pytest.approx([stepped, falling], rel=1e-12)


def test_by_epoch_without_conversion_moves_once_an_epoch_to_the_end() -> None:
    schedule = [CosineAnnealingLR(by_epoch=True)]
    rates = [learning_rate(BASE, schedule, i, 10, 40) for i in range(40)]
    assert len(set(rates)) == 4
    assert rates[10] == pytest.approx(BASE * (1 + math.cos(math.pi / 4)) / 2)


def nanovlm(update: int, total: int) -> float:
    """The original's rule, overshoot included: the reference."""
    warm, floor = total * 0.03, BASE * 0.1
    if update < warm:
        return BASE * (update + 1) / warm
    turn = math.pi * (update - warm) / (total - warm)
    return floor + 0.5 * (1.0 + math.cos(turn)) * (BASE - floor)


@pytest.mark.parametrize("total", [100, 1000, 40_000])
def test_warmup_cosine_equals_nanovlms_rule(total: int) -> None:
    ours = [learning_rate(BASE, [WarmupCosineLR()], u, total, total) for u in range(total)]
    assert ours == pytest.approx([nanovlm(u, total) for u in range(total)], rel=1e-12)


@pytest.mark.parametrize("total", [3, 33, 47, 70, 333])
def test_warmup_cosine_never_overshoots(total: int) -> None:
    """Fault 9: 1.4 times the rate for 47 updates."""
    ours = [learning_rate(BASE, [WarmupCosineLR()], u, total, total) for u in range(total)]
    theirs = [nanovlm(u, total) for u in range(total)]
    assert max(theirs) > BASE
    assert max(ours) == BASE
    assert ours == pytest.approx([min(BASE, rate) for rate in theirs], rel=1e-12)


def test_warmup_cosine_counts_updates_not_micro_batches() -> None:
    schedule = [WarmupCosineLR()]
    by_update = [learning_rate(BASE, schedule, u, 100, 100) for u in range(100)]
    by_iter = [learning_rate(BASE, schedule, i, 800, 800, 8) for i in range(800)]
    assert by_iter == [rate for rate in by_update for _ in range(8)]


@pytest.mark.parametrize(
    "accumulate,loop", [(5, TrainLoop(max_epochs=2)), (4, TrainLoop(max_iters=15))]
)
def test_a_clock_counts_updates_as_the_loop_does(
    tmp_path: Path, accumulate: int, loop: TrainLoop
) -> None:
    """12 iterations an epoch: every epoch ends with a short window of its own."""
    seen: list[tuple[int, int]] = []

    class Watch:
        def before_train_iter(self, runner: Any, **_: Any) -> None:
            seen.append((runner.iter, runner.state.update))

    runner = build(tmp_path, [Watch()], accumulate=accumulate, loop=loop)
    runner.train()
    length = runner.iters_per_epoch, runner.max_iters, accumulate
    assert [(i, Clock(i, *length).update) for i, _ in seen] == seen
    assert Clock(0, *length).total_updates == runner.state.update


def test_a_function_of_ones_own_sees_progress_and_updates(tmp_path: Path) -> None:
    asked: list[tuple[float, int, int]] = []

    def fall(progress: float, update: int, total: int) -> float:
        asked.append((progress, update, total))
        return 1 - progress

    rates = [learning_rate(BASE, [FunctionLR(fall)], i, 10, 10, 2) for i in range(10)]
    assert rates == pytest.approx([BASE * f for f in (1, 0.75, 0.5, 0.25, 0) for _ in range(2)])
    assert asked[0] == (0.0, 0, 5) and asked[-1] == (1.0, 4, 5)
    assert learning_rate(BASE, [FunctionLR(fall)], 0, 1, 1) == BASE, "a run of one update"


@pytest.mark.parametrize(
    "function", [lambda p, u, t: -p, lambda p, u, t: math.nan if u == t - 1 else 1.0]
)
def test_a_function_that_cannot_be_is_refused_before_the_run(
    function: Callable[[float, int, int], float],
) -> None:
    with pytest.raises(ConfigError, match="a factor must be finite and not negative"):
        try_out([FunctionLR(function)], 5003, 50_030, 8)
    with pytest.raises(ConfigError, match="warmup_ratio must be 0 to below 1"):
        WarmupCosineLR(warmup_ratio=1)
