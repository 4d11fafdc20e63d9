"""Pictures of rows: measured and planned when rows are indexed, opened when a batch is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from inlay.core.errors import DataError, InlayError
from inlay.core.types import ImagePlan, ImageProcessor, ImageRef, Pixels, Sample
from inlay.data.json_rows import Row
from inlay.data.loader import item_seed

_BLANK = 64  # px, sides of the picture that stands in where there is none


class Picture(NamedTuple):
    """A picture as the index knows it.

    Attributes:
        ref: where it is.
        key: 64 bits of its encoded bytes.
        width, height: in px.
        stamp: size in bytes and time of change in ns of its file; zeros where it has none.
    """

    ref: ImageRef
    key: int
    width: int
    height: int
    stamp: tuple[int, int]


@dataclass(frozen=True)
class PictureReader:
    """Finds out what the pictures of one source are, and what they become in a sample.

    Attributes:
        processor: plans their tokens.
        folder: where their paths start; None: at the folder of the row's file.
    """

    processor: ImageProcessor
    folder: str | None

    def measure(self, images: Sequence[ImageRef], row: Row, verify: bool) -> list[Picture]:
        """Read size and key of a row's pictures.

        Args:
            verify: decode them, to find broken ones.

        Raises:
            DataError: one is missing, outside the folder, broken, or too large.
        """
        from inlay.data.vision.files import base_folder, probe, resolve

        found = []
        for image in images:
            ref = resolve(image, self.folder, base_folder(row.file))
            stamp = _stamp(ref)
            if ref.path is None:
                width, height, key = probe(ref, verify)
            else:
                width, height, key = _probe_file(ref.path, stamp, verify)
            ref.place = f"{row.file}, line {row.line}"  # not before: the report has it, too
            found.append(Picture(ref, key, width, height, stamp))
        return found

    def plan(self, pictures: Sequence[Picture]) -> list[ImagePlan]:
        """Return the tokens of one conversation's pictures.

        Raises:
            DataError: the image processor refuses a size.
        """
        plans = []
        for index, picture in enumerate(pictures):
            size = picture.width, picture.height
            try:
                plans.append(self.processor.plan(*size, index, len(pictures)))
            except InlayError:
                raise
            except Exception as error:  # a user's or a library's processor may raise anything
                raise DataError(
                    f"picture {index} ({size[0]} x {size[1]} px) is refused by the image "
                    f"processor: {error}"
                ) from error
        return plans


def check_unchanged(picture: Picture, index: str | os.PathLike[str]) -> None:
    """Make sure that a file still holds the picture that was indexed.

    Args:
        index: folder of the index, for the message.

    Raises:
        DataError: it is gone, or holds something else.
    """
    from inlay.data.vision.files import probe

    ref = picture.ref
    if ref.path is None or _stamp(ref) == picture.stamp:
        return
    if probe(ref, False)[2] != picture.key:  # copied files have new times and old bytes
        raise DataError(
            f"{ref.place}: the picture {ref.path} is no longer the one that was indexed. Bring it "
            f"back, or delete the folder {index} to index the data again"
        )


@lru_cache(maxsize=10_000)
def _probe_file(path: str, stamp: tuple[int, int], verify: bool) -> tuple[int, int, int]:
    """``probe`` of a file, done once while its ``stamp`` is the same: many rows may name it."""
    from inlay.data.vision.files import probe

    return probe(ImageRef(path), verify)


def _stamp(ref: ImageRef) -> tuple[int, int]:
    if ref.path is None:
        return 0, 0
    try:
        found = os.stat(ref.path)
    except OSError as error:
        raise DataError(f"{ref.place}: the picture {ref.path} cannot be read: {error}") from error
    return found.st_size, found.st_mtime_ns


@dataclass(slots=True)
class OpenSample(Sample):
    """A sample with its pictures as model inputs.

    Attributes:
        pixels: one for each of ``images``.
    """

    pixels: Sequence[Pixels] = ()


class PictureOpener:
    """Decodes the pictures of samples.

    Args:
        processor: makes their pixels.
    """

    def __init__(self, processor: ImageProcessor) -> None:
        self.processor = processor

    def open(self, sample: Sample, seed: int) -> OpenSample:
        """Return a sample with its pixels.

        Args:
            seed: 64 bit; the only source of randomness.

        Raises:
            DataError: a picture cannot be read.
        """
        from inlay.data.vision.files import open_image

        pixels = [
            self.processor.pixels(open_image(ref), item_seed(seed, 0, number))
            for number, ref in enumerate(sample.images)
        ]
        return OpenSample(sample.ids, sample.mask, sample.images, sample.tiles, pixels)

    @cached_property
    def blank(self) -> OpenSample:
        """A document without a trained token that is one blank picture."""
        from PIL import Image

        plan = self.processor.plan(_BLANK, _BLANK)
        pixels = self.processor.pixels(Image.new("RGB", (_BLANK, _BLANK)))
        ids = np.array(plan.ids, np.int32)
        return OpenSample(ids, np.zeros(len(ids), np.bool_), (), plan.tiles, [pixels])
