"""Which part of a model learns at which rate: optimizer groups by parameter name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inlay.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PartRates:
    """Rates by part, as ``optim_wrapper`` spells them.

    Attributes:
        lr_groups: learning rate by module path, such as ``projector`` or ``llm.lm_head``; the
            longest path that a parameter's name begins with counts. 0 or less freezes the part.
        custom_keys: MMEngine's ``paramwise_cfg["custom_keys"]``: ``lr_mult`` and ``decay_mult`` by
            a piece of the parameter's name; the longest piece counts. ``lr_mult=0`` freezes.
    """

    lr_groups: Mapping[str, float] = field(default_factory=dict)
    custom_keys: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.lr_groups or self.custom_keys)

    def part(self, name: str) -> tuple[str, str]:
        """Return the path and the key that decide over parameter ``name``; ``""`` for none."""
        paths = (p for p in self.lr_groups if _is_inside(name, p))
        keys = (k for k in self.custom_keys if k in name)
        return max(paths, key=len, default=""), max(keys, key=len, default="")

    def is_frozen(self, name: str) -> bool:
        """Whether the rates say that parameter ``name`` is not trained."""
        path, key = self.part(name)
        by_key = self.custom_keys[key].get("lr_mult", 1.0) if key else 1.0
        return (path in self.lr_groups and self.lr_groups[path] <= 0) or by_key <= 0


def freeze_parts(model: nn.Module, rates: PartRates) -> None:
    """Freeze the parts of ``model`` whose rate is 0 or less.

    Raises:
        ConfigError: a path or a key fits no parameter, or a part with a rate has nothing to train.
    """
    if not rates:
        return
    parameters = dict(model.named_parameters(remove_duplicate=False))
    _check_names(rates, parameters)
    for name, parameter in model.named_parameters():
        if rates.is_frozen(name):
            parameter.requires_grad_(False)
    for path, rate in rates.lr_groups.items():
        inside = [p for n, p in parameters.items() if _is_inside(n, path)]
        if rate > 0 and not any(p.requires_grad for p in inside):
            raise ConfigError(
                f"optim_wrapper.lr_groups: '{path}' has the rate {rate}, but nothing in it is "
                "trained: the model freezes it. Unfreeze it, or set its rate to 0"
            )


def _check_names(rates: PartRates, parameters: Iterable[str]) -> None:
    names = list(parameters)
    for path in rates.lr_groups:
        if not any(_is_inside(n, path) for n in names):
            pieces = [n.split(".") for n in names]
            known = {".".join(p[:depth]): None for p in pieces for depth in range(1, len(p) + 1)}
            parts = ", ".join({p[0]: None for p in pieces})
            raise ConfigError(
                f"optim_wrapper.lr_groups: the model has no part '{path}'."
                f"{did_you_mean(path, known)} Its parts: {parts}"
            )
    for key in rates.custom_keys:
        if not any(key in n for n in names):
            known = {piece: None for n in names for piece in n.split(".")}
            raise ConfigError(
                f"optim_wrapper.paramwise_cfg: '{key}' is in no parameter's name."
                f"{did_you_mean(key, known)}"
            )


def _is_inside(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def parameter_groups(
    parameters: Mapping[str, nn.Parameter],
    rates: PartRates,
    make: Callable[..., Any],
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the optimizer groups of the trained ``parameters``, in the order of ``lr_groups``.

    Args:
        make, settings: the optimizer and its arguments, from which a group that has no rate or
            weight decay of its own takes them.

    Returns:
        Dicts with ``params``, ``name`` (of the part; ``rest`` for what no rate names), ``lr``
        and, where a key changes it, ``weight_decay``.
    """
    found: dict[tuple[str, str], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        found.setdefault(rates.part(name), []).append(parameter)
    order = list(rates.lr_groups)
    groups = []
    for path, key in sorted(found, key=lambda g: order.index(g[0]) if g[0] else len(order)):
        mult = rates.custom_keys.get(key, {})
        lr = rates.lr_groups[path] if path else own(make, settings, "lr")
        group: dict[str, Any] = {
            "params": found[path, key],
            "name": "/".join(filter(None, (path, key))) or "rest",
            "lr": lr * mult.get("lr_mult", 1.0),
        }
        if "decay_mult" in mult:
            group["weight_decay"] = own(make, settings, "weight_decay") * mult["decay_mult"]
        groups.append(group)
    return groups


def own(make: Callable[..., Any], settings: Mapping[str, Any], key: str) -> float:
    """Return what an optimizer uses for ``key``: its setting, or else the class's default.

    Raises:
        ConfigError: it has neither.
    """
    if key in settings:
        return float(settings[key])
    parameter = inspect.signature(make).parameters.get(key)
    if parameter is None or not isinstance(parameter.default, int | float):
        name = getattr(make, "__name__", make)
        raise ConfigError(f"optim_wrapper.optimizer: {name} needs a value for '{key}'")
    return float(parameter.default)
