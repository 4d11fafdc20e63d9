"""One device. The other strategies change only what differs from it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from inlay.core.types import Batch, StepOutput

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class SingleDevice:
    """Forward, backward and step on one device.

    Args:
        device: where model and batches live.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (autocast).
        loss_scale: ``"dynamic"`` or a fixed factor; float16 only.
    """

    rank = 0
    world_size = 1

    def __init__(
        self,
        device: torch.device,
        precision: str | None = None,
        loss_scale: str | float = "dynamic",
    ) -> None:
        self.device = device
        self.dtype = PRECISIONS.get(precision or "float32")
        self.scaler: torch.amp.GradScaler | None = None
        if self.dtype is torch.float16:
            start = 2.0**16 if loss_scale == "dynamic" else float(loss_scale)
            grow = 2000 if loss_scale == "dynamic" else 2**31 - 1
            self.scaler = torch.amp.GradScaler(device.type, init_scale=start, growth_interval=grow)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the module that ``forward`` calls."""
        return model

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Run ``model`` on one micro-batch, in the strategy's precision."""
        if self.device.type != "cpu":
            batch = batch.to(self.device, non_blocking=True)
        if self.dtype is None:
            return model(**batch.inputs)
        with torch.autocast(self.device.type, dtype=self.dtype):
            return model(**batch.inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradients of ``loss`` (already divided by the window's loss units)."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def accumulating(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Surrounds forward and backward of a micro-batch; ``is_last`` closes the window."""
        return nullcontext()

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        max_norm: float | None,
    ) -> tuple[float, bool]:
        """Unscale, clip, update, zero the gradients.

        An update with a non-finite gradient is skipped: no weight and no optimizer state moves.

        Returns:
            L2 norm of the gradients before clipping, and whether the update was applied.
        """
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        finite = norm - norm == 0.0
        if finite and max_norm is not None and norm > max_norm:
            torch._foreach_mul_(gradients, max_norm / norm)
        if self.scaler is not None:
            self.scaler.step(optimizer)
            self.scaler.update()
        elif finite:
            optimizer.step()
        # What zero_grad does, without its hooks and profiler records (10 us).
        for parameter in parameters:
            parameter.grad = None
        return norm, finite

    @property
    def guards_overflow(self) -> bool:
        """True where a non-finite gradient may be an fp16 overflow that the loss scale cures."""
        return self.scaler is not None and self.scaler.get_scale() > 1.0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return float64 ``values`` summed over all ranks."""
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""

    def gather(self, value: Any) -> list[Any]:
        """Return ``value`` of every rank, in rank order, on every rank."""
        return [value]

    def state(self) -> dict[str, Any]:
        """Loss-scale state, JSON values."""
        return dict(self.scaler.state_dict()) if self.scaler is not None else {}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)
