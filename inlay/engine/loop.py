"""The training loop. Whatever changes numbers is spelled out here; hooks only look on."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from inlay.core.errors import InlayError
from inlay.core.types import Loader, Window
from inlay.engine import rng
from inlay.engine.state import RunState

if TYPE_CHECKING:
    from inlay.engine.runner import Runner


@dataclass
class WindowStart:
    """What a save inside an accumulation window writes: no weight has moved since.

    Attributes:
        state: counters and data position. pending: samples and tokens not yet summed over ranks.
        random: state of all generators.
    """

    state: RunState
    pending: list[int]
    random: dict[str, Any]


def train(runner: Runner) -> None:
    """Train to the end of the plan, or until something asks for a stop."""
    state = runner.state
    if runner.owes_validation():
        runner.val()
    while state.iter < runner.max_iters and not runner.should_stop():
        runner.hooks_list.call("before_train_epoch", runner)
        finished = _train_epoch(runner)
        if runner.stop_reason:
            return
        if not finished:
            break
        # A checkpoint written by the hooks below must resume in the next epoch.
        state.position, state.hint = 0, None
        state.epoch += 1
        runner.shown_epoch = state.epoch - 1
        runner.hooks_list.call("after_train_epoch", runner)
        runner.shown_epoch = None
        if runner.validates_after_epoch(state.epoch):
            runner.val()
    if not runner.stop_reason and runner.owes_validation():
        runner.val()


def _train_epoch(runner: Runner) -> bool:
    """Train one epoch from the current position. False when the plan ended inside it."""
    state = runner.state
    accumulate = runner.optim.accumulative_counts
    while True:
        runner.times.since = time.perf_counter()
        left = runner.max_iters - state.iter
        if left <= 0:
            return state.position >= runner.train_dataloader.num_items
        windows = runner.train_dataloader.windows(
            state.epoch, state.position, min(accumulate, left), state.hint
        )
        for window in windows:
            # The plan may end inside a window: ask again for a shorter one.
            if window.num_batches > runner.max_iters - state.iter:
                break
            train_window(runner, window)
            if runner.should_stop():
                return False
            runner.times.since = time.perf_counter()
        else:
            return True


def train_window(runner: Runner, window: Window) -> None:
    """Accumulate the gradients of one window and make one update."""
    state, strategy, hooks = runner.state, runner.strategy, runner.hooks_list
    times, now = runner.times, time.perf_counter
    runner.window_start = None
    if window.num_batches > 1:
        runner.window_start = WindowStart(copy.copy(state), list(runner.pending), rng.capture())
    # One divisor for the whole window over all ranks: 1x8, 2x4 and 8x1 give the same gradient.
    divisor = max(window.loss_units, 1)
    for index, batch in enumerate(window.batches):
        is_last = index == window.num_batches - 1
        runner.current_iter = state.iter
        began = now()
        times.data = began - times.since
        hooks.call("before_train_iter", runner, batch_idx=state.iter, data_batch=batch)
        with strategy.accumulating(runner.wrapped, is_last):
            out = strategy.forward(runner.wrapped, batch)
            strategy.backward(out.loss_sum / divisor)
        ended = now()
        times.compute = ended - began
        if is_last:
            _update(runner)
            state.position, state.hint = window.stop, window.hint
            runner.window_start = None
        times.update = now() - ended
        state.iter += 1
        runner.pending[0] += batch.num_samples
        runner.pending[1] += batch.num_tokens
        hooks.call(
            "after_train_iter",
            runner,
            batch_idx=runner.current_iter,
            data_batch=batch,
            outputs=out,
        )
        if runner.validates_after_iter(state.iter):
            runner.val()
        if runner.stop_reason and runner.strategy.world_size == 1:
            break
        times.since = now()


def _update(runner: Runner) -> None:
    """One optimizer step at the learning rate of the window's last iteration."""
    state, optimizer = runner.state, runner.optimizer
    for group, rate in zip(optimizer.param_groups, runner.rates(state.iter), strict=True):
        group["lr"] = rate
    guarded = runner.strategy.guards_overflow
    norm, applied = runner.strategy.step(optimizer, runner.parameters, runner.optim.max_norm)
    state.grad_norm = norm if math.isfinite(norm) else None
    state.update += 1
    if applied:
        state.skipped_in_a_row = 0
    elif guarded:
        runner.logger.warning(
            "update %d: gradient overflow in float16, loss scale halved", state.update
        )
    else:
        _skipped(runner, norm)


def _skipped(runner: Runner, norm: float) -> None:
    """A non-finite gradient: the update is left out, said, and the run stops past the limit."""
    state = runner.state
    state.skipped_updates += 1
    state.skipped_in_a_row += 1
    runner.logger.warning(
        "update %d skipped: gradient norm is %s (%d skipped so far)",
        state.update,
        norm,
        state.skipped_updates,
    )
    limit = runner.optim.max_skipped_updates
    if state.skipped_in_a_row >= limit:
        raise InlayError(
            f"stopped: the last {limit} updates had a non-finite gradient. Lower the learning rate,"
            " look for broken samples, or use dtype='bfloat16'. The weights are those of the last "
            "good update; limit: optim_wrapper.max_skipped_updates."
        )


@torch.no_grad()
def evaluate(runner: Runner, loader: Loader, mode: str) -> dict[str, float]:
    """One pass over held-out data.

    Args:
        mode: ``"val"`` or ``"test"``: which hooks are called.

    Returns:
        ``loss`` (mean over all units, nats for a language model), ``perplexity``, ``units``,
        ``time`` in seconds. Data without a single unit have no loss: both are left out, and said.
    """
    hooks, model = runner.hooks_list, runner.model
    hooks.call(f"before_{mode}", runner)
    hooks.call(f"before_{mode}_epoch", runner)
    was_training = model.training
    model.eval()
    losses: list[torch.Tensor] = []
    seen = 0
    began = time.perf_counter()
    with rng.preserved():
        for index, batch in enumerate(loader.batches()):
            hooks.call(f"before_{mode}_iter", runner, batch_idx=index, data_batch=batch)
            out = runner.strategy.forward(model, batch)
            losses.append(out.loss_sum)
            seen += out.loss_units
            hooks.call(f"after_{mode}_iter", runner, batch_idx=index, data_batch=batch, outputs=out)
            if runner.stop_reason and runner.strategy.world_size == 1:
                break
    model.train(was_training)
    if runner.stop_reason and runner.strategy.world_size == 1:
        return {}  # half a result is none: neither logged nor the best
    metrics = _means(runner, losses, seen, mode)
    metrics["time"] = time.perf_counter() - began
    hooks.call(f"after_{mode}_epoch", runner, metrics=metrics)
    hooks.call(f"after_{mode}", runner)
    return metrics


def _means(runner: Runner, losses: list[torch.Tensor], units: int, mode: str) -> dict[str, float]:
    """Loss and perplexity over all ranks; neither where nothing was judged."""
    # Read in one go: a copy from the device for every batch would wait for it every time.
    total = math.fsum(torch.stack(losses).tolist()) if losses else 0.0
    sums = torch.tensor([total, units], dtype=torch.float64)
    loss_sum, all_units = runner.strategy.sum(sums).tolist()
    if not all_units:
        runner.logger.warning("%s: the data hold no trained token, so there is no loss", mode)
        return {"units": 0}
    loss = loss_sum / all_units
    perplexity = float(torch.exp(torch.tensor(loss, dtype=torch.float64)))
    return {"loss": loss, "perplexity": perplexity, "units": int(all_units)}
