"""What the ``type`` of a node stands for: a callable, a dotted path, or a registered name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


def is_registered(name: str) -> bool:
    """Whether a name is registered, by Inlay or by a module of the user's own."""
    return name in _REGISTERED


def is_users_own(name: str) -> bool:
    """Whether a module of the user's own has registered a name."""
    return callable(_REGISTERED.get(name))


class Registry:
    """Registers classes and functions of the user's own, as MMEngine's and XTuner's registries do.

    There is one for all kinds of things: what a name stands for is told by where it is used.

    Args:
        kwargs: what the originals' registries are made with; nothing is done with it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept: all registries share one table."""

    def register_module(
        self,
        name: str | Sequence[str] | None = None,
        force: bool = False,
        module: Callable[..., Any] | None = None,
    ) -> Any:
        """Register ``module`` under ``name`` (by default its own), or return a decorator that does.

        Raises:
            ConfigError: the name stands for something else, and ``force`` is not set.
        """
        if module is not None:
            self._add(name, force, module)
            return module

        def decorate(target: Callable[..., Any]) -> Callable[..., Any]:
            self._add(name, force, target)
            return target

        return decorate

    def _add(
        self, name: str | Sequence[str] | None, force: bool, target: Callable[..., Any]
    ) -> None:
        names = [target.__name__] if name is None else [name] if isinstance(name, str) else name
        for each in names:
            if force or _is_again(_REGISTERED.get(each), target):
                _REGISTERED[each] = target
            register(each, target)

    def get(self, key: str) -> Callable[..., Any]:
        """Return what a name, or a dotted path, stands for. Raises ConfigError."""
        return resolve(key)

    def build(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Build a node; what is built already is returned as it is. Raises ConfigError."""
        if not isinstance(cfg, dict) or "type" not in cfg:
            return cfg
        from inlay.config.build import Builder

        return Builder({}).build(cfg, **kwargs)


REGISTRY = Registry()
"""``HOOKS``, ``MODELS``, ``DATASETS``, ``BUILDER``, ``MAP_FUNC`` and the others."""


def _is_again(known: Any, target: Callable[..., Any]) -> bool:
    """Whether a target is what is registered already, from a file that was executed once more."""
    names = ("__module__", "__qualname__")
    return callable(known) and all(
        getattr(known, n, None) == getattr(target, n, target) for n in names
    )


@contextmanager
def read_base() -> Iterator[None]:
    """``with read_base(): from .map_fns import ...``: imports of modules beside the config."""
    yield


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
