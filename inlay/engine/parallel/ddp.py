"""One process per device, gradients averaged by ``DistributedDataParallel`` (gloo or nccl)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from inlay.engine.parallel.single import SingleDevice


class DataParallel(SingleDevice):
    """Data parallel over the ranks of the default process group.

    Args:
        find_unused_parameters: look in every backward for trained weights that the loss does not
            depend on, which otherwise is an error.
        timeout: how long a rank waits for the others' counts and files; None is torch's own.
    """

    def __init__(
        self,
        device: torch.device,
        precision: str | None = None,
        loss_scale: str | float = "dynamic",
        find_unused_parameters: bool = False,
        timeout: timedelta | None = None,
    ) -> None:
        super().__init__(device, precision, loss_scale)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.find_unused_parameters = find_unused_parameters
        # Statistics travel by CPU, so that they never queue behind a collective of the GPU.
        self.cpu_group = dist.new_group(backend="gloo", timeout=timeout)

    def prepare(self, model: nn.Module, optimizer: Any = None) -> nn.Module:
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=ids, find_unused_parameters=self.find_unused_parameters
        )

    def backward(self, loss: torch.Tensor) -> None:
        # DDP averages over ranks; the loss is already divided by the units of *all* ranks.
        super().backward(loss * self.world_size)

    def accumulating(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if is_last else model.no_sync()  # type: ignore[operator]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(values, group=self.cpu_group)
        return values

    def barrier(self) -> None:
        dist.barrier(group=self.cpu_group)

    def gather(self, value: Any) -> list[Any]:
        out: list[Any] = [None] * self.world_size
        dist.all_gather_object(out, value, group=self.cpu_group)
        return out
