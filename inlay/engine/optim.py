"""Optimizers: which parameters they get, and their state by parameter name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from inlay.core.errors import CheckpointError, ConfigError
from inlay.engine.groups import PartRates, parameter_groups
from inlay.engine.optimizer_files import SavedState


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name; a tied weight appears once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def build_optimizer(
    model: nn.Module,
    make: Callable[..., Any],
    settings: dict[str, Any],
    rates: PartRates | None = None,
) -> Any:
    """Build an optimizer over the trainable parameters of ``model``.

    Args:
        make: any torch or bitsandbytes optimizer class. ``torch.optim.AdamW`` and ``Adam`` run
            their fused kernel unless the settings say otherwise.
        settings: its keyword arguments, as in the config.
        rates: learning rates by part, each part a group of its own; None: one group.

    Raises:
        ConfigError: the model has nothing to train.
    """
    named = trainable(model)
    parameters = list(named.values())
    if not parameters:
        raise ConfigError("model: no parameter is trainable; add `lora` or unfreeze a part")
    fusable = make in (torch.optim.AdamW, torch.optim.Adam) and all(
        p.is_floating_point() for p in parameters
    )
    if fusable and "fused" not in settings and "foreach" not in settings:
        settings = {**settings, "fused": True}
    if rates:
        return make(parameter_groups(named, rates, make, settings), **settings)
    return make(parameters, **settings)


def optimizer_state(
    optimizer: Any, parameters: dict[str, nn.Parameter]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors ``"<parameter>|<key>"`` and the rest of the optimizer's state, JSON values.

    Read as the optimizer holds it: ``state_dict`` of some optimizers casts or nests it.

    Args:
        parameters: what the optimizer got, by name.

    Returns:
        Tensors, and the ``meta`` of :class:`SavedState`.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    on_host: list[str] = []
    seen: set[int] = set()
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            full = f"{name}|{key}"
            if not isinstance(value, torch.Tensor):
                scalars[full] = value
                continue
            # 8-bit optimizers share one quantisation map; safetensors wants every tensor its own.
            tensors[full] = value.clone() if value.data_ptr() in seen else value
            seen.add(value.data_ptr())
            if value.device.type == "cpu":
                on_host.append(full)
    return tensors, {"scalars": scalars, "on_host": on_host}


def load_optimizer_state(
    optimizer: Any, parameters: dict[str, nn.Parameter], saved: SavedState
) -> None:
    """Restore what :func:`optimizer_state`, or that of another strategy, returned.

    Learning rate, betas and weight decay stay those of the *new* config: they are free to change.

    Raises:
        CheckpointError: the state names a parameter that the model does not train.
    """
    for full in saved.names():
        parameter, key = place_of(full, parameters)
        value = saved.whole(full)
        if isinstance(value, torch.Tensor) and full not in saved.on_host:
            value = value.to(parameter.device)
        optimizer.state[parameter][key] = value


def place_of(full: str, parameters: dict[str, nn.Parameter]) -> tuple[nn.Parameter, str]:
    """Return parameter and key of the state ``full``, ``"<parameter>|<key>"``.

    Raises:
        CheckpointError: the model does not train such a parameter.
    """
    name, key = full.rsplit("|", 1)
    if name not in parameters:
        raise CheckpointError(
            f"the checkpoint holds optimizer state of '{name}', which this model does not train"
        )
    return parameters[name], key
