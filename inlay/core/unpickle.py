"""Pickles of others, read without running anything that they name.

A pickle is a program that may call any function. The readers here know the few names that data
need and replace even these by functions of their own; any other name ends the reading.
"""

from __future__ import annotations

import collections
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

_NUMBER = re.compile(r"[biuf]\d{1,2}")  # of numpy's kinds: bool, integers, floats
_RENAMED = {"__builtin__": "builtins", "numpy.core": "numpy._core"}
"""Modules by the names that Python 2 and numpy 1 gave them."""

BOOKKEEPING = (
    "addict.",
    "argparse.Namespace",
    "builtins.getattr",  # MMEngine writes methods of its histories with it
    "deepspeed.",
    "mmcv.",
    "mmengine.",
)
"""Names of objects that training tools leave in their files beside the tensors: see ``Inert``."""


class RefusedError(Exception):
    """The pickle asks for something that data do not need. Nothing of it has run."""


class NumberKind:
    """Stands in for ``numpy.dtype``: bool, integers and floats alone."""

    def __init__(self, code: str, *_flags: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def dtype(self) -> Any:
        """Return the ``numpy.dtype``.

        Raises:
            RefusedError: of objects, texts or records.
        """
        import numpy as np

        if not _NUMBER.fullmatch(self.code):
            raise RefusedError("it holds a numpy value that is not a number")
        return np.dtype(self.order + self.code)


def number(kind: Any, data: Any) -> Any:
    """Stand in for the function that makes numpy's scalars: return a Python number."""
    import numpy as np

    (value,) = np.frombuffer(_raw(data), _kind(kind).dtype())
    return value.item()


def latin_1(text: str, _encoding: str = "latin-1") -> bytes:
    """Stand in for ``_codecs.encode``: bytes, as Python 3 writes them for Python 2."""
    return text.encode("latin-1")


def _kind(value: Any) -> NumberKind:
    if not isinstance(value, NumberKind):
        raise RefusedError("it holds a numpy value that is not a number")
    return value


def _raw(data: Any) -> bytes:
    return data.encode("latin-1") if isinstance(data, str) else bytes(memoryview(data))


PLAIN: dict[str, Any] = {
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "collections.OrderedDict": collections.OrderedDict,
    "numpy.dtype": NumberKind,
    "numpy._core.multiarray.scalar": number,
    "_codecs.encode": latin_1,
}
"""What plain data need: containers, texts, numbers."""


class PlainUnpickler(pickle.Unpickler):
    """Containers, texts and numbers, numpy's scalars as numbers; fast enough for large tables.

    Raises:
        RefusedError: from ``load``, at any other name.
    """

    def find_class(self, module: str, name: str) -> Any:
        return _look_up(PLAIN, module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("it refers to something outside of the file")


@dataclass(frozen=True, slots=True)
class Named:
    """A name of the table, and what is called in its place."""

    name: str
    make: Callable[..., Any]


class Inert(dict[Any, Any]):
    """Stands for an object of a training tool: its attributes and items, nothing that runs.

    Attributes:
        name: module and name of the object's class.
        arguments: what it would have been built with.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.name, self.arguments = name, arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class DataUnpickler(pickle._Unpickler):
    """Plain data, numpy arrays, and what ``names`` adds; objects of training tools become inert.

    It is a machine of few operations: calling a name of the table, and handing attributes to what
    such a call has made. Calls of anything else, extension codes and attributes of other objects
    are refused, whatever operation of the pickle asks for them.

    Args:
        names: stand-ins by module and name; those that cannot be called are values.
        persistent: makes what stands outside of the pickle from its identification.

    Raises:
        RefusedError: from ``load``.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self,
        file: Any,
        names: Mapping[str, Any] | None = None,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._names = PLAIN | ARRAYS | dict(names or {})
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        full = _full_name(module, name)
        if full not in self._names and full.startswith(BOOKKEEPING):
            return Named(full, lambda *arguments, **_: Inert(full, arguments))
        found = _look_up(self._names, module, name)
        return Named(full, found) if callable(found) else found

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise RefusedError("it refers to something outside of the file")
        return self._persistent(pid)

    def _call(self, named: Any, arguments: Any, keywords: Any = None) -> None:
        if type(named) is not Named or not isinstance(arguments, tuple):
            raise RefusedError("it calls something that it does not name")
        self.append(named.make(*arguments, **(keywords or {})))  # type: ignore[attr-defined]

    def load_reduce(self) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self._call(named, arguments)

    def load_newobj_ex(self) -> None:
        keywords = self.stack.pop()  # type: ignore[attr-defined]
        arguments, named = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self._call(named, arguments, keywords)

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))  # type: ignore[attr-defined]
        self._call(self.find_class(module, name), tuple(self.pop_mark()))  # type: ignore[attr-defined]

    def load_obj(self) -> None:
        named, *arguments = self.pop_mark()  # type: ignore[attr-defined]
        self._call(named, tuple(arguments))

    def load_build(self) -> None:
        state = self.stack.pop()  # type: ignore[attr-defined]
        made = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(made, Inert | NumberKind):
            made.__setstate__(state)
        elif type(made).__name__ == "ndarray":
            _fill(made, state)
        elif not isinstance(made, dict):  # attributes of an OrderedDict are not data
            raise RefusedError(f"it sets attributes of a {type(made).__name__}")

    def load_extension(self) -> None:
        raise RefusedError("it uses an extension code")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.INST[0]] = load_inst
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.BUILD[0]] = load_build
    for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[code[0]] = load_extension


def _full_name(module: str, name: str) -> str:
    for old, new in _RENAMED.items():
        if module == old or module.startswith(f"{old}."):
            module = new + module.removeprefix(old)
    return f"{module}.{name}"


def _look_up(names: Mapping[str, Any], module: str, name: str) -> Any:
    full = _full_name(module, name)
    if full not in names:
        raise RefusedError(f"it names {module}.{name}")
    return names[full]


def _array(*_class_shape_and_code: Any) -> Any:
    """Stand in for numpy's ``_reconstruct``: an empty array, to be filled."""
    import numpy as np

    return np.empty(0)


def _fill(array: Any, state: Any) -> None:
    """Give an array shape, kind and values (state: version, shape, kind, column order, bytes)."""
    _, shape, kind, by_column, data = state
    array.__setstate__((1, tuple(shape), _kind(kind).dtype(), bool(by_column), _raw(data)))


def _defaultdict(_factory: Any = None, *items: Any) -> dict[Any, Any]:
    return dict(*items)


def _bytearray(data: Any = b"", *_encoding: str) -> bytes:
    return _raw(data)


def _of(container: type) -> Callable[..., Any]:
    """``container``, from at most one collection of items."""
    return lambda items=(), *_: container(items)


ARRAYS: dict[str, Any] = {
    "builtins.set": _of(set),
    "builtins.frozenset": _of(frozenset),
    "builtins.bytearray": _bytearray,
    "builtins.complex": complex,
    "builtins.list": _of(list),
    "builtins.dict": _of(dict),
    "builtins.int": _of(int),
    "collections.OrderedDict": _of(dict),
    "collections.Counter": _of(dict),
    "collections.defaultdict": _defaultdict,
    "collections.deque": _of(list),
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.ndarray": _array,
}
"""More containers than plain data need, all of them as Python's simplest, and arrays."""
