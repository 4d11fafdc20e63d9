"""Write a config as a Python file of literals and imports, or as plain JSON values."""

from __future__ import annotations

import ast
import enum
import sys
from collections.abc import Mapping
from keyword import iskeyword
from pathlib import PurePath
from typing import Any

from inlay.config.imports import import_blocks
from inlay.config.registry import import_path
from inlay.config.source import names_read
from inlay.core.errors import ConfigError
from inlay.core.secrets import redact

_WIDTH = 100
_BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}")}
_HEADER = """\
# The resolved config of a run: every value is final. A setting that others were computed from
# stands beside them for reference; changing it here changes nothing else."""


def dump_resolved(cfg: Mapping[str, Any]) -> str:
    """Return a config file that loads to values equal to those of ``cfg``.

    Classes, functions, dtypes and enum members become imports; a dict that is a top-level value of
    its own is written by its name where it is nested. Secrets are left out, see ``core.secrets``.

    Raises:
        ConfigError: a value has no source form (an object, a lambda); names its path.
    """
    writer = _Writer(set(cfg))
    code = "\n".join(f"{name} = {writer.top(name, cfg[name])}" for name in _inner_first(cfg))
    used = names_read(ast.parse(code))
    text = "\n\n".join(
        [_HEADER, *import_blocks(writer.imports, used), f"_resolved_ = True\n{code}\n"]
    )
    return redact(text, is_code=True)


def to_plain(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``cfg`` as JSON values: tuples become lists, classes and dtypes dotted names."""
    return {name: _plain(value, name) for name, value in cfg.items()}


def _inner_first(cfg: Mapping[str, Any]) -> list[str]:
    """Return the names of ``cfg`` so that a dict comes before what it is nested in."""
    owner: dict[int, str] = {}
    for name, value in cfg.items():
        if isinstance(value, dict | list):
            owner.setdefault(id(value), name)
    order: dict[str, None] = {}

    def visit(value: Any) -> None:
        if isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                visit(item)
            if id(value) in owner:
                order[owner[id(value)]] = None

    for name, value in cfg.items():
        visit(value)
        order[name] = None
    return list(order)


class _Writer:
    """Writes expressions, and collects the imports that they need."""

    def __init__(self, taken: set[str]) -> None:
        self.imports: set[tuple[str, str, str]] = set()
        self._taken: dict[str, str] = dict.fromkeys(taken, "")
        self._named: dict[int, str] = {}

    def top(self, name: str, value: Any) -> str:
        text = self.expression(value, name, 0, len(name) + 3)
        if isinstance(value, dict | list):
            self._named.setdefault(id(value), name)
        return text

    def expression(self, value: Any, path: str, indent: int, used: int) -> str:
        """Return the source of a value. ``used`` columns of its first line are taken already."""
        if id(value) in self._named:
            return self._named[id(value)]
        if isinstance(value, enum.Enum):
            return f"{self._importable(type(value), path)}.{value.name}"
        if value is None or type(value) in (bool, int, str, bytes):
            return repr(value)
        if type(value) is float:
            return repr(value) if abs(value) < float("inf") else f"float('{value}')"
        if type(value) in (dict, list, tuple, set):
            return self._container(value, path, indent, used)
        if isinstance(value, PurePath):
            return f"{self._importable(type(value), path)}({str(value)!r})"
        return self._importable(value, path)

    def _container(self, value: Any, path: str, indent: int, used: int) -> str:
        inner = indent + 4
        is_call = isinstance(value, dict) and all(
            isinstance(k, str) and k.isidentifier() and not iskeyword(k) for k in value
        )
        if isinstance(value, dict):
            keys = {k: f"{k}=" if is_call else f"{k!r}: " for k in value}
            items = [
                key + self.expression(value[k], f"{path}.{k}", inner, inner + len(key))
                for k, key in keys.items()
            ]
            opening, closing = ("dict(", ")") if is_call else ("{", "}")
        else:
            items = [self.expression(v, f"{path}.{i}", inner, inner) for i, v in enumerate(value)]
            opening, closing = _BRACKETS[type(value)]
        if not items:
            return "set()" if isinstance(value, set) else opening + closing
        comma = "," if isinstance(value, tuple) and len(items) == 1 else ""
        line = f"{opening}{', '.join(items)}{comma}{closing}"
        if "\n" not in line and used + len(line) < _WIDTH:
            return line
        rows = "".join(f"{' ' * inner}{item},\n" for item in items)
        return f"{opening}\n{rows}{' ' * indent}{closing}"

    def _importable(self, value: Any, path: str) -> str:
        module, name = _home(value, path)
        head = name.partition(".")[0]
        if self._taken.setdefault(head, module) == module:
            self.imports.add((module, head, ""))
            return name
        self.imports.add((module, "", ""))
        return f"{module}.{name}"


def _home(value: Any, path: str) -> tuple[str, str]:
    """Return the module and the name in it under which ``value`` can be imported.

    Raises ConfigError where there is none.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    owner = getattr(value, "__self__", None)
    if isinstance(owner, type):  # a bound classmethod: by the class it is bound to
        module, name = owner.__module__, f"{owner.__qualname__}.{value.__name__}"
    elif type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        module, name = str(value).split(".")
    if isinstance(module, str) and isinstance(name, str):
        for shorter in _prefixes(module):
            if _is_at(value, shorter, name):
                return shorter, name
    raise ConfigError(
        f"{path}: {value!r} cannot be written to a config file; use a literal, or a class or "
        "function that can be imported"
    )


def _prefixes(module: str) -> list[str]:
    """Return the module and its parents, shortest first: the public place comes first."""
    names = module.split(".")
    parents = [".".join(names[:count]) for count in range(1, len(names) + 1)]
    return [p for p in parents if p in sys.modules]


def _is_at(value: Any, module: str, name: str) -> bool:
    if "<" in name:  # a lambda, or something local to a function
        return False
    try:
        found = import_path(f"{module}.{name}")
    except ConfigError:
        return False
    return bool(found is value or found == value)


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, enum.Enum):
        module, name = _home(type(value), path)
        return f"{module}.{name}.{value.name}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v, f"{path}.{i}") for i, v in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    return ".".join(_home(value, path))
