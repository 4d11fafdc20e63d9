"""The trackers of a run: which ones, what they are told once, and their end."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from inlay.app import plan
from inlay.app.assemble import Parts
from inlay.app.environment import environment
from inlay.config.dump import to_plain
from inlay.core.errors import ConfigError, did_you_mean
from inlay.core.secrets import redact_tree
from inlay.engine.runner import EXIT_CODES, Runner
from inlay.engine.trackers import (
    Guarded,
    RunInfo,
    TensorboardVisBackend,
    TrackioVisBackend,
    Visualizer,
    WandbVisBackend,
)

HURRY = 3.0
"""Seconds that trackers have when the run was told to go."""
TRACKERS = {
    "tensorboard": TensorboardVisBackend,
    "trackio": TrackioVisBackend,
    "wandb": WandbVisBackend,
    "wandb-offline": partial(WandbVisBackend, {"mode": "offline"}),
}
"""Words of ``--track``."""


def choose_trackers(cfg: Any, words: Sequence[str] = ()) -> Visualizer:
    """Return the trackers of a config's ``visualizer`` and those of ``--track``.

    Raises:
        ConfigError: a word that names none, or a package that is not installed.
    """
    if unknown := [word for word in words if word not in TRACKERS]:
        hint = did_you_mean(unknown[0], TRACKERS)
        raise ConfigError(
            f"--track: there is no tracker '{unknown[0]}'.{hint} Known: {', '.join(TRACKERS)}"
        )
    chosen = Parts(cfg, seed=0).visualizer()
    for word in dict.fromkeys(words):
        made = TRACKERS[word]()
        if not chosen.has(type(made)):
            chosen.backends.append(made)
    return chosen


def name_run(runner: Runner, name: str | None, kept: dict[str, Any]) -> None:
    """Give the run its id and its name on all ranks; a resumed one keeps those that it has.

    Args:
        name: of the config's template.
        kept: state of the checkpoint that the run resumes; empty for a new run.
    """
    fresh = f"{runner.timestamp}-{secrets.token_hex(2)}"
    # One date for all ranks.
    chosen = [kept.get("run_id") or fresh, kept.get("run_name") or name]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(chosen, src=0)
    runner.run_id, runner.run_name = chosen


def open_trackers(runner: Runner, chosen: Visualizer, cfg: Any, is_resumed: bool) -> None:
    """Start the trackers of a named run; called on rank 0 alone."""
    info = RunInfo(
        id=str(runner.run_id),
        name=runner.run_name or f"{runner.work_dir.name}_{runner.run_id}",
        resumed=is_resumed,
        names=chosen.names,
        values=redact_tree(
            {"config": to_plain(cfg), "plan": _plan(runner, cfg), "environment": environment()}
        ),
    )
    for backend in chosen.backends:
        tracker = Guarded(backend, runner.logger)
        tracker.open(runner.log_dir / "vis_data", info)
        runner.trackers.append(tracker)
    if runner.run_name is not None:
        runner.logger.info("run name: %s", runner.run_name)
        iteration = runner.state.iter
        runner.track({"iter": iteration, "step": iteration, "run_name": runner.run_name})


def close_trackers(runner: Runner) -> None:
    """End the trackers: each gets a while to finish, less where the run was told to go."""
    at_most = HURRY if runner.stop_reason in EXIT_CODES else None
    for tracker in runner.trackers:
        tracker.close(at_most)


def _plan(runner: Runner, cfg: Any) -> dict[str, Any]:
    loader = runner.train_dataloader
    if loader is None:
        return {}
    accumulate = runner.optim.accumulative_counts
    return plan.count(cfg, loader, runner.loop, accumulate, runner.world_size)
