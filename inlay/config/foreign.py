"""Packages of the originals in a config: their names are looked up in ``compat``'s table.

Nothing of these packages needs to be installed, and where it is, it is not used: while a config is
executed, a finder in front of all others serves modules that hold the table's names. It stays in
place once it has served one, for modules of the user's own that are imported later.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from inlay.config import compat
from inlay.config.registry import import_path
from inlay.core.errors import ConfigError, did_you_mean

_COMMON = ("hpt.modeling_siglip", "llava.modeling_llava", "llava.modeling_llava_next", "mgm.model")
"""Modules of F-LMM in packages whose names others have, too: only these are stood in for."""
_ELSEWHERE = ("modelscope.msdatasets",)


def is_foreign(module: str) -> bool:
    """Whether a module is one of the originals'."""
    return module.partition(".")[0] in compat.PACKAGES or module in (*_COMMON, *_ELSEWHERE)


class Foreign:
    """A class or function of an original that has no equal here: what stands in a node's ``type``
    until ``translate`` writes the node anew.

    Attributes:
        path: as the config has imported it, ``xtuner.dataset.process_hf_dataset``.
        name: its name in the table, ``xtuner.process_hf_dataset``.
    """

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name
        self.__module__, _, self.__name__ = path.rpartition(".")
        self.__qualname__ = self.__name__

    def __getattr__(self, attribute: str) -> Foreign:
        name = f"{self.name}.{attribute}"
        if attribute.startswith("__") or name not in compat.NAMES:
            raise AttributeError(f"{self.path} has no '{attribute}' here", name=attribute, obj=self)
        return Foreign(f"{self.path}.{attribute}", name)

    def __call__(self, **kwargs: Any) -> Any:
        raise ConfigError(
            f"{self.path} is read in nodes only: write dict(type={self.__name__}, ...) in the "
            "config instead of calling it"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise ConfigError(f"{self.path} cannot be subclassed: Inlay has no such class")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Foreign) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.path


class _Module(ModuleType):
    """A module of an original: its names are looked up when they are asked for."""

    def __getattr__(self, attribute: str) -> Any:
        found = compat.find(self.__name__, attribute)
        if attribute.startswith("__") or found is None:
            hint = _near(self.__name__, attribute)
            message = f"'{self.__name__}.{attribute}' has no counterpart in Inlay.{hint}"
            raise AttributeError(message, name=attribute, obj=self)
        key, name = found
        value = Foreign(f"{self.__name__}.{attribute}", key)
        served = import_path(name.target) if name.direct else value
        if name.direct:
            SERVED[id(served)] = key
        setattr(self, attribute, served)
        return served


SERVED: dict[int, str] = {}
"""The table's name of every object of ours that a config was given under another one, by id."""


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _is_parent(fullname) and PathFinder.find_spec(fullname, path) is None:
            return importlib.util.spec_from_loader(fullname, self, is_package=True)
        if not is_foreign(fullname) or not compat.is_module(fullname):
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: names are looked up later."""


def _is_parent(module: str) -> bool:
    return any(name.startswith(f"{module}.") for name in (*_COMMON, *_ELSEWHERE))


_FINDER = _Finder()
_HIDDEN: dict[str, ModuleType] = {}


@contextmanager
def serving() -> Iterator[None]:
    """Serve the originals' modules inside, and from there on if one was asked for."""
    if _FINDER not in sys.meta_path:
        _HIDDEN.update({name: m for name, m in sys.modules.items() if is_foreign(name)})
        for name in _HIDDEN:
            del sys.modules[name]
        sys.meta_path.insert(0, _FINDER)
    try:
        yield
    finally:
        if not any(isinstance(module, _Module) for module in sys.modules.values()):
            stop_serving()


def stop_serving() -> None:
    """Take the finder and what it has served away, and bring back what it has hidden."""
    for name in [n for n, module in sys.modules.items() if isinstance(module, _Module)]:
        del sys.modules[name]
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    sys.modules.update(_HIDDEN)
    _HIDDEN.clear()


def check_imports(tree: ast.Module, path: str) -> bool:
    """Look up all names that a config imports from the originals, before it is executed.

    Returns:
        Whether there are any.

    Raises:
        ConfigError: some have no counterpart; all of them, with their lines.
    """
    imports = list(_imports(tree))
    missing = [
        f"  line {line}: {module}.{name}{_why(module, name)}"
        for line, module, name in imports
        if not _is_known(module, name)
    ]
    if missing:
        count = f"{len(missing)} names have" if len(missing) > 1 else "1 name has"
        raise ConfigError(f"{path}: {count} no counterpart in Inlay:\n" + "\n".join(missing))
    return bool(imports)


def _imports(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name ("" for the module itself) of imports from the originals."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name, "") for a in node.names if is_foreign(a.name))
        elif isinstance(node, ast.ImportFrom) and not node.level and is_foreign(node.module or ""):
            yield from ((a.lineno, node.module or "", a.name) for a in node.names)


def _is_known(module: str, name: str) -> bool:
    if not compat.is_module(module):
        return False
    inner = f"{module}.{name}"
    return not name or compat.find(module, name) is not None or compat.is_module(inner)


def _why(module: str, name: str) -> str:
    if name == "*":
        return " (import the names that are used, one by one)"
    reason = compat.reason(module, name)
    return f" ({reason})" if reason else f".{_near(module, name)}"


def _near(module: str, name: str) -> str:
    package = module.partition(".")[0]
    known = [key.split(".")[1] for key in compat.NAMES if key.startswith(f"{package}.")]
    return did_you_mean(name, known)
