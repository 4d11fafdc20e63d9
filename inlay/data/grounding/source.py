"""What the sources of grounding data have in common: pictures, and words and masks about them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.core.errors import DataError, did_you_mean
from inlay.core.io import fingerprint
from inlay.data.grounding.files import PictureFiles
from inlay.data.grounding.masks import Size
from inlay.data.report import Report
from inlay.data.sources import Source

if TYPE_CHECKING:
    from PIL.Image import Image

Words = tuple[str, int]
"""A piece of a caption, and the number of the mask that it names, or -1."""


@dataclass(frozen=True)
class Entry:
    """One picture with what is said about it.

    Attributes:
        image: name of its file.
        size: width and height in px.
        file, line: where it is described.
    """

    image: str
    size: Size
    file: str
    line: int

    @property
    def place(self) -> str:
        """File and row, for messages."""
        return f"{self.file}, row {self.line}"


@dataclass
class GroundingReport(Report):
    """What became of the rows of grounding data.

    Attributes:
        entries: pictures with their words that are kept (``kept`` counts rows: several of RefCOCO's
            are about one picture).
        masks: of these.
        crowded: those with more than ``max_masks`` masks.
    """

    entries: int = 0
    masks: int = 0
    crowded: int = 0

    def add(self, other: Report) -> None:
        """Add another report's rows to this one's."""
        super().add(other)
        if isinstance(other, GroundingReport):
            self.entries += other.entries
            self.masks += other.masks
            self.crowded += other.crowded

    def __str__(self) -> str:
        """A line of counts, then one for each reason that cost rows or masks."""
        lines = [
            f"{self.rows:,} rows read, {self.kept:,} kept: {self.entries:,} pictures with "
            f"{self.masks:,} masks"
        ]
        if self.crowded:
            lines.append(f"  {self.crowded:,} with more than max_masks: theirs take turns by epoch")
        lines += [f"  dropped {count:,}: {why}" for why, count in sorted(self.dropped.items())]
        if self.bad:
            lines.append(f"  bad {self.bad:,}, the first of them:")
        lines += [f"    {bad['file']}:{bad['line']}: {bad['reason']}" for bad in self.bad_rows]
        return "\n".join(lines)


class GroundingSource(ABC):
    """Pictures with captions in pieces, and a mask for each phrase.

    Rows that cannot be used are left out and counted in ``report``; who uses a source decides how
    many may be (``report.check``).

    Attributes:
        entries: its pictures; one may occur several times.
        files: where they are.
        share: weight and repeat, as of ``inlay.data.sources.Source``.
        num_masks: int64 ``[len(self)]``.
        periods: int64 ``[len(self)]``: after so many epochs an entry's words come again.
        is_text: the pieces of a caption are stretches of one text, with the spaces between words in
            front of them.
    """

    is_text = False

    def __init__(self, name: str, files: PictureFiles, weight: float | None, repeat: float) -> None:
        self.share = Source(name, weight=weight, repeat=repeat)
        self.files = files
        self.report = GroundingReport()
        self.entries: Sequence[Entry] = ()
        self.num_masks = np.zeros(0, np.int64)
        self.periods = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.entries)

    @abstractmethod
    def pieces(self, index: int, epoch: int = 0) -> list[Words]:
        """Return the caption of entry ``index`` in an epoch; mask numbers are the same in each."""

    @abstractmethod
    def masks(self, index: int) -> np.ndarray:
        """Return uint8 ``[M, H, W]``, 0 or 1, at the picture's size.

        Raises:
            DataError: a mask is empty that must not be, or cannot be read.
        """

    @abstractmethod
    def content(self) -> str:
        """Fingerprint of the files that words and masks come from, and of what is taken of them."""

    def image(self, index: int) -> Image:
        """Return the picture of entry ``index`` in RGB.

        Raises:
            DataError: it cannot be read, or its size is not the annotated one.
        """
        entry = self.entries[index]
        return checked_size(self.files.open(entry.image, entry.place), entry)

    def _take(self, entries: Sequence[Entry], num_masks: list[int], periods: list[int]) -> None:
        self.entries = entries
        self.num_masks = np.array(num_masks, np.int64)
        self.periods = np.array(periods, np.int64)
        self.report.entries, self.report.masks = len(entries), int(self.num_masks.sum())


def checked_size(image: Image, entry: Entry) -> Image:
    """Return the picture if it has the size that its annotations say.

    Raises:
        DataError: it has another.
    """
    if image.size != entry.size:
        raise DataError(
            f"{entry.place}: the picture '{entry.image}' is {image.width} x {image.height} px, its "
            f"annotations are of {entry.size[0]} x {entry.size[1]} px"
        )
    return image


def load_json(path: str | Path, what: str) -> Any:
    """Return the value of a JSON file.

    Args:
        what: what it holds, for messages.

    Raises:
        DataError: it is missing, or not JSON.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        names = [f.name for f in file.parent.iterdir()] if file.parent.is_dir() else []
        raise DataError(f"{what}: there is no file '{file}'.{did_you_mean(file.name, names)}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{what}: '{file}' is not a readable JSON file: {error}") from None


def by_id(value: Any, key: str, path: str | Path) -> dict[int, dict[str, Any]]:
    """Return a COCO file's list ``key`` as a dict by ``id``.

    Raises:
        DataError: there is no such list, or it is not of objects with an ``id``.
    """
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list) or not all(isinstance(x, dict) and "id" in x for x in found):
        raise DataError(f"'{path}': expected a COCO file with a list '{key}' of objects with an id")
    return {x["id"]: x for x in found}


def size_of(image: dict[str, Any]) -> Size:
    """Return ``width`` and ``height`` of a described picture.

    Raises:
        DataError: they are missing, or not in px.
    """
    width, height = image.get("width"), image.get("height")
    if not (type(width) is int and type(height) is int and width > 0 and height > 0):
        raise DataError(f"width and height of a picture are in px, found {width!r} and {height!r}")
    return width, height


def files_fingerprint(paths: Sequence[str | Path], *choices: Any) -> str:
    """Fingerprint of the bytes of files, and of what is taken of them."""
    from inlay.core.io import file_sha256

    return fingerprint([[file_sha256(Path(p).expanduser()) for p in paths], *choices])
