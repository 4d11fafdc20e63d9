"""Start or resume a run from a checkpoint that XTuner, F-LMM or DeepSpeed has written."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inlay.convert.flmm import load_flmm, read_flmm
from inlay.convert.foreign import Foreign, find_original, fit_weights, guess_checkpoint, own_names
from inlay.core.errors import CheckpointError
from inlay.core.zero import find_zero
from inlay.engine import checkpoint as ckpt
from inlay.engine import resume as resume_rules
from inlay.engine.optim import trainable
from inlay.engine.runner import Runner
from inlay.engine.snapshot import copy_weights
from inlay.models.grounding.model import FrozenGrounding
from inlay.models.pretrained import TORCH_FILES

STATE_KEYS = {
    "exp_avg": ("Adam", "AdamW", "NAdam", "RAdam"),
    "state1": ("bitsandbytes",),
    "momentum_buffer": ("SGD",),
}
"""By what the state of an optimizer is told, and which classes (or packages of them) have it."""


def find_foreign(path: str | Path) -> Path | None:
    """Return where a checkpoint of others is, or None where ``path`` means one of Inlay's."""
    path = Path(path)
    if path.is_file() and path.suffix in (*TORCH_FILES, ".safetensors"):
        return path
    if (path / "state.json").is_file():
        return None
    return find_zero(path) or find_original(path)


def read_foreign(path: Path, weights_only: bool) -> Foreign:
    """Read it before anything slow is built.

    Raises:
        CheckpointError: it cannot be read, or it is to be resumed and holds nothing but weights.
    """
    foreign = guess_checkpoint(path)
    if not weights_only and not {"iter", "updates"} & foreign.meta.keys():
        raise CheckpointError(
            f"{path} holds weights only, there is no run to resume. Start from it with "
            f"load_from: --cfg-options load_from={path}"
        )
    return foreign


def read_weights(path: str | Path) -> Foreign:
    """Read the trained weights of a checkpoint, Inlay's own (verified) or of others.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    if foreign := find_foreign(path):
        return guess_checkpoint(foreign)
    folder = ckpt.locate(path)
    return Foreign("inlay", folder, ckpt.load_weights(folder))


def put_weights(model: nn.Module, saved: Foreign) -> None:
    """Copy trained weights into a model on one device.

    Raises:
        CheckpointError: they are of another model.
    """
    if saved.kind != "inlay" and isinstance(model, FrozenGrounding):
        load_flmm(model, saved.path)
        return
    trained, weights = trainable(model), saved.weights
    if saved.kind != "inlay":
        weights = fit_weights(model, saved, trained, lambda parameter: parameter.shape)
    copy_weights(trained, weights, saved.path)


def load_foreign_weights(runner: Runner, foreign: Foreign) -> None:
    """Copy the weights alone into the model of a run, whatever its strategy.

    Raises:
        CheckpointError: they are of another model.
    """
    if foreign.kind == "inlay":
        runner.load_weights(foreign.weights, foreign.path)
        return
    if isinstance(runner.model, FrozenGrounding):
        if runner.strategy.cuts_state:  # only the strategy can reach all copies of a weight
            state, named = read_flmm(foreign.path), runner.named_parameters
            runner.load_weights({n: t for n, t in state.items() if n in named}, foreign.path)
        else:
            load_flmm(runner.model, foreign.path)
        runner.logger.info("Loaded weights from %s, a checkpoint of F-LMM", foreign.path)
        return
    runner.load_weights(_weights(runner, foreign), foreign.path)
    runner.logger.info("Loaded weights from %s", foreign.note)


def resume_foreign(runner: Runner, foreign: Foreign, allow_change: list[str]) -> None:
    """Go on with the run: weights, optimizer, position. Says what is restored and what is not.

    Raises:
        CheckpointError: it is of another model, or the effective batch size has changed and
            ``allow_change`` does not name it.
    """
    weights = _weights(runner, foreign)
    tensors, scalars, reason = _optimizer_state(runner, foreign)
    plan, identity = _original_plan(foreign)
    state: dict[str, Any] = {
        "run": _position(runner, foreign, plan),
        "seed": runner.seed,
        "plan": runner.plan(),
        "optimizer": {"scalars": scalars, "on_host": _on_host(runner, tensors)},
        "strategy": foreign.loss_scaler,
        "rng": [],
        "hooks": {},
    }
    changes = resume_rules.compare(
        {"plan": plan, "identity": identity}, runner.plan(), runner.identity, allow_change
    )
    place = _place(runner, state["run"])
    if changes:
        runner.logger.warning("The run has changed:\n%s", resume_rules.table(changes, place))
    resume_rules.refuse(changes, foreign.path)
    saved = ckpt.Checkpoint({"model": weights, "optimizer": tensors}, state)
    runner.restore(saved, foreign.path)
    optimizer = reason or f"the optimizer's state of {len(foreign.states)} weights"
    scale = ", the loss scale" if foreign.loss_scaler else ""
    runner.logger.info(
        "Resumed from %s.\nRestored: %d trained weights, %s%s, and the place: %s. Learning rates "
        "follow from it. Not restored, because the original saves neither: the random generators "
        "(dropout draws other numbers than there) and the order of its data (they go on at this "
        "place of Inlay's own order, seed %d).",
        *(foreign.note, len(weights), optimizer, scale, place, runner.seed),
    )


def _weights(runner: Runner, foreign: Foreign) -> dict[str, torch.Tensor]:
    shape = runner.strategy.shape
    return fit_weights(runner.model, foreign, runner.named_parameters, shape)


def _optimizer_state(
    runner: Runner, foreign: Foreign
) -> tuple[dict[str, torch.Tensor], dict[str, Any], str]:
    """Tensors and scalars ``"<parameter>|<key>"``, or none of them and the reason."""
    named = runner.named_parameters
    if isinstance(foreign.states, dict):
        renamed = own_names(runner.model, foreign.states, foreign.path)
        states = {renamed[n]: s for n, s in foreign.states.items() if n in renamed}
    elif len(foreign.states) == len(named):  # in the order of the parameters, on both sides
        states = dict(zip(named, foreign.states, strict=True))
    else:
        found = f"state of {len(foreign.states)} weights, this run trains {len(named)}"
        return {}, {}, f"nothing of the optimizer, which begins anew (it holds {found})"
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, parameter in named.items():
        if problem := _misfit(runner, states.get(name), parameter):
            return {}, {}, f"nothing of the optimizer, which begins anew ('{name}' {problem})"
        for key, value in states[name].items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}|{key}"] = value.clone()  # the optimizer will write to it
            else:
                scalars[f"{name}|{key}"] = value
    return tensors, scalars, ""


def _misfit(runner: Runner, state: dict[str, Any] | None, parameter: Any) -> str:
    """Why this run's optimizer cannot go on with a weight's state; empty where it can."""
    if not state:
        return "has no state there"
    kind = type(runner.optimizer)
    words = {kind.__name__, kind.__module__.partition(".")[0]}
    for key, kinds in STATE_KEYS.items():
        if key in state and not words & set(kinds):
            return f"has the state of another optimizer than {kind.__name__}"
    shape = runner.strategy.shape(parameter)
    for key in ("exp_avg", "momentum_buffer"):
        if isinstance(state.get(key), torch.Tensor) and state[key].shape != shape:
            return f"has a state of shape {list(state[key].shape)}, expected {list(shape)}"
    return ""


def _on_host(runner: Runner, tensors: dict[str, torch.Tensor]) -> list[str]:
    """Step counts stay on the CPU, unless the optimizer's kernel reads them on the device."""
    group = runner.optimizer.param_groups[0]
    if group.get("fused") or group.get("capturable"):
        return []
    return [full for full in tensors if full.endswith("|step")]


def _original_plan(foreign: Foreign) -> tuple[dict[str, Any], dict[str, str]]:
    """What is known of the original's batches: for the comparison of plans, and of identities."""
    plan = settings_of(foreign.meta.get("cfg", ""))
    meta = foreign.meta
    if "ranks" in meta:
        plan["world_size"] = meta["ranks"]
    if meta.get("updates"):
        return plan, {"effective_batch": str(meta.get("samples", 0) // meta["updates"])}
    return plan, {}


def settings_of(config: str) -> dict[str, Any]:
    """Return ``batch_size`` and ``accumulative_counts`` of a config's text, which is not run."""
    try:
        lines = ast.parse(config).body
    except (SyntaxError, ValueError):
        return {}
    found: dict[str, Any] = {}
    wanted = {"train_dataloader": "batch_size", "optim_wrapper": "accumulative_counts"}
    for line in lines:
        if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
            continue
        name, value = line.targets[0].id, line.value
        if name in wanted.values() and isinstance(value, ast.Constant):
            found.setdefault(name, value.value)
        if name in wanted and isinstance(value, ast.Call):
            for keyword in value.keywords:
                if keyword.arg == wanted[name] and isinstance(keyword.value, ast.Constant):
                    found[wanted[name]] = keyword.value.value
    return {name: value for name, value in found.items() if type(value) is int and value > 0}


def _position(runner: Runner, foreign: Foreign, plan: dict[str, Any]) -> dict[str, Any]:
    """Counters (of ``RunState``) after as many items as the original has trained on.

    The original throws the gradients of an unfinished accumulation window away: it is replayed.
    """
    per_iter = runner.train_dataloader.batch_size * runner.world_size
    if "samples" in foreign.meta:
        items = foreign.meta["samples"]
    else:
        batch = plan.get("batch_size", runner.train_dataloader.batch_size)
        items = foreign.meta["iter"] * batch * runner.world_size
    accumulate, per_epoch = runner.optim.accumulative_counts, runner.iters_per_epoch
    epoch, inside = divmod(items // per_iter, per_epoch)
    inside -= inside % accumulate
    return {
        "iter": epoch * per_epoch + inside,
        "update": epoch * -(-per_epoch // accumulate) + inside // accumulate,
        "epoch": epoch,
        "position": inside * per_iter,
    }


def _place(runner: Runner, run: dict[str, Any]) -> str:
    return (
        f"iteration {run['iter']} of {runner.max_iters}, update {run['update']}, "
        f"epoch {run['epoch'] + 1}, item {run['position']} of {runner.train_dataloader.num_items}"
    )
