"""``refs(...).p`` of RefCOCO: pickles, read without running anything that they name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError
from inlay.core.unpickle import PlainUnpickler, RefusedError

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
            return PlainUnpickler(io.BytesIO(data), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except RefusedError as error:
            raise DataError(f"'{path}' is refused: {error}. {_HINT}") from None
        except Exception as error:  # broken pickles raise whatever their opcodes stumble on
            raise DataError(f"'{path}' is not a readable pickle: {error!r}") from None
    raise DataError(f"'{path}' is not a readable pickle: its texts are broken")
