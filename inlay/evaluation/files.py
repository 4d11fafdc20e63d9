"""Where the files of a benchmark lie, from the folder that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inlay.core.errors import DataError


def one_file(path: Path, patterns: Sequence[str], what: str) -> Path:
    """Return ``path`` itself if it is a file, else the file in it that fits the first pattern which
    any file fits.

    Args:
        what: it holds, for messages.

    Raises:
        DataError: there is none, or more than one.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: there is no such file or folder; expected {what}")
    for pattern in patterns:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise DataError(f"{path} has several files of {what}: {names}. Name one of them")
        if found:
            return found[0]
    raise DataError(f"{path} has no file of {what}: looked for {', '.join(patterns)}")


def picture_folder(given: Path | None, beside: Path, names: Sequence[str]) -> Path:
    """Return the folder of the pictures: the one that is given, or the first of ``names`` in
    ``beside``.

    Raises:
        DataError: there is none.
    """
    for folder in [given] if given is not None else [beside / name for name in names]:
        if folder.is_dir():
            return folder
    tried = given or f"{beside} ({', '.join(names)})"
    raise DataError(f"no folder of pictures at {tried}: name it with --image-folder")
