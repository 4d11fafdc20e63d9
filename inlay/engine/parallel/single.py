"""One device. The other strategies change only what differs from it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from inlay.core.types import Batch, StepOutput
from inlay.engine import optim
from inlay.engine.optimizer_files import SavedState

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
    cuts_state = False
    """Whether every rank holds, and writes, only its pieces of the optimizer's state."""

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

    def place(self, model: nn.Module) -> nn.Module:
        """Bring a new model to the device; its parameters go into the optimizer afterwards."""
        return model.to(self.device)

    def prepare(self, model: nn.Module, optimizer: Any = None) -> nn.Module:
        """Return the module that ``forward`` calls. Called once, before weights are restored."""
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
        norm = self.norm(gradients)
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

    def norm(self, gradients: list[torch.Tensor]) -> float:
        """L2 norm over all gradients, those of other ranks included."""
        return float(nn.utils.get_total_norm(gradients))

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

    # -- what checkpoints hold -------------------------------------------------------------------

    def whole(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Inside, one rank alone may run parts of the model. Every rank enters it."""
        return nullcontext()

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Whole shape of a parameter."""
        return parameter.shape

    def weights(self, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Return whole parameters by name on rank 0, nothing elsewhere. Every rank calls it."""
        return {n: p.data for n, p in parameters.items()} if self.rank == 0 else {}

    def load_weights(
        self, parameters: dict[str, nn.Parameter], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Copy whole ``tensors``, which fit, into the parameters of the same names."""
        for name, parameter in parameters.items():
            parameter.data.copy_(tensors[name])

    def optimizer_state(
        self, optimizer: Any, parameters: dict[str, nn.Parameter]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what this rank writes of the optimizer's state; see ``optimizer_files``."""
        return optim.optimizer_state(optimizer, parameters) if self.rank == 0 else ({}, {})

    def load_optimizer_state(
        self, optimizer: Any, parameters: dict[str, nn.Parameter], saved: SavedState
    ) -> None:
        """Restore the state that any strategy has written."""
        optim.load_optimizer_state(optimizer, parameters, saved)
