"""A run to a checkpoint and back: what is saved, from which moment, and how it is restored."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from inlay.core.errors import CheckpointError
from inlay.engine import checkpoint as ckpt
from inlay.engine import rng
from inlay.engine.optimizer_files import SavedState, file_stem
from inlay.engine.parallel.single import SingleDevice
from inlay.engine.state import RunState

if TYPE_CHECKING:
    from inlay.engine.runner import Runner

HUB_KEYS = ("train/loss", "train/lr")


def save(runner: Runner, name: str) -> Path | None:
    """Write ``work_dir/name``; every rank calls it. Returns the folder on rank 0.

    Inside an accumulation window, counters, position and generators are those of its start: no
    weight has moved since, and a resume replays the window.

    Raises:
        CheckpointError: the disk is full or not writable, or a weight is not finite.
    """
    start = runner.window_start
    random = start.random if start else rng.capture()
    saved = _counters(runner)
    randoms = runner.strategy.gather(rng.to_saved(random))
    scalars = runner.message_hub.log_scalars
    extra: dict[str, Any] = {
        "meta": {"iter": runner.state.iter, "epoch": runner.state.epoch, "seed": runner.seed},
        "message_hub": {k: scalars[k].current() for k in HUB_KEYS if k in scalars},
    }
    runner.hooks_list.call("before_save_checkpoint", runner, checkpoint=extra)
    path = runner.work_dir / name
    ckpt.write(path, _assemble(runner, saved, randoms, extra), runner.rank, runner.strategy.gather)
    if runner.rank == 0 and ckpt.NAME.match(name):
        ckpt.point_to(runner.work_dir, name)
    runner.strategy.barrier()
    runner.hooks_list.call("after_save_checkpoint", runner, checkpoint=extra)
    return path if runner.rank == 0 else None


def _counters(runner: Runner) -> dict[str, Any]:
    """Counters and position, samples and tokens summed over ranks."""
    start = runner.window_start
    state, pending = (start.state, start.pending) if start else (runner.state, runner.pending)
    samples, tokens = runner.strategy.sum(torch.tensor(pending, dtype=torch.float64)).tolist()
    return {
        **asdict(state),
        "best": runner.state.best,
        "samples": state.samples + int(samples),
        "tokens": state.tokens + int(tokens),
    }


def _assemble(
    runner: Runner, saved: dict[str, Any], randoms: list[Any], extra: dict[str, Any]
) -> ckpt.Checkpoint:
    """What this rank writes of the run, as tensors and JSON values; rank 0 writes most of it."""
    strategy, parameters = runner.strategy, runner.named_parameters
    weights = strategy.weights(parameters)
    broken = [n for n, w in weights.items() if not bool(torch.isfinite(w).all())]
    broken = strategy.gather(broken)[0]  # all ranks stop, or none
    if broken:
        raise CheckpointError(
            f"not saved: {len(broken)} weights hold NaN or infinity, first '{broken[0]}'"
        )
    optim_tensors, optim_meta = strategy.optimizer_state(runner.optimizer, parameters)
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    if strategy.cuts_state or runner.rank == 0:
        tensors[file_stem(runner.rank if strategy.cuts_state else None)] = optim_tensors
    if runner.rank != 0:
        return ckpt.Checkpoint(tensors)
    tensors["model"] = weights
    for rank, (rng_tensors, _) in enumerate(randoms):
        tensors[f"rng_{rank}"] = rng_tensors
    added = {k: v for k, v in extra.items() if isinstance(v, torch.Tensor)}
    if added:
        tensors["extra"] = added
    state = {
        "run": saved,
        "saved_at_iter": runner.state.iter,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "seed": runner.seed,
        "run_name": runner.run_name,
        "run_id": runner.run_id,
        "plan": plan(runner),
        "identity": runner.identity,
        "optimizer": optim_meta,
        "strategy": runner.strategy.state(),
        "rng": [values for _, values in randoms],
        "hooks": {k: v for k, v in extra.items() if k not in added},
    }
    return ckpt.Checkpoint(tensors, state, runner.config_text)


def plan(runner: Runner) -> dict[str, Any]:
    """What a resumed run compares, besides the identity."""
    return {
        "batch_size": runner.train_dataloader.batch_size,
        "accumulative_counts": runner.optim.accumulative_counts,
        "world_size": runner.world_size,
        "iters_per_epoch": runner.iters_per_epoch,
        "max_iters": runner.max_iters,
        "max_epochs": runner.max_epochs,
        "lr": runner.base_lrs,
        "dtype": runner.optim.dtype or "float32",
    }


def restore(runner: Runner, checkpoint: ckpt.Checkpoint, source: str | Path) -> dict[str, Any]:
    """Continue from ``checkpoint``: weights, optimizer, counters, position.

    Returns:
        The state of this rank's generators, to be restored when training starts; empty for a rank
        that the saved run did not have.

    Raises:
        CheckpointError: it is a checkpoint of another model.
    """
    weights = checkpoint.tensors["model"]
    copy_weights(runner.named_parameters, weights, source, runner.strategy)
    saved = checkpoint.state
    runner.strategy.load_optimizer_state(
        runner.optimizer,
        runner.named_parameters,
        SavedState.of(checkpoint.tensors, saved["optimizer"]),
    )
    runner.strategy.load_state(saved["strategy"])
    runner.state = RunState(**saved["run"])
    _renumber(runner, saved["plan"])
    extra = {**saved["hooks"], **checkpoint.tensors.get("extra", {})}
    runner.hooks_list.call("after_load_checkpoint", runner, checkpoint=extra)
    if runner.rank >= len(saved["rng"]):
        return {}
    return rng.from_saved(checkpoint.tensors[f"rng_{runner.rank}"], saved["rng"][runner.rank])


def _renumber(runner: Runner, old: dict[str, Any]) -> None:
    """Count iterations in the new plan's batches; the position in samples stays."""
    state, loader = runner.state, runner.train_dataloader
    per_iter = loader.batch_size * runner.world_size
    if loader.iters_per_epoch is None:  # a stream: there is no epoch to count in
        state.iter = -(-state.iter * old["batch_size"] * old["world_size"] // per_iter)
        return
    if old["iters_per_epoch"] == runner.iters_per_epoch or not state.iter:
        return
    state.iter = state.epoch * runner.iters_per_epoch + math.ceil(state.position / per_iter)


def copy_weights(
    parameters: dict[str, nn.Parameter],
    tensors: dict[str, torch.Tensor],
    source: str | Path,
    strategy: SingleDevice | None = None,
) -> None:
    """Copy a checkpoint's weights into the parameters that a model trains.

    Args:
        source: named in errors.
        strategy: that has placed the parameters; None: they are whole.

    Raises:
        CheckpointError: names or shapes differ.
    """
    strategy = strategy or SingleDevice(torch.device("cpu"))
    missing = sorted(set(parameters) - set(tensors))
    surplus = sorted(set(tensors) - set(parameters))
    if missing or surplus:
        raise CheckpointError(
            f"{source} does not fit this model: {len(missing)} trained weights are missing from"
            f" it (first: {missing[:1]}), {len(surplus)} are unknown (first: {surplus[:1]})"
        )
    for name, parameter in parameters.items():
        if strategy.shape(parameter) != tensors[name].shape:
            raise CheckpointError(
                f"{source}: '{name}' has shape {tuple(tensors[name].shape)}, "
                f"the model expects {tuple(strategy.shape(parameter))}"
            )
    strategy.load_weights(parameters, tensors)
