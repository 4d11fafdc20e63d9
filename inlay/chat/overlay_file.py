"""Where overlays are written: never over the picture that they show."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from inlay.chat.overlay import draw, enlarged, palette
from inlay.core.errors import DataError, did_you_mean
from inlay.core.io import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def overlay_path(out: str | None, picture: str) -> Path:
    """Return the file for the overlay of a picture.

    Args:
        out: as the user names it; None: ``<stem>_grounded.png`` in the working folder.
        picture: file or ``http(s)`` address.

    Raises:
        DataError: ``out`` is the picture itself, a folder, or no picture by its name.
    """
    if out is None:
        stem = Path(unquote(urlsplit(picture).path) if _is_address(picture) else picture).stem
        out = f"{stem or 'picture'}_grounded.png"
    path = Path(out).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise DataError(
            f"the overlay '{out}' needs a name that ends in {', '.join(FORMATS)}."
            f"{did_you_mean(path.suffix, FORMATS)}"
        )
    return output_path(path, picture)


def output_path(out: str | Path, picture: str) -> Path:
    """Return a file that is to be written, made sure that it is neither a folder nor the picture.

    Raises:
        DataError: it is.
    """
    path = Path(out).expanduser()
    if path.is_dir():
        raise DataError(f"'{out}' is a folder: name a file")
    if is_picture(path, picture):
        raise DataError(f"'{out}' is the picture itself, which is never overwritten")
    return path


def is_picture(path: Path, picture: str) -> bool:
    """Tell whether a file is the picture, under whatever name."""
    if _is_address(picture) or not path.exists():
        return False
    source = Path(picture).expanduser()
    return source.exists() and path.samefile(source)


def numbered(path: Path, picture: str) -> Iterator[Path]:
    """Yield ``out_1.png``, ``out_2.png``, ... for ``out.png``, but never the picture itself."""
    for number in itertools.count(1):
        found = path.with_name(f"{path.stem}_{number}{path.suffix}")
        if not is_picture(found, picture):
            yield found


def write_overlay(
    path: Path,
    image: Image,
    masks: NDArray[np.bool_],
    phrases: Sequence[str],
    scores: NDArray[np.float32],
) -> None:
    """Draw masks over a picture (enlarged if it is small), with a legend of phrases and scores, in
    the colours of ``palette``.

    Args:
        path: from ``overlay_path``; folders above it are made.
        masks: bool ``[M, H, W]`` at the picture's size.
        scores: ``[M]``.

    Raises:
        DataError: it cannot be written.
    """
    labels = [f"{phrase} {score:.2f}" for phrase, score in zip(phrases, scores, strict=True)]
    drawn = draw(*enlarged(image, masks), palette(len(labels)), labels)
    buffer = io.BytesIO()
    drawn.save(buffer, FORMATS[path.suffix.lower()])
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise DataError(f"the overlay cannot be written to {path}: {error}") from error


def _is_address(picture: str) -> bool:
    return picture.startswith(("http://", "https://"))
