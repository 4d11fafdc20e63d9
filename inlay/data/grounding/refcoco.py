"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: expressions that refer to things in COCO's pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inlay.core.errors import ConfigError, DataError, did_you_mean
from inlay.core.types import Box
from inlay.data.grounding.files import PictureFiles
from inlay.data.grounding.masks import Counts, Size, box_around, box_of, compress, union
from inlay.data.grounding.pickles import load_pickle
from inlay.data.grounding.source import (
    Entry,
    GroundingSource,
    Words,
    by_id,
    files_fingerprint,
    load_json,
    size_of,
)
from inlay.data.json_rows import Row
from inlay.data.report import Dropped

SENTENCES = ("all", "first")


@dataclass(frozen=True)
class Reference:
    """What one reference of a picture is, and how people say it.

    Attributes:
        ref_id: its number in the file.
        sentences: lower case, in the file's order.
        counts: compressed masks of its things; empty where nothing in the picture is meant, None
            where only boxes are known.
        boxes: of its things, in px.
        size: of the picture.
    """

    ref_id: int
    sentences: tuple[str, ...]
    counts: tuple[Counts, ...] | None
    boxes: tuple[Box, ...]
    size: Size

    @property
    def box(self) -> Box | None:
        """Around all of its things; None where there are none."""
        return box_around(self.boxes)

    def mask(self) -> np.ndarray | None:
        """Return uint8 ``[H, W]``: all of its things, zeros where there are none; None where only
        boxes are known."""
        return None if self.counts is None else union(self.counts, self.size)


@dataclass(frozen=True)
class ReferredPicture(Entry):
    """A picture and all references to things in it, in the file's order.

    Attributes:
        image_id: its number in COCO.
    """

    image_id: int
    references: tuple[Reference, ...]


class RefCOCO(GroundingSource):
    """One entry for each picture: one expression for each reference, a full stop behind each.

    Epoch ``e`` takes sentence ``(e mod K + place) mod n`` of a reference with ``n`` sentences, K
    being the most sentences that a reference of the picture has: in K epochs each sentence is seen,
    and after them the same captions come again.

    Args:
        instances: ``instances.json``: pictures and annotations as of COCO.
        refs: ``refs(unc).p`` and the like, or the same as JSON (gRefCOCO). A reference may have
            several ``ann_id`` (their union is meant), or none or -1 (nothing in the picture is).
        image_folder: where file names start, see ``PictureFiles``.
        split: ``"train"``, ``"val"``, ``"testA"``, ...
        sentences: ``"all"``, in turn, or ``"first"``, only the first of each.
        path_mapping: see ``PictureFiles``.
        weight, repeat: share of an epoch, see ``inlay.data.sources.Source``.

    Raises:
        ConfigError: ``sentences`` is neither.
        DataError: a file is missing or malformed, or there is no such split.
    """

    def __init__(
        self,
        instances: str | Path,
        refs: str | Path,
        image_folder: str | Path,
        *,
        split: str = "train",
        sentences: str = "all",
        path_mapping: Mapping[str, str] | None = None,
        weight: float | None = None,
        repeat: float = 1,
    ) -> None:
        if sentences not in SENTENCES:
            hint = did_you_mean(str(sentences), SENTENCES)
            raise ConfigError(f"sentences must be 'all' or 'first', got {sentences!r}.{hint}")
        super().__init__(str(refs), PictureFiles(image_folder, path_mapping), weight, repeat)
        self._made_of = (instances, refs)
        self._choices = (split, sentences)
        self._takes_all = sentences == "all"
        found = load_json(instances, "instances of RefCOCO")
        self._images = by_id(found, "images", instances)
        self._annotations = by_id(found, "annotations", instances)
        self._pictures = self._read(_of_split(_load_refs(refs), split, str(refs)), str(refs))
        del self._images, self._annotations
        grounded = [(picture, _with_masks(picture)) for picture in self._pictures]
        self._references = [known for _, known in grounded if known]
        self._take(
            [picture for picture, known in grounded if known],
            [len(known) for known in self._references],
            [self._period(known) for known in self._references],
        )

    def pieces(self, index: int, epoch: int = 0) -> list[Words]:
        """Return each reference's sentence of the epoch and the full stops between them."""
        known = self._references[index]
        turn = epoch % self._period(known)
        found: list[Words] = []
        for place, reference in enumerate(known):
            number = (turn + place) % len(reference.sentences) if self._takes_all else 0
            found += [(reference.sentences[number], place), (".", -1)]
        return found

    def masks(self, index: int) -> np.ndarray:
        """Return uint8 ``[M, H, W]``, one mask for each reference that has one."""
        size = self.entries[index].size
        return np.stack([union(r.counts or (), size) for r in self._references[index]])

    def expressions(self) -> Iterator[ReferredPicture]:
        """Yield every picture of the split with all sentences, those with boxes only too."""
        yield from self._pictures

    def content(self) -> str:
        """Fingerprint of both files, the split and the way of taking sentences."""
        return files_fingerprint(self._made_of, *self._choices)

    def _period(self, references: list[Reference]) -> int:
        return max(len(r.sentences) for r in references) if self._takes_all else 1

    def _read(self, refs: list[tuple[int, Any]], file: str) -> list[ReferredPicture]:
        grouped: dict[int, list[Reference]] = {}
        first: dict[int, int] = {}
        for line, ref in refs:
            self.report.rows += 1
            with self.report.losing(Row(file, line, ref)):
                try:
                    image = self._image(ref, f"{file}, row {line}")
                    reference = self._reference(ref, size_of(image))
                except (AttributeError, TypeError) as error:
                    raise DataError(f"not a reference of RefCOCO: {error!r}") from None
                grouped.setdefault(image["id"], []).append(reference)
                first.setdefault(image["id"], line)
                if reference.counts is None:
                    raise Dropped("expressions with a box only (kept for evaluation)")
                self.report.kept += 1
        return [
            ReferredPicture(
                self._images[number]["file_name"],
                size_of(self._images[number]),
                file,
                first[number],
                number,
                tuple(references),
            )
            for number, references in grouped.items()
        ]

    def _image(self, ref: Any, where: str) -> dict[str, Any]:
        number = ref.get("image_id")
        image = self._images.get(number)
        if image is None or not isinstance(image.get("file_name"), str):
            raise DataError(f"there is no picture {number!r} in {self._made_of[0]}")
        self.files.check(image["file_name"], where)
        return image

    def _reference(self, ref: dict[str, Any], size: Size) -> Reference:
        texts = [s.get("raw") or s.get("sent") or "" for s in ref.get("sentences") or ()]
        sentences = tuple(text.lower() for text in texts if text.strip())
        if not sentences:
            raise DataError(f"ref {ref.get('ref_id')} has no sentence")
        numbers = _annotation_ids(ref)
        counts: list[Counts] = []
        boxes: list[Box] = []
        has_masks = True
        for number in numbers:
            annotation = self._annotations.get(number)
            if annotation is None:
                raise DataError(f"there is no annotation {number!r} in {self._made_of[0]}")
            try:
                if annotation.get("bbox"):
                    boxes.append(box_of(annotation["bbox"]))
                if annotation.get("segmentation"):
                    counts.append(compress(annotation["segmentation"], size))
                else:
                    has_masks = False
            except DataError as error:
                raise DataError(f"annotation {number}: {error}") from None
        if not has_masks and len(boxes) < len(numbers):
            raise DataError(f"annotations {numbers}: neither a segmentation nor a bbox")
        masks = tuple(counts) if has_masks else None
        return Reference(ref.get("ref_id", -1), sentences, masks, tuple(boxes), size)


def _with_masks(picture: ReferredPicture) -> list[Reference]:
    return [r for r in picture.references if r.counts is not None]


def _annotation_ids(ref: dict[str, Any]) -> list[Any]:
    """The annotations that a reference means; none where it means nothing in the picture."""
    found = ref.get("ann_id")
    numbers = found if isinstance(found, list | tuple) else [found]
    return [number for number in numbers if number is not None and number != -1]


def _load_refs(path: str | Path) -> list[Any]:
    file = Path(path).expanduser()
    if file.suffix == ".json" or not file.is_file():
        refs = load_json(file, "references of RefCOCO")
    else:
        refs = load_pickle(file)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise DataError(f"'{file}': expected a list of references, found {type(refs).__name__}")
    return refs


def _of_split(refs: list[Any], split: str, path: str) -> list[tuple[int, Any]]:
    """The references of a split with their rows, from 1."""
    found = [(row, ref) for row, ref in enumerate(refs, 1) if ref.get("split") == split]
    if not found:
        known = sorted({str(ref.get("split")) for ref in refs})
        hint = did_you_mean(split, known)
        raise DataError(f"'{path}' has no split '{split}', only {', '.join(known)}.{hint}")
    return found
