"""Signatures and type hints as data: what a target accepts, and whether a value fits a hint."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from inlay.config.known_keys import known_keys

_SCALARS = (int, float, str, bool, bytes, type(None))


@dataclass(frozen=True)
class Parameters:
    """What a callable, a dataclass or a ``TypedDict`` accepts by keyword.

    Attributes:
        hints: type hint by name; ``Any`` where there is none or it cannot be resolved.
        defaults: default by name; a name without one is required.
        open: whether any further name is accepted.
    """

    hints: dict[str, Any]
    defaults: dict[str, Any]
    open: bool = False

    @property
    def required(self) -> list[str]:
        return [name for name in self.hints if name not in self.defaults]


def parameters(target: Any) -> Parameters:
    """Return what ``target`` accepts; everything, where it cannot be inspected."""
    if typing.is_typeddict(target):
        hints = typing.get_type_hints(target)
        optional = hints.keys() - target.__required_keys__
        return Parameters(hints, dict.fromkeys(optional))
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return Parameters({}, {}, open=True)
    named = [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    hints = {p.name: _resolved(target, p.name, p.annotation) for p in named}
    defaults = {p.name: p.default for p in named if p.default is not p.empty}
    if all(p.kind is not p.VAR_KEYWORD for p in found):
        return Parameters(hints, defaults)
    extra = known_keys(target)
    if extra is None:
        return Parameters(hints, defaults, open=True)
    defaults |= {k: None for k in extra if k not in hints}
    return Parameters({**extra, **{k: h for k, h in hints.items() if k not in extra}}, defaults)


def _resolved(target: Any, name: str, annotation: Any) -> Any:
    """Return a hint as a type. One that needs a name only type checkers import is ``Any``."""
    if annotation is inspect.Parameter.empty:
        return Any
    for scope in _scopes(target):
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            return typing.get_type_hints(holder, scope)[name]
        except Exception:  # whatever a foreign annotation raises, it cannot be checked
            continue
    return Any


def _scopes(target: Any) -> Iterator[dict[str, Any]]:
    """Yield the namespaces in which the annotations of ``target`` may have been written."""
    if isinstance(target, type):
        for base in target.__mro__:
            if module := inspect.getmodule(base):
                yield vars(module)
    elif hasattr(function := inspect.unwrap(target), "__globals__"):
        yield function.__globals__
    elif hasattr(target, "__func__"):
        yield inspect.unwrap(target.__func__).__globals__


def members(hint: Any) -> list[Any]:
    """Return the alternatives of a union, else the hint alone; ``Annotated`` is unwrapped."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return members(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return [m for arg in typing.get_args(hint) for m in members(arg)]
    return [types.NoneType if hint is None else hint]


def closed_set(hint: Any) -> Any:
    """Return the dataclass or ``TypedDict`` among the alternatives of a hint, or None."""
    for member in members(hint):
        if isinstance(member, type) and (
            dataclasses.is_dataclass(member) or typing.is_typeddict(member)
        ):
            return member
    return None


def item_hint(hint: Any, key: int | str) -> Any:
    """Return the hint of ``value[key]`` for a container that is hinted as ``hint``."""
    found = []
    for member in members(hint):
        origin, args = typing.get_origin(member), typing.get_args(member)
        if not args or not isinstance(origin, type):
            continue
        if issubclass(origin, collections.abc.Mapping):
            found += [args[1]] if isinstance(key, str) else []
        elif isinstance(key, str):
            continue
        elif issubclass(origin, tuple) and args[-1] is not Ellipsis:
            found += [args[key]] if key < len(args) else []
        else:
            found.append(args[0])
    return typing.Union[tuple(found)] if found else Any  # noqa: UP007 (built at run time)


def matches(value: Any, hint: Any) -> bool:
    """Whether a value fits a hint; only the outside of a container is looked at.

    Where a bool may stand, a text that spells one is a slip: ``"False"`` would be true.
    """
    found = members(hint)
    if isinstance(value, str) and value.lower() in ("true", "false") and bool in found:
        return False
    return any(_matches(value, member) for member in found)


def _matches(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in args
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or hint
    if kind in (type, collections.abc.Callable):
        return callable(value)
    if not _is_concrete(kind):
        return True
    if typing.is_typeddict(kind):
        return isinstance(value, dict)
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        return isinstance(value, tuple | list) and len(value) == len(args)
    if issubclass(kind, collections.abc.Iterable) and not issubclass(kind, str | bytes | dict):
        if isinstance(value, tuple | list):  # a config may write either
            return kind in (list, tuple) or isinstance(value, kind)
        return isinstance(value, kind) and not isinstance(value, str)
    return isinstance(value, kind)


def node_matches(target: Callable[..., Any], hint: Any) -> bool:
    """Whether a node that builds ``target`` may stand where ``hint`` is asked for."""
    if not isinstance(target, type):
        return True  # what a function returns is known when it has run
    for member in members(hint):
        kind = typing.get_origin(member) or member
        if kind is typing.Literal or kind in _SCALARS or kind in (list, tuple, dict):
            continue
        if not _is_concrete(kind) or issubclass(target, kind):
            return True
    return False


def _is_concrete(kind: Any) -> bool:
    """Whether a value can be told to be of this kind: no ``Any``, type variable or protocol."""
    if kind is Any or kind is object:
        return False
    return isinstance(kind, type) and not getattr(kind, "_is_protocol", False)


def describe(hint: Any) -> str:
    """Return a hint as a reader writes it: ``int | None``, ``'a' | 'b'``, ``list[str]``."""
    parts: list[str] = []
    for member in members(hint):
        origin, args = typing.get_origin(member), typing.get_args(member)
        if origin is typing.Literal:
            parts += [repr(a) for a in args]
        elif member is types.NoneType:
            parts.append("None")
        elif origin is collections.abc.Callable:
            parts.append("function")
        elif origin is not None and args:
            inner = ", ".join("..." if a is Ellipsis else describe(a) for a in args)
            parts.append(f"{getattr(origin, '__name__', origin)}[{inner}]")
        elif isinstance(member, enum.EnumMeta):
            parts += [f"{member.__name__}.{name}" for name in member.__members__]
        else:
            parts.append(getattr(member, "__name__", str(member)))
    return " | ".join(dict.fromkeys(parts))
