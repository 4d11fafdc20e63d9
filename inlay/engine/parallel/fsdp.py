"""Weights, gradients and optimizer state cut up over the ranks: FSDP2 (``fully_shard``).

https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html. Every parameter is cut along
its first dimension, so that each rank holds a contiguous run of its elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from inlay.core.errors import ConfigError
from inlay.engine.optim import optimizer_state, place_of
from inlay.engine.optimizer_files import SavedState
from inlay.engine.parallel.ddp import DataParallel

OPTIMIZERS = (
    "Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "SGD",
)  # fmt: skip
"""Optimizers of torch whose update of an element needs that element's values alone."""


class FullySharded(DataParallel):
    """FSDP2 over the ranks of the default process group.

    Blocks (the items of the outermost ``ModuleList`` s: decoder and encoder layers) are gathered
    one after another, when they compute; the rest is one group, gathered throughout forward and
    backward. Weights that are quantised stay whole on every rank.

    Args:
        reshard_after_forward: drop a block's gathered weights after its forward and gather them
            anew in backward; False keeps them, for speed.
        timeout: how long a rank waits for the others' counts and files; None is torch's own.
    """

    cuts_state = True

    def __init__(
        self,
        device: torch.device,
        precision: str | None = None,
        loss_scale: str | float = "dynamic",
        reshard_after_forward: bool = True,
        timeout: timedelta | None = None,
    ) -> None:
        super().__init__(device, precision, loss_scale, timeout=timeout)
        self.reshard_after_forward = reshard_after_forward

    # -- setting up --------------------------------------------------------------------------

    def place(self, model: nn.Module) -> nn.Module:
        """Cut up the parameters and bring this rank's pieces to the device.

        Raises:
            ConfigError: a trained parameter is a single number, or a group mixes types.
        """
        kept = {p for p in model.parameters() if not p.is_floating_point() or not p.dim()}
        _check_numbers(model, kept)
        for parameter in kept:
            parameter.data = parameter.data.to(self.device)
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (self.world_size,)),
            # Forward runs under autocast, as everywhere; gathered in that type, weights are half
            # as much to send. Gradients are summed in full precision.
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=self.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
            ),
            "ignored_params": kept,
        }
        for module in [*blocks(model), *_apart(model)]:
            fully_shard(module, reshard_after_forward=self.reshard_after_forward, **settings)
        root = fully_shard(model, reshard_after_forward=False, **settings)
        for shard in _shards(model):
            # A loss is divided by the units of all ranks: gradients are summed, not averaged.
            shard.set_gradient_divide_factor(1.0)
            shard.set_force_sum_reduction_for_comms(True)
        # The first module that runs would be taken for the root, be it a part of the model.
        root._get_fsdp_state()._lazy_init()
        return model

    def prepare(self, model: nn.Module, optimizer: Any = None) -> nn.Module:
        """Return ``model``, whose parts have gathered themselves since :meth:`place`.

        Raises:
            ConfigError: the optimizer cannot work on pieces.
        """
        kind = type(optimizer)
        if kind.__name__ not in OPTIMIZERS or not kind.__module__.startswith("torch.optim"):
            raise ConfigError(
                f"optim_wrapper.optimizer: fsdp cannot cut up the state of {kind.__name__}. Use "
                f"one of torch.optim: {', '.join(OPTIMIZERS)}"
            )
        return model

    # -- one update --------------------------------------------------------------------------

    def backward(self, loss: torch.Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def accumulating(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        model.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        return nullcontext()

    def norm(self, gradients: list[torch.Tensor]) -> float:
        total = nn.utils.get_total_norm(gradients)
        return float(total.full_tensor() if isinstance(total, DTensor) else total)

    # -- what checkpoints hold -----------------------------------------------------------------

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[None]:
        """Gather all weights, in the precision of forward; the device must have room for them."""
        shards = _shards(model)
        for shard in shards:
            shard.set_reshard_after_forward(False, recurse=False)
            shard.unshard()
        try:
            yield
        finally:
            for shard in shards:
                shard.reshard()
                keeps = shard is model or not self.reshard_after_forward
                shard.set_reshard_after_forward(not keeps, recurse=False)
                # What ran alone is no part of the order in which backward gathers ahead.
                for group in shard._get_fsdp_state()._fsdp_param_groups:
                    group.comm_ctx.post_forward_order.clear()
                    group._post_forward_indices.clear()

    def weights(self, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Gather parameter by parameter, into the memory of rank 0's host."""
        found = {}
        for name, parameter in parameters.items():
            full = _cut(parameter).full_tensor()
            if self.rank == 0:
                found[name] = full.cpu()
        return found

    def load_weights(
        self, parameters: dict[str, nn.Parameter], tensors: dict[str, torch.Tensor]
    ) -> None:
        for name, parameter in parameters.items():
            local = _local(parameter)
            start = _start(parameter)
            local.copy_(tensors[name].reshape(-1)[start : start + local.numel()].view_as(local))

    def optimizer_state(
        self, optimizer: Any, parameters: dict[str, nn.Parameter]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, meta = optimizer_state(optimizer, parameters)
        meta["shapes"] = {n: list(t.shape) for n, t in tensors.items() if isinstance(t, DTensor)}
        meta["on_host"] = [n for n in meta["on_host"] if n not in meta["shapes"]]
        mine = {}
        for full, value in tensors.items():
            if isinstance(value, DTensor):
                start = _start(place_of(full, parameters)[0])
                mine[f"{full}@{start}"] = value.to_local().reshape(-1)
            elif self.rank == 0:
                mine[full] = value
        return {n: t for n, t in mine.items() if t.numel()}, meta

    def load_optimizer_state(
        self, optimizer: Any, parameters: dict[str, nn.Parameter], saved: SavedState
    ) -> None:
        for full in saved.names():
            parameter, key = place_of(full, parameters)
            if parameter.dim() and saved.shape(full) == parameter.shape:
                local, start = _local(parameter), _start(parameter)
                value: Any = saved.read(full, start, start + local.numel()).view_as(local)
                value = _like(parameter, value.to(local.device))
            else:
                value = saved.whole(full)
                if isinstance(value, torch.Tensor) and full not in saved.on_host:
                    value = value.to(self.device)
            optimizer.state[parameter][key] = value


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the items of the outermost ``ModuleList`` s of ``model`` that hold weights."""
    found: list[nn.Module] = []
    for child in model.children():
        is_block = isinstance(model, nn.ModuleList) and not isinstance(child, nn.ModuleList)
        found += [child] if is_block else blocks(child)
    return [b for b in dict.fromkeys(found) if any(True for _ in b.parameters())]


def _apart(model: nn.Module) -> list[nn.Module]:
    """Return the parts that need a group of their own beside the rest outside of all blocks, since
    their trained weights have another type (such as a projector in full precision).

    Raises:
        ConfigError: a block, or the rest, mixes types all the same.
    """
    layers = blocks(model)
    inside = {p for block in layers for p in block.parameters()}
    for block in layers:
        _check_types(block, set())
    parts = {
        child: {p.dtype for p in child.parameters() if p.requires_grad and p not in inside}
        for child in model.children()
        if not any(p in inside for p in child.parameters())
    }
    rest = {p.dtype for p in model.parameters() if p.requires_grad and p not in inside}
    if len(rest) < 2:
        return []
    apart = [c for c, types in parts.items() if types]
    _check_types(model, inside | {p for c in apart for p in c.parameters()})
    for part in apart:
        _check_types(part, set())
    return apart


def _check_types(module: nn.Module, other: set[nn.Parameter]) -> None:
    types = {p.dtype for p in module.parameters() if p.requires_grad and p not in other}
    if len(types) > 1:
        names = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        raise ConfigError(
            f"strategy: fsdp gathers the weights of {type(module).__name__} together, and those "
            f"that are trained are {names}. Load the model with one dtype, or use strategy='ddp'"
        )


def _check_numbers(model: nn.Module, kept: set[nn.Parameter]) -> None:
    trained = [n for n, p in model.named_parameters() if p in kept and p.requires_grad]
    if trained:
        raise ConfigError(
            f"strategy: fsdp cannot cut up '{trained[0]}', a single number that is trained. Freeze "
            "it (optim_wrapper.lr_groups), or use strategy='ddp'"
        )


def _shards(model: nn.Module) -> list[FSDPModule]:
    return [m for m in model.modules() if isinstance(m, FSDPModule)]


def _cut(parameter: nn.Parameter) -> DTensor:
    return cast(DTensor, parameter.detach())


def _local(parameter: nn.Parameter) -> torch.Tensor:
    """This rank's rows of a parameter; none, where it has fewer rows than there are ranks."""
    return _cut(parameter).to_local()


def _start(parameter: nn.Parameter) -> int:
    """Index of this rank's first element in the flattened parameter, at most its length."""
    rows = -(-parameter.shape[0] // dist.get_world_size())
    first = min(dist.get_rank() * rows, parameter.shape[0])
    return first * (parameter.numel() // max(parameter.shape[0], 1))


def _like(parameter: nn.Parameter, local: torch.Tensor) -> DTensor:
    """A tensor cut up as ``parameter`` is, from this rank's rows."""
    whole = _cut(parameter)
    return DTensor.from_local(
        local,
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )
