"""Write a whole folder or nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inlay.core.errors import ModelError

RECORD = "inlay_export.json"
"""Name of the file that marks a folder as an export and holds what ``verify`` compares with."""


@contextmanager
def staged(target: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its name when the block succeeds.

    An earlier export at ``target`` is replaced; any other content is refused.

    Raises:
        ModelError: ``target`` is a file, or a folder with content that is not an export.
    """
    target = Path(target).absolute()
    if target.is_file():
        raise ModelError(f"expected a folder to write, but '{target}' is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / RECORD).is_file():
        raise ModelError(
            f"the folder '{target}' is not empty and is not an earlier export. "
            "Name another folder, or empty it first."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh, old = work / "new", work / "old"
        fresh.mkdir()
        yield fresh
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
