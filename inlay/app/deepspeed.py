"""`inlay train --deepspeed`: the strategy, with the settings of the run in DeepSpeed's config."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch

from inlay.core import dist
from inlay.engine.parallel.deepspeed_config import RunSettings, read_config
from inlay.engine.parallel.deepspeed_setup import set_up


def deepspeed_strategy(
    config: str | dict[str, Any],
    optim: Any,
    batch_size: int,
    device: torch.device,
    precision: str | None,
    timeout: timedelta | None,
) -> Any:
    """Make the strategy, before anything slow is built.

    Args:
        config: name, JSON file or dict, see :func:`deepspeed_config.read_config`.
        optim: the ``OptimWrapper`` of the run.
        batch_size: items of a micro-batch, per device.
        precision: that the device can run.

    Raises:
        ConfigError: the file is missing or contradicts the config of the run.
        InlayError: DeepSpeed is not installed.
    """
    run = RunSettings(
        batch_size=batch_size,
        accumulate=optim.accumulative_counts,
        world_size=dist.world_size(),
        max_norm=optim.max_norm,
        dtype=precision or "float32",
        loss_scale=optim.loss_scale,
    )
    filled = read_config(config, run)
    set_up(device)
    from inlay.engine.parallel.deepspeed import ZeRO

    return ZeRO(filled, device, precision, timeout)
