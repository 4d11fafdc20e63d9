"""What ZeRO has cut up: the weights in full, the optimizer's state in this rank's pieces; and back.

Nothing that is written depends on the stage, nor on how many ranks read it: a checkpoint goes on
under any strategy. Weights are gathered one parameter at a time, to the memory of rank 0's host.
"""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import nn
from torch.nn.functional import pad

from inlay.core.errors import CheckpointError
from inlay.engine.optim import place_of
from inlay.engine.optimizer_files import SavedState


def weights(parameters: dict[str, nn.Parameter], keep: bool) -> dict[str, torch.Tensor]:
    """Return full-precision weights on the CPU. Every rank calls; without ``keep`` for nothing."""
    full: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        value = safe_get_full_fp32_param(parameter)
        if keep:
            full[name] = value.to("cpu", copy=True)
    return full


def load_weights(parameters: dict[str, nn.Parameter], tensors: dict[str, torch.Tensor]) -> None:
    """Set full-precision weights and those that the model computes with."""
    for name, parameter in parameters.items():
        value = tensors[name].to(torch.float32)
        if is_cut(parameter):
            start, stop = extent(parameter)
            safe_set_local_fp32_param(parameter, _padded(parameter, value.flatten()[start:stop]))
        else:
            safe_set_full_fp32_param(parameter, value)
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)


def is_cut(parameter: Any) -> bool:
    """Whether the parameter itself is cut up, as in ZeRO-3."""
    return hasattr(parameter, "ds_id")


def extent(parameter: Any) -> tuple[int, int]:
    """Which elements ``[start, stop)`` of the flattened parameter this rank's shard holds."""
    if is_cut(parameter):
        size = parameter.partition_numel()
        start = size * torch.distributed.get_rank(parameter.ds_process_group)
        return min(start, parameter.ds_numel), min(start + size, parameter.ds_numel)
    if parameter._hp_mapping is None:
        return 0, 0
    place = parameter._hp_mapping.lp_fragment_address
    return place.start, place.start + place.numel


def _padded(parameter: Any, values: torch.Tensor) -> torch.Tensor:
    """Fill up a piece of a ZeRO-3 parameter to the length that all ranks' pieces have."""
    return pad(values, (0, parameter.partition_numel() - values.numel()))


def optimizer_state(
    optimizer: Any, parameters: dict[str, nn.Parameter], is_first: bool
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return this rank's pieces ``"<parameter>|<key>@<start>"``, flat, and JSON values.

    Args:
        is_first: this is rank 0, which also writes what is the same on every rank.
    """
    # Every shard is stepped in every update: all hold the same keys, and numbers of one value.
    state: dict[str, Any] = next(filter(None, optimizer.state.values()), {})
    cut = [k for k, v in state.items() if isinstance(v, torch.Tensor) and v.dim()]
    tensors: dict[str, torch.Tensor] = {}
    meta: dict[str, Any] = {"scalars": {}, "on_host": [], "shapes": {}}
    for name, parameter in parameters.items():
        start, stop = extent(parameter)
        for key in cut:
            meta["shapes"][f"{name}|{key}"] = list(getattr(parameter, "ds_shape", parameter.shape))
            if start < stop:
                tensors[f"{name}|{key}@{start}"] = _piece(optimizer, parameter, key)[: stop - start]
        for key in state.keys() - set(cut) if is_first else ():
            _add_number(f"{name}|{key}", state[key], tensors, meta, optimizer)
    return tensors, meta


def _piece(optimizer: Any, parameter: Any, key: str) -> torch.Tensor:
    """This rank's part of a parameter's state; in ZeRO-1 and 2 a view of its shard.

    There it is not read by ``safe_get_full_optimizer_state``, which after the step of the first
    group of parameters (DeepSpeed 0.19.8) looks for the state of all groups, and then no more.
    """
    if is_cut(parameter):
        return safe_get_local_optimizer_state(parameter, key)
    place = parameter._hp_mapping
    shard = optimizer.param_groups[place.param_group_index]["params"][0]
    part = place.hp_fragment_address
    return optimizer.state[shard][key].narrow(0, part.start, part.numel)


def _add_number(
    full: str, value: Any, tensors: dict[str, torch.Tensor], meta: dict[str, Any], optimizer: Any
) -> None:
    if not isinstance(value, torch.Tensor):
        meta["scalars"][full] = value
        return
    tensors[full] = value.to("cpu", copy=True)
    # With its state offloaded, a fused optimizer counts on the host; on a device it may not.
    if value.device.type == "cpu" and not optimizer.defaults.get("fused"):
        meta["on_host"].append(full)


def load_optimizer_state(zero: Any, parameters: dict[str, nn.Parameter], saved: SavedState) -> None:
    """Restore what :func:`optimizer_state`, or that of another strategy, returned.

    Args:
        zero: DeepSpeed's optimizer around ours.

    Raises:
        CheckpointError: the state is of a parameter that is not trained, or not of its shape.
    """
    names = saved.names()
    if not names:
        return
    _check(saved, parameters)
    cut, alike = _keys(saved)
    _allocate(zero, cut, alike)
    for full in names:
        parameter, key = place_of(full, parameters)
        start, stop = extent(parameter)
        if key not in cut or start == stop:
            continue
        values = saved.read(full, start, stop)
        if is_cut(parameter):
            safe_set_local_optimizer_state(parameter, _padded(parameter, values), key)
        else:
            _piece(zero.optimizer, parameter, key).copy_(values)


def _check(saved: SavedState, parameters: dict[str, nn.Parameter]) -> None:
    for full in saved.names():
        parameter, _ = place_of(full, parameters)
        shape, wanted = saved.shape(full), getattr(parameter, "ds_shape", parameter.shape)
        if shape and shape != wanted:
            raise CheckpointError(
                f"the checkpoint's optimizer state '{full}' has shape {tuple(shape)}, ZeRO can cut "
                f"up only what has the shape of its weight, {tuple(wanted)}"
            )


def _keys(saved: SavedState) -> tuple[dict[str, torch.dtype], dict[str, Any]]:
    """Keys of what has the shape of its parameter, with dtypes, and values of what is a number.

    A number that differs between parameters (steps, where some had no gradient) is its largest.
    """
    cut: dict[str, torch.dtype] = {}
    alike: dict[str, Any] = {}
    for full in saved.names():
        key = full.rsplit("|", 1)[1]
        if saved.shape(full):
            cut[key] = saved.read(full, 0, 0).dtype
            continue
        value = saved.whole(full)
        if key not in alike or value > alike[key]:
            alike[key] = value
    return cut, alike


def _allocate(zero: Any, cut: dict[str, torch.dtype], alike: dict[str, Any]) -> None:
    """Give every shard the state that the optimizer would give it at its first step."""
    optimizer = zero.optimizer
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # ZeRO-3
        shards = zero.fp32_partitioned_groups_flat
    else:
        shards = [p for group in optimizer.param_groups for p in group["params"]]
    for shard in shards:
        state = {key: torch.zeros_like(shard, dtype=dtype) for key, dtype in cut.items()}
        for key, value in alike.items():
            number = isinstance(value, torch.Tensor)
            state[key] = value.clone() if number else value
            if number and optimizer.defaults.get("fused"):
                state[key] = state[key].to(shard.device)
        optimizer.state[shard] = state
