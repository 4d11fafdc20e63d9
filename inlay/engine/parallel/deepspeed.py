"""DeepSpeed's ZeRO: gradients, optimizer state and weights cut up over the ranks.

https://deepspeed.readthedocs.io. The loop stays ours: it divides the loss by the units of the whole
window over all ranks and says where a window ends; DeepSpeed sums, scales, clips and steps. Call
:func:`deepspeed_setup.set_up` before this is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from inlay.core.errors import ConfigError
from inlay.core.types import Batch, StepOutput
from inlay.engine.optimizer_files import SavedState
from inlay.engine.parallel import deepspeed_state
from inlay.engine.parallel.ddp import DataParallel


class ZeRO(DataParallel):
    """ZeRO over the ranks; one process alone becomes a group of one.

    In 16 bit all weights are cast to it, and full-precision copies of the trained ones are kept in
    the optimizer's shards: these are what checkpoints hold.

    Args:
        config: DeepSpeed's, complete; see :func:`deepspeed_config.read_config`.
        timeout: how long a rank waits for the others; None is torch's own.
    """

    cuts_state = True

    def __init__(
        self,
        config: dict[str, Any],
        device: torch.device,
        precision: str | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        super().__init__(device, precision, timeout=timeout)
        self.scaler = None  # DeepSpeed scales losses itself
        self.config = config
        self.stage: int = config["zero_optimization"]["stage"]
        self.engine: Any = None

    def prepare(self, model: nn.Module, optimizer: Any = None) -> nn.Module:
        """Cut weights and optimizer up; ``optimizer`` goes on to hold this rank's shards.

        Raises:
            ConfigError: the weights or the optimizer cannot be cut up.
        """
        _check(model, optimizer, self.stage, self.dtype)
        wrapped = _Autocast(model, self.device.type, self.dtype)
        self.engine, *_ = deepspeed.initialize(
            model=wrapped, optimizer=optimizer, config=self.config
        )
        if self.zero.optimizer is not optimizer:
            raise ConfigError(
                f"optim_wrapper.optimizer: DeepSpeed replaces {type(optimizer).__name__} by one of "
                "its own making, whose learning rates it does not let us set. Use torch.optim.AdamW"
            )
        if self._scales:
            # At the smallest scale the loop counts what is skipped, and ends the run with advice.
            self.zero.loss_scaler.raise_error_at_min_scale = False
        return self.engine

    @property
    def zero(self) -> Any:
        """DeepSpeed's optimizer around ours."""
        return self.engine.optimizer

    # -- one update --------------------------------------------------------------------------

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Run the model of :meth:`prepare`, in validation, too: its weights may be cut up."""
        if self.device.type != "cpu":
            batch = batch.to(self.device, non_blocking=True)
        return StepOutput(*self.engine(**batch.inputs))

    def backward(self, loss: torch.Tensor) -> None:
        # DeepSpeed averages over ranks; the loss is already divided by the units of *all* ranks.
        self.engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def accumulating(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        # Said by hand: the last window of an epoch may be a short one.
        self.engine.set_gradient_accumulation_boundary(is_last)
        return nullcontext()

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        max_norm: float | None,
    ) -> tuple[float, bool]:
        """Unscale, clip (to the norm in DeepSpeed's config), update, zero the gradients."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm()), self.engine.was_step_applied()

    # -- loss scale --------------------------------------------------------------------------

    @property
    def _scales(self) -> bool:
        return self.engine is not None and hasattr(self.zero.loss_scaler, "last_overflow_iter")

    @property
    def guards_overflow(self) -> bool:
        scaler = self.zero.loss_scaler
        return self._scales and scaler.cur_scale > scaler.min_scale

    def state(self) -> dict[str, Any]:
        """Loss-scale state, as :class:`torch.amp.GradScaler` writes it."""
        if not self._scales:
            return {}
        scaler = self.zero.loss_scaler
        return {
            "scale": scaler.cur_scale,
            "growth_factor": scaler.scale_factor,
            "backoff_factor": 1 / scaler.scale_factor,
            "growth_interval": scaler.scale_window,
            "_growth_tracker": scaler.cur_iter - scaler.last_overflow_iter - 1,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        if self._scales and state:
            scaler = self.zero.loss_scaler
            scaler.cur_scale = state["scale"]
            scaler.cur_iter = scaler.last_overflow_iter + 1 + state["_growth_tracker"]

    # -- what checkpoints hold -----------------------------------------------------------------

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        return getattr(parameter, "ds_shape", parameter.shape)

    def weights(self, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        return deepspeed_state.weights(parameters, self.rank == 0)

    def load_weights(
        self, parameters: dict[str, nn.Parameter], tensors: dict[str, torch.Tensor]
    ) -> None:
        deepspeed_state.load_weights(parameters, tensors)

    def optimizer_state(
        self, optimizer: Any, parameters: dict[str, nn.Parameter]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return deepspeed_state.optimizer_state(optimizer, parameters, self.rank == 0)

    def load_optimizer_state(
        self, optimizer: Any, parameters: dict[str, nn.Parameter], saved: SavedState
    ) -> None:
        deepspeed_state.load_optimizer_state(self.zero, parameters, saved)

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[None]:
        """Gather all weights: inside, one rank alone may run or export the model."""
        if self.stage < 3:
            yield
            return
        # The hooks that fetch and drop the weights of each module would wait for the other ranks.
        offload = self.zero.parameter_offload
        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            offload.destroy()
            offload.forward_hooks, offload.backward_hooks = [], []
            try:
                yield
            finally:
                offload.setup_zero_stage3_hooks()


class _Autocast(nn.Module):
    """The model under autocast, which DeepSpeed switches off outside of it on a GPU.

    It returns a tuple, the kind of output in which DeepSpeed looks for the loss.
    """

    def __init__(self, model: nn.Module, device: str, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model, self.device_type, self.dtype = model, device, dtype

    def forward(self, **inputs: Any) -> tuple[torch.Tensor, int, dict[str, torch.Tensor]]:
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not None):
            out = self.model(**inputs)
        return out.loss_sum, out.loss_units, out.metrics


def _check(model: nn.Module, optimizer: Any, stage: int, dtype: torch.dtype | None) -> None:
    """Stop before DeepSpeed does, with fewer words, or trains something else than was asked for.

    Raises:
        ConfigError: a quantised model under ZeRO-3, an 8-bit optimizer, trained weights of
            several types.
    """
    if stage == 3 and not all(p.is_floating_point() for p in model.parameters()):
        raise ConfigError(
            "--deepspeed: ZeRO-3 cannot cut up quantised weights (quantization_config). Use "
            "deepspeed_zero2, where every device holds them"
        )
    if type(optimizer).__module__.startswith("bitsandbytes"):
        raise ConfigError(
            f"--deepspeed: the state of {type(optimizer).__name__} (bitsandbytes) comes in blocks, "
            "which cannot be cut up by weights. Use torch.optim.AdamW: ZeRO divides its state by "
            "the number of devices"
        )
    types = {p.dtype for group in optimizer.param_groups for p in group["params"]}
    if dtype is None and len(types) > 1:
        names = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        raise ConfigError(
            f"--deepspeed: the trained weights are {names}, ZeRO needs them all in one type. Set "
            "optim_wrapper.dtype='bfloat16', or load the model with one dtype"
        )
