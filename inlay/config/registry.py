"""What the ``type`` of a node stands for: a callable, a dotted path, or a registered name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from inlay.core.errors import ConfigError, did_you_mean

_REGISTERED: dict[str, str | Callable[..., Any]] = {}


def register(name: str, target: str | Callable[..., Any]) -> None:
    """Let config files write ``type="name"``.

    Args:
        name: a name without dots. Registering it again for another target raises ConfigError.
        target: a callable, or its dotted path, which is imported on first use.
    """
    if _REGISTERED.setdefault(name, target) != target:
        raise ConfigError(f"the name '{name}' is already registered for {_REGISTERED[name]}")


def resolve(target: Any) -> Callable[..., Any]:
    """Return the callable that a node's ``type`` stands for.

    Raises:
        ConfigError: the name is unknown, cannot be imported, or is no callable.
    """
    found = target
    if isinstance(target, str):
        found = _REGISTERED.get(target, target)
        if isinstance(found, str):
            found = import_path(found)
    if not callable(found):
        raise ConfigError(f"a type must be a class or a function, got {target!r}")
    return found


def import_path(path: str) -> Any:
    """Return the object at ``package.module.name[.attribute]``."""
    names = path.split(".")
    if len(names) == 1:
        raise ConfigError(
            f"'{path}' is not a registered name.{did_you_mean(path, _REGISTERED)} "
            "A class of another package is written with its module, as 'torch.optim.SGD'."
        )
    for count in range(len(names) - 1, 0, -1):
        module = ".".join(names[:count])
        try:
            found: Any = import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(f"{error.name}.")):
                continue  # the path's own tail is no module: try it as an attribute
            raise ConfigError(f"'{path}' needs the package '{error.name}'") from error
        except (ImportError, ValueError) as error:
            raise ConfigError(f"cannot import '{path}': {error}") from error
        for name in names[count:]:
            if not hasattr(found, name):
                hint = did_you_mean(name, dir(found))
                raise ConfigError(f"cannot import '{path}': no '{name}' in it.{hint}")
            found = getattr(found, name)
        return found
    raise ConfigError(f"cannot import '{path}': there is no package '{names[0]}'")
