"""Optimizers: which parameters they get, and their state by parameter name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from inlay.core.errors import CheckpointError, ConfigError


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name; a tied weight appears once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def build_optimizer(model: nn.Module, make: Callable[..., Any], settings: dict[str, Any]) -> Any:
    """Build an optimizer over the trainable parameters of ``model``.

    Args:
        make: any torch or bitsandbytes optimizer class. ``torch.optim.AdamW`` and ``Adam`` run
            their fused kernel unless the settings say otherwise.
        settings: its keyword arguments, as in the config.

    Raises:
        ConfigError: the model has nothing to train.
    """
    parameters = list(trainable(model).values())
    if not parameters:
        raise ConfigError("model: no parameter is trainable; add `lora` or unfreeze a part")
    fusable = make in (torch.optim.AdamW, torch.optim.Adam) and all(
        p.is_floating_point() for p in parameters
    )
    if fusable and "fused" not in settings and "foreach" not in settings:
        settings = {**settings, "fused": True}
    return make(parameters, **settings)


def optimizer_state(
    optimizer: Any, names: list[str]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors ``"<parameter>|<key>"`` and JSON values of the optimizer's state.

    Args:
        names: parameter names in the order the optimizer got them.
    """
    raw = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, entries in raw["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{names[index]}|{key}"] = value
            elif value is not None:
                scalars[f"{names[index]}|{key}"] = value
    groups = [
        {k: v for k, v in g.items() if k != "params" and _is_json(v)} for g in raw["param_groups"]
    ]
    return tensors, {"scalars": scalars, "groups": groups}


def load_optimizer_state(
    optimizer: Any, names: list[str], tensors: dict[str, torch.Tensor], meta: dict[str, Any]
) -> None:
    """Restore what :func:`optimizer_state` returned.

    Learning rate, betas and weight decay stay those of the *new* config: they are free to change.

    Raises:
        CheckpointError: the state names a parameter that the model does not train.
    """
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    for full, value in [*tensors.items(), *meta["scalars"].items()]:
        name, key = full.rsplit("|", 1)
        if name not in index:
            raise CheckpointError(
                f"the checkpoint holds optimizer state of '{name}', which this model does not train"
            )
        state.setdefault(index[name], {})[key] = value
    raw = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": raw["param_groups"]})


def _is_json(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | list | tuple) or value is None
