"""``refs(...).p`` of RefCOCO: pickles, read without running anything that they name.

A pickle is a program that may call any function. This reader knows the few names that plain data
need and replaces even these by functions of its own.
"""

from __future__ import annotations

import collections
import io
import pickle
import re
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError

_CONTAINERS = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "OrderedDict"): collections.OrderedDict,
}
_NUMBER = re.compile(r"[biuf]\d{1,2}")  # of numpy's kinds: bool, integers, floats
_HINT = "Only lists, dicts, texts and numbers are read: whatever else it holds may run code."


def load_pickle(path: str | Path) -> Any:
    """Return the plain data of a pickle: containers, texts, numbers, numpy's scalars as numbers.

    Pickles of Python 2 are read, too; their texts are UTF-8, or Latin-1 where they are not.

    Raises:
        DataError: the file is missing, broken, or names anything else. Nothing of it has run.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error}") from None
    for encoding in ("utf-8", "latin-1"):
        try:
            return _PlainUnpickler(io.BytesIO(data), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except _NotPlainError as error:
            raise DataError(f"'{path}' is refused: {error}. {_HINT}") from None
        except Exception as error:  # broken pickles raise whatever their opcodes stumble on
            raise DataError(f"'{path}' is not a readable pickle: {error!r}") from None
    raise DataError(f"'{path}' is not a readable pickle: its texts are broken")


class _NotPlainError(Exception):
    """A name that plain data do not need."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # Python 2
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if (module, name) == ("numpy", "dtype"):
            return _NumberKind
        if name == "scalar" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _number
        if (module, name) == ("_codecs", "encode"):  # bytes, as Python 3 writes them for Python 2
            return _latin_1
        raise _NotPlainError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _NotPlainError("it refers to something outside of the file")


class _NumberKind:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: str, *_flags: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(kind: Any, data: Any) -> Any:
    """Stands in for the function that makes numpy's scalars."""
    import numpy as np

    if not isinstance(kind, _NumberKind) or not _NUMBER.fullmatch(kind.code):
        raise _NotPlainError("it holds a numpy value that is not a number")
    raw = data.encode("latin-1") if isinstance(data, str) else bytes(data)
    order = ">" if kind.order == ">" else "<"
    (value,) = np.frombuffer(raw, np.dtype(order + kind.code))
    return value.item()


def _latin_1(text: str, _encoding: str = "latin-1") -> bytes:
    return text.encode("latin-1")
