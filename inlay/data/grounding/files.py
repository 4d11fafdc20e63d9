"""Picture files in folders and in object storage."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from inlay.core.errors import DataError
from inlay.core.types import ImageRef

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

_CLUSTER = re.compile(r"^[\w.-]+:(?=\w+://)")

logger = logging.getLogger("inlay")


class PictureFiles:
    """The pictures of one data set.

    Args:
        folder: where their names start: a folder, or the address of one in object storage
            (``s3://bucket/folder``, whatever fsspec opens).
        path_mapping: parts of paths and what to put in their place, as the backends of MMEngine
            read them: ``{"data/coco/train2014/": "s3://bucket/train2014/"}``. Where the client of
            an address is not installed, paths stay as they are, as the originals have it.

    Raises:
        DataError: ``folder`` is an address whose client is not installed.
    """

    def __init__(
        self, folder: str | os.PathLike[str], path_mapping: Mapping[str, str] | None = None
    ) -> None:
        self.folder = address(str(folder)).rstrip("/") or "/"
        self._mapping = {
            old: address(new)
            for old, new in (path_mapping or {}).items()
            if _usable(new, "path_mapping")
        }
        if is_remote(self.folder) and not has_client(self.folder):
            raise DataError(_no_client(self.folder))
        self._keys: dict[tuple[str, int, int], str] = {}

    def place(self, name: str) -> str:
        """Return the path or address of a picture."""
        path = f"{self.folder}/{name}"
        for old, new in self._mapping.items():
            path = path.replace(old, new, 1)
        return path

    def ref(self, name: str, where: str) -> ImageRef:
        """Return a picture, its path resolved, or with its bytes where it is in object storage.

        Args:
            where: file and row that name it, for messages.

        Raises:
            DataError: it is missing, or its name leads out of the folder.
        """
        from inlay.data.vision.files import resolve

        place = self.place(name)
        if place == f"{self.folder}/{name}" and not is_remote(place):
            return resolve(ImageRef(name, None, where), self.folder, Path(self.folder))
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise DataError(f"{where}: the picture '{name}' leads out of {self.folder}")
        if is_remote(place):
            return ImageRef(None, _fetch(place, where), f"{where}: {place}")
        mapped = Path(place).expanduser().absolute()
        return resolve(ImageRef(str(mapped), None, where), str(mapped.parent), mapped.parent)

    def check(self, name: str, where: str) -> None:
        """Make sure that a picture is there; in object storage nothing is asked.

        Raises:
            DataError: it is not.
        """
        place = self.place(name)
        if not is_remote(place) and not os.path.isfile(os.path.expanduser(place)):
            self.ref(name, where)

    def key(self, name: str, where: str) -> tuple[str, ImageRef | None]:
        """Return 16 hex digits of SHA-256 over a picture's bytes.

        They are read once, while size and time of change of a local file are the same.

        Returns:
            The key, and the picture; None where there was no need to fetch it.

        Raises:
            DataError: it cannot be read.
        """
        from inlay.data.vision.files import read

        stamp, ref = (self.place(name), 0, 0), None
        if not is_remote(stamp[0]):
            ref = self.ref(name, where)
            stamp = _stamp(ref)
        if stamp not in self._keys:
            ref = ref or self.ref(name, where)
            self._keys[stamp] = hashlib.sha256(read(ref)).hexdigest()[:16]
        return self._keys[stamp], ref

    def size(self, name: str, where: str) -> tuple[int, int]:
        """Return width and height in px, from the header.

        Raises:
            DataError: it cannot be read.
        """
        from inlay.data.vision.files import probe

        return probe(self.ref(name, where), verify=False)[:2]

    def open(self, name: str, where: str, ref: ImageRef | None = None) -> Image:
        """Return a picture in RGB.

        Args:
            ref: of ``key``, so that it is not fetched again.

        Raises:
            DataError: it cannot be read.
        """
        from inlay.data.vision.files import open_image

        return open_image(ref or self.ref(name, where))


def refiner_picture(image: Image, longest: int) -> np.ndarray:
    """Return a picture as uint8 ``[3, h, w]`` with its longest side at ``longest`` px.

    PIL's bilinear filter, sides rounded half up, as Segment Anything resizes
    (``ResizeLongestSide``).
    """
    from inlay.data.vision.resize import BILINEAR, planes

    scale = longest / max(image.size)
    width, height = (int(side * scale + 0.5) for side in image.size)
    return planes(image.resize((max(width, 1), max(height, 1)), BILINEAR))


def storage_or_folder(
    ceph_path: str | None, local_path: str | os.PathLike[str] | None
) -> str | os.PathLike[str] | None:
    """Return where pictures are read, as the originals choose: object storage where it is given
    and its client is installed, otherwise the folder."""
    if ceph_path is not None and (local_path is None or _usable(ceph_path, "ceph_path")):
        return ceph_path
    return local_path


def address(path: str) -> str:
    """Return a path of the originals as fsspec knows it: ``cluster:s3://bucket`` names a cluster of
    theirs, and ``petrel://`` is S3."""
    path = _CLUSTER.sub("", path)
    return "s3://" + path.removeprefix("petrel://") if path.startswith("petrel://") else path


def is_remote(path: str) -> bool:
    """Whether a path is an address."""
    return "://" in path


@lru_cache
def has_client(path: str) -> bool:
    """Whether what reads an address is installed."""
    import fsspec

    try:
        fsspec.get_filesystem_class(path.partition("://")[0])
    except (ImportError, ValueError):
        return False
    return True


def _usable(path: str, argument: str) -> bool:
    """Whether an address can be read; if not, say that folders are used."""
    found = address(path)
    if not is_remote(found) or has_client(found):
        return True
    logger.warning(
        "%s is left aside, pictures are read from folders: %s", argument, _no_client(path)
    )
    return False


def _no_client(path: str) -> str:
    protocol = address(path).partition("://")[0]
    hint = " Install s3fs." if protocol in ("s3", "s3a") else ""
    return f"fsspec has no client for '{protocol}' ({path}).{hint}"


def _fetch(url: str, where: str) -> bytes:
    import fsspec

    protocol, _, _ = url.partition("://")
    try:
        # Not fsspec.open: a name with "::" in it would be a chain of addresses.
        system: Any = fsspec.filesystem(protocol)
        return system.cat_file(system._strip_protocol(url))
    except Exception as error:  # every client has its own
        raise DataError(f"{where}: the picture {url} cannot be read: {error!r}") from None


def _stamp(ref: ImageRef) -> tuple[str, int, int]:
    path = str(ref.path)
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{ref.place}: the picture {path} cannot be read: {error}") from None
    return path, found.st_size, found.st_mtime_ns
