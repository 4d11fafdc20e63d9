"""Picture files, opened with the distrust that foreign data deserve.

A row names a path; it must lead to a file inside the image folder. PIL's own limits stay as they
are: its text limit for PNG, and its refusal of truncated files.
"""

from __future__ import annotations

import hashlib
import io
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inlay.core.errors import DataError
from inlay.core.types import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485
"""Larger pictures are refused: 256 MiB in RGB, where PIL starts to warn of a bomb."""

# Everything else that PIL opens stays shut: EPS, for one, would start an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


def base_folder(file: str) -> Path:
    """Return the folder that a row's picture paths are relative to: that of its data file.

    Args:
        file: ``Row.file``, a file or the folder of a saved data set.
    """
    path = Path(file)
    return path if path.is_dir() else path.parent


def resolve(ref: ImageRef, folder: str | None, base: Path) -> ImageRef:
    """Return the picture with the absolute path of its file.

    Args:
        folder: the image folder; None: ``base``. After ``..`` and symbolic links are followed, the
            file must lie inside. An absolute path is held to the same.
        base: folder of the data file.

    Raises:
        DataError: outside the folder, or no file.
    """
    if ref.path is None:
        return ref
    root = _real(os.path.expanduser(folder) if folder else str(base))
    try:
        path = os.path.realpath(os.path.join(root, ref.path))
        if os.path.commonpath([root, path]) != root:
            raise DataError(
                f"{_where(ref)} leads out of the image folder '{root}', to '{path}'. Set "
                "image_folder to a folder that holds all pictures."
            )
        is_file = os.path.isfile(path)
    except (OSError, ValueError) as error:  # a null byte, for example
        raise DataError(f"{_where(ref)} is no usable path: {error}") from None
    if not is_file:
        hint = "" if folder else " Set image_folder to the folder of the pictures."
        raise DataError(f"{_where(ref)} is not a file in the image folder '{root}'.{hint}")
    return ImageRef(path, None, ref.place)


def read(ref: ImageRef) -> bytes:
    """Return the encoded picture of a resolved reference.

    Raises:
        DataError: empty, or not readable.
    """
    if ref.path is None:
        data = bytes(ref.data or b"")
    else:
        try:
            data = Path(ref.path).read_bytes()
        except OSError as error:
            raise DataError(f"{_where(ref)} cannot be read: {error}") from None
    if not data:
        raise DataError(f"{_where(ref)} is empty")
    return data


def probe(ref: ImageRef, verify: bool) -> tuple[int, int, int]:
    """Return a picture's width and height in pixels, and 64 bits of its encoded bytes.

    Args:
        verify: decode it, to find truncated and damaged files; otherwise its header is enough.

    Raises:
        DataError: not a picture, too large, or damaged.
    """
    data = read(ref)
    image = _opened(ref, data)
    width, height = image.size
    if verify:
        # JPEG: an eighth of the size takes a fraction of the time, and still reads all of the file.
        image.draft(image.mode, (max(width // 8, 1), max(height // 8, 1)))
        _load(ref, image)
    key = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return width, height, key


def open_image(ref: ImageRef) -> Image:
    """Return a picture in RGB, its transparency left out.

    It is not turned as EXIF asks: the boxes and masks of data sets are in stored pixels.

    Raises:
        DataError: not a picture, too large, or damaged.
    """
    image = _opened(ref, read(ref))
    _load(ref, image)
    if image.mode.startswith("I;16"):  # PIL would clip, and 16-bit pictures turn white
        from PIL import Image as pil

        image = pil.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns
    return image.convert("RGB")


def _opened(ref: ImageRef, data: bytes) -> Image:
    from PIL import Image as pil

    try:
        image = pil.open(io.BytesIO(data), formats=FORMATS)
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise _bomb(ref, "more pixels than PIL allows") from None
    except pil.UnidentifiedImageError:
        raise DataError(
            f"{_where(ref)} is not a picture: it starts with {data[:16]!r}. Known: "
            f"{', '.join(FORMATS)}."
        ) from None
    except Exception as error:  # a damaged header raises whatever its reader stumbles on
        raise DataError(f"{_where(ref)} cannot be opened: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise _bomb(ref, f"{image.width} x {image.height} pixels")
    return image


def _load(ref: ImageRef, image: Image) -> None:
    try:
        image.load()
    except Exception as error:  # as above
        raise DataError(f"{_where(ref)} cannot be decoded: {error}") from None


def _bomb(ref: ImageRef, found: str) -> DataError:
    return DataError(f"{_where(ref)} has {found}, at most {MAX_PIXELS:,} are opened")


def _where(ref: ImageRef) -> str:
    name = f"picture '{ref.path}'" if ref.path is not None else "a picture in the row"
    return f"{ref.place}: {name}" if ref.place else name


@lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
